"""ConfusionChangeDisplay: the mistakes that a prompt repairs, and those that it makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix
from sklearn.utils.validation import check_consistent_length

from ..inputs.labels import check_labels, check_same_type
from .drawing import BETTER, WIDTH, WORSE, Display, check_fitted, counted, listed, shortened

__all__ = ["ConfusionChangeDisplay"]

_CELL, _SMALL_CELL = 0.4, 0.16  # inches
# With more classes than this, cells are small and have no numbers.
_MOST_NUMBERED = 40
_NAMED_CHANGES = 3  # pairs of classes that `describe` names for better and for worse


class ConfusionChangeDisplay(Display):
    """Difference of two confusion matrices of the same images, after minus before.

    A cell shows how many more (or fewer) images of a true class (row) are predicted as a class (column). Blue is
    better: more correct predictions on the diagonal, fewer mistakes off it. Orange is worse. Use `from_estimator` or
    `from_predictions` to make a display.

    Parameters
    ----------
    before, after : ndarray of shape (n_classes, n_classes), int
        Confusion matrices; rows are true classes.
    n_repaired, n_made : int or None, default=None
        Number of images that were wrong and are now correct, and the reverse. None: not shown.
    display_labels : sequence of str or None, default=None
        Names of the classes. None: their indices.
    max_classes : int, default=20
        The most classes to show. If there are more, the display shows those whose mistakes change most, and its title
        says so.

    Attributes
    ----------
    change : ndarray of shape (n_classes, n_classes), int
        After minus before.
    shown : ndarray of int
        Indices of the classes that are shown.
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.
    im_ : matplotlib AxesImage
        The matrix.
    text_ : ndarray of matplotlib Text
        Numbers in the cells; None if nothing changed.

    Examples
    --------
    >>> from blackvip import ConfusionChangeDisplay
    >>> display = ConfusionChangeDisplay.from_predictions(
    ...     ["cat", "cat", "cat", "dog", "dog"],
    ...     ["dog", "dog", "cat", "dog", "dog"],
    ...     ["cat", "cat", "cat", "dog", "cat"],
    ... )
    >>> print(display.describe())
    5 images: 2 mistakes repaired, 1 made; correct before 3, after 4. Fewer mistakes: cat predicted as dog (2 fewer). \
