"""What stands between this package and a service: the contract of a score function, and the ledger."""

from .contract import ScoreFunction, as_log_scores, check_scores, recognise_score_type
from .ledger import Ledger
from .shared import Lease, SharedBudget

__all__ = [
    "Ledger",
    "Lease",
    "ScoreFunction",
    "SharedBudget",
    "as_log_scores",
    "check_scores",
    "recognise_score_type",
]
