"""What the scores of a service are, recognised once, and the way from them to log scores.

Three habits of services are dealt with here. Some give probabilities and others logits. Some give only their top
scores, so that others are missing (NaN). And some round, so that a probability of 0.00 is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["FLOOR", "SCORE_TYPES", "ScoreFormat"]

SCORE_TYPES = ("logits", "probabilities")
FLOOR = 1e-6  #: Of probabilities that are not rounded, before their logarithm is taken.
_DECIMALS = range(1, 6)  # to which a service may round; half a unit of the sixth is less than FLOOR
_N_ROUNDED, _N_DISTINCT = 20, 3  # fractions and zeros, and different fractions, that tell rounding from coincidence
_SINGLE_PRECISION = 1e-7  # relative: how far a rounded number may be off where it comes as a 32-bit float
_SUM_ERROR = 1e-3  # by which the sum of probabilities may be off, besides their rounding


@dataclass(frozen=True)
class ScoreFormat:
    """What the scores of a service are. It stays the same from the first answer on, also when predicting.

    Parameters
    ----------
    score_type : {"logits", "probabilities"}
    floor : float
        What lower probabilities are taken for: half a unit of the last decimal where the service rounds them.
    """

    score_type: str
    floor: float = FLOOR

    @classmethod
    def recognise(cls, scores: np.ndarray, score_type: str = "auto") -> ScoreFormat:
        """The format of the first scores.

        They are probabilities where none is negative and each row sums to 1, or where scores are missing to no more
        than 1. Rounded are those that are all multiples of a decimal unit, if they are enough to tell.

        Parameters
        ----------
        scores : ndarray of shape (n_images, n_classes)
            As `check_scores` returns them.
        score_type : {"auto", "logits", "probabilities"}
            What is declared; "auto": nothing.
        """
        unit = _rounding_unit(scores)
        if score_type == "auto":
            score_type = "probabilities" if _on_simplex(scores, unit) else "logits"
        return cls(score_type, FLOOR if score_type == "logits" else max(FLOOR, unit / 2))

    def log_scores(self, scores: np.ndarray) -> np.ndarray:
        """Scores whose softmax is what the service believes: logits as they are, probabilities as logarithms.

        A missing score is taken to be half as probable as the least that was given for its image: a logit is lower
        by log 2 than that. A missing probability is besides no higher than an equal share of what the given ones
        leave of 1, and no lower than the floor. Where an image was given nothing, its scores are all the same.

        Parameters
        ----------
        scores : ndarray of shape (n_images, n_classes)
            As `check_scores` returns them.
        """
        missing = ~np.isfinite(scores)
        some_missing = bool(missing.any())
        if self.score_type == "logits":
            return _with_missing_logits(scores, missing) if some_missing else scores
        if some_missing:
            scores = _with_missing_probabilities(scores, missing)
        return np.log(np.maximum(scores, self.floor))


def _with_missing_logits(scores: np.ndarray, missing: np.ndarray) -> np.ndarray:
    least = np.where(missing, np.inf, scores).min(axis=1, keepdims=True)
    filled = np.where(missing, least - np.log(2), scores)
    filled[missing.all(axis=1)] = 0
    return filled


def _with_missing_probabilities(scores: np.ndarray, missing: np.ndarray) -> np.ndarray:
    least = np.where(missing, np.inf, scores).min(axis=1, keepdims=True)
    left = 1 - np.where(missing, 0, scores).sum(axis=1, keepdims=True)
    share = np.maximum(left, 0) / np.maximum(missing.sum(axis=1, keepdims=True), 1)
    return np.where(missing, np.minimum(least / 2, share), scores)


def _rounding_unit(scores: np.ndarray) -> float:
    """The decimal unit of which all given scores are multiples; 0 where there is none, or too little to tell."""
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
    off = np.where(n_given < scores.shape[1], excess, np.abs(excess))  # what is missing may be all the rest
    return bool((off <= 1.01 * _SUM_ERROR + n_given * unit / 2).all())
