"""Scored images: the labelled images with the scores that were paid for, to which heads are fitted."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..persistence.arrays import Array
from ..persistence.fields import NONE, ListOf, OneOf, integer
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
    log_scores : ndarray of shape (n_images, n_classes + n_deviations)
        Log scores of the classes, then the deviations of their prompts, see `PromptGroups.columns`.
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
    last_answers : (ndarray of shape (n,), ndarray of shape (n, n_classes + n_deviations)) or None
        Rows, and further log scores of these images.
    shared : dict
        Results of `once`.
    prompted : bool
        Whether the scores are those of images with their prompts.
    prompt_classes : tuple of int
        Class index of each deviation. Empty: each class has one prompt.
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
    prompt_classes: tuple[int, ...] = ()

    @property
    def n_classes(self) -> int:
        """Number of classes, including those without images."""
        return self.log_scores.shape[1] - len(self.prompt_classes)

    def of_classes(self) -> LabelledScores:
        """Select the log scores of the classes, without the deviations of their prompts."""
        n, answers = self.n_classes, self.last_answers
        answers = answers if answers is None else (answers[0], answers[1][:, :n])
        return replace(self, log_scores=self.log_scores[:, :n], last_answers=answers, prompt_classes=())

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
    plain_deviations, prompted_deviations : ndarray of shape (n_images, n_deviations) or None
        How far the log scores of these class prompts are from those of their classes. None: there are none.
    """

    y: np.ndarray
    weights: np.ndarray
    held_out: np.ndarray
    features: np.ndarray
    block_sizes: tuple[int, ...]
    plain: np.ndarray
    prompted: np.ndarray
    prompt_classes: tuple[int, ...] = ()
    plain_deviations: np.ndarray | None = None
    prompted_deviations: np.ndarray | None = None

    saved_parameters = {
        "y": Array(("n_images",), "int64", low=0),
        "weights": Array(("n_images",), low=0),
        "held_out": Array(("n_images",), "bool"),
        "features": Array(("n_images", "n_features"), "float64 float32"),
        "block_sizes": ListOf(integer(1)),
        "plain": Array(("n_images", "n_classes")),
        "prompted": Array(("n_images", "n_classes"), nan=True),
        "prompt_classes": ListOf(integer(0)),
        "plain_deviations": OneOf(NONE, Array(("n_images", "n_deviations"))),
        "prompted_deviations": OneOf(NONE, Array(("n_images", "n_deviations"), nan=True)),
    }

    @classmethod
    def before_training(
        cls,
        y: np.ndarray,
        weights: np.ndarray,
        plain: np.ndarray,
        prompt_classes: tuple[int, ...] = (),
        **known: Any,
    ) -> ScoredImages:
        """Make scored images that have no scores with prompts yet; `plain` has a column for each deviation, too."""
        n_classes = plain.shape[1] - len(prompt_classes)
        scored = cls(y, weights, plain=plain[:, :n_classes], prompted=np.empty(0), **known)
        if prompt_classes:
            scored.prompt_classes, scored.plain_deviations = prompt_classes, plain[:, n_classes:]
            scored.prompted_deviations = np.full((len(y), len(prompt_classes)), np.nan)
        scored.prompted = np.full(scored.plain.shape, np.nan)
        return scored

    def check_layout(
        self, n_classes: int, prompt_classes: tuple[int, ...], block_sizes: tuple[int, ...], n_features: int
    ) -> None:
        """Raise a `PersistenceError` if images from a file are not of these classes, class prompts and features."""
        own = tuple(self.block_sizes)
        expect(self.features.shape[1] == n_features, f"_scored has not the encoder's {n_features} features")
        expect(own == block_sizes, f"_scored has blocks of {own} features; expected {block_sizes}")
        expect(self.plain.shape[1] == n_classes and len(self.y) > 0, "_scored is not of these classes")
        expect(int(self.y.max()) < n_classes, "_scored has an unknown class")
        deviations = self.plain_deviations, self.prompted_deviations
        sizes = {0 if part is None else part.shape[1] for part in deviations}
        fits = tuple(self.prompt_classes) == prompt_classes and sizes == {len(prompt_classes)}
        expect(fits, "_scored is not of these class prompts")

    def scored_with_prompt(self, columns: np.ndarray, held_out: np.ndarray) -> ScoredImages:
        """Make a copy with the scores of a prompt.

        Parameters
        ----------
        columns : ndarray of shape (n, n_classes + n_deviations)
            Score columns of the last n images with the prompt.
        held_out : ndarray of shape (n,), bool
            Whether the prompt was not trained on these images.
        """
        n, n_classes = len(columns), self.plain.shape[1]
        made = replace(self, prompted=self.prompted.copy(), held_out=self.held_out.copy())
        made.prompted[-n:], made.held_out[-n:] = columns[:, :n_classes], held_out
        if self.prompted_deviations is not None:
            made.prompted_deviations = self.prompted_deviations.copy()
            made.prompted_deviations[-n:] = columns[:, n_classes:]
        return made

    def after(self, earlier: ScoredImages | None) -> ScoredImages:
        """Append these rows to those of an earlier run."""
        if earlier is None:
            return self
        names = ["y", "weights", "held_out", "features", "plain", "prompted"]
        names += ["plain_deviations", "prompted_deviations"] if self.prompt_classes else []
        rows: dict[str, Any] = {name: np.concatenate([getattr(earlier, name), getattr(self, name)]) for name in names}
        return replace(self, **rows)

    def last_answers(self, judged_rows: np.ndarray, rows: np.ndarray, log_scores: np.ndarray) -> LastAnswers:
        """Find the last run's answers (n, n_columns) to the images that stand here.

        `rows` (n,) counts that run's training images, of which `judged_rows` are the last rows here.
        """
        here = np.isin(rows, judged_rows)
        first = len(self.y) - len(judged_rows)
        return np.searchsorted(judged_rows, rows[here]) + first, log_scores[here]

    def without_prompt(self, shared: dict[Hashable, Any] | None = None) -> LabelledScores:
        """Select the log scores without a prompt; `shared` has what is computed already, see `LabelledScores.once`."""
        return self._labelled(self.plain, self.plain_deviations, shared={} if shared is None else shared)

    def with_prompt(self, last_answers: LastAnswers | None, shared: dict[Hashable, Any]) -> LabelledScores:
        """Select the log scores with the prompt; `shared` comes from `without_prompt`."""
        deviations = self.prompted_deviations
        return self._labelled(self.prompted, deviations, last_answers=last_answers, shared=shared, prompted=True)

    def _labelled(self, log_scores: np.ndarray, deviations: np.ndarray | None, **further: Any) -> LabelledScores:
        if deviations is not None:
            log_scores = np.hstack([log_scores, deviations])
            further["prompt_classes"] = tuple(self.prompt_classes)
        return LabelledScores(
            log_scores, self.features, self.block_sizes, self.y, self.weights, self.held_out, **further
        )
