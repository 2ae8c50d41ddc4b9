"""Black-box visual prompting: adapt a vision service to a domain from its scores alone."""

from .classifier import BlackVIPClassifier
from .encoders import PCAEncoder, ScratchEncoder, TimmEncoder
from .exceptions import (
    BlackVIPError,
    BudgetError,
    ClassPromptError,
    FitInterruptedWarning,
    ImageError,
    ImagesResizedWarning,
    ImagesSkippedWarning,
    PromptNotUsedWarning,
    ScoreError,
)
from .heads import CalibratedHead
from .optimizers import SPSA, SPSAGC
from .prompters import Coordinator, PromptBasis
from .transformer import BlackVIPPrompter

__version__ = "0.1.0"

__all__ = [
    "SPSA",
    "SPSAGC",
    "BlackVIPClassifier",
    "BlackVIPError",
    "BlackVIPPrompter",
    "BudgetError",
    "CalibratedHead",
    "ClassPromptError",
    "Coordinator",
    "FitInterruptedWarning",
    "ImageError",
    "ImagesResizedWarning",
    "ImagesSkippedWarning",
    "PCAEncoder",
    "PromptBasis",
    "PromptNotUsedWarning",
    "ScoreError",
    "ScratchEncoder",
    "TimmEncoder",
]
