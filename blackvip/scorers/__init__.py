"""What stands between this package and a service: the contract of a score function, and the ledger."""

from .answers import report_not_sent
from .cached import CachedScorer
from .contract import ScoreFunction, check_scores
from .declarations import check_rate
from .formats import ScoreFormat
from .labels.mapping import LabelMapping
from .labels.scorer import LabelMappedScorer
from .ledger import Ledger
from .networks import TorchScorer
from .noise import score_noise
from .onnx_files import OnnxScorer
from .open_clip import OpenCLIPScorer
from .parallel.scorer import ParallelScorer
from .reader import ScoreReader
from .shared_budget import Lease, SharedBudget
from .transformers_models import TransformersScorer

__all__ = [
    "CachedScorer",
    "LabelMappedScorer",
    "LabelMapping",
    "Ledger",
    "Lease",
    "OnnxScorer",
    "OpenCLIPScorer",
    "ParallelScorer",
    "ScoreFormat",
    "ScoreFunction",
    "ScoreReader",
    "SharedBudget",
    "TorchScorer",
    "TransformersScorer",
    "check_rate",
    "check_scores",
    "report_not_sent",
    "score_noise",
]
