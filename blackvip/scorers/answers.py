"""Answers as they arrive, from both kinds of score function, and the count of images that were not sent."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from contextvars import ContextVar
from typing import Any

import numpy as np

from ..exceptions import ScoreError
from ..process.settings import callers_device, iterated_on_callers_device
from .declarations import declared, method_of
from .raw_scores import NamedScores, read_scores

__all__ = ["IMAGES_PER_CALL", "Metered", "collected", "report_not_sent", "report_paid_before", "rows_of", "scores_of"]

#: Images in one call if neither the user nor the score function sets a limit.
IMAGES_PER_CALL = 64

#: Rows, and their scores as the score function returned them.
Scored = tuple[np.ndarray, Any]


def scores_of(
    score_fn: Any, images: Any, class_prompts: Sequence[str], images_per_call: int | None = None
) -> Generator[Scored]:
    """Yield the scores of images in pieces: from the score function's ``answers`` if it has them, else call by call.

    Parameters
    ----------
    score_fn : callable
        See `blackvip.scorers.contract`.
    images : ndarray or tensor of shape (n, ...)
        Images in the form that the score function takes.
    class_prompts : sequence of str
        Prompts that the scores belong to.
    images_per_call : int or None, default=None
        The most images in one call. None: what `score_fn` declares, else 64; or all images at once if it has
        ``answers``.

    Yields
    ------
    rows : ndarray of int
        Indices into `images`. Each image comes exactly once.
    scores : object
        The scores of these rows, not checked yet.

    Raises
    ------
    ScoreError
        If an image comes twice, or not at all.
    """
    n_begun = 0
    try:
        answers = method_of(score_fn, "answers")
        most = declared(score_fn, "images_per_call", IMAGES_PER_CALL) if answers is None else len(images)
        size = images_per_call or most
        while n_begun < len(images):
            first, part = n_begun, images[n_begun : n_begun + size]
            n_begun += len(part)
            if answers is None:
                sent = np.ascontiguousarray(part) if isinstance(part, np.ndarray) else part
                with callers_device():
                    scores = score_fn(sent, [*class_prompts])
                yield np.arange(first, n_begun), scores
                continue
            with callers_device():
                answered = answers(part, [*class_prompts])
            with closing(_checked(answered, len(part))) as pieces:
                for rows, scores in pieces:
                    yield first + rows, scores
    finally:
        report_not_sent(len(images) - n_begun)


def collected(pieces: Iterator[Scored], n_images: int, n_scores: int) -> Any:
    """Collect the scores of all images, in their order.

    Parameters
    ----------
    pieces : iterator of (rows, scores)
        Rows of the images, and what the score function returned for them.
    n_images, n_scores : int
        Numbers of images, and of scores of an image.

    Returns
    -------
    scores : ndarray of shape (n_images, n_scores), or list of dict
        Dicts from name to score if the scores have names.

    Raises
    ------
    ScoreError
        If pieces have different numbers of scores.
    """
    rows: list[Any] = [None] * n_images
    is_array = False
    for places, piece in pieces:
        scores = rows_of(piece, len(places))
        if len(scores) != len(places):
            raise ScoreError(
                f"The score function returned {len(scores)} answers for {len(places)} images; expected one for each."
            )
        is_array = is_array or not isinstance(scores, list)
        for place, row in zip(places.tolist(), scores):
            rows[place] = row
    if not rows:
        return np.empty((0, n_scores))
    if not is_array:
        return rows
    # In an array, a row of None or an empty dict is an image that got no answer.
    rows = [np.nan if isinstance(row, dict) and not row else row for row in rows]
    shapes = {np.shape(row) for row in rows if np.ndim(row) or not np.isnan(row)} or {()}
    if len(shapes) > 1:
        raise ScoreError(
            f"The score function returned rows of the shapes {' and '.join(map(str, sorted(shapes)[:2]))} in different "
            "calls; expected a score for each class prompt in all of them."
        )
    shape = shapes.pop()
    return np.stack([np.broadcast_to(row, shape) for row in rows])


def rows_of(scores: Any, n_images: int) -> np.ndarray | list[dict[str, float]]:
    """Return a copy of the scores that a score function returned, as one row per image.

    Parameters
    ----------
    scores : object
        Return value of the score function.
    n_images : int
        Number of images.

    Returns
    -------
    rows : ndarray, or list of dict
        Dicts from name to score if the scores have names.

    Raises
    ------
    ScoreError
        If they are not numbers.
    """
    try:
        found = read_scores(scores, n_images)
    except TypeError as error:
        raise ScoreError(
            f"The score function returned a {type(scores).__name__} that is not an array of numbers ({error}); "
            "expected a row of scores for each image, or dicts from name to score."
        ) from error
    return found.dicts() if isinstance(found, NamedScores) else np.atleast_1d(found)


def _checked(pieces: Any, n_images: int) -> Generator[Scored]:
    open_rows = np.ones(n_images, bool)
    try:
        if not isinstance(pieces, Iterable):
            raise ScoreError(
                f"The score function's answers are a {type(pieces).__name__}; expected an iterator of pairs (rows, "
                "scores)."
            )
        for piece in iterated_on_callers_device(pieces):
            if not isinstance(piece, (tuple, list)) or len(piece) != 2:
                raise ScoreError(
                    f"The score function's answers came as a {type(piece).__name__}; expected pairs (rows, scores), "
                    "where rows are indices of the images that it was given."
                )
            rows, scores = np.asarray(piece[0]), piece[1]
            fits = rows.ndim == 1 and len(rows) and rows.dtype.kind in "iu"
            if not fits or rows.min() < 0 or rows.max() >= n_images or not open_rows[rows].all():
                raise ScoreError(
                    f"The score function's answers came with the rows {rows.tolist()!s:.100}; expected indices of "
                    f"the {n_images} images that it was given, each of them once."
                )
            open_rows[rows] = False
            yield rows, scores
    finally:
        if hasattr(pieces, "close"):
            pieces.close()
    if open_rows.any():
        raise ScoreError(
            f"The score function's answers ended without those of {open_rows.sum()} of {n_images} images, the "
            f"first of them {open_rows.argmax()}; expected one for each image, or an error that explains the gap."
        )


class _Count:
    n_not_sent = 0
    n_paid_before = 0


_COUNT: ContextVar[_Count | None] = ContextVar("blackvip_count", default=None)


def report_not_sent(n_images: int) -> None:
    """Report that a score function did not send some of the images it was given, so that they are not counted.

    An image counts as sent as soon as a score function has it. A score function that answers it from a cache, or
    fails before it has sent it, reports this in the thread that called it.

    Parameters
    ----------
    n_images : int
        Number of images that were not reported before.
    """
    count = _COUNT.get()
    if count is not None:
        count.n_not_sent += n_images


def report_paid_before(n_images: int) -> None:
    """Report images that a journal answered. An earlier process paid for them, so they count but took no time."""
    count = _COUNT.get()
    if count is not None:
        count.n_paid_before += n_images


class Metered:
    """Iterator over the pieces of `scores_of` that counts what is reported while they are made.

    Parameters
    ----------
    pieces : generator of (rows, scores)
        The pieces of `scores_of`.

    Attributes
    ----------
    n_not_sent : int
        Images reported by `report_not_sent` so far. An enclosing `Metered` counts them too.
    n_paid_before : int
        Images reported by `report_paid_before` so far.
    """

    def __init__(self, pieces: Any):
        self._pieces = pieces
        self.n_not_sent = 0
        self.n_paid_before = 0

    def __iter__(self) -> Iterator[Scored]:
        return self

    def __next__(self) -> Scored:
        return self._counted(lambda: next(self._pieces))

    def close(self) -> None:
        """End the iteration; nothing more is sent."""
        self._counted(self._pieces.close)

    def _counted(self, act: Callable[[], Any]) -> Any:
        count = _Count()
        token = _COUNT.set(count)
        try:
            return act()
        finally:
            _COUNT.reset(token)
            self.n_not_sent += count.n_not_sent
            self.n_paid_before += count.n_paid_before
            report_not_sent(count.n_not_sent)
            report_paid_before(count.n_paid_before)
