"""PromptDisplay: images, their prompts, and the service's predictions without and with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

from ..inputs.images import to_uint8
from .changes import change_in_words
from .drawing import BETTER, NEUTRAL, WIDTH, WORSE, Display, check_fitted, counted, listed, panels, shortened

__all__ = ["PromptDisplay"]

_COLUMNS = ("original", "prompt", "with prompt")
_LINE_HEIGHT = 0.17  # inches, of a line of text below an image
_SCALE_HEIGHT = 0.08  # inches, of the scale of the middle column
_N_CHANGES = 3  # of an image, in words
_GAPS = 0.5  # inches, between and beside the three images of a row
# Height by width: images outside these bounds are drawn with the nearest one.
_FLATTEST, _TALLEST = 0.3, 2.5


class PromptDisplay(Display):
    """Images in rows: the original, the prompt, and the image with the prompt, with predictions below.

    The middle column shows what the prompt changes: grey is no change, and lighter is brighter. The scale below it is
    in percent of the pixel range, and each panel says in words what changes. Below the other images is the class that
    the service itself predicts, with its probability; if that is wrong, the probability of the true class follows. Use
    `from_estimator` to make a display.

    Parameters
    ----------
    images : ndarray of shape (n_images, height, width, 3), uint8
        The original images.
    prompts : ndarray of shape (n_images, height, width, 3)
        Change made by the prompts, between -1 and 1, in units of the pixel range.
    prompted : ndarray of shape (n_images, height, width, 3), uint8
        The images with their prompts, in the form that the service gets.
    plain_proba, prompted_proba : ndarray of shape (n_images, n_classes) or None, default=None
        The service's probabilities. None: predictions are not shown.
    classes : sequence or None, default=None
        Classes in the order of the probabilities.
    y_true : sequence or None, default=None
        True classes.

    Attributes
    ----------
    axes_ : ndarray of shape (n_images, 3), matplotlib Axes
        The panels, one row per image.
    figure_ : matplotlib Figure
        The figure with these axes.
    im_ : ndarray of shape (n_images, 3), matplotlib AxesImage
        The pictures.
    n_queries_ : int
        Images billed by `from_estimator`.

    Examples
    --------
    >>> import numpy as np
    >>> from blackvip import BlackVIPClassifier, PromptDisplay
    >>> def service(images, class_prompts):  # believes that bright means day
    ...     day = images.mean(axis=(1, 2, 3)) / 255
    ...     return 20 * np.stack([day - 0.5, 0.5 - day], axis=1)
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["night", "day"], 20)  # every photo is underexposed
    >>> X = rng.uniform(0, 0.3, (40, 16, 16)) + np.where(y == "day", 0.15, 0)[:, None, None]
    >>> settings = {"prompter": "basis", "max_queries": 1000, "random_state": 0}
    >>> clf = BlackVIPClassifier(service, "a photo taken at {}", **settings).fit(X[::2], y[::2])
    >>> display = PromptDisplay.from_estimator(clf, X[-1:], y[-1:])  # bills two images
    >>> display.n_queries_
    2
    """

    axes_: np.ndarray
    im_: np.ndarray
    n_queries_: int

    def __init__(
        self,
        images: np.ndarray,
        prompts: np.ndarray,
        prompted: np.ndarray,
        *,
        plain_proba: np.ndarray | None = None,
        prompted_proba: np.ndarray | None = None,
        classes: Sequence[Any] | None = None,
        y_true: Sequence[Any] | None = None,
    ):
        self.images = images
        self.prompts = prompts
        self.prompted = prompted
        self.plain_proba = plain_proba
        self.prompted_proba = prompted_proba
        self.classes = classes
        self.y_true = y_true

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any = None, *, scores: Any = "ask", ax: Any = None
    ) -> PromptDisplay:
        """Draw some images; bills two images each, and none if the scores are given.

        If the classifier uses no prompt (``prompt_used_`` is False), one image each is billed.

        Parameters
        ----------
        estimator : BlackVIPClassifier
            A fitted classifier.
        X : images, in any form that `fit` takes
            A few images.
        y : array-like of shape (n_images,) or None, default=None
            Labels of the images, if they are known.
        scores : "ask", None, or pair of array-like of shape (n_images, n_classes), default="ask"
            "ask": send the images to the service. A pair: the service's scores for the images without prompts and for
            ``estimator.prompter_.transform(X)``. None: show no predictions. Only "ask" bills images.
        ax : matplotlib Axes, array-like of them, or None, default=None
            Axes to draw into, see `plot`.

        Returns
        -------
        display : PromptDisplay
            The display, drawn.
        """
        check_fitted(estimator, f"{cls.__name__}.from_estimator")
        found = estimator.compare_prompt(X, y, scores=scores)
        display = cls.prepare(estimator, found, np.arange(len(found.images)))
        display.n_queries_ = found.n_queries
        return display.plot(ax)

    @classmethod
    def prepare(cls, estimator: Any, found: Any, rows: np.ndarray) -> PromptDisplay:
        """Make a display of some rows of a `PromptComparison` without drawing it."""
        pixels, prompter = estimator.image_format_.pixels(found.images[rows]), estimator.coordinator_
        drawn = prompter.draw(pixels)
        original = prompter.original(pixels.double()) if estimator.prompt_used_ else drawn
        before, after = (
            None if scores is None else softmax(scores[rows], axis=1) for scores in (found.plain, found.prompted)
        )
        return cls(
            to_uint8(pixels),
            _last_channels(drawn.double() - original),
            to_uint8(drawn),
            plain_proba=before,
            prompted_proba=after,
            classes=estimator.classes_.tolist(),
            y_true=None if found.y is None else found.y[rows].tolist(),
        )

    @property
    def size(self) -> tuple[float, float]:
        lines = _LINE_HEIGHT * (self._n_lines + 0.6)
        return WIDTH, 0.4 + len(self.images) * (self._picture + lines) + _SCALE_HEIGHT + 2 * _LINE_HEIGHT

    def plot(self, ax: Any = None) -> PromptDisplay:
        """Draw the images.

        Parameters
        ----------
        ax : matplotlib Axes, array-like of n_images x 3 of them, or None, default=None
            Axes that the panels replace, or all panels. None: a new figure.

        Returns
        -------
        display : PromptDisplay
            The display itself.
        """
        self.axes_ = panels(self._axes(ax), (len(self.images), 3))
        self.figure_, self.im_ = self.axes_[0, 0].figure, np.full(self.axes_.shape, None, dtype=object)
        strongest = self._strongest or 1.0
        neutral = np.clip(0.5 + self.prompts / (2 * strongest), 0, 1)
        height, width = self.images.shape[1:3]
        aspect = "equal" if self._shape == height / width else self._shape * width / height
        for row, pictures in enumerate(zip(self.images, neutral, self.prompted)):
            for column, picture in enumerate(pictures):
                panel = self.axes_[row, column]
                self.im_[row, column] = panel.imshow(picture, aspect=aspect)
                panel.set(xticks=[], yticks=[])
                panel.spines[:].set(color="0.7", lw=0.5)
            self.axes_[row, 1].set_xlabel("\n".join(self._words[row]), fontsize="small")
            for column, proba in ((0, self.plain_proba), (2, self.prompted_proba)):
                if proba is not None:
                    *lines, colour = self._answer(proba[row], row)
                    self.axes_[row, column].set_xlabel("\n".join(lines), color=colour, fontsize="small")
        for panel, title in zip(self.axes_[0], _COLUMNS):
            panel.set_title(title, fontsize="medium")
        if self._strongest:
            self._draw_scale(self.axes_[-1, 1], strongest)
        return self

    def _draw_scale(self, panel: Any, strongest: float) -> None:
        """Draw the scale of the middle column below its last panel."""
        scale = panel.inset_axes([0.0, self._scale_place, 1.0, _SCALE_HEIGHT / self._picture])
        scale.imshow(np.linspace(0, 1, 256)[None], cmap="gray", aspect="auto", extent=(-strongest, strongest, 0, 1))
        ticks = [-strongest, 0, strongest]
        scale.set(yticks=[], xticks=ticks, xticklabels=[f"{tick:+.0%}" if tick else "0" for tick in ticks])
        scale.tick_params(labelsize="x-small", length=2, pad=1)
        scale.spines[:].set(color="0.7", lw=0.5)
        # The outer labels stay above the scale.
        for label, side in zip(scale.get_xticklabels(), ("left", "center", "right")):
            label.set_horizontalalignment(side)

    def describe(self) -> str:
        strongest, mean = self._strongest, np.abs(self.prompts).mean()
        sentences = [
            f"{counted(len(self.images), 'image')} without and with prompts, which change pixels by up to "
            f"{strongest:.0%} of their range, and by {mean:.1%} on average"
        ]
        if self.plain_proba is not None and self.prompted_proba is not None:
            for row, pair in enumerate(zip(self.plain_proba, self.prompted_proba)):
                before, after = (f"{self._name(proba.argmax())} ({proba.max():.0%})" for proba in pair)
                truth = "" if self.y_true is None else f" (true class {self.y_true[row]})"
                words = listed(self._change(row))
                sentences.append(
                    f"Image {row + 1}{truth}: predicted as {before} without and {after} with the prompt; {words}"
                )
        return ". ".join(sentences) + "."

    @property
    def _words(self) -> list[list[str]]:
        """Lines of text below each panel of the middle column."""
        truths = (
            [[]] * len(self.images) if self.y_true is None else [[f"true: {shortened(y, 12)}"] for y in self.y_true]
        )
        return [[*truth, *self._change(row)[:_N_CHANGES]] for row, truth in enumerate(truths)]

    def _change(self, row: int) -> list[str]:
        """Describe the change of an image by the prompt."""
        before = np.clip(np.round(self.prompted[row] - 255 * self.prompts[row]), 0, 255)
        return change_in_words(before.astype(np.uint8), self.prompted[row])

    @property
    def _picture(self) -> float:
        """Height of a picture in inches."""
        return (WIDTH - _GAPS) / 3 * self._shape

    @property
    def _scale_place(self) -> float:
        """Lower edge of the scale, below the lines of text, in units of the height of a picture."""
        return -(_LINE_HEIGHT * (len(self._words[-1]) + 0.4) + _SCALE_HEIGHT) / self._picture

    @property
    def _strongest(self) -> float:
        return float(np.abs(self.prompts).max(initial=0))

    @property
    def _shape(self) -> float:
        """Height by width of a picture, clipped to legible shapes."""
        height, width = self.images.shape[1:3]
        return float(np.clip(height / width, _FLATTEST, _TALLEST))

    def _name(self, index: int) -> str:
        return str(index if self.classes is None else self.classes[index])

    @property
    def _n_lines(self) -> int:
        """Number of lines of text below each image."""
        answers = [
            self._answer(proba[row], row)
            for proba in (self.plain_proba, self.prompted_proba)
            if proba is not None
            for row in range(len(self.images))
        ]
        return max([*(len(answer) - 1 for answer in answers), *map(len, self._words)])

    def _answer(self, proba: np.ndarray, row: int) -> list[str]:
        """Return one or two lines with the service's prediction, and a colour that says whether it is correct."""
        best = int(proba.argmax())
        text = f"{shortened(self._name(best), 11)}  {proba[best]:.0%}"
        if self.y_true is None or self.classes is None:
            return [text, NEUTRAL]
        truth = self.y_true[row]
        if self.classes[best] == truth:
            return [f"✓ {text}", BETTER]
        known = [f"true class  {proba[list(self.classes).index(truth)]:.0%}"] if truth in self.classes else []
        return [f"✗ {text}", *known, WORSE]


def _last_channels(images: torch.Tensor) -> np.ndarray:
    """Move the channels of images (n, 3, height, width) to the end: (n, height, width, 3)."""
    return images.permute(0, 2, 3, 1).numpy()
