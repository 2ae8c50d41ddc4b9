"""The ledger: the only door to the service. It counts every image that goes out and keeps to the budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from ..exceptions import BudgetError
from ..images import to_uint8
from .contract import ScoreFunction, check_anything_given, check_rate, check_scores
from .formats import SCORE_TYPES, ScoreFormat

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
        The most images in one call; None: what the score function declares, else 64.
    score_type : {"auto", "logits", "probabilities"}
        "auto": what the score function declares, else recognised in the first scores.
    score_format : ScoreFormat or None
        As an earlier ledger has recognised it. None: recognised in the scores of the first images that are asked for,
        and then kept, so that an image's log scores depend on its scores alone.
    on_queries : callable or None
        Called with the number of images of each call, after it.

    Attributes
    ----------
    n_queries : int
        Images sent so far. An image counts when it is sent, whether or not an answer comes back.
    score_format : ScoreFormat or None
        None before the first scores.
    price_per_image : float or None
        What the score function declares, in any currency.
    takes_tensors : bool
        Whether the score function takes float tensors instead of 8-bit images.
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
    ):
        self.score_fn = score_fn
        self.class_prompts = tuple(class_prompts)
        self.max_queries = max_queries
        self.images_per_call: int = images_per_call or getattr(score_fn, "images_per_call", None) or 64
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
        self.on_queries = on_queries
        self.n_queries = 0
        self.seconds = 0.0
        self._n_answered = 0
        self._send = score_fn
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
            self._lease = lease(self.max_queries - self.n_queries)
            self._send = self._lease.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        lease, self._lease, self._send = self._lease, None, self.score_fn
        if lease is not None:
            lease.__exit__(None, None, None)

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
        answers = [
            self._call(images[first : first + self.images_per_call])
            for first in range(0, len(images), self.images_per_call)
        ]
        if not answers:
            return np.empty((0, len(self.class_prompts)))
        scores = np.concatenate(answers)
        check_anything_given(scores)
        if self.score_format is None and np.isfinite(scores).any():  # a single image may be given nothing
            self.score_format = ScoreFormat.recognise(scores, self._declared_type)
        return (self.score_format or ScoreFormat("logits")).log_scores(scores)

    def _call(self, images: Sent) -> np.ndarray:
        self.n_queries += len(images)
        begin = time.perf_counter()
        answer = self._send(images if self.takes_tensors else np.ascontiguousarray(images), list(self.class_prompts))
        self.seconds += time.perf_counter() - begin
        self._n_answered += len(images)
        scores = check_scores(answer, len(images), self.class_prompts, self.score_type)
        if self.on_queries is not None:
            self.on_queries(len(images))
        return scores
