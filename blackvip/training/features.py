"""The prompter's canvas and features of the training images: kept where memory allows, else computed again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import torch

from ..inputs.images import Images
from ..prompters.base import Prompter, at_once
from ..scorers.background import BackgroundThread

__all__ = ["TrainingFeatures", "row_batches"]

_CACHE_BYTES = 512 * 2**20  # of features that are kept, and with them of canvases
_BATCH = 32  # images whose features are computed together


def row_batches(rows: np.ndarray, size: int = _BATCH) -> Iterator[np.ndarray]:
    """Split rows into batches of `size`, the last one shorter."""
    return (rows[first : first + size] for first in range(0, len(rows), size))


class TrainingFeatures:
    """Canvas and features of the training images, as a fitted prompter computes them.

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
        pixels = images.pixels(np.arange(1))
        canvas, features = prompter.canvas_and_features(pixels)
        self._on_images = canvas is pixels
        needed = [part.numel() * part.element_size() * len(images) for part in (features, canvas)]
        self.kept = needed[0] <= _CACHE_BYTES
        self._keeps_canvas = not self._on_images and sum(needed) <= _CACHE_BYTES
        self._all: Future[tuple[torch.Tensor | None, torch.Tensor]] | None = None

    def compute_in(self, background: BackgroundThread) -> None:
        """Begin to compute all that is kept in a thread, if anything is trained on it; errors are raised at its use."""
        if self.kept and self._all is None and self.prompter.n_parameters_:
            self._all = background.submit(self._computed)

    def of(self, rows: np.ndarray) -> torch.Tensor:
        """Return the features of these images, of shape (len(rows), ...)."""
        if not self.kept:
            return self.prompter.features(self.images.pixels(rows))
        return self._result()[1].index_select(0, torch.from_numpy(rows))

    def with_canvas(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return canvas (len(rows), 3, height, width) and features (len(rows), ...) of these images."""
        if not self.kept:
            return self.prompter.canvas_and_features(self.images.pixels(rows))
        canvas, features = self._result()[0], self.of(rows)
        if canvas is None:
            return self.prompter.canvas(self.images.pixels(rows)), features
        return canvas.index_select(0, torch.from_numpy(rows)), features

    def drawn(self, frozen: Prompter, rows: np.ndarray) -> torch.Tensor:
        """Draw the prompts of the frozen prompter onto these images, as `Prompter.draw` does, from what is kept."""
        pixels = self.images.pixels(rows)
        if not self.kept or not frozen.n_parameters_ or not frozen.prompt_scale_:
            return frozen.draw(pixels)
        parts = zip(pixels.split(at_once(pixels)), self.of(rows).split(at_once(pixels)))
        return torch.cat([frozen.draw_features(frozen.canvas(some.double()), features) for some, features in parts])

    def batches(self) -> Iterator[torch.Tensor]:
        """Return the features of all images, batch by batch, in double precision."""
        return (self.of(rows).double() for rows in row_batches(np.arange(len(self.images))))

    def _result(self) -> tuple[torch.Tensor | None, torch.Tensor]:
        if self._all is None:
            # Only what could be computed is kept: nobody may wait for what failed.
            computed: Future[tuple[torch.Tensor | None, torch.Tensor]] = Future()
            computed.set_result(self._computed())
            self._all = computed
        return self._all.result()

    def _computed(self) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Compute the features (n, ...) of all images, and their canvases (n, 3, height, width) if they are kept."""
        batches = (self.images.pixels(rows) for rows in row_batches(np.arange(len(self.images))))
        if not self._keeps_canvas:
            return None, torch.cat([self.prompter.features(pixels) for pixels in batches])
        canvases, features = zip(*map(self.prompter.canvas_and_features, batches))
        return torch.cat(canvases), torch.cat(features)
