"""The ledger: the only door to the service. It counts every image that goes out and keeps to the budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import numpy as np

from ..exceptions import BudgetError
from .contract import SCORE_TYPES, ScoreFunction, as_log_scores, check_scores, recognise_score_type

__all__ = ["Ledger"]


class Ledger:
    """A score function with its class prompts, a count and a budget.

    ``with Ledger(...) as ledger:`` sets the images of its budget aside where the score function is a
    `SharedBudget` (it has the method ``lease``), and gives back at the end of the block what was not sent.
    Outside such a block, each call sets aside its own.

    Parameters
    ----------
    score_fn : callable
        ``score_fn(images, class_prompts) -> scores``, see `blackvip.scorers.contract`. What it declares as
        attributes is used: ``images_per_call`` and ``score_type``.
    class_prompts : list of str
    max_queries : int or None
        Images that may be sent; None: any number.
    images_per_call : int or None
        The most images in one call; None: what the score function declares, else 64.
    score_type : {"auto", "logits", "probabilities"}
        "auto": what the score function declares, else recognised in its first answer.
    on_queries : callable or None
        Called with the number of images of each call, after it.

    Attributes
    ----------
    n_queries : int
        Images sent so far. An image counts when it is sent, whether or not an answer comes back.
    score_type : str
    """

    def __init__(
        self,
        score_fn: ScoreFunction,
        class_prompts: Iterable[str],
        *,
        max_queries: int | None = None,
        images_per_call: int | None = None,
        score_type: str = "auto",
        on_queries: Callable[[int], object] | None = None,
    ):
        self.score_fn = score_fn
        self.class_prompts = tuple(class_prompts)
        self.max_queries = max_queries
        self.images_per_call: int = images_per_call or getattr(score_fn, "images_per_call", None) or 64
        self.score_type: str = getattr(score_fn, "score_type", "auto") if score_type == "auto" else score_type
        if self.score_type not in ("auto", *SCORE_TYPES):
            raise ValueError(
                f"The score function declares score_type={self.score_type!r}; expected 'logits' or 'probabilities'."
            )
        self.on_queries = on_queries
        self.n_queries = 0
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

    def log_scores(self, images: np.ndarray) -> np.ndarray:
        """Send images and return their log scores.

        Parameters
        ----------
        images : ndarray of shape (n, height, width, 3), uint8

        Returns
        -------
        log_scores : ndarray of shape (n, n_classes), float64

        Raises
        ------
        BudgetError
            If the budget does not cover all of them; none is sent then.
        ScoreError
            If the service's answer breaks the contract.
        """
        if len(images) > self.remaining:
            raise BudgetError(
                f"{len(images)} images were to be sent, but the budget of {self.max_queries} leaves {self.remaining}."
            )
        parts = [
            self._call(images[first : first + self.images_per_call])
            for first in range(0, len(images), self.images_per_call)
        ]
        return np.concatenate(parts) if parts else np.empty((0, len(self.class_prompts)))

    def _call(self, images: np.ndarray) -> np.ndarray:
        self.n_queries += len(images)
        answer = self._send(np.ascontiguousarray(images), list(self.class_prompts))
        scores = check_scores(answer, len(images), len(self.class_prompts))
        if self.score_type == "auto":
            self.score_type = recognise_score_type(scores)
        if self.on_queries is not None:
            self.on_queries(len(images))
        return as_log_scores(scores, self.score_type)
