"""Black-box visual prompting: adapt a vision service to a domain from its scores alone."""

from . import datasets as datasets
from ._version import __version__ as __version__
from .classifier import BlackVIPClassifier
from .comparison import presets as presets
from .comparison.ares import AReSClassifier
from .comparison.compare import Comparison, compare
from .comparison.white_box import WhiteBoxClassifier
from .displays import ConfusionChangeDisplay, CostCurveDisplay, GainDisplay, PromptDisplay, QueryCurveDisplay, report
from .encoders.cached import CachedEncoder
from .encoders.histograms import GradientEncoder
from .encoders.pca import PCAEncoder
from .encoders.scratch import ScratchEncoder
from .encoders.timm import TimmEncoder
from .exceptions import (
    BlackVIPError,
    BudgetError,
    ClassPromptError,
    ClassPromptWarning,
    DatasetError,
    DatasetIncompleteWarning,
    FitInterruptedWarning,
    ImageError,
    ImagesAssumedWarning,
    ImagesResizedWarning,
    ImagesSkippedWarning,
    JournalError,
    LabelMassWarning,
    ModelChangedWarning,
    PersistenceError,
    PromptNotUsedWarning,
    ScoreError,
)
from .heads.calibrated import CalibratedHead
from .heads.fused import FusedHead
from .inputs.class_prompts import EncodedClassPrompts
from .model_selection import SearchCost, search_cost
from .optimizers import CMAES, RGF, SPSA, SPSAGC, AdamSPSA, Subspace
from .persistence import load
from .prompters.basis import PromptBasis
from .prompters.coordinator import Coordinator
from .prompters.corrections import Correction
from .prompters.enlarged import Enlarged
from .prompters.frames import PaddingFrame, ReprogrammingFrame
from .prompters.stacked import Stacked
from .scorers import CachedScorer, SharedBudget
from .training.costs import CostPlan
from .transformer import BlackVIPPrompter
from .versions import show_versions

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
    "ClassPromptWarning",
    "Comparison",
    "ConfusionChangeDisplay",
    "Coordinator",
    "Correction",
    "CostCurveDisplay",
    "CostPlan",
    "DatasetError",
    "DatasetIncompleteWarning",
    "EncodedClassPrompts",
    "Enlarged",
    "FitInterruptedWarning",
    "FusedHead",
    "GainDisplay",
    "GradientEncoder",
    "ImageError",
    "ImagesAssumedWarning",
    "ImagesResizedWarning",
    "ImagesSkippedWarning",
    "JournalError",
    "LabelMassWarning",
    "ModelChangedWarning",
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
    "Stacked",
    "Subspace",
    "TimmEncoder",
    "WhiteBoxClassifier",
    "compare",
    "load",
    "report",
    "search_cost",
    "show_versions",
]
