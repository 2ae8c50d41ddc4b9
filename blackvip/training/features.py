"""The prompter's features of the training images: kept where memory allows, else computed again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import torch

from ..inputs.images import Images
from ..prompters.base import Prompter
from ..scorers.background import BackgroundThread

__all__ = ["TrainingFeatures", "row_batches"]

_CACHE_BYTES = 512 * 2**20  # of features that are kept
_BATCH = 32  # images whose features are computed together


def row_batches(rows: np.ndarray, size: int = _BATCH) -> Iterator[np.ndarray]:
    """Rows in batches of `size`, the last one shorter."""
    return (rows[first : first + size] for first in range(0, len(rows), size))


class TrainingFeatures:
    """Features of the training images, as a fitted prompter computes them.

    Parameters
    ----------
    prompter : Prompter
        Fitted.
    images : Images
        The training images.

    Attributes
    ----------
    kept : bool
        Whether the features of all images fit in memory. They are then computed once.
    """

    def __init__(self, prompter: Prompter, images: Images):
        self.prompter = prompter
        self.images = images
        one = prompter.features(images.pixels(np.arange(1)))
        self.kept = one.numel() * one.element_size() * len(images) <= _CACHE_BYTES
        self._all: Future[torch.Tensor] | None = None

    def compute_in(self, background: BackgroundThread) -> None:
        """Begin to compute the features of all images in a thread, if they are kept; errors are raised at their use."""
        if self.kept and self._all is None:
            self._all = background.submit(lambda: torch.cat(list(self._computed())))

    def of(self, rows: np.ndarray) -> torch.Tensor:
        """Features of these images, of shape (len(rows), ...)."""
        if not self.kept:
            return self.prompter.features(self.images.pixels(rows))
        if self._all is None:
            # Only features that could be computed are kept: nobody may wait for those that failed.
            computed: Future[torch.Tensor] = Future()
            computed.set_result(torch.cat(list(self._computed())))
            self._all = computed
        return self._all.result().index_select(0, torch.from_numpy(rows))

    def batches(self) -> Iterator[torch.Tensor]:
        """Features of all images, batch by batch, in double precision."""
        return (self.of(rows).double() for rows in row_batches(np.arange(len(self.images))))

    def _computed(self) -> Iterator[torch.Tensor]:
        batches = row_batches(np.arange(len(self.images)))
        return (self.prompter.features(self.images.pixels(rows)) for rows in batches)
