"""Scored images: the labelled images with the scores that were paid for, to which heads are fitted."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..persistence.arrays import Array
from ..persistence.fields import ListOf, integer
from ..persistence.format import expect
from ..persistence.saveable import Saveable

__all__ = ["LabelledScores", "LastAnswers", "ScoredImages"]

#: Rows of images, and the score columns that these images had with the prompts of training's last steps.
LastAnswers = tuple[np.ndarray, np.ndarray]


@dataclass
class LabelledScores:
    """Training data of heads: one set of log scores of the labelled images, without or with their prompts.

    Attributes
    ----------
    columns : ndarray of shape (n_images, n_classes + n_deviations + vector_size)
        Score columns: log scores of the classes, then the deviations of their prompts, then the service's vector, see
        `ScoreReader.score_columns`.
    features : ndarray of shape (n_images, n_features)
        Features of the local encoder.
    block_sizes : tuple of int
        Number of features in each of the encoder's blocks.
    y : ndarray of shape (n_images,)
        Class indices.
    weights : ndarray of shape (n_images,)
        Positive weights of the images.
    held_out : ndarray of shape (n_images,), bool
        Whether the prompt was not trained on the image.
    last_answers : (ndarray of shape (n,), ndarray of shape (n, n_columns)) or None
        Rows, and further score columns of these images.
    shared : dict
        Results of `once`.
    prompted : bool
        Whether the scores are those of images with their prompts.
    prompt_classes : tuple of int
        Class index of each deviation. Empty: each class has one prompt.
    vector_size : int
        Size of the service's vector. 0: there is none.
    """

    columns: np.ndarray
    features: np.ndarray
    block_sizes: tuple[int, ...]
    y: np.ndarray
    weights: np.ndarray
    held_out: np.ndarray
    last_answers: LastAnswers | None = None
    shared: dict[Hashable, Any] = field(default_factory=dict)
    prompted: bool = False
    prompt_classes: tuple[int, ...] = ()
    vector_size: int = 0

    @property
    def is_trained_on(self) -> bool:
        """Whether the scores are those of images with a prompt that was trained, on all that are not held out."""
        return self.prompted and self.last_answers is not None and len(self.last_answers[0]) > 0

    @property
    def n_classes(self) -> int:
        """Number of classes, including those without images."""
        return self.columns.shape[1] - len(self.prompt_classes) - self.vector_size

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
        Positive weights of the images.
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
    prompt_classes : tuple of int
        Class index of each class prompt that shares its class with others.
    plain_further, prompted_further : ndarray of shape (n_images, n_deviations + vector_size)
        How far the log scores of these class prompts are from those of their classes; then the service's vectors.
    """

    y: np.ndarray
    weights: np.ndarray
    held_out: np.ndarray
    features: np.ndarray
    block_sizes: tuple[int, ...]
    plain: np.ndarray
    prompted: np.ndarray
    plain_further: np.ndarray
    prompted_further: np.ndarray
    prompt_classes: tuple[int, ...] = ()

    saved_parameters = {
        "y": Array(("n_images",), "int64", low=0),
        "weights": Array(("n_images",), low=0),
        "held_out": Array(("n_images",), "bool"),
        "features": Array(("n_images", "n_features"), "float64 float32"),
        "block_sizes": ListOf(integer(1)),
        "plain": Array(("n_images", "n_classes")),
        "prompted": Array(("n_images", "n_classes"), nan=True),
        "plain_further": Array(("n_images", "n_further")),
        "prompted_further": Array(("n_images", "n_further"), nan=True),
        "prompt_classes": ListOf(integer(0)),
    }

    @classmethod
    def before_training(
        cls,
        y: np.ndarray,
        weights: np.ndarray,
        columns: np.ndarray,
        prompt_classes: tuple[int, ...] = (),
        vector_size: int = 0,
        **known: Any,
    ) -> ScoredImages:
        """Make scored images from score columns (n_images, n_columns) without prompts; those with prompts are NaN."""
        n_classes = columns.shape[1] - len(prompt_classes) - vector_size
        unknown = np.full(columns.shape, np.nan)
        return cls(
            y,
            weights,
            plain=columns[:, :n_classes],
            prompted=unknown[:, :n_classes],
            plain_further=columns[:, n_classes:],
            prompted_further=unknown[:, n_classes:],
            prompt_classes=prompt_classes,
            **known,
        )

    @property
    def vector_size(self) -> int:
        """Size of the service's vectors. 0: there are none."""
        return self.plain_further.shape[1] - len(self.prompt_classes)

    def check_layout(
        self,
        n_classes: int,
        prompt_classes: tuple[int, ...],
        vector_size: int,
        block_sizes: tuple[int, ...],
        n_features: int,
    ) -> None:
        """Raise a `PersistenceError` if images from a file are not of these classes, prompts, vectors and features."""
        own = tuple(self.block_sizes)
        expect(self.features.shape[1] == n_features, f"_scored has not the encoder's {n_features} features")
        expect(own == block_sizes, f"_scored has blocks of {own} features; expected {block_sizes}")
        expect(self.plain.shape[1] == n_classes and len(self.y) > 0, "_scored is not of these classes")
        expect(int(self.y.max()) < n_classes, "_scored has an unknown class")
        expect(tuple(self.prompt_classes) == prompt_classes, "_scored is not of these class prompts")
        expect(self.vector_size == vector_size, f"_scored has vectors of {self.vector_size}; expected {vector_size}")

    def scored_with_prompt(self, columns: np.ndarray, held_out: np.ndarray) -> ScoredImages:
        """Make a copy with the scores of a prompt.

        Parameters
        ----------
        columns : ndarray of shape (n, n_columns)
            Score columns of the last n images with the prompt.
        held_out : ndarray of shape (n,), bool
            Whether the prompt was not trained on these images.
        """
        n, n_classes = len(columns), self.plain.shape[1]
        names = "prompted", "prompted_further", "held_out"
        made = replace(self, **{name: getattr(self, name).copy() for name in names})
        made.prompted[-n:], made.prompted_further[-n:] = np.split(columns, [n_classes], axis=1)
        made.held_out[-n:] = held_out
        return made

    def after(self, earlier: ScoredImages | None) -> ScoredImages:
        """Append these rows to those of an earlier run."""
        if earlier is None:
            return self
        names = "y", "weights", "held_out", "features", "plain", "prompted", "plain_further", "prompted_further"
        rows: dict[str, Any] = {name: np.concatenate([getattr(earlier, name), getattr(self, name)]) for name in names}
        return replace(self, **rows)

    def last_answers(self, judged_rows: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> LastAnswers:
        """Find the last run's answers (n, n_columns) to the images that stand here.

        `rows` (n,) counts that run's training images, of which `judged_rows` are the last rows here.
        """
        here = np.isin(rows, judged_rows)
        first = len(self.y) - len(judged_rows)
        return np.searchsorted(judged_rows, rows[here]) + first, columns[here]

    def without_prompt(self, shared: dict[Hashable, Any] | None = None) -> LabelledScores:
        """Select the columns without a prompt; `shared` has what is computed already, see `LabelledScores.once`."""
        return self._labelled(self.plain, self.plain_further, shared={} if shared is None else shared)

    def with_prompt(self, last_answers: LastAnswers | None, shared: dict[Hashable, Any]) -> LabelledScores:
        """Select the columns with the prompt; `shared` comes from `without_prompt`."""
        return self._labelled(
            self.prompted, self.prompted_further, last_answers=last_answers, shared=shared, prompted=True
        )

    def _labelled(self, log_scores: np.ndarray, further: np.ndarray, **known: Any) -> LabelledScores:
        columns = np.hstack([log_scores, further]) if further.size else log_scores
        return LabelledScores(
            columns,
            self.features,
            self.block_sizes,
            self.y,
            self.weights,
            self.held_out,
            prompt_classes=tuple(self.prompt_classes),
            vector_size=self.vector_size,
            **known,
        )
