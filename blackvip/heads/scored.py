"""Scored images: the labelled images with the scores that were paid for, to which heads are fitted."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..persistence.arrays import Array
from ..persistence.fields import ListOf, integer
from ..persistence.saveable import Saveable

__all__ = ["LabelledScores", "LastAnswers", "ScoredImages"]

#: Rows of images, and the log scores that these images had with the prompts of training's last steps.
LastAnswers = tuple[np.ndarray, np.ndarray]


@dataclass
class LabelledScores:
    """Training data of heads: one set of log scores of the labelled images, without or with their prompts.

    Attributes
    ----------
    log_scores : ndarray of shape (n_images, n_classes)
    features : ndarray of shape (n_images, n_features)
        Features of the local encoder.
    block_sizes : tuple of int
        Number of features in each of the encoder's blocks.
    y : ndarray of shape (n_images,)
        Class indices.
    weights : ndarray of shape (n_images,)
    held_out : ndarray of shape (n_images,), bool
        Whether the prompt was not trained on the image.
    last_answers : (ndarray of shape (n,), ndarray of shape (n, n_classes)) or None
        Rows, and further log scores of these images.
    shared : dict
        Results of `once`.
    prompted : bool
        Whether the scores are those of images with their prompts.
    """

    log_scores: np.ndarray
    features: np.ndarray
    block_sizes: tuple[int, ...]
    y: np.ndarray
    weights: np.ndarray
    held_out: np.ndarray
    last_answers: LastAnswers | None = None
    shared: dict[Hashable, Any] = field(default_factory=dict)
    prompted: bool = False

    @property
    def n_classes(self) -> int:
        """Number of classes, including those without images."""
        return self.log_scores.shape[1]

    @property
    def counts(self) -> np.ndarray:
        """Number of images in each class."""
        return np.bincount(self.y, minlength=self.n_classes)

    def once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Compute something that depends on the features and labels alone, once for all heads."""
        if key not in self.shared:
            self.shared[key] = compute()
        return self.shared[key]


@dataclass
class ScoredImages(Saveable):
    """The labelled images that were scored before and after training; `partial_fit` appends rows.

    Attributes
    ----------
    y : ndarray of shape (n_images,)
        Class indices.
    weights : ndarray of shape (n_images,)
    held_out : ndarray of shape (n_images,), bool
        Whether the prompt was not trained on the image.
    features : ndarray of shape (n_images, n_features)
        Features of the local encoder.
    block_sizes : tuple of int
        Number of features in each of the encoder's blocks.
    plain : ndarray of shape (n_images, n_classes)
        Log scores without a prompt.
    prompted : ndarray of shape (n_images, n_classes)
        Log scores with the prompt at the end of the run in which the image was added. NaN where they were not scored.
    """

    y: np.ndarray
    weights: np.ndarray
    held_out: np.ndarray
    features: np.ndarray
    block_sizes: tuple[int, ...]
    plain: np.ndarray
    prompted: np.ndarray

    saved_parameters = {
        "y": Array(("n_images",), "int64", low=0),
        "weights": Array(("n_images",), low=0),
        "held_out": Array(("n_images",), "bool"),
        "features": Array(("n_images", "n_features"), "float64 float32"),
        "block_sizes": ListOf(integer(1)),
        "plain": Array(("n_images", "n_classes")),
        "prompted": Array(("n_images", "n_classes"), nan=True),
    }

    @classmethod
    def before_training(cls, y: np.ndarray, weights: np.ndarray, features: np.ndarray, **known: Any) -> ScoredImages:
        """Make scored images that have no scores with prompts yet."""
        return cls(y, weights, features=features, prompted=np.full(known["plain"].shape, np.nan), **known)

    def after(self, earlier: ScoredImages | None) -> ScoredImages:
        """Append these rows to those of an earlier run."""
        if earlier is None:
            return self
        names = ("y", "weights", "held_out", "features", "plain", "prompted")
        rows = {name: np.concatenate([getattr(earlier, name), getattr(self, name)]) for name in names}
        return ScoredImages(block_sizes=self.block_sizes, **rows)

    def last_answers(self, judged_rows: np.ndarray, rows: np.ndarray, log_scores: np.ndarray) -> LastAnswers:
        """Find the last run's answers (n, n_classes) to the images that stand here.

        `rows` (n,) counts that run's training images, of which `judged_rows` are the last rows here.
        """
        here = np.isin(rows, judged_rows)
        first = len(self.y) - len(judged_rows)
        return np.searchsorted(judged_rows, rows[here]) + first, log_scores[here]

    def without_prompt(self) -> LabelledScores:
        """Select the log scores without a prompt."""
        return self._labelled(self.plain)

    def with_prompt(self, last_answers: LastAnswers | None, shared: dict[Hashable, Any]) -> LabelledScores:
        """Select the log scores with the prompt; `shared` comes from `without_prompt`."""
        return self._labelled(self.prompted, last_answers=last_answers, shared=shared, prompted=True)

    def _labelled(self, log_scores: np.ndarray, **further: Any) -> LabelledScores:
        return LabelledScores(
            log_scores, self.features, self.block_sizes, self.y, self.weights, self.held_out, **further
        )
