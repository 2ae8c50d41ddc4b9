"""Comparison: many methods on the same images, seeds and budget."""

from .ares import AReSClassifier
from .compare import Comparison, compare
from .white_box import WhiteBoxClassifier

__all__ = ["AReSClassifier", "Comparison", "WhiteBoxClassifier", "compare"]
