"""The ledger: the only door to the service. It counts every image that goes out and keeps to the budget.

What is counted is never less than what is paid for. An image counts as soon as the score function has it, and is taken
back only where the score function says by `report_not_sent` that it was not sent: since a cache had its answer, or an
error came before it. One whose answer did not come stays counted, since nobody knows whether it was billed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from ..exceptions import BudgetError
from ..inputs.images import to_uint8
from .answers import IMAGES_PER_CALL, Metered, scores_of
from .contract import ScoreFunction, check_anything_given, check_rate, check_scores
from .formats import SCORE_TYPES, ScoreFormat
from .labels.mapping import LabelMapping
from .replay import JournalHit, Replay

__all__ = ["Ledger"]

Sent = Any  #: Images as a score function takes them: an ndarray, or a tensor.


class Ledger:
    """A score function with its class prompts, a count and a budget.

    ``with Ledger(...) as ledger:`` sets the images of its budget aside where the score function is a
    `SharedBudget` (it has the method ``lease``), and gives back at the end of the block what was not sent.
    Outside such a block, each call sets aside its own.

    Parameters
    ----------
    score_fn : callable
        ``score_fn(images, class_prompts) -> scores``, see `blackvip.scorers.contract`. What it declares as
        attributes is used: ``images_per_call``, ``score_type`` and ``price_per_image``.
    class_prompts : list of str
    max_queries : int or None
        Images that may be sent; None: any number.
    images_per_call : int or None
        The most images in one call; None: what the score function declares, else 64, or any number where it has
        ``answers``.
    score_type : {"auto", "logits", "probabilities"}
        "auto": what the score function declares, else recognised in the first scores.
    score_format : ScoreFormat or None
        As an earlier ledger has recognised it. None: recognised in the scores of the first images that are asked for,
        and then kept, so that an image's log scores depend on its scores alone.
    on_queries : callable or None
        Called with the number of images of each piece of answers, after it came.
    replay : Replay or None
        The journal of a fit: what it knows is not sent, but counts all the same, as what the fit has paid for. Answers
        that come are on disk before they are used.

    Attributes
    ----------
    n_queries : int
        Images sent so far, or billed by the fit that is replayed. What a process that was killed had sent, and got no
        answer for, is not among them.
    score_format : ScoreFormat or None
        None before the first scores.
    price_per_image : float or None
        What the score function declares, in any currency.
    takes_tensors : bool
        Whether the score function takes float tensors instead of 8-bit images.
    device : torch.device
        Where it has them drawn.
    streams : bool
        Whether it has ``answers``, and so does best when it is asked for many images at once.
    seconds : float
        Spent waiting for the answers that came.
    """

    def __init__(
        self,
        score_fn: ScoreFunction,
        class_prompts: Iterable[str],
        *,
        max_queries: int | None = None,
        images_per_call: int | None = None,
        score_type: str = "auto",
        score_format: ScoreFormat | None = None,
        on_queries: Callable[[int], object] | None = None,
        replay: Replay | None = None,
        label_mapping: LabelMapping | None = None,
    ):
        self.score_fn = score_fn
        self.label_mapping = label_mapping
        self.class_prompts = tuple(class_prompts)
        self.max_queries = max_queries
        self.images_per_call: int = images_per_call or getattr(score_fn, "images_per_call", None) or IMAGES_PER_CALL
        self.streams = hasattr(score_fn, "answers")
        # Of what is asked for at once: a score function with `answers` makes its own calls of it.
        self._part = images_per_call if images_per_call or self.streams else self.images_per_call
        self.score_format = score_format
        self._declared_type = getattr(score_fn, "score_type", "auto") if score_type == "auto" else score_type
        if self._declared_type not in ("auto", *SCORE_TYPES):
            raise ValueError(
                f"The score function declares score_type={self._declared_type!r}; expected 'logits' or 'probabilities'."
            )
        self.price_per_image = check_rate(
            getattr(score_fn, "price_per_image", None), "The price_per_image that the score function declares"
        )
        self.takes_tensors: bool = getattr(score_fn, "takes_tensors", False)
        self.device = torch.device(getattr(score_fn, "tensor_device", "cpu") if self.takes_tensors else "cpu")
        self.on_queries = on_queries
        self.n_queries = 0
        self.seconds = 0.0
        self._n_answered = 0
        self.replay = replay
        self._send = score_fn
        self._leased = 0
        self._lease: AbstractContextManager[ScoreFunction] | None = None

    def __enter__(self) -> Ledger:
        """Set the budget's images aside, where the score function shares one.

        Raises
        ------
        BudgetError
            If the shared budget has fewer left; nothing is sent then.
        """
        lease = getattr(self.score_fn, "lease", None)
        if lease is not None and self.max_queries is not None:
            known = 0 if self.replay is None else self.replay.n_known
            self._leased = max(0, self.max_queries - self.n_queries - known)
            self._lease = lease(self._leased)
            self._send = self._lease.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        lease, self._lease, self._send, self._leased = self._lease, None, self.score_fn, 0
        if lease is not None:
            lease.__exit__(None, None, None)

    @property
    def n_classes(self) -> int:
        """Columns of log scores."""
        return len(self.class_prompts if self.label_mapping is None else self.label_mapping.class_prompts)

    @property
    def remaining(self) -> float:
        """Images that the budget still allows."""
        return np.inf if self.max_queries is None else self.max_queries - self.n_queries

    @property
    def score_type(self) -> str:
        """What the scores are; "auto" as long as that is neither declared nor recognised."""
        return self._declared_type if self.score_format is None else self.score_format.score_type

    @property
    def seconds_per_image(self) -> float | None:
        """The mean time of an answer, over the images that were answered; None before the first answer."""
        return self.seconds / self._n_answered if self._n_answered else None

    def as_sent(self, pixels: torch.Tensor) -> Sent:
        """Pixels as the score function takes them.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width)
            In [0, 1].

        Returns
        -------
        images : ndarray of shape (n, height, width, 3), uint8; or tensor of shape (n, 3, height, width), float32
            The latter where the score function declares ``takes_tensors``.
        """
        return pixels.detach().float().clamp(0, 1) if self.takes_tensors else to_uint8(pixels)

    def joined(self, parts: Sequence[Sent]) -> Sent:
        """Several batches of images, as `as_sent` returns them, as one; no batches at all are no images."""
        if self.takes_tensors:
            return torch.cat(list(parts)) if parts else torch.empty(0, 3, 1, 1)
        return np.concatenate(parts) if parts else np.empty((0, 1, 1, 3), np.uint8)

    def log_scores(self, images: Sent) -> np.ndarray:
        """Send images and return their log scores.

        Parameters
        ----------
        images : ndarray of shape (n, height, width, 3), uint8, or tensor
            As `as_sent` returns them.

        Returns
        -------
        log_scores : ndarray of shape (n, n_classes), float64

        Raises
        ------
        BudgetError
            If the budget does not cover all of them; none is sent then.
        ScoreError
            If the service's answer breaks the contract, or gives several images no score at all.
        """
        if len(images) > self.remaining:
            raise BudgetError(
                f"{len(images)} images were to be sent, but the budget of {self.max_queries} leaves {self.remaining}."
            )
        if not len(images):
            return np.empty((0, self.n_classes))
        scores = self._scores(images)
        check_anything_given(scores)
        if self.score_format is None and np.isfinite(scores).any():  # a single image may be given nothing
            self.score_format = ScoreFormat.recognise(scores, self._declared_type)
        log_scores = (self.score_format or ScoreFormat("logits")).log_scores(scores)
        return log_scores if self.label_mapping is None else self.label_mapping.log_scores(log_scores)

    def _scores(self, images: Sent) -> np.ndarray:
        """The scores (n, n_classes) of images, from the journal or the score function."""
        n_images = len(images)
        recalled = None if self.replay is None else self.replay.recall(images, self.class_prompts)
        open_rows = np.ones(n_images, bool)
        scores = np.empty((n_images, len(self.class_prompts)))
        if recalled is not None:
            scores, open_rows = recalled.scores, ~recalled.known
            self.n_queries += recalled.n_billed
            self._tell(n_images - int(open_rows.sum()))
        size = self._part or n_images
        for first in range(0, n_images, size):  # parts are the same whatever is known, and so are a model's batches
            rows = first + np.flatnonzero(open_rows[first : first + size])
            if len(rows):
                self._call(images, rows, scores, recalled)
        return scores

    def _call(self, images: Sent, rows: np.ndarray, scores: np.ndarray, recalled: JournalHit | None) -> None:
        """Send ``images[rows]``, and put what comes back into these rows of `scores`."""
        part = images if len(rows) == len(images) else images[rows]
        leased = len(rows) if len(rows) <= self._leased else 0  # what is beyond the lease is set aside by itself
        send = self._send if leased else self.score_fn
        pieces = Metered(scores_of(send, part, self.class_prompts, self._part))
        n_free = 0
        self.n_queries += len(rows)
        self._leased -= leased
        try:
            begin = time.perf_counter()
            for answered, answer in pieces:
                self.seconds += time.perf_counter() - begin
                n_free, n_free_before = pieces.n_not_sent, n_free
                n_billed = len(answered) - (n_free - n_free_before)
                self._n_answered += n_billed
                found = check_scores(answer, len(answered), self.class_prompts, self.score_type)
                if self.replay is not None and recalled is not None:
                    keys = [recalled.keys[row] for row in rows[answered]]
                    self.replay.keep(keys, found, len(answered) - n_billed)
                scores[rows[answered]] = found
                self._tell(len(answered))
                begin = time.perf_counter()
        finally:
            pieces.close()
            self.n_queries -= pieces.n_not_sent
            self._leased += pieces.n_not_sent if leased else 0

    def _tell(self, n_images: int) -> None:
        if self.on_queries is not None and n_images:
            self.on_queries(n_images)
