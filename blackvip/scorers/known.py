"""Answers that are paid for already, as a score function."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..exceptions import BudgetError

__all__ = ["PaidAnswers"]


class PaidAnswers:
    """A score function that knows the log scores of some images, and asks no service.

    Parameters
    ----------
    images : ndarray of shape (n, height, width, 3), uint8
    log_scores : ndarray of shape (n, n_classes)
    """

    score_type = "logits"
    asks_concurrently = True  # since it asks nobody, there is nothing to spread

    def __init__(self, images: np.ndarray, log_scores: np.ndarray):
        self._answers = {image.tobytes(): scores for image, scores in zip(images, log_scores)}

    def __call__(self, images: np.ndarray, class_prompts: Sequence[str]) -> np.ndarray:
        unknown = sum(image.tobytes() not in self._answers for image in images)
        if unknown:
            raise BudgetError(
                f"{unknown} of {len(images)} images were never sent to the service, and a callback may not send any "
                "during a fit. Score the X and y that the hook is given."
            )
        return np.stack([self._answers[image.tobytes()] for image in images])
