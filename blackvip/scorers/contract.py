"""The contract of a score function, which every answer is checked against.

``score_fn(images, class_prompts) -> scores``: `images` is a uint8 array (n, height, width, 3), RGB, exactly what a
service is sent; `class_prompts` is a list of str, in which a class may have several; `scores` is an array
(n, n_prompts), higher is better.

Scores may also have names, which are matched with the class prompts, in Unicode NFC: frames with a row per image and a
column per class prompt, dicts of such columns, and lists of dicts, Series, or labels with scores as pipelines return
them. A class prompt that is left out counts as missing, and so does a score that is None, NaN or masked, or a logit of
-inf. `ScoreFormat.log_scores` fills in missing scores.

A score function may declare these attributes. They are checked before anything is sent. The methods among them count
only if the class of the score function defines them, so that mocks and proxies declare none.

- ``images_per_call``: the most images in one call.
- ``max_class_prompts``: the most class prompts that one request takes. More are refused before anything is sent.
- ``maps_labels = True``: it maps the labels of its service to classes, and takes one class prompt per class.
- ``one_prompt_per_class = True``: prompts compete and would share the score of their class, so each class has one.
- ``score_type``: "logits", "probabilities", "percent", or "levels" (of 8 bits, from 0 to 255).
- ``price_per_image``: in any currency.
- ``vector_size``: how many columns of its scores come after those of the class prompts. They are a vector that
  describes the image, such as an embedding, which the fused head uses as features. Scores have no names then. An image
  without an answer has NaN there, too.
- ``model_``: name of the model that answered last. The journal of a fit keeps it, and `fit` warns if another one
  answers when it resumes.
- ``takes_any_size = True``: it takes images of any size, and what it sees depends on their size. The ladder then also
  tries to send them enlarged. Otherwise, all images have the size of those that were passed to `fit`.
- ``takes_tensors = True``: images come as a float32 torch tensor (n, 3, height, width) with values in [0, 1], on the
  device where they were computed, without rounding to 8 bits.
- ``tensor_device``: a torch device. The prompts of a training step are drawn there, so that its images need not be
  moved.
- ``answers(images, class_prompts)``: an iterator of ``(rows, scores)`` that yields answers as they arrive, in any
  order. `rows` are indices into `images`, each of which comes once, and `scores` are what a call would return for
  ``images[rows]``. It is used instead of a call, receives all images at once, and makes its own requests. Answers that
  arrive before an error, or before the process is killed, are kept if there is a journal. Each piece is on disk
  before it is used, so an iterator should yield everything it has in one piece. It may report images that it did not
  send by `report_not_sent`.
- ``streams = False``: its ``answers`` only pass on the calls of a plain function, so larger batches gain nothing.
- ``asks_concurrently = True``: it makes concurrent requests of its own, and `n_jobs` does not spread it.
- ``identity``: a text that identifies the service in files. Score functions of the same identity share answers.
  Default: the class or function, and what distinguishes its instances, closures and partials, see
  `blackvip.scorers.identity`.
- ``identity_params``: names of those of its parameters (``get_params``), or attributes, on which its scores depend.
  Default: all parameters.
- ``lease(n_images)``: a context manager whose value is a score function that sends no more than `n_images`, see
  `SharedBudget`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..exceptions import ClassPromptError, ScoreError
from ..inputs.images import Images
from ..inputs.reading import BATCH
from .formats import BELOW_ZERO, SUM_ERROR, UNITS
from .raw_scores import NamedScores, read_scores

__all__ = ["ScoreFunction", "check_anything_given", "check_class_prompts", "check_scores", "check_scores_vary"]

#: From images (n, height, width, 3), uint8, and class prompts to scores (n, n_prompts), higher is better.
ScoreFunction = Callable[[np.ndarray, list[str]], Any]
# The largest magnitude of a score.
_LARGEST = 1e100


def check_scores(
    scores: Any, n_images: int, class_prompts: Sequence[str], score_type: str = "auto", vector_size: int = 0
) -> np.ndarray:
    """Return scores as a float array of shape (n_images, n_scores), or raise an error that says what came back.

    Parameters
    ----------
    scores : array-like of shape (n_images, n_prompts + vector_size), or list of dict
        Return value of the score function.
    n_images : int
        Number of images it was given.
    class_prompts : sequence of str
        Class prompts it was given.
    score_type : {"auto", "logits", "probabilities", "percent", "levels"}, default="auto"
        Type of the scores; "auto" if it is not known yet.
    vector_size : int, default=0
        How many of the last columns are a vector that describes the image.

    Returns
    -------
    scores : ndarray of shape (n_images, n_prompts + vector_size), float64
        Missing scores are NaN, or -inf as they were returned.

    Raises
    ------
    ScoreError
        If the scores are not numbers, have another shape, name other class prompts, are infinite, or are no
        probabilities although they should be.
    """
    n_prompts = len(class_prompts)
    n_scores = n_prompts + vector_size
    of_prompts = f"expected numbers of shape ({n_images}, {n_scores}), a row per image and a column per class prompt"
    expected = f"{of_prompts}, or a list of dicts from class prompt to score"
    if vector_size:
        expected = f"{of_prompts}, and then {vector_size} for its vector (vector_size)"
    if scores is None:
        raise ScoreError(f"The score function returned None; {expected}. Does it end with a return statement?")
    try:
        found = read_scores(scores, n_images, class_prompts)
    except TypeError as error:
        reason = str(error)
        raise ScoreError(
            f"The score function returned a {type(scores).__name__} that is not an array of numbers; {expected}. "
            f"{reason[:1].upper()}{reason[1:]}."
        ) from error
    array = found.matched(class_prompts) if isinstance(found, NamedScores) else found
    # Nothing but None, for images that got no answer.
    if array.shape == (n_images,) and np.isnan(array).all():
        array = np.full((n_images, n_scores), np.nan)
    if array.shape != (n_images, n_scores):
        reason = ""
        if array.ndim >= 1 and len(array) != n_images:
            reason = f" {n_images} images were sent: did it leave some out, or answer for one image at a time?"
        elif array.ndim == 2:
            reason = f" {n_prompts} class prompts were sent: is there a score for each of them, in their order?"
        raise ScoreError(f"The score function returned an array of shape {array.shape}; {expected}.{reason}")
    absurd = (np.abs(array) > _LARGEST) & ~np.isneginf(array)
    if absurd.any():
        row, column = np.argwhere(absurd)[0]
        what = f"class prompt {column}" if column < n_prompts else f"number {column - n_prompts} of its vector"
        raise ScoreError(
            f"The score function returned {array[row, column]:.4g} for image {row} and {what} "
            f"({absurd.sum()} of {absurd.size} scores are infinite or above {_LARGEST:g}); expected finite numbers. "
            "Return NaN for a score that the service does not give."
        )
    if score_type in UNITS:
        _check_bounded(array[:, :n_prompts], score_type)
    return array


def _check_bounded(scores: np.ndarray, score_type: str) -> None:
    """Raise a `ScoreError` if probabilities, percent or levels are out of their range, apart from rounding."""
    unit = UNITS[score_type]
    outside = (scores < unit * BELOW_ZERO) | (scores > unit * (1 + SUM_ERROR))
    if outside.any():
        raise ScoreError(
            f"The score function returned {scores[outside][0]:.4g}, but its scores were read as {score_type}, which "
            f"are from 0 to {unit:g}. Set score_type if they are something else, and return NaN for a missing score."
        )


def check_class_prompts(n_prompts: int, most: int | None, said: str) -> None:
    """Raise a `ClassPromptError` if there are more class prompts than a request takes.

    Parameters
    ----------
    n_prompts : int
        Number of class prompts.
    most : int or None
        The most that a request takes. None: any number.
    said : str
        Part of the message that says where the limit comes from.
    """
    if most is not None and n_prompts > most:
        raise ClassPromptError(
            f"There are {n_prompts} class prompts, but {said}; expected at most {most}. Pass fewer prompts per class "
            "or fewer classes, or use a service that takes more: most decisions take 255 class prompts, and embeddings "
            "any number."
        )


def check_scores_vary(scores: np.ndarray, images: Images, rows: np.ndarray) -> None:
    """Raise a `ScoreError` if different images all have the same scores.

    Parameters
    ----------
    scores : ndarray of shape (n_rows, n_scores)
        Scores as `check_scores` returns them.
    images : Images
        The images.
    rows : ndarray of shape (n_rows,)
        Rows of the images that the scores belong to.
    """
    if len(rows) < 2 or not np.array_equal(scores, np.broadcast_to(scores[:1], scores.shape), equal_nan=True):
        return
    first = images.pixels(rows[:1])
    for begin in range(0, len(rows), BATCH):
        if (images.pixels(rows[begin : begin + BATCH]) != first).any():
            raise ScoreError(
                f"The score function gave all {len(rows)} training images the same scores; expected scores that depend "
                "on the image. Does it use its argument `images`, and does the service recognise anything in them?"
            )


def check_anything_given(scores: np.ndarray, most_empty: int = 1) -> None:
    """Raise a `ScoreError` if several images have no scores at all.

    Parameters
    ----------
    scores : ndarray of shape (n_images, n_prompts)
        Scores as `check_scores` returns them; missing ones are not finite.
    most_empty : int, default=1
        Images that may all be without scores. A single image may show nothing that the service recognises.
    """
    if len(scores) > most_empty and not np.isfinite(scores).any():
        raise ScoreError(
            f"The score function returned no score at all for {len(scores)} images; expected at least one. Do the "
            "names in the service's answer match the class prompts?"
        )
