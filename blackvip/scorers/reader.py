"""The reader of a service's answers, which checks them and converts them to log scores of classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np

from ..exceptions import ScoreTypeWarning, warn_caller
from ..inputs.prompt_groups import PromptGroups
from .contract import check_scores
from .declarations import declared
from .formats import SCORE_TYPES, ScoreFormat
from .recognition import recognise

__all__ = ["ScoreReader", "warn_if_lower_is_better"]

logger = logging.getLogger("blackvip")

# Standard deviations of chance by which scores are wrong, and their opposites right, if lower ones are better.
_WRONG, _RIGHT = 2.0, 3.0


class _MapsLabels(Protocol):
    """The part of a `LabelMapping` that a `ScoreReader` uses."""

    class_prompts: Sequence[str]

    def log_scores(self, log_scores: np.ndarray) -> np.ndarray: ...


class ScoreReader:
    """Reader of answers, which checks them and converts them to log scores of classes.

    Parameters
    ----------
    score_type : {"auto", "logits", "probabilities", "percent", "levels"}, default="auto"
        The declared type of the scores.
    score_format : ScoreFormat or None, default=None
        A format that was recognised earlier. None: the first call of `score_columns` recognises it, and keeps it, so
        that an image's log scores depend on its own scores alone.
    label_mapping : LabelMapping or None, default=None
        Maps log scores of a service's own labels to log scores of classes. It maps all images of a call at once,
        which keeps results bit-identical however the answers were split on their way.
    groups : PromptGroups or None, default=None
        The prompts of each class, if a class has several. None: one prompt per class.
    vector_size : int, default=0
        How many of the last scores of an image are a vector that describes it.

    Raises
    ------
    ValueError
        If there is no such `score_type`.
    """

    def __init__(
        self,
        score_type: str = "auto",
        score_format: ScoreFormat | None = None,
        label_mapping: _MapsLabels | None = None,
        groups: PromptGroups | None = None,
        vector_size: int = 0,
    ):
        if score_type not in ("auto", *SCORE_TYPES):
            raise ValueError(
                f"The score function declares score_type={score_type!r}; expected 'logits', 'probabilities', "
                "'percent' or 'levels'."
            )
        self._declared_type = score_type
        self.score_format = score_format
        self.label_mapping = label_mapping
        self.groups = groups
        self.vector_size = vector_size

    @classmethod
    def of(cls, score_fn: Any, score_type: str = "auto", **kwargs: Any) -> Self:
        """Make a reader for a score function.

        Parameters
        ----------
        score_fn : callable
            The score function.
        score_type : {"auto", "logits", "probabilities", "percent", "levels"}, default="auto"
            Type of the scores. "auto": the type that the score function declares.
        **kwargs
            Further parameters of the reader.

        Returns
        -------
        reader : ScoreReader
            The new reader.
        """
        declared_type = declared(score_fn, "score_type", "auto") if score_type == "auto" else score_type
        return cls(declared_type, vector_size=declared(score_fn, "vector_size", 0), **kwargs)

    @property
    def score_type(self) -> str:
        """Type of the scores; "auto" until it is declared or recognised."""
        return self._declared_type if self.score_format is None else self.score_format.score_type

    def n_scores(self, class_prompts: Sequence[str]) -> int:
        """Return the number of scores of an image: one for each class prompt, and its vector."""
        return len(class_prompts) + self.vector_size

    def check(self, answer: Any, n_images: int, class_prompts: Sequence[str]) -> np.ndarray:
        """Check an answer, and convert it to an array; see `check_scores`.

        Parameters
        ----------
        answer : object
            Return value of the score function.
        n_images : int
            Number of images that were sent.
        class_prompts : sequence of str
            Prompts that were sent.

        Returns
        -------
        scores : ndarray of shape (n_images, n_scores), float64
            Missing scores are NaN.

        Raises
        ------
        ScoreError
            If the answer breaks the contract.
        """
        return check_scores(answer, n_images, class_prompts, self.score_type, self.vector_size)

    def score_columns(
        self, scores: np.ndarray, y: np.ndarray | None = None, weights: np.ndarray | None = None
    ) -> np.ndarray:
        """Recognise the format of scores, unless it is known, and return the score columns, which heads take.

        A `ScoreTypeWarning` says so if the format is a guess.

        Parameters
        ----------
        scores : ndarray of shape (n_images, n_scores)
            Scores as `check` returns them; all plain scores together, if the format is not known.
        y : ndarray of shape (n_images,) or None, default=None
            Class indices, which decide where the numbers alone do not.
        weights : ndarray of shape (n_images,) or None, default=None
            Positive weights of the images.

        Returns
        -------
        columns : ndarray of shape (n_images, n_classes + n_deviations + vector_size)
            Log scores of the classes, then the deviations of their prompts, see `PromptGroups.columns`, then the
            vector, which is 0 where it is missing. With one prompt per class, there are no deviations.
        """
        scores, vectors = np.split(scores, [scores.shape[1] - self.vector_size], axis=1)
        columns = self._columns_of_prompts(scores, y, weights)
        return np.hstack([columns, np.nan_to_num(vectors)]) if self.vector_size else columns

    def _columns_of_prompts(self, scores: np.ndarray, y: np.ndarray | None, weights: np.ndarray | None) -> np.ndarray:
        """Score columns (n_images, n_classes + n_deviations) of the scores of the class prompts."""
        # A single image may have no score at all, which says nothing about the format.
        if self.score_format is None and np.isfinite(scores).any():
            self.score_format = recognise(scores, self._declared_type, y, weights)
            finding = f"Scores are read as {self.score_format.finding}"
            logger.info(finding)
            if not self.score_format.certain:
                warn_caller(finding, ScoreTypeWarning)
        score_format = self.score_format or ScoreFormat("logits")
        log_scores = score_format.log_scores(scores)
        if self.label_mapping is not None:
            return self.label_mapping.log_scores(log_scores)
        return log_scores if self.groups is None else self.groups.columns(log_scores, score_format.gaps(scores))


def warn_if_lower_is_better(log_scores: np.ndarray, y: np.ndarray) -> None:
    """Issue a `ScoreTypeWarning` if the scores classify worse than chance, and their opposites far better.

    Parameters
    ----------
    log_scores : ndarray of shape (n_images, n_classes)
        Log scores of images without prompts.
    y : ndarray of shape (n_images,)
        Class indices.
    """
    (accuracy, excess), (opposite, gain) = (_against_chance(sign * log_scores, y) for sign in (1, -1))
    if excess < -_WRONG and gain > _RIGHT:
        two = " If they are not distances, check the order of the class prompts." if log_scores.shape[1] == 2 else ""
        warn_caller(
            f"The service's highest score is right for {accuracy:.0%} of the training images, which is below chance, "
            f"and its lowest score for {opposite:.0%}. If lower scores are better, as with distances, let the score "
            f"function return -scores.{two}",
            ScoreTypeWarning,
        )


def _against_chance(log_scores: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return the accuracy, and by how many standard deviations it differs from that of uninformed answers."""
    answers = log_scores.argmax(axis=1)
    n_classes = log_scores.shape[1]
    shares = (np.bincount(labels, minlength=n_classes) / len(y) for labels in (answers, y))
    accuracy, chance = float(np.mean(answers == y)), float(np.prod([*shares], axis=0).sum())
    deviation = np.sqrt(chance * (1 - chance) / len(y))
    return accuracy, (accuracy - chance) / deviation if deviation else 0.0
