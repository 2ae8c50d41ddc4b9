"""The contract of a score function, checked on every answer.

``score_fn(images, class_prompts) -> scores``: images (n, height, width, 3), uint8, RGB, just what a service
would be sent; class_prompts, a list of str; scores (n, n_classes), finite, higher is better.

It may declare as attributes: ``images_per_call``, the most images in one call; ``score_type``, "logits" or
"probabilities"; and a method ``lease(n_images)``, a context manager whose value is a score function that sends no
more than these, see `SharedBudget`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..exceptions import ScoreError

__all__ = ["SCORE_TYPES", "ScoreFunction", "as_log_scores", "check_scores", "recognise_score_type"]

ScoreFunction = Callable[[np.ndarray, list[str]], Any]
SCORE_TYPES = ("logits", "probabilities")
_FLOOR = 1e-6  # of probabilities, before their logarithm is taken


def check_scores(scores: Any, n_images: int, n_classes: int) -> np.ndarray:
    """Scores as a float array of shape (n_images, n_classes), or an error that says what came back.

    Raises
    ------
    ScoreError
        If they are no numbers, have another shape, or are not all finite.
    """
    expected = f"expected numbers of shape ({n_images}, {n_classes}), a row per image and a column per class prompt"
    if scores is None:
        raise ScoreError(f"The score function returned None; {expected}. Does it end with a return statement?")
    if hasattr(scores, "detach"):  # a torch tensor, on any device
        scores = scores.detach().cpu()
    try:
        array = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ScoreError(
            f"The score function returned a {type(scores).__name__} that is no array of numbers; {expected}."
        ) from error
    if array.shape != (n_images, n_classes):
        reason = ""
        if array.ndim >= 1 and len(array) != n_images:
            reason = f" {n_images} images were sent: did it leave some out, or answer for one image at a time?"
        elif array.ndim == 2:
            reason = f" {n_classes} class prompts were sent: is there a score for each of them, in their order?"
        raise ScoreError(f"The score function returned an array of shape {array.shape}; {expected}.{reason}")
    bad = ~np.isfinite(array)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ScoreError(
            f"The score function returned {array[row, column]} for image {row} and class prompt {column} "
            f"({bad.sum()} of {bad.size} scores are not finite); expected finite numbers. Return a low score "
            "where the service gives none."
        )
    return array


def recognise_score_type(scores: np.ndarray) -> str:
    """ "probabilities" where all scores are at least 0 and each row sums to 1, else "logits"."""
    on_simplex = scores.min() >= 0 and np.allclose(scores.sum(axis=1), 1, atol=1e-3)
    return "probabilities" if on_simplex else "logits"


def as_log_scores(scores: np.ndarray, score_type: str) -> np.ndarray:
    """Scores whose softmax is what the service believes: logits as they are, probabilities as logarithms."""
    if score_type == "logits":
        return scores
    if scores.min() < 0:
        raise ScoreError(
            f"The score function returned {scores.min():.4g}, but its scores were taken for probabilities, which "
            "are not negative. Set score_type='logits' if they are none."
        )
    return np.log(np.maximum(scores, _FLOOR))
