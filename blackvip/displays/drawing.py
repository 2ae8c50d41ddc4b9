"""Parts that all displays share: axes, colours and short texts. matplotlib is loaded when something is drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

__all__ = [
    "BETTER",
    "COLOURS",
    "MARKERS",
    "NEUTRAL",
    "WIDTH",
    "WORSE",
    "Display",
    "check_fitted",
    "count_along_x",
    "counted",
    "legend_above",
    "listed",
    "load_pyplot",
    "only_axes",
    "panels",
    "shortened",
]

#: Colours of Okabe and Ito's colour-blind safe palette that are dark enough for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")
MARKERS = "osD^v"
BETTER, WORSE, NEUTRAL = "#005B8F", "#A84300", "#333333"  #: Text colours with a contrast of at least 4.5 on white.
WIDTH = 4.4  #: Width of a new figure, in inches: its text is legible on a phone and in a column of a page.
_MARGIN = 0.07  # inches


class Display(ABC):
    """Base class of the displays.

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure, set by `plot`.
    """

    figure_: Any

    @property
    @abstractmethod
    def size(self) -> tuple[float, float]:
        """Width and height of a new figure, in inches."""

    @abstractmethod
    def plot(self, ax: Any = None) -> Any:
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to draw in. None: those of a new figure.

        Returns
        -------
        self : Display
            The display, whose `figure_` is set.
        """

    @abstractmethod
    def describe(self) -> str:
        """Describe the picture in words with numbers, as its alternative text.

        Returns
        -------
        text : str
            One or several sentences.
        """

    def _axes(self, ax: Any) -> Any:
        """Return the given axes, or those of a new figure."""
        if ax is not None:
            return ax
        plt = load_pyplot(f"{type(self).__name__}.plot")
        return only_axes(plt.figure(figsize=self.size))


def load_pyplot(caller: str) -> Any:
    """Import `matplotlib.pyplot`.

    Parameters
    ----------
    caller : str
        Name of the function that needs it, for the error.

    Returns
    -------
    pyplot : module
        The module.

    Raises
    ------
    ImportError
        If matplotlib is not installed. The message says how to install it.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(f"{caller} needs matplotlib; install it with `pip install blackvip[plot]`.") from error
    return plt


def only_axes(figure: Any) -> Any:
    """Add axes that fill a new figure up to a narrow margin."""
    figure.set_layout_engine("constrained", h_pad=_MARGIN, w_pad=_MARGIN)
    return figure.subplots()


def panels(ax: Any, shape: tuple[int, int], share_x: bool = False) -> np.ndarray:
    """Make axes in rows and columns.

    Parameters
    ----------
    ax : matplotlib Axes, or array-like of them
        Axes that the new ones replace; or as many axes as are needed, which are then returned.
    shape : tuple of int
        Number of rows and columns.
    share_x : bool
        Whether all share one x axis.

    Returns
    -------
    axes : ndarray of the given shape
        The axes.
    """
    if not hasattr(ax, "get_subplotspec"):
        axes = np.asarray(ax, dtype=object)
        if axes.size != shape[0] * shape[1]:
            raise ValueError(f"ax has {axes.size} axes; expected one, or {shape[0]} x {shape[1]}, one for each panel.")
        return axes.reshape(shape)
    ax.set_axis_off()
    place = ax.get_subplotspec()
    if place is None:
        raise ValueError("ax is not part of a grid; expected axes from `subplots`, or an array of them.")
    axes = np.empty(shape, dtype=object)
    for number, cell in enumerate(place.subgridspec(*shape)):
        shared = axes.flat[0] if share_x and number else None
        axes.flat[number] = ax.figure.add_subplot(cell, sharex=shared)
    return axes


def legend_above(panel: Any) -> None:
    """Add a legend in two columns above the axes, where it hides nothing."""
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2, "columnspacing": 1.0, "handlelength": 2.2}
    panel.legend(fontsize="small", frameon=False, borderpad=0.2, **place)


def count_along_x(panel: Any, label: str) -> None:
    """Label an x axis of whole numbers, with separators of thousands."""
    panel.set_xlabel(label)
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def check_fitted(estimator: Any, caller: str) -> None:
    """Raise an error unless an object is a fitted `BlackVIPClassifier`.

    Parameters
    ----------
    estimator : object
        The object.
    caller : str
        Name of the function that needs it, for the error.

    Raises
    ------
    TypeError
        If it has no fitted prompter and baselines.
    NotFittedError
        If it is not fitted.
    """
    if not hasattr(estimator, "compare_prompt"):
        raise TypeError(
            f"{caller} was given a {type(estimator).__name__}; expected a fitted BlackVIPClassifier. For a search, "
            "pass its best_estimator_; for a pipeline, pass its last step and the output of the steps before it."
        )
    check_is_fitted(estimator)


def shortened(text: Any, n: int = 20) -> str:
    """Shorten a text to one line of at most `n` characters that matplotlib does not read as a formula."""
    line = " ".join(str(text).split())
    line = line if len(line) <= n else line[: n - 1].rstrip() + "…"
    return line.replace("$", r"\$")


def counted(n: int, what: str) -> str:
    """Format a number with its noun: "1 image", "2 images"."""
    return f"{n:,d} {what}{'' if n == 1 else 's'}"


def listed(parts: Sequence[str], comma: str = ",") -> str:
    """Join parts of a sentence, with "and" before the last."""
    return parts[0] if len(parts) == 1 else f"{f'{comma} '.join(parts[:-1])} and {parts[-1]}"
