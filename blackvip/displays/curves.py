"""QueryCurveDisplay: accuracy and loss of a fit against the images that it has billed."""

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

#: What the controls are called in pictures and reports.
BASELINE_NAMES = {
    "zero_shot": "zero-shot",
    "calibrated_zero_shot": "calibrated zero-shot",
    "local_probe": "local probe",
    "fused_zero_shot": "fused zero-shot",
}
_DASHES = {"zero_shot": "--", "calibrated_zero_shot": "-.", "local_probe": ":", "fused_zero_shot": (0, (8, 2))}
_METRICS = {"accuracy": "accuracy", "loss": "loss (nats)"}
_SMOOTHED_SHARE = 20  # the running mean's window is a twentieth of the steps
_N_MARKERS = 8  # on a line


class QueryCurveDisplay(Display):
    """Accuracy and loss on the training images of each step, against the images that the fit has billed so far.

    Points are the steps, as `history_` has them: over all candidates of a step, each of which is a prompt beside the
    one that is trained. The line is their running mean. Larger marks are the checks of held-out images, and horizontal
    lines what was free. It is recommended to use `from_estimator`.

    Parameters
    ----------
    curves : dict of str to ndarray of shape (n_steps,)
        "n_queries", billed images after each step; "accuracy" and "loss"; and where held-out images were checked
        "validation_accuracy" and "validation_loss", NaN at other steps.
    controls : dict of str to dict of str to float, or None, default=None
        Of "accuracy" and "loss", the value of each control by its name.
    name : str or None, default=None
        Of the fit, in the legend. None: the legend tells what the line is.

    Attributes
    ----------
    axes_ : ndarray of shape (n_metrics,), matplotlib Axes
        One below the other.
    figure_ : matplotlib Figure
        The figure with these axes.
    lines_ : dict of str to matplotlib Line2D
        The running mean of each metric.
    control_lines_ : dict of str to dict of str to matplotlib Line2D
        Of each metric, by the controls' names.

    Examples
    --------
    >>> import numpy as np
    >>> from blackvip import BlackVIPClassifier, QueryCurveDisplay
    >>> def service(images, class_prompts):  # it takes bright images for days
    ...     day = images.mean(axis=(1, 2, 3)) / 255
    ...     return 20 * np.stack([day - 0.5, 0.5 - day], axis=1)
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["night", "day"], 20)  # all of it far too dark for the service
    >>> X = rng.uniform(0, 0.3, (40, 16, 16)) + np.where(y == "day", 0.15, 0)[:, None, None]
    >>> clf = BlackVIPClassifier(service, "a photo taken at {}", max_queries=1000, random_state=0).fit(X, y)
    >>> display = QueryCurveDisplay.from_estimator(clf)
    >>> display.lines_["accuracy"].get_ydata().shape == (clf.n_iter_,)
    True
    """

    lines_: dict[str, Any]
    control_lines_: dict[str, dict[str, Any]]
    axes_: np.ndarray

    def __init__(
        self,
        curves: Mapping[str, np.ndarray],
        *,
        controls: Mapping[str, Mapping[str, float]] | None = None,
        name: str | None = None,
    ):
        self.curves = curves
        self.controls = controls
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        metrics: Sequence[str] = ("accuracy", "loss"),
        name: str | None = None,
        controls: bool = True,
        ax: Any = None,
    ) -> QueryCurveDisplay:
        """Draw the curves of a fitted classifier; bills nothing.

        Parameters
        ----------
        estimator : BlackVIPClassifier
            Fitted.
        metrics : sequence of {"accuracy", "loss"}, default=("accuracy", "loss")
            A panel for each.
        name : str or None, default=None
            Of the fit, in the legend.
        controls : bool, default=True
            Whether to draw what was free: the accuracies of `baselines_`, cross-validated for heads;
            and the loss of the zero-shot service at the temperature that suits it.
        ax : matplotlib Axes, array-like of them, or None, default=None
            Where to draw, see `plot`.

        Returns
        -------
        display : QueryCurveDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If the fit has made no step.
        """
        check_fitted(estimator, f"{cls.__name__}.from_estimator")
        return cls.prepare(estimator, name, controls).plot(ax, metrics=metrics)

    @classmethod
    def prepare(cls, estimator: Any, name: str | None = None, controls: bool = True) -> QueryCurveDisplay:
        """A display that is not drawn yet."""
        history = estimator.history_
        if not history:
            raise ValueError("The classifier has made no step, so that there is no curve; fit it within its budget.")
        names = ("n_queries", "accuracy", "loss", "validation_accuracy", "validation_loss")
        curves = {key: np.array([row.get(key, np.nan) for row in history], dtype=float) for key in names}
        return cls(curves, controls=_free_figures(estimator) if controls else None, name=name)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of a figure of its own, in inches."""
        return WIDTH, 5.2

    def plot(
        self, ax: Any = None, *, metrics: Sequence[str] = ("accuracy", "loss"), smoothing: int | None = None
    ) -> QueryCurveDisplay:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, array-like of them, or None, default=None
            Axes whose place the panels take; or an axis for each panel, such as the `axes_` of another display, so that
            several fits share them. None: a new figure.
        metrics : sequence of {"accuracy", "loss"}, default=("accuracy", "loss")
            A panel for each.
        smoothing : int or None, default=None
            Steps of the running mean. None: a twentieth of all.

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
        self.axes_, self.figure_, self.lines_, self.control_lines_ = axes, axes[0].figure, {}, {}
        for metric, panel in zip(metrics, axes):
            self.lines_[metric] = self._draw_curve(panel, metric, self._window(smoothing), style)
            self.control_lines_[metric] = self._draw_controls(panel, metric)
            panel.set_ylabel(_METRICS[metric])
            panel.grid(alpha=0.25)
            panel.tick_params(labelbottom=panel is axes[-1])
        count_along_x(axes[-1], "billed images")
        legend_above(axes[0])
        return self

    def describe(self) -> str:
        """What is to be seen, in words with numbers.

        Returns
        -------
        text : str
            A few sentences.
        """
        billed = self.curves["n_queries"]
        sentences = [f"{counted(len(billed), 'step')}, up to {counted(int(billed[-1]), 'billed image')}"]
        for metric in _METRICS:
            mean = _running_mean(self.curves[metric], self._window(None))
            sentence = (
                f"The {metric} on the images of a step, a running mean, goes from {mean[0]:.2f} to {mean[-1]:.2f}"
            )
            checks = self.curves.get(f"validation_{metric}", np.empty(0))
            checks = checks[np.isfinite(checks)]
            if len(checks):
                sentence += f", and on held-out images from {checks[0]:.2f} to {checks[-1]:.2f}"
            free = [
                f"{BASELINE_NAMES.get(name, name)} {value:.2f}"
                for name, value in (self.controls or {}).get(metric, {}).items()
            ]
            sentences.append(sentence + (f"; for comparison: {listed(free)}" if free else ""))
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

    def _draw_controls(self, panel: Any, metric: str) -> dict[str, Any]:
        """A horizontal line for each control, in the legend but once."""
        known = panel.get_legend_handles_labels()[1]
        lines = {}
        for name, value in (self.controls or {}).get(metric, {}).items():
            label = BASELINE_NAMES.get(name, name)
            label = f"_{label}" if label in known else label  # matplotlib leaves it out of the legend
            style = {"ls": _DASHES.get(name, "--"), "color": NEUTRAL, "zorder": 1.5}  # behind the curves
            lines[name] = panel.axhline(value, lw=1.2, label=label, **style)
        return lines


def _free_figures(estimator: Any) -> dict[str, dict[str, float]]:
    """The accuracy of each control, and the loss of the zero-shot service as training measures it."""
    evidence = estimator.scored_images_
    temperature = Temperature(None if estimator.temperature == "auto" else float(estimator.temperature), estimator.loss)
    losses = temperature.best_losses(evidence.plain, evidence.y)
    return {
        "accuracy": {name: control.accuracy for name, control in estimator.baselines_.items()},
        "loss": {"zero_shot": float(np.average(losses, weights=evidence.weights))},
    }


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the last `window` values at each place, and of those that there are at the first ones."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(0, ends - window)
    return (sums[ends] - sums[begins]) / (ends - begins)
