"""CostCurveDisplay: accuracy against the images that a prediction sends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .drawing import COLOURS, NEUTRAL, WIDTH, Display, check_fitted

__all__ = ["CostCurveDisplay"]


class CostCurveDisplay(Display):
    """Cross-validated accuracy against images per prediction, from the local head to two views of each image.

    Where the curve is flat, images can be saved with ``cascade=True``. Where it rises beyond one image, ``max_views=2``
    may be worth its price. Use `from_estimator` to make a display.

    Parameters
    ----------
    curve : list of dict
        Points with "images_per_prediction", "accuracy", and "used", which is true for the one that is in use; as in
        ``cost_curve_``.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure with these axes.
    line_, point_ : matplotlib Line2D
        The curve, and the point in use.

    Examples
    --------
    >>> from blackvip import CostCurveDisplay
    >>> accuracies = {0: 0.85, 0.5: 0.96, 1: 0.97}
    >>> curve = [{"images_per_prediction": n, "accuracy": a, "used": n == 0.5} for n, a in accuracies.items()]
    >>> print(CostCurveDisplay(curve).plot().describe())
    Cross-validated accuracy is 0.850 at 0.0 images per prediction, 0.970 at 1.0, and 0.960 at 0.5, which is in use.
    """

    ax_: Any
    line_: Any
    point_: Any

    def __init__(self, curve: Sequence[Mapping[str, Any]]):
        self.curve = curve

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> CostCurveDisplay:
        """Draw the cost curve of a fitted classifier; bills nothing.

        Parameters
        ----------
        estimator : BlackVIPClassifier
            A fitted classifier.
        ax : matplotlib Axes or None, default=None
            Axes to draw into. None: a new figure.

        Returns
        -------
        display : CostCurveDisplay
            The display, drawn.
        """
        check_fitted(estimator, f"{cls.__name__}.from_estimator")
        return cls.prepare(estimator).plot(ax)

    @classmethod
    def prepare(cls, estimator: Any) -> CostCurveDisplay:
        """Make the display of a fitted classifier without drawing it."""
        return cls(estimator.cost_curve_)

    @property
    def size(self) -> tuple[float, float]:
        return WIDTH, 3.0

    def plot(self, ax: Any = None) -> CostCurveDisplay:
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to draw into. None: a new figure.

        Returns
        -------
        display : CostCurveDisplay
            The display itself.
        """
        self.ax_ = self._axes(ax)
        self.figure_ = self.ax_.figure
        points = [(point["images_per_prediction"], point["accuracy"]) for point in self.curve]
        (self.line_,) = self.ax_.plot(*zip(*points), color=COLOURS[0], marker="o", ms=3.5, lw=1.5)
        images, accuracy = points[self._used]
        (self.point_,) = self.ax_.plot([images], [accuracy], "D", color=COLOURS[1], ms=7, label="in use")
        self.ax_.set_xlabel("images per prediction")
        self.ax_.set_ylabel("cross-validated accuracy", color=NEUTRAL)
        self.ax_.grid(alpha=0.25)
        self.ax_.legend(fontsize="small", frameon=False, loc="lower right")
        return self

    def describe(self) -> str:
        first, last, used = (self.curve[number] for number in (0, -1, self._used))
        return (
            f"Cross-validated accuracy is {first['accuracy']:.3f} at {first['images_per_prediction']:.1f} images per "
            f"prediction, {last['accuracy']:.3f} at {last['images_per_prediction']:.1f}, and {used['accuracy']:.3f} at "
            f"{used['images_per_prediction']:.1f}, which is in use."
        )

    @property
    def _used(self) -> int:
        """The number of the point in use."""
        return next(number for number, point in enumerate(self.curve) if point["used"])
