"""Displays: pictures of a fit, in the style of scikit-learn's display objects.

Each display holds the figures that it shows. `plot` draws them and `describe` puts them into words. Class methods that
make a display say in their first line what they bill. `report` puts all displays on one page.
"""

from .confusion import ConfusionChangeDisplay
from .costs import CostCurveDisplay
from .curves import QueryCurveDisplay
from .gains import GainDisplay
from .prompts import PromptDisplay
from .report import report

__all__ = ["ConfusionChangeDisplay", "CostCurveDisplay", "GainDisplay", "PromptDisplay", "QueryCurveDisplay", "report"]
