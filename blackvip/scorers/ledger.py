"""The ledger: the only way to the service. It makes the calls, counts every image and enforces the budget.

The count is never lower than what is paid for. An image counts as soon as the score function has it, and is taken
back only if the score function reports by `report_not_sent` that it was not sent, because a cache had its answer or an
error came first. An image whose answer did not arrive stays counted, since nobody knows whether it was billed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from ..exceptions import BudgetError
from ..inputs.images import to_uint8
from .answers import IMAGES_PER_CALL, Metered, scores_of
from .contract import ScoreFunction, check_anything_given, check_class_prompts
from .declarations import declared, method_of
from .formats import ScoreFormat
from .reader import ScoreReader

__all__ = ["Ledger"]

#: Images as a score function takes them: an ndarray, or a tensor.
Sent = Any
# Images of one call that may all get no score from a service that has given some before. It may have refused them.
_MOST_EMPTY = 8


class Ledger:
    """Score function with its class prompts, a count of images and a budget.

    ``with Ledger(...) as ledger:`` reserves the images of its budget if the score function shares one (it has the
    method ``lease``, as `SharedBudget` does), and returns what was not sent at the end of the block. Outside such a
    block, each call reserves its own images.

    Parameters
    ----------
    score_fn : callable
        ``score_fn(images, class_prompts) -> scores``, see `blackvip.scorers.contract`. The ledger uses what it declares
        as attributes.
    class_prompts : iterable of str
        Prompts that are sent with each call.
    max_queries : int or None, default=None
        Images that may be sent, a hard limit. None: any number.
    images_per_call : int or None, default=None
        The most images in one call. None: what the score function declares, else 64, or any number if it has
        ``answers``.
    reader : ScoreReader or None, default=None
        Reads the answers. None: one that uses what the score function declares.
    on_queries : callable or None, default=None
        Called with the number of images of each piece of answers, after it arrived.

    Raises
    ------
    ClassPromptError
        If there are more class prompts than the score function declares to take.

    Attributes
    ----------
    n_queries : int
        Images sent so far, including those that an earlier process of the same fit paid for, see `JournaledScorer`.
        Images that a killed process sent without getting an answer are not included.
    price_per_image : float or None
        Price that the score function declares, in any currency.
    takes_any_size : bool
        Whether images may have another size than those that were passed to `fit`.
    takes_tensors : bool
        Whether the score function takes float tensors instead of 8-bit images.
    device : torch.device
        Device on which the score function wants prompted images to be made.
    streams : bool
        Whether the score function makes its own calls, and so works best when it is given many images at once.
    seconds : float
        Time spent waiting for the answers that arrived.
    """

    def __init__(
        self,
        score_fn: ScoreFunction,
        class_prompts: Iterable[str],
        *,
        max_queries: int | None = None,
        images_per_call: int | None = None,
        reader: ScoreReader | None = None,
        on_queries: Callable[[int], object] | None = None,
    ):
        self.score_fn = score_fn
        self.class_prompts = tuple(class_prompts)
        most_prompts = declared(score_fn, "max_class_prompts")
        said = f"the score function takes {most_prompts} per request (max_class_prompts)"
        check_class_prompts(len(self.class_prompts), most_prompts, said)
        self.max_queries = max_queries
        self.images_per_call: int = images_per_call or declared(score_fn, "images_per_call", IMAGES_PER_CALL)
        self.streams: bool = declared(score_fn, "streams", method_of(score_fn, "answers") is not None)
        self.reader = reader or ScoreReader.of(score_fn)
        self.price_per_image: float | None = declared(score_fn, "price_per_image")
        self.takes_any_size: bool = declared(score_fn, "takes_any_size", False)
        self.takes_tensors: bool = declared(score_fn, "takes_tensors", False)
        self.device = torch.device(declared(score_fn, "tensor_device", "cpu") if self.takes_tensors else "cpu")
        self.on_queries = on_queries
        self.n_queries = 0
        self.seconds = 0.0
        self._n_timed = 0
        self._has_scores = False
        self._images_per_call = images_per_call
        self._send: Any = score_fn
        self._leased = ExitStack()

    def __enter__(self) -> Ledger:
        """Reserve the budget's images if the score function shares a budget.

        Raises
        ------
        BudgetError
            If the shared budget has fewer images left; nothing is sent then.
        """
        lease = method_of(self.score_fn, "lease")
        if lease is not None and self.max_queries is not None:
            self._send = self._leased.enter_context(lease(self.max_queries - self.n_queries))
        return self

    def __exit__(self, *error: object) -> None:
        self._send = self.score_fn
        self._leased.close()

    @property
    def n_classes(self) -> int:
        """Number of columns of the log scores."""
        mapping, groups = self.reader.label_mapping, self.reader.groups
        if groups is not None:
            return groups.n_classes
        return len(self.class_prompts if mapping is None else mapping.class_prompts)

    @property
    def n_columns(self) -> int:
        """Number of score columns: a log score for each class, the deviations of their prompts, and the vector."""
        n_deviations = 0 if self.reader.groups is None else len(self.reader.groups.prompt_classes)
        return self.n_classes + n_deviations + self.reader.vector_size

    @property
    def remaining(self) -> float:
        """Number of images that the budget still allows."""
        return np.inf if self.max_queries is None else self.max_queries - self.n_queries

    @property
    def score_format(self) -> ScoreFormat | None:
        """Format of the scores; None before the first ones."""
        return self.reader.score_format

    @property
    def seconds_per_image(self) -> float | None:
        """Mean time of an answer of this process; None before the first one."""
        return self.seconds / self._n_timed if self._n_timed else None

    def as_sent(self, pixels: torch.Tensor) -> Sent:
        """Return pixels in the form that the score function takes.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width)
            Values in [0, 1].

        Returns
        -------
        images : ndarray of shape (n, height, width, 3), uint8; or tensor of shape (n, 3, height, width), float32
            A tensor if the score function declares ``takes_tensors``.
        """
        return pixels.detach().float().clamp(0, 1) if self.takes_tensors else to_uint8(pixels)

    def joined(self, parts: Sequence[Sent]) -> Sent:
        """Concatenate batches of images that `as_sent` returned; without batches, return zero images."""
        if self.takes_tensors:
            return torch.cat(list(parts)) if parts else torch.empty(0, 3, 1, 1, dtype=torch.float32)
        return np.concatenate(parts) if parts else np.empty((0, 1, 1, 3), np.uint8)

    def log_scores(self, images: Sent) -> np.ndarray:
        """Send images and return the log scores of the classes.

        Parameters
        ----------
        images : ndarray of shape (n, height, width, 3), uint8, or tensor
            Images as `as_sent` returns them.

        Returns
        -------
        log_scores : ndarray of shape (n, n_classes), float64
            Missing scores are estimated, see `ScoreFormat`.

        Raises
        ------
        BudgetError, ScoreError
            As in `scores`.
        """
        return self.score_columns(images)[:, : self.n_classes]

    def score_columns(self, images: Sent) -> np.ndarray:
        """Send images and return their score columns, which heads take.

        Parameters
        ----------
        images : ndarray of shape (n, height, width, 3), uint8, or tensor
            Images as `as_sent` returns them.

        Returns
        -------
        columns : ndarray of shape (n, n_columns), float64
            Log scores of the classes, the deviations of their prompts, and the vector, see `ScoreReader.score_columns`.

        Raises
        ------
        BudgetError, ScoreError
            As in `scores`.
        """
        return self.reader.score_columns(self.scores(images)) if len(images) else np.empty((0, self.n_columns))

    def scores(self, images: Sent) -> np.ndarray:
        """Send images and return their scores as the service gives them, checked.

        Parameters
        ----------
        images : ndarray of shape (n, height, width, 3), uint8, or tensor
            Images as `as_sent` returns them.

        Returns
        -------
        scores : ndarray of shape (n, n_scores), float64
            One for each class prompt, and the vector, if the score function declares its size. Missing scores are NaN.

        Raises
        ------
        BudgetError
            If the budget does not cover all images; none is sent then.
        ScoreError
            If an answer breaks the contract, or several images get no score at all: two before the first scores, and
            nine after them, since a service may refuse some images.
        """
        if len(images) > self.remaining:
            raise BudgetError(
                f"{len(images)} images were to be sent, but the budget of {self.max_queries} leaves {self.remaining}."
            )
        scores = self._counted(images)
        check_anything_given(scores, _MOST_EMPTY if self._has_scores else 1)
        self._has_scores = self._has_scores or bool(np.isfinite(scores).any())
        return scores

    def _counted(self, images: Sent) -> np.ndarray:
        """Send images, count them, and return their scores (n, n_scores)."""
        scores = np.empty((len(images), self.reader.n_scores(self.class_prompts)))
        pieces = Metered(scores_of(self._send, images, self.class_prompts, self._images_per_call))
        n_counted = 0
        self.n_queries += len(images)
        try:
            begin = time.perf_counter()
            for rows, answer in pieces:
                waited = time.perf_counter() - begin
                n_untimed = pieces.n_not_sent + pieces.n_paid_before - n_counted
                n_counted += n_untimed
                if n_untimed != len(rows):
                    self.seconds += waited
                    self._n_timed += len(rows) - n_untimed
                scores[rows] = self.reader.check(answer, len(rows), self.class_prompts)
                if self.on_queries is not None:
                    self.on_queries(len(rows))
                begin = time.perf_counter()
        finally:
            pieces.close()
            self.n_queries -= pieces.n_not_sent
        return scores
