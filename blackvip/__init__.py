"""Black-box visual prompting: adapt a vision service to a domain from its scores alone."""

from .classifier import BlackVIPClassifier
from .encoders import PCAEncoder, ScratchEncoder, TimmEncoder
from .exceptions import (
    BlackVIPError,
    BudgetError,
    ClassPromptError,
    FitInterruptedWarning,
    ImageError,
    PromptNotUsedWarning,
    ScoreError,
)
from .heads import CalibratedHead, ServiceHead
from .optimizers import SPSA, SPSAGC
from .prompters import Coordinator, PromptBasis

__version__ = "0.1.0"

__all__ = [
    "SPSA",
    "SPSAGC",
    "BlackVIPClassifier",
    "BlackVIPError",
    "BudgetError",
    "CalibratedHead",
    "ClassPromptError",
    "Coordinator",
    "FitInterruptedWarning",
    "ImageError",
    "PCAEncoder",
    "PromptBasis",
    "PromptNotUsedWarning",
    "ScoreError",
    "ScratchEncoder",
    "ServiceHead",
    "TimmEncoder",
]
