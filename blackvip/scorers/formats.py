"""The format of a service's scores: it turns every answer into log scores.

Services differ in three ways. Some return probabilities, others percent or logits. Some return only their top scores,
and the others are missing. And some round, so a small probability arrives as 0. `recognition` finds out which.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..persistence.fields import BOOL, choice, number, text
from ..persistence.saveable import Saveable

__all__ = ["BELOW_ZERO", "SCORE_TYPES", "SUM_ERROR", "UNITS", "ScoreFormat"]

#: Score of a certain event, for each type that has one.
UNITS = {"probabilities": 1.0, "percent": 100.0, "levels": 255.0}
SCORE_TYPES = ("logits", *UNITS)
#: Allowed error of a sum of probabilities, in addition to decimal rounding: that of 16-bit floats.
SUM_ERROR = 4e-3
#: Rounding errors of sums and differences leave probabilities as low as this.
BELOW_ZERO = -1e-6
# A missing probability of a distribution is at least this, unless the service returns smaller ones.
_LEAST_SHARE = 1e-6


@dataclass(frozen=True)
class ScoreFormat(Saveable):
    """The format of a service's scores. `fit` recognises it, and predictions use it too.

    Parameters
    ----------
    score_type : {"logits", "probabilities", "percent", "levels"}
        "levels" are probabilities times 255, as whole numbers of 8 bits.
    floor : float, default=0.0
        Half a unit of the last decimal if the service rounds probabilities, else 0. A probability below the floor is
        raised to it.
    zeros_missing : bool, default=False
        Whether a zero stands for a score that the service did not return, as where it returns only its top scores. An
        exact zero also counts as missing if probabilities are not rounded.
    top_only : bool, default=False
        Whether the service returns only its top scores, so that a missing one is a low one. It matters where classes
        have several prompts, see `gaps`.
    certain : bool, default=True
        Whether the type is declared, or shows in the scores. False: it is a guess.
    finding : str, default=""
        How the format was found, in words.
    """

    score_type: str
    floor: float = 0.0
    zeros_missing: bool = False
    top_only: bool = False
    certain: bool = field(default=True, compare=False)
    finding: str = field(default="", compare=False)

    saved_parameters = {
        "score_type": choice(*SCORE_TYPES),
        "floor": number(0, 0.05),
        "zeros_missing": BOOL,
        "top_only": BOOL,
        "certain": BOOL,
        "finding": text(),
    }

    def log_scores(self, scores: np.ndarray) -> np.ndarray:
        """Return scores whose softmax is the service's belief: logits unchanged, probabilities as logarithms.

        A missing score counts as half the smallest returned probability of its image; a missing logit is lower than
        the smallest one by log 2. Where the probabilities of an image do not exceed 1 together, a missing one is also
        at most an equal share of what is left. An image without any score gets equal log scores.

        Parameters
        ----------
        scores : ndarray of shape (n_images, n_classes)
            Scores as `check_scores` returns them.

        Returns
        -------
        log_scores : ndarray of shape (n_images, n_classes)
            All finite.
        """
        missing = ~np.isfinite(scores)
        if self.score_type == "logits":
            return _with_missing_logits(scores, missing) if missing.any() else scores
        probabilities = scores / UNITS[self.score_type]
        if self.zeros_missing or not self.floor:
            missing |= probabilities <= 0
        if missing.any():
            probabilities = self._with_missing(probabilities, missing)
        # (B20); half of the smallest number that there is would be 0
        return np.log(np.maximum(probabilities, self.floor or np.finfo(float).smallest_subnormal))

    def gaps(self, scores: np.ndarray) -> np.ndarray:
        """Find scores that are missing for another reason than that they are low.

        Parameters
        ----------
        scores : ndarray of shape (n_images, n_prompts)
            Scores as the service gives them.

        Returns
        -------
        gaps : ndarray of shape (n_images, n_prompts), bool
            True where a score is NaN. All False if the service returns only its top scores.
        """
        return np.zeros(scores.shape, bool) if self.top_only else np.isnan(scores)

    def _with_missing(self, probabilities: np.ndarray, missing: np.ndarray) -> np.ndarray:
        least = np.where(missing, np.inf, probabilities).min(axis=1, keepdims=True)
        total = np.where(missing, 0, probabilities).sum(axis=1, keepdims=True)
        share = np.maximum(1 - total, 0) / np.maximum(missing.sum(axis=1, keepdims=True), 1)
        # (B21) for probabilities
        bound = np.where(total > 1 + SUM_ERROR, np.inf, np.maximum(share, self.floor or _LEAST_SHARE))
        filled = np.where(missing, np.minimum(least / 2, bound), probabilities)
        filled[missing.all(axis=1)] = 1
        return filled


def _with_missing_logits(scores: np.ndarray, missing: np.ndarray) -> np.ndarray:
    least = np.where(missing, np.inf, scores).min(axis=1, keepdims=True)
    # (B21) for logits
    filled: Any = np.where(missing, least - np.log(2), scores)
    filled[missing.all(axis=1)] = 0
    return filled
