"""Services with labels of their own: their scores become scores for the user's classes."""

from .mapping import LabelMapping
from .scorer import LabelMappedScorer

__all__ = ["LabelMappedScorer", "LabelMapping"]
