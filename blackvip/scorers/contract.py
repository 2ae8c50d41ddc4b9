"""The contract of a score function, checked on every answer.

``score_fn(images, class_prompts) -> scores``: images (n, height, width, 3), uint8, RGB, just what a service
would be sent; class_prompts, a list of str; scores (n, n_classes), higher is better.

A service that gives only its top scores has NaN for the others, or -inf where the scores are logits. Or it answers
with a list of dicts, one per image, from class prompt to score; prompts that are not in one, or have None, are missing
in the same way. What becomes of them tells `ScoreFormat.log_scores`.

It may declare as attributes:

- ``images_per_call``, the most images in one call;
- ``score_type``, "logits" or "probabilities";
- ``price_per_image``, in any currency;
- ``takes_tensors = True``: images come as a float32 torch tensor (n, 3, height, width) in [0, 1], on the device where
  they were computed, and are not rounded to 8 bits;
- ``tensor_device``, as torch names it: where the prompts of a training step are drawn then, so that its images need not
  come from elsewhere;
- ``answers(images, class_prompts)``, an iterator of ``(rows, scores)`` as answers come in, in any order: `rows` are
  indices into `images`, each of which comes once, and `scores` what a call would return for ``images[rows]``. It is
  then used instead of a call, gets all images at once, and makes what requests of them it likes. What was answered
  before it raises an error, or before the process is killed, is kept where there is a journal. An answer that comes is
  used only when all that came with it is on disk, so an iterator does well to yield in one piece all that is there. It
  may tell by `report_not_sent` that images were not sent, as those behind an error;
- ``asks_concurrently = True``: it makes several requests at a time by itself, and `n_jobs` leaves it where it is;
- ``identity_params``, names of those of its parameters (``get_params``) on which its answers depend; else all do;
- ``lease(n_images)``, a context manager whose value is a score function that sends no more than these, see
  `SharedBudget`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from ..exceptions import ScoreError

__all__ = ["ScoreFunction", "check_anything_given", "check_rate", "check_scores"]

#: Images (n, height, width, 3), uint8, and class prompts to scores (n, n_classes), higher is better.
ScoreFunction = Callable[[np.ndarray, list[str]], Any]


def check_scores(scores: Any, n_images: int, class_prompts: Sequence[str], score_type: str = "auto") -> np.ndarray:
    """Scores as a float array of shape (n_images, n_classes), or an error that says what came back.

    Parameters
    ----------
    scores : array-like of shape (n_images, n_classes), or list of dict
        What the score function returned.
    n_images : int
        How many it was sent.
    class_prompts : sequence of str
    score_type : {"auto", "logits", "probabilities"}
        What the scores are known to be; "auto": not yet.

    Returns
    -------
    scores : ndarray of shape (n_images, n_classes), float64
        Missing ones are NaN, or as they came -inf.

    Raises
    ------
    ScoreError
        If they are no numbers, have another shape, name other class prompts, are infinite, or are probabilities that
        are negative.
    """
    n_classes = len(class_prompts)
    expected = (
        f"expected numbers of shape ({n_images}, {n_classes}), a row per image and a column per class prompt, or a "
        "list of dicts from class prompt to score"
    )
    if scores is None:
        raise ScoreError(f"The score function returned None; {expected}. Does it end with a return statement?")
    if isinstance(scores, (list, tuple)) and any(isinstance(row, Mapping) for row in scores):
        scores = _rows_of(scores, class_prompts)
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
    infinite = np.isposinf(array)
    if infinite.any():
        row, column = np.argwhere(infinite)[0]
        raise ScoreError(
            f"The score function returned {array[row, column]} for image {row} and class prompt {column} "
            f"({infinite.sum()} of {infinite.size} scores are infinite); expected finite numbers. Return NaN where "
            "the service gives none."
        )
    if score_type == "probabilities" and (array < 0).any():
        raise ScoreError(
            f"The score function returned {np.nanmin(array):.4g}, but its scores were taken for probabilities, which "
            "are not negative. Set score_type='logits' if they are none; return NaN where the service gives none."
        )
    return array


def check_anything_given(scores: np.ndarray) -> None:
    """Raise an error where scores (n_images, n_classes) of several images are all missing.

    A single image may well have nothing that the service recognises.
    """
    if len(scores) > 1 and not np.isfinite(scores).any():
        raise ScoreError(
            f"The score function gave no score at all for {len(scores)} images; expected at least one among them. Are "
            "the names in the service's answer those of the class prompts?"
        )


def check_rate(rate: Any, name: str) -> float | None:
    """A price or a time per image as a float, None if there is none; or an error that says what it is called."""
    if rate is None:
        return None
    if isinstance(rate, bool) or not isinstance(rate, Real) or not 0 <= float(rate) < np.inf:
        raise ValueError(f"{name} is {rate!r}; expected a finite number that is not negative, or None.")
    return float(rate)


def _rows_of(answers: Sequence[Any], class_prompts: Sequence[str]) -> list[list[Any]]:
    """A list of dicts from class prompt to score as rows of scores, None where there is none."""
    for row, answer in enumerate(answers):
        if not isinstance(answer, Mapping):
            raise ScoreError(
                f"The score function returned a {type(answer).__name__} for image {row} in a list of dicts; expected a "
                "dict from class prompt to score for each image, which is empty where the service gives none."
            )
        unknown = [prompt for prompt in answer if prompt not in class_prompts]
        if unknown:
            raise ScoreError(
                f"The score function returned a score for {unknown[0]!r} for image {row}, which is no class prompt; "
                f"expected some of those that it was sent, such as {class_prompts[0]!r}. Leave out what was not asked."
            )
    return [[answer.get(prompt) for prompt in class_prompts] for answer in answers]
