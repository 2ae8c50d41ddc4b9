"""Label mapping: scores for a service's own labels become scores for the user's classes."""

from .mapping import LabelMapping
from .scorer import LabelMappedScorer

__all__ = ["LabelMappedScorer", "LabelMapping"]
