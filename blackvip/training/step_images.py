"""The images of a training step: which candidates have which of them, and their prompted copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import torch

from ..prompters.base import Prompter, prompted
from ..scorers.background import BackgroundThread
from .features import TrainingFeatures

__all__ = ["StepImages", "StepReader"]

_CHUNK_BYTES = 8 * 2**20  # prompted images that are drawn at once, as float32: what a processor's cache holds


@dataclass
class StepImages:
    """The images of a step, group by group: the candidates of a group have the same ones.

    Attributes
    ----------
    members : list of ndarray
        The candidates of each group, by their positions.
    canvas : tensor of shape (n_groups, n, 3, height, width)
        Pictures to which prompts are added.
    features : tensor of shape (n_groups, n, ...)
        Features from which prompts are made.
    """

    members: list[np.ndarray]
    canvas: torch.Tensor
    features: torch.Tensor

    @classmethod
    def of(cls, rows: np.ndarray, read: Callable[[np.ndarray], tuple[torch.Tensor, torch.Tensor]]) -> StepImages:
        """Group candidates by their rows (p, n); `read` gives the canvas and the features of any rows."""
        different, group_of = np.unique(rows, axis=0, return_inverse=True)
        members = [np.flatnonzero(group_of.reshape(-1) == group) for group in range(len(different))]
        canvas, features = (part.unflatten(0, different.shape) for part in read(different.reshape(-1)))
        return cls(members, canvas, features)

    def drawn(
        self, prompter: Prompter, candidates: torch.Tensor, prompt_scale: float
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Yield positions (m,) of some of the candidates (p, d), and their prompted images (m, n, 3, height, width)."""
        for group_size in np.unique([len(positions) for positions in self.members]):
            groups = [group for group, positions in enumerate(self.members) if len(positions) == group_size]
            members = np.stack([self.members[group] for group in groups])
            whole = len(groups) == len(self.members)
            canvas, features = (part if whole else part[groups] for part in (self.canvas, self.features))
            at_once = max(1, _CHUNK_BYTES // (canvas.numel() * canvas.element_size()))
            for first in range(0, group_size, at_once):
                positions = members[:, first : first + at_once]
                # (g, p, n, 3, h, w)
                prompts = prompter.prompts(candidates[positions], features)
                images = prompted(canvas[:, None], prompts, prompt_scale)
                yield positions.reshape(-1), images.flatten(0, 1)


class StepReader:
    """Reads the images of steps, the next one's in a thread while the service answers.

    Parameters
    ----------
    features : TrainingFeatures
        Features and canvases of the fitted prompter.
    augment : callable or None
        Makes other views of pixels (n, 3, height, width). Features are then computed anew in each step.
    device : torch.device
        Device on which prompts are drawn.

    Attributes
    ----------
    background : BackgroundThread
        The thread.
    """

    def __init__(
        self,
        features: TrainingFeatures,
        augment: Callable[[torch.Tensor], torch.Tensor] | None,
        device: torch.device,
    ):
        self.features = features
        self.augment = augment
        self.device = device
        self.background = BackgroundThread()
        self._ahead: tuple[np.ndarray, Future[StepImages]] | None = None

    def read(self, rows: np.ndarray) -> StepImages:
        """Read the images of a step, from rows (p, n) of its candidates; what `prefetch` has read is used once."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and np.array_equal(ahead[0], rows):
            return ahead[1].result()
        return StepImages.of(rows, self._canvas_and_features)

    def prefetch(self, rows: np.ndarray | None) -> None:
        """Begin to read the images of the next step, unless augmentation draws random numbers, which keep their order.

        Where all is in memory, they are gathered from it, which takes as long as drawing prompts onto them.
        """
        if rows is not None and self.augment is None:
            self._ahead = rows, self.background.submit(StepImages.of, rows, self._canvas_and_features)

    def _canvas_and_features(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        if self.augment is None:
            canvas, features = self.features.with_canvas(rows)
        else:
            pixels = self.augment(self.features.images.pixels(rows))
            canvas, features = self.features.prompter.canvas_and_features(pixels)
        return canvas.to(self.device), features.to(self.device)
