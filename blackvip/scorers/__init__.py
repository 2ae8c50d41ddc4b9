"""What stands between this package and a service: the contract of a score function, and the ledger."""

from .contract import as_log_scores, check_scores, recognise_score_type
from .ledger import Ledger

__all__ = ["Ledger", "as_log_scores", "check_scores", "recognise_score_type"]
