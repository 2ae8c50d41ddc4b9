"""QueryCurveDisplay: accuracy and loss of a fit against the images that it billed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..losses import Temperature
from .drawing import (
    COLOURS,
    MARKERS,
    NEUTRAL,
    WIDTH,
    Display,
    check_fitted,
    count_along_x,
    counted,
    legend_above,
    listed,
    panels,
    shortened,
)

__all__ = ["BASELINE_NAMES", "QueryCurveDisplay"]

#: Names of the baselines in pictures and reports.
BASELINE_NAMES = {
    "zero_shot": "zero-shot",
    "calibrated_zero_shot": "calibrated zero-shot",
    "local_probe": "local probe",
    "fused_zero_shot": "fused zero-shot",
}
_DASHES = {"zero_shot": "--", "calibrated_zero_shot": "-.", "local_probe": ":", "fused_zero_shot": (0, (8, 2))}
_METRICS = {"accuracy": "accuracy", "loss": "loss (nats)"}
_SMOOTHED_SHARE = 20  # steps per step of the running mean's window
_N_MARKERS = 8  # on a line


class QueryCurveDisplay(Display):
    """Accuracy and loss on the training images of each step, against the images billed so far.

    Each point is a step of `history_`, averaged over its candidates, which are perturbed prompts. The line is the
    running mean. Larger marks are checks on held-out images. Horizontal lines are the baselines without a prompt. Use
    `from_estimator` to make a display.

    Parameters
    ----------
    curves : dict of str to ndarray of shape (n_steps,)
        "n_queries" (billed images after each step), "accuracy" and "loss". For checks of held-out images, also
        "validation_accuracy" and "validation_loss", which are NaN at the other steps.
    baselines : dict of str to dict of str to float, or None, default=None
        Value of each baseline by its name, for "accuracy" and "loss".
    name : str or None, default=None
        Name of the fit in the legend. None: the legend says what the line is.

    Attributes
    ----------
    axes_ : ndarray of shape (n_metrics,), matplotlib Axes
        The panels, from top to bottom.
    figure_ : matplotlib Figure
        The figure with these axes.
    lines_ : dict of str to matplotlib Line2D
        Running mean of each metric.
    baseline_lines_ : dict of str to dict of str to matplotlib Line2D
        Lines of the baselines of each metric, by name.

    Examples
    --------
    >>> import numpy as np
    >>> from blackvip import BlackVIPClassifier, QueryCurveDisplay
    >>> def service(images, class_prompts):  # believes that bright means day
    ...     day = images.mean(axis=(1, 2, 3)) / 255
    ...     return 20 * np.stack([day - 0.5, 0.5 - day], axis=1)
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["night", "day"], 20)  # every photo is underexposed
    >>> X = rng.uniform(0, 0.3, (40, 16, 16)) + np.where(y == "day", 0.15, 0)[:, None, None]
    >>> settings = {"prompter": "basis", "max_queries": 1000, "random_state": 0}
    >>> clf = BlackVIPClassifier(service, "a photo taken at {}", **settings).fit(X, y)
    >>> display = QueryCurveDisplay.from_estimator(clf)
    >>> display.lines_["accuracy"].get_ydata().shape == (clf.n_iter_,)
    True
    """

    lines_: dict[str, Any]
    baseline_lines_: dict[str, dict[str, Any]]
    axes_: np.ndarray

    def __init__(
        self,
        curves: Mapping[str, np.ndarray],
        *,
        baselines: Mapping[str, Mapping[str, float]] | None = None,
        name: str | None = None,
    ):
        self.curves = curves
        self.baselines = baselines
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        metrics: Sequence[str] = ("accuracy", "loss"),
        name: str | None = None,
        baselines: bool = True,
        ax: Any = None,
    ) -> QueryCurveDisplay:
        """Draw the curves of a fitted classifier; bills nothing.

        Parameters
        ----------
        estimator : BlackVIPClassifier
            A fitted classifier.
        metrics : sequence of {"accuracy", "loss"}, default=("accuracy", "loss")
            Metrics to show, one panel each.
        name : str or None, default=None
            Name of the fit in the legend.
        baselines : bool, default=True
            Whether to draw the baselines: the cross-validated accuracies of `baselines_`, and the loss of the
            zero-shot service at its best temperature.
        ax : matplotlib Axes, array-like of them, or None, default=None
            Axes to draw into, see `plot`.

        Returns
        -------
        display : QueryCurveDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If the fit made no step.
        """
        check_fitted(estimator, f"{cls.__name__}.from_estimator")
        return cls.prepare(estimator, name, baselines).plot(ax, metrics=metrics)

    @classmethod
    def prepare(cls, estimator: Any, name: str | None = None, baselines: bool = True) -> QueryCurveDisplay:
        """Make the display of a fitted classifier without drawing it."""
        history = estimator.history_
        if not history:
            raise ValueError(
                "The fit made no step, so there is no curve to show. Its termination_reason_ says why it ended, and "
                "its rungs_ what was tried."
            )
        names = ("n_queries", "accuracy", "loss", "validation_accuracy", "validation_loss")
        curves = {key: np.array([row.get(key, np.nan) for row in history], dtype=float) for key in names}
        return cls(curves, baselines=_baseline_figures(estimator) if baselines else None, name=name)

    @property
    def size(self) -> tuple[float, float]:
        return WIDTH, 5.2

    def plot(
        self, ax: Any = None, *, metrics: Sequence[str] = ("accuracy", "loss"), smoothing: int | None = None
    ) -> QueryCurveDisplay:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, array-like of them, or None, default=None
            Axes that the panels replace; or one for each panel, such as the `axes_` of another display, to draw
            several fits together. None: a new figure.
        metrics : sequence of {"accuracy", "loss"}, default=("accuracy", "loss")
            Metrics to show, one panel each.
        smoothing : int or None, default=None
            Number of steps in the running mean. None: a twentieth of all steps.

        Returns
        -------
        display : QueryCurveDisplay
            The display itself.
        """
        metrics = [metrics] if isinstance(metrics, str) else list(metrics)
        unknown = [metric for metric in metrics if metric not in _METRICS]
        if unknown or not metrics:
            raise ValueError(f"metrics={metrics!r}; expected some of {', '.join(_METRICS)}.")
        axes = panels(self._axes(ax), (len(metrics), 1), share_x=True)[:, 0]
        n_before = sum(line.get_gid() == "running mean" for line in axes[0].get_lines())
        style = {"color": COLOURS[n_before % len(COLOURS)], "marker": MARKERS[n_before % len(MARKERS)]}
        self.axes_, self.figure_, self.lines_, self.baseline_lines_ = axes, axes[0].figure, {}, {}
        for metric, panel in zip(metrics, axes):
            self.lines_[metric] = self._draw_curve(panel, metric, self._window(smoothing), style)
            self.baseline_lines_[metric] = self._draw_baselines(panel, metric)
            panel.set_ylabel(_METRICS[metric])
            panel.grid(alpha=0.25)
            panel.tick_params(labelbottom=panel is axes[-1])
        count_along_x(axes[-1], "billed images")
        legend_above(axes[0])
        return self

    def describe(self) -> str:
        billed = self.curves["n_queries"]
        sentences = [f"{counted(len(billed), 'step')}, up to {counted(int(billed[-1]), 'billed image')}"]
        for metric in _METRICS:
            mean = _running_mean(self.curves[metric], self._window(None))
            sentence = f"The running mean of the training {metric} goes from {mean[0]:.2f} to {mean[-1]:.2f}"
            checks = self.curves.get(f"validation_{metric}", np.empty(0))
            checks = checks[np.isfinite(checks)]
            if len(checks):
                sentence += f"; on held-out images, it goes from {checks[0]:.2f} to {checks[-1]:.2f}"
            without = [
                f"{BASELINE_NAMES.get(name, name)} {value:.2f}"
                for name, value in (self.baselines or {}).get(metric, {}).items()
            ]
            sentences.append(sentence + (f". Without a prompt: {listed(without)}" if without else ""))
        return ". ".join(sentences) + "."

    def _window(self, smoothing: int | None) -> int:
        return max(1, len(self.curves["n_queries"]) // _SMOOTHED_SHARE) if smoothing is None else max(1, smoothing)

    def _draw_curve(self, panel: Any, metric: str, window: int, style: dict[str, str]) -> Any:
        billed, values = self.curves["n_queries"], self.curves[metric]
        running = "training" if window == 1 else f"training, mean of {window} steps"
        label = running if self.name is None else shortened(self.name, 24)
        if window > 1:
            panel.plot(billed, values, ls="", marker=".", ms=3, alpha=0.3, color=style["color"])
        every = max(1, len(billed) // _N_MARKERS)
        (line,) = panel.plot(
            billed,
            _running_mean(values, window),
            lw=1.8,
            ms=4,
            markevery=every,
            label=label,
            gid="running mean",
            **style,
        )
        checks = self.curves.get(f"validation_{metric}", np.full(len(billed), np.nan))
        checked = np.isfinite(checks)
        if checked.any():
            label = "held-out images" if self.name is None else f"{label}, held out"
            panel.plot(billed[checked], checks[checked], ls="", ms=8, mfc="none", mew=1.5, label=label, **style)
        return line

    def _draw_baselines(self, panel: Any, metric: str) -> dict[str, Any]:
        """Draw a horizontal line for each baseline; fits that share axes add one legend entry for all."""
        known = panel.get_legend_handles_labels()[1]
        lines = {}
        for name, value in (self.baselines or {}).get(metric, {}).items():
            label = BASELINE_NAMES.get(name, name)
            # matplotlib leaves labels that begin with an underscore out of the legend.
            label = f"_{label}" if label in known else label
            style = {"ls": _DASHES.get(name, "--"), "color": NEUTRAL, "zorder": 1.5}
            lines[name] = panel.axhline(value, lw=1.2, label=label, **style)
        return lines


def _baseline_figures(estimator: Any) -> dict[str, dict[str, float]]:
    """Return the accuracies of the baselines, and the loss of the zero-shot service as training measures it."""
    scored = estimator.scored_images_
    temperature = Temperature(None if estimator.temperature == "auto" else float(estimator.temperature), estimator.loss)
    losses = temperature.best_losses(scored.plain, scored.y)
    return {
        "accuracy": {name: baseline.accuracy for name, baseline in estimator.baselines_.items()},
        "loss": {"zero_shot": float(np.average(losses, weights=scored.weights))},
    }


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Compute the mean of the last `window` values at each place, and of all values so far at the first places."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(0, ends - window)
    return (sums[ends] - sums[begins]) / (ends - begins)