More mistakes: dog predicted as cat (1 more).
    """

    change: np.ndarray
    shown: np.ndarray
    ax_: Any
    im_: Any
    text_: np.ndarray

    def __init__(
        self,
        before: np.ndarray,
        after: np.ndarray,
        *,
        n_repaired: int | None = None,
        n_made: int | None = None,
        display_labels: Sequence[Any] | None = None,
        max_classes: int = 20,
    ):
        if max_classes < 1:
            raise ValueError(f"max_classes={max_classes}; expected 1 or more.")
        self.before = before
        self.after = after
        self.n_repaired = n_repaired
        self.n_made = n_made
        self.display_labels = display_labels
        self.max_classes = max_classes
        self.change = np.asarray(after) - np.asarray(before)
        self.shown = self._most_changed(max_classes)

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any, *, max_classes: int = 20, ax: Any = None
    ) -> ConfusionChangeDisplay:
        """Compare the service's own predictions without and with the prompt; bills two images each.

        If the classifier uses no prompt (``prompt_used_`` is False), one image each is billed and nothing changes.

        Parameters
        ----------
        estimator : BlackVIPClassifier
            A fitted classifier.
        X : images, in any form that `fit` takes
            Images that are not training images.
        y : array-like of shape (n_images,)
            Labels of the images.
        max_classes : int, default=20
            The most classes to show.
        ax : matplotlib Axes or None, default=None
            Axes to draw into. None: a new figure.

        Returns
        -------
        display : ConfusionChangeDisplay
            The display, drawn.
        """
        check_fitted(estimator, f"{cls.__name__}.from_estimator")
        found = estimator.compare_prompt(X, check_labels(y))
        before, after = (estimator.classes_[scores.argmax(axis=1)] for scores in (found.plain, found.prompted))
        return cls.prepare(found.y, before, after, estimator.classes_, max_classes).plot(ax)

    @classmethod
    def from_predictions(
        cls, y_true: Any, y_before: Any, y_after: Any, *, classes: Any = None, max_classes: int = 20, ax: Any = None
    ) -> ConfusionChangeDisplay:
        """Compare two predictions of the same images; bills nothing.

        Parameters
        ----------
        y_true : array-like of shape (n_images,)
            True labels.
        y_before, y_after : array-like of shape (n_images,)
            Predicted labels.
        classes : array-like of shape (n_classes,) or None, default=None
            Classes to include even if no label has them. None: only those of the labels.
        max_classes : int, default=20
            The most classes to show.
        ax : matplotlib Axes or None, default=None
            Axes to draw into. None: a new figure.

        Returns
        -------
        display : ConfusionChangeDisplay
            The display, drawn.
        """
        return cls.prepare(y_true, y_before, y_after, classes, max_classes).plot(ax)

    @classmethod
    def prepare(
        cls, y_true: Any, y_before: Any, y_after: Any, classes: Any, max_classes: int
    ) -> ConfusionChangeDisplay:
        """Make the display of two predictions without drawing it."""
        y_true, y_before, y_after = (check_labels(labels) for labels in (y_true, y_before, y_after))
        check_consistent_length(y_true, y_before, y_after)
        given = {"y_before": y_before, "y_after": y_after}
        if classes is not None:
            given["classes"] = check_labels(classes)
        for name, labels in given.items():
            check_same_type(labels, y_true, name)
        classes = np.unique(np.concatenate([y_true, *given.values()]))
        right_before, right_after = y_before == y_true, y_after == y_true
        return cls(
            confusion_matrix(y_true, y_before, labels=classes),
            confusion_matrix(y_true, y_after, labels=classes),
            n_repaired=int((~right_before & right_after).sum()),
            n_made=int((right_before & ~right_after).sum()),
            display_labels=classes.tolist(),
            max_classes=max_classes,
        )

    @property
    def names(self) -> list[str]:
        """Names of the classes, as strings."""
        given = range(len(self.change)) if self.display_labels is None else self.display_labels
        return [str(name) for name in given]

    @property
    def size(self) -> tuple[float, float]:
        cell = _CELL if len(self.shown) <= _MOST_NUMBERED else _SMALL_CELL
        side = max(WIDTH - 1.4, cell * len(self.shown))
        return side + 1.4, side + 0.9

    def plot(self, ax: Any = None, *, colorbar: bool = True) -> ConfusionChangeDisplay:
        """Draw the matrix.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to draw into. None: a new figure.
        colorbar : bool, default=True
            Whether to add a colour bar.

        Returns
        -------
        display : ConfusionChangeDisplay
            The display itself.
        """
        self.ax_ = ax = self._axes(ax)
        self.figure_, shown = ax.figure, self.shown
        change, names = self.change[np.ix_(shown, shown)], [shortened(self.names[row], 16) for row in shown]
        better = np.where(np.eye(len(shown), dtype=bool), change, -change)
        most = max(1, int(np.abs(change).max(initial=0)))
        self.im_ = ax.imshow(better, cmap=_colours(), vmin=-most, vmax=most)
        self.text_ = np.full(change.shape, None, dtype=object)
        large = len(shown) <= _MOST_NUMBERED
        for row, column in np.argwhere(change) if large else []:
            colour = _readable_on(self.im_.to_rgba(better[row, column]))
            text = f"{change[row, column]:+d}".replace("-", "−")
            self.text_[row, column] = ax.text(column, row, text, ha="center", va="center", color=colour, size="small")
        slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 2 else {}
        for set_ticks, style in ((ax.set_xticks, slanted), (ax.set_yticks, {})):
            set_ticks(range(len(shown)), names, fontsize="small" if large else "xx-small", **style)
        ax.set_xticks(np.arange(len(shown) - 1) + 0.5, minor=True)
        ax.set_yticks(np.arange(len(shown) - 1) + 0.5, minor=True)
        ax.grid(which="minor", color="0.85", lw=0.5)
        ax.tick_params(which="minor", length=0)
        ax.set(xlabel="predicted class", ylabel="true class")
        ax.set_title("\n".join(self._titles(len(shown))), fontsize="small", loc="left")
        if colorbar:
            bar = ax.figure.colorbar(self.im_, ax=ax, ticks=[-most, 0, most], shrink=0.7, pad=0.03)
            bar.ax.set_yticklabels(["worse", "same", "better"], fontsize="small")
        return self

    def describe(self) -> str:
        right = [int(np.trace(matrix)) for matrix in (self.before, self.after)]
        told = (
            "" if self.n_repaired is None else f"{counted(self.n_repaired, 'mistake')} repaired, {self.n_made} made; "
        )
        sentences = [
            f"{counted(int(np.sum(self.before)), 'image')}: {told}correct before {right[0]:,d}, after {right[1]:,d}",
            *self._largest(-1, "fewer"),
            *self._largest(1, "more"),
        ]
        return ". ".join(sentences) + "."

    @property
    def _beside(self) -> np.ndarray:
        """The change without its diagonal."""
        return self.change - np.diag(np.diag(self.change))

    def _largest(self, sign: int, word: str) -> list[str]:
        """Describe the pairs of classes that change most in one direction; empty if none does."""
        change = sign * self._beside
        order = np.argsort(-change, axis=None, kind="stable")[:_NAMED_CHANGES]
        pairs = [divmod(int(place), len(change)) for place in order if change.flat[place] > 0]
        parts = [f"{self.names[i]} predicted as {self.names[j]} ({change[i, j]} {word})" for i, j in pairs]
        return [f"{word.capitalize()} mistakes: {listed(parts)}"] if parts else []

    def _titles(self, n_shown: int) -> list[str]:
        n_classes = len(self.change)
        lines = []
        if self.n_repaired is not None:
            lines.append(f"{counted(self.n_repaired, 'mistake')} repaired, {self.n_made} made")
        if n_shown < n_classes:
            lines.append(f"{n_shown} of {n_classes} classes shown")
        return lines

    def _most_changed(self, n: int) -> np.ndarray:
        """Return sorted indices of the classes to show: those of the mistakes that change most."""
        places = np.argsort(-np.abs(self._beside), axis=None, kind="stable")
        both = np.stack(np.divmod(places, len(self.change)), axis=1).reshape(-1)
        return np.array(sorted(list(dict.fromkeys(both.tolist()))[:n]))


def _readable_on(colour: Sequence[float]) -> str:
    """Return black or white, whichever has the higher contrast (at least 4.5) by WCAG's relative luminance."""
    rgb = np.asarray(colour[:3])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return "black" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "white"


def _colours() -> Any:
    """Colour map from orange (worse) to blue (better)."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("change", [WORSE, "#f8f8f8", BETTER])
