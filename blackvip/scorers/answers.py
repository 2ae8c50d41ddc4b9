"""Answers as they come in, from score functions of both kinds, and images that turned out not to be sent."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np

from ..exceptions import ScoreError

__all__ = ["IMAGES_PER_CALL", "Metered", "scores_of", "report_not_sent"]

IMAGES_PER_CALL = 64  #: Where neither the user nor the score function says how many.

Scored = tuple[np.ndarray, Any]  # rows, and their scores as the score function returned them


def scores_of(
    score_fn: Any, images: Any, class_prompts: Sequence[str], images_per_call: int | None = None
) -> Generator[Scored]:
    """What a score function answers, in pieces of (rows, scores): by its ``answers``, or else call by call.

    Parameters
    ----------
    score_fn : callable
        See `blackvip.scorers.contract`.
    images : ndarray or tensor, of n images
    class_prompts : sequence of str
    images_per_call : int or None
        The most in one call; None: what `score_fn` declares, else 64.

    Yields
    ------
    rows : ndarray of int
        Indices into `images`. In the end each image came once.
    scores : object
        Not checked yet.

    Raises
    ------
    ScoreError
        If an image comes twice, or does not come.
    """
    if hasattr(score_fn, "answers"):
        yield from _checked(score_fn.answers(images, list(class_prompts)), len(images))
        return
    size = images_per_call or getattr(score_fn, "images_per_call", None) or IMAGES_PER_CALL
    n_sent = 0
    try:
        while n_sent < len(images):
            part = images[n_sent : n_sent + size]
            rows = np.arange(n_sent, n_sent + len(part))
            n_sent += len(part)
            yield rows, score_fn(np.ascontiguousarray(part) if isinstance(part, np.ndarray) else part, [*class_prompts])
    finally:
        report_not_sent(len(images) - n_sent)


def _checked(pieces: Any, n_images: int) -> Iterator[Scored]:
    open_rows = np.ones(n_images, bool)
    try:
        for rows, scores in pieces:
            rows = np.asarray(rows)
            fits = rows.ndim == 1 and len(rows) and rows.dtype.kind in "iu"
            if not fits or rows.min() < 0 or rows.max() >= n_images or not open_rows[rows].all():
                raise ScoreError(
                    f"The answers of the score function came with the rows {rows.tolist()!s:.100}; expected indices of "
                    f"the {n_images} images that it was sent, each of them once."
                )
            open_rows[rows] = False
            yield rows, scores
    finally:
        if hasattr(pieces, "close"):
            pieces.close()
    if open_rows.any():
        raise ScoreError(
            f"The answers of the score function ended without those of {open_rows.sum()} of {n_images} images, the "
            f"first of them {open_rows.argmax()}; expected one for each, or an error that says why there is none."
        )


class _Count:
    n = 0


_NOT_SENT: ContextVar[_Count | None] = ContextVar("not_sent", default=None)


def report_not_sent(n_images: int) -> None:
    """Tell whoever counts that of the images that a score function was given, so many more were not sent.

    An image counts as sent as soon as a score function has it. One that answers it from a cache, or gives up before
    it has sent it, says so by this, in the thread that called it.

    Parameters
    ----------
    n_images : int
        Not told before.
    """
    count = _NOT_SENT.get()
    if count is not None:
        count.n += n_images


class Metered:
    """Pieces of answers, and how many images were not sent for them.

    Parameters
    ----------
    pieces : iterator of (rows, scores)
        As of `scores_of`.

    Attributes
    ----------
    n_not_sent : int
        Images that are reported as not sent so far. Whoever counts around this is told too.
    """

    def __init__(self, pieces: Any):
        self._pieces = pieces
        self.n_not_sent = 0

    def __iter__(self) -> Metered:
        return self

    def __next__(self) -> Scored:
        return self._counted(lambda: next(self._pieces))

    def close(self) -> None:
        """End it; nothing more is sent."""
        self._counted(self._pieces.close)

    def _counted(self, act: Callable[[], Any]) -> Any:
        count = _Count()
        token = _NOT_SENT.set(count)
        try:
            return act()
        finally:
            _NOT_SENT.reset(token)
            self.n_not_sent += count.n
            report_not_sent(count.n)
