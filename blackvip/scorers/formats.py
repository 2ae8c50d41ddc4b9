"""The format of a service's scores: recognised once, then used to turn every answer into log scores.

Services differ in three ways. Some return probabilities and others logits. Some return only their top scores, so that
the others are missing (NaN). And some round, so that a small probability arrives as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np

from .contract import check_scores

__all__ = ["FLOOR", "SCORE_TYPES", "ScoreFormat", "ScoreReader"]

SCORE_TYPES = ("logits", "probabilities")
#: Lower bound of probabilities that are not rounded, applied before their logarithm is taken.
FLOOR = 1e-6
# Decimals to which a service may round. Half a unit of the sixth is less than FLOOR.
_DECIMALS = range(1, 6)
# Fractions and zeros, and distinct fractions, that are needed to tell rounding from coincidence.
_N_ROUNDED, _N_DISTINCT = 20, 3
# Relative error of a rounded number that arrives as a 32-bit float.
_SINGLE_PRECISION = 1e-7
# Allowed error of a sum of probabilities, in addition to their rounding.
_SUM_ERROR = 1e-3


@dataclass(frozen=True)
class ScoreFormat:
    """The format of a service's scores. It is fixed by the first answers and also used for prediction.

    Parameters
    ----------
    score_type : {"logits", "probabilities"}
    floor : float
        Lower probabilities are raised to this value: half a unit of the last decimal if the service rounds them.
    """

    score_type: str
    floor: float = FLOOR

    @classmethod
    def recognise(cls, scores: np.ndarray, score_type: str = "auto") -> ScoreFormat:
        """Recognise the format of the first scores.

        Scores are probabilities if none is negative and each row sums to 1, or to at most 1 where some are missing.
        They are rounded if all of them are multiples of a decimal unit and there are enough of them to tell.

        Parameters
        ----------
        scores : ndarray of shape (n_images, n_classes)
            Scores as `check_scores` returns them.
        score_type : {"auto", "logits", "probabilities"}
            The declared type; "auto" if none is declared.

        Returns
        -------
        score_format : ScoreFormat
        """
        unit = _rounding_unit(scores)
        if score_type == "auto":
            score_type = "probabilities" if _on_simplex(scores, unit) else "logits"
        # (B20)
        return cls(score_type, FLOOR if score_type == "logits" else max(FLOOR, unit / 2))

    def log_scores(self, scores: np.ndarray) -> np.ndarray:
        """Return scores whose softmax is the service's belief: logits unchanged, probabilities as logarithms.

        A missing score counts as half the smallest returned probability of its image; a missing logit is lower than
        the smallest one by log 2. A missing probability is also at most an equal share of the probability left over,
        and at least the floor. An image without any score gets equal log scores.

        Parameters
        ----------
        scores : ndarray of shape (n_images, n_classes)
            Scores as `check_scores` returns them.

        Returns
        -------
        log_scores : ndarray of shape (n_images, n_classes)
        """
        missing = ~np.isfinite(scores)
        some_missing = bool(missing.any())
        if self.score_type == "logits":
            return _with_missing_logits(scores, missing) if some_missing else scores
        if some_missing:
            scores = _with_missing_probabilities(scores, missing)
        return np.log(np.maximum(scores, self.floor))


class _MapsLabels(Protocol):
    """The part of a `LabelMapping` that a `ScoreReader` uses."""

    class_prompts: Sequence[str]

    def log_scores(self, log_scores: np.ndarray) -> np.ndarray: ...


class ScoreReader:
    """Reads answers: checks them, recognises their format once, and turns them into log scores for classes.

    Parameters
    ----------
    score_type : {"auto", "logits", "probabilities"}, default="auto"
        The declared type of the scores.
    score_format : ScoreFormat or None, default=None
        A format that was recognised before. None: it is recognised in the first call's scores, and then kept, so that
        an image's log scores depend on its own scores alone.
    label_mapping : LabelMapping or None, default=None
        Maps log scores for a service's own labels to log scores for classes. It maps all images of a call at once,
        which keeps results bit-identical however the answers were split on their way.

    Raises
    ------
    ValueError
        If `score_type` is none of the three.
    """

    def __init__(
        self,
        score_type: str = "auto",
        score_format: ScoreFormat | None = None,
        label_mapping: _MapsLabels | None = None,
    ):
        if score_type not in ("auto", *SCORE_TYPES):
            raise ValueError(
                f"The score function declares score_type={score_type!r}; expected 'logits' or 'probabilities'."
            )
        self._declared_type = score_type
        self.score_format = score_format
        self.label_mapping = label_mapping

    @classmethod
    def of(cls, score_fn: Any, score_type: str = "auto", **kwargs: Any) -> Self:
        """Return a reader for a score function; "auto" stands for the `score_type` that the function declares."""
        return cls(getattr(score_fn, "score_type", "auto") if score_type == "auto" else score_type, **kwargs)

    @property
    def score_type(self) -> str:
        """Type of the scores; "auto" until it is declared or recognised."""
        return self._declared_type if self.score_format is None else self.score_format.score_type

    def check(self, answer: Any, n_images: int, class_prompts: Sequence[str]) -> np.ndarray:
        """Return an answer as an array (n_images, n_prompts), or raise a `ScoreError`; see `check_scores`."""
        return check_scores(answer, n_images, class_prompts, self.score_type)

    def log_scores(self, scores: np.ndarray) -> np.ndarray:
        """Return the log scores of all images of a call; the first call with any score fixes the format.

        Parameters
        ----------
        scores : ndarray of shape (n_images, n_prompts)
            Scores as `check` returns them.

        Returns
        -------
        log_scores : ndarray of shape (n_images, n_classes)
        """
        # A single image may have no score at all, which says nothing about the format.
        if self.score_format is None and np.isfinite(scores).any():
            self.score_format = ScoreFormat.recognise(scores, self._declared_type)
        log_scores = (self.score_format or ScoreFormat("logits")).log_scores(scores)
        return log_scores if self.label_mapping is None else self.label_mapping.log_scores(log_scores)


def _with_missing_logits(scores: np.ndarray, missing: np.ndarray) -> np.ndarray:
    least = np.where(missing, np.inf, scores).min(axis=1, keepdims=True)
    # (B21) for logits
    filled = np.where(missing, least - np.log(2), scores)
    filled[missing.all(axis=1)] = 0
    return filled


def _with_missing_probabilities(scores: np.ndarray, missing: np.ndarray) -> np.ndarray:
    least = np.where(missing, np.inf, scores).min(axis=1, keepdims=True)
    left = 1 - np.where(missing, 0, scores).sum(axis=1, keepdims=True)
    share = np.maximum(left, 0) / np.maximum(missing.sum(axis=1, keepdims=True), 1)
    # (B21) for probabilities
    return np.where(missing, np.minimum(least / 2, share), scores)


def _rounding_unit(scores: np.ndarray) -> float:
    """Return the decimal unit of which all scores are multiples; 0 if there is none, or too few scores to tell."""
    given = scores[np.isfinite(scores)]
    fractions = given[(given > 0) & (given < 1)]
    if len(fractions) + np.sum(given == 0) < _N_ROUNDED or len(np.unique(fractions)) < _N_DISTINCT:
        return 0.0
    for decimals in _DECIMALS:
        rounded = np.round(given, decimals)
        if (np.abs(given - rounded) <= _SINGLE_PRECISION * np.abs(rounded)).all():
            return float(10.0**-decimals)
    return 0.0


def _on_simplex(scores: np.ndarray, unit: float) -> bool:
    missing = np.isnan(scores)
    if missing.all() or (scores < 0).any():
        return False
    n_given = (~missing).sum(axis=1)
    excess = np.where(missing, 0, scores).sum(axis=1) - 1
    # Missing scores may make up all the rest.
    off = np.where(n_given < scores.shape[1], excess, np.abs(excess))
    return bool((off <= 1.01 * _SUM_ERROR + n_given * unit / 2).all())
