"""GainDisplay: step and perturbation sizes of a fit, and the norms of its estimates and steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .drawing import COLOURS, MARKERS, WIDTH, Display, check_fitted, count_along_x, counted, legend_above, panels

__all__ = ["GainDisplay"]

_GAINS = {"a_k": "step size a_k", "c_k": "perturbation size c_k", "sigma": "width of the distribution"}
_NORMS = {"estimate_norm": "norm of the estimate", "step_norm": "norm of the step"}
_N_MARKERS = 8  # on a line
# If the largest value is more than this many times the smallest, the scale is logarithmic.
_LINEAR_UP_TO = 10


class GainDisplay(Display):
    """Gains of each step, and the norms of its gradient estimate and of the step itself.

    If the norm of the steps stays high until the end, the step size was too large. If the norm of the estimates does
    not fall, they are mostly noise. Use `from_estimator` to make a display.

    Parameters
    ----------
    curves : dict of str to ndarray of shape (n_steps,)
        Any of "a_k", "c_k", "sigma" (of CMA-ES), "estimate_norm" and "step_norm".

    Attributes
    ----------
    axes_ : ndarray of shape (2,), matplotlib Axes
        Gains above, norms below.
    figure_ : matplotlib Figure
        The figure with these axes.
    lines_ : dict of str to matplotlib Line2D
        Lines, by the names of the curves.

    Examples
    --------
    >>> import numpy as np
    >>> from blackvip import GainDisplay
    >>> k = np.arange(1, 101)
    >>> curves = {"a_k": 0.1 / (k + 1) ** 0.4, "c_k": 0.01 / k**0.1, "estimate_norm": 2 / k, "step_norm": 0.2 / k}
    >>> print(GainDisplay(curves).plot().describe())
    100 steps. The step size a_k goes from 0.0758 to 0.0158. The perturbation size c_k goes from 0.01 to 0.00631. The \
norm of the estimate goes from 2 to 0.02. The norm of the step goes from 0.2 to 0.002.
    """

    lines_: dict[str, Any]
    axes_: np.ndarray

    def __init__(self, curves: Mapping[str, np.ndarray]):
        self.curves = curves

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> GainDisplay:
        """Draw the gains of a fitted classifier; bills nothing.

        Parameters
        ----------
        estimator : BlackVIPClassifier
            A fitted classifier.
        ax : matplotlib Axes, array-like of two, or None, default=None
            Axes to draw into, see `plot`.

        Returns
        -------
        display : GainDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If the fit made no step, or its optimizer reports no gains and no norms.
        """
        check_fitted(estimator, f"{cls.__name__}.from_estimator")
        return cls.prepare(estimator).plot(ax)

    @classmethod
    def prepare(cls, estimator: Any) -> GainDisplay:
        """Make the display of a fitted classifier without drawing it."""
        history = estimator.history_
        told = [name for name in (*_GAINS, *_NORMS) if any(name in row for row in history)]
        if not told:
            raise ValueError(
                f"history_ has {counted(len(history), 'step')} and no gains or norms; expected a fit that made steps "
                "with an optimizer whose `figures` report them, as all optimizers of this package do."
            )
        curves = {name: np.array([row.get(name, np.nan) for row in history], dtype=float) for name in told}
        return cls(curves)

    @property
    def size(self) -> tuple[float, float]:
        return WIDTH, 5.2

    def plot(self, ax: Any = None) -> GainDisplay:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, array-like of two, or None, default=None
            Axes that the two panels replace, or the two panels. None: a new figure.

        Returns
        -------
        display : GainDisplay
            The display itself.
        """
        self.axes_ = panels(self._axes(ax), (2, 1), share_x=True)[:, 0]
        self.figure_, self.lines_ = self.axes_[0].figure, {}
        for panel, names in zip(self.axes_, (_GAINS, _NORMS)):
            shown = [name for name in names if name in self.curves]
            for number, name in enumerate(shown):
                self.lines_[name] = self._draw(panel, number, name, names[name])
            if self._spread(shown) > _LINEAR_UP_TO:
                panel.set_yscale("log")
            panel.set_ylabel("gain" if names is _GAINS else "norm")
            panel.grid(alpha=0.25)
            panel.tick_params(labelbottom=panel is self.axes_[-1])
            if shown:
                legend_above(panel)
        count_along_x(self.axes_[-1], "step k")
        return self

    def describe(self) -> str:
        named = {name: title for name, title in {**_GAINS, **_NORMS}.items() if name in self.curves}
        n_steps = len(next(iter(self.curves.values())))
        sentences = [counted(n_steps, "step")]
        for name, title in named.items():
            first, last = self.curves[name][[0, -1]]
            sentences.append(f"The {title} goes from {first:.3g} to {last:.3g}")
        return ". ".join(sentences) + "."

    def _spread(self, names: list[str]) -> float:
        """Return the ratio of the largest to the smallest positive value of some curves."""
        values = np.concatenate([self.curves[name] for name in names]) if names else np.ones(1)
        positive = values[values > 0]
        return float(positive.max() / positive.min()) if len(positive) else 1.0

    def _draw(self, panel: Any, number: int, name: str, title: str) -> Any:
        values = self.curves[name]
        # Zero has no place on a logarithmic scale.
        (line,) = panel.plot(
            np.arange(1, len(values) + 1),
            np.where(values > 0, values, np.nan),
            lw=1.5,
            ms=4,
            color=COLOURS[number],
            marker=MARKERS[number],
            markevery=max(1, len(values) // _N_MARKERS),
            label=title.replace("a_k", "$a_k$").replace("c_k", "$c_k$"),
        )
        return line
