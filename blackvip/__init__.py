"""Black-box visual prompting: adapt a vision service to a domain from its scores alone."""

from . import datasets as datasets
from .ares import AReSClassifier
from .classifier import BlackVIPClassifier
from .comparison import Comparison, compare
from .displays import ConfusionChangeDisplay, GainDisplay, PromptDisplay, QueryCurveDisplay
from .encoders import PCAEncoder, ScratchEncoder, TimmEncoder
from .exceptions import (
    BlackVIPError,
    BudgetError,
    ClassPromptError,
    DatasetError,
    DatasetIncompleteWarning,
    FitInterruptedWarning,
    ImageError,
    ImagesResizedWarning,
    ImagesSkippedWarning,
    JournalError,
    PersistenceError,
    PromptNotUsedWarning,
    ScoreError,
)
from .feature_cache import CachedEncoder
from .frames import PaddingFrame, ReprogrammingFrame
from .fusion import FusedHead
from .gradients import GradientEncoder
from .heads import CalibratedHead
from .model_selection import SearchCost, search_cost
from .optimizers import CMAES, RGF, SPSA, SPSAGC, AdamSPSA, Subspace
from .persistence import load
from .planning import CostPlan
from .prompters import Coordinator, PromptBasis
from .scorers import CachedScorer, SharedBudget
from .transformer import BlackVIPPrompter
from .versions import show_versions
from .white_box import WhiteBoxClassifier

__version__ = "0.1.0"

__all__ = [
    "CMAES",
    "RGF",
    "SPSA",
    "SPSAGC",
    "AReSClassifier",
    "AdamSPSA",
    "BlackVIPClassifier",
    "BlackVIPError",
    "BlackVIPPrompter",
    "BudgetError",
    "CachedEncoder",
    "CachedScorer",
    "CalibratedHead",
    "ClassPromptError",
    "Comparison",
    "ConfusionChangeDisplay",
    "Coordinator",
    "CostPlan",
    "DatasetError",
    "DatasetIncompleteWarning",
    "FitInterruptedWarning",
    "FusedHead",
    "GainDisplay",
    "GradientEncoder",
    "ImageError",
    "ImagesResizedWarning",
    "ImagesSkippedWarning",
    "JournalError",
    "PCAEncoder",
    "PaddingFrame",
    "PersistenceError",
    "PromptBasis",
    "PromptDisplay",
    "PromptNotUsedWarning",
    "QueryCurveDisplay",
    "ReprogrammingFrame",
    "ScoreError",
    "ScratchEncoder",
    "SearchCost",
    "SharedBudget",
    "Subspace",
    "TimmEncoder",
    "WhiteBoxClassifier",
    "compare",
    "load",
    "search_cost",
    "show_versions",
]
