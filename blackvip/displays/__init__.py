"""Displays: pictures of what a fit did, in the style of scikit-learn's display objects.

Each holds the figures that it shows, draws them by `plot`, and tells them in words by `describe`. The class methods
that make one say in their first line what they bill.
"""

from .confusion import ConfusionChangeDisplay
from .curves import QueryCurveDisplay
from .gains import GainDisplay
from .prompts import PromptDisplay
from .report import report

__all__ = ["ConfusionChangeDisplay", "GainDisplay", "PromptDisplay", "QueryCurveDisplay", "report"]
