"""The images of a training step: which candidates have which of them, and their prompted copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ..prompters.base import Prompter, prompted

__all__ = ["StepImages"]

_CHUNK_BYTES = 8 * 2**20  # prompted images that are drawn at once, as float32: what a cache bears


@dataclass
class StepImages:
    """The images of a step, group by group: candidates of a group have the same ones.

    Attributes
    ----------
    members : list of ndarray
        The candidates of each group, by their places.
    canvas : tensor of shape (n_groups, n, 3, height, width)
    features : tensor of shape (n_groups, n, ...)
    """

    members: list[np.ndarray]
    canvas: torch.Tensor
    features: torch.Tensor

    @classmethod
    def of(cls, rows: np.ndarray, made: Callable[[np.ndarray], tuple[torch.Tensor, torch.Tensor]]) -> StepImages:
        """Those of candidates by their rows (p, n); `made` gives the canvas and the features of any rows."""
        different, group_of = np.unique(rows, axis=0, return_inverse=True)
        members = [np.flatnonzero(group_of.reshape(-1) == group) for group in range(len(different))]
        canvas, features = (part.unflatten(0, different.shape) for part in made(different.reshape(-1)))
        return cls(members, canvas, features)

    def drawn(
        self, prompter: Prompter, candidates: torch.Tensor, prompt_scale: float
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Prompted images (m, n, 3, height, width) of m of the candidates (p, d), and the places of these."""
        for group_size in np.unique([len(places) for places in self.members]):
            groups = [group for group, places in enumerate(self.members) if len(places) == group_size]
            members = np.stack([self.members[group] for group in groups])
            whole = len(groups) == len(self.members)
            canvas, features = (part if whole else part[groups] for part in (self.canvas, self.features))
            at_once = max(1, _CHUNK_BYTES // (canvas.numel() * canvas.element_size()))
            for first in range(0, group_size, at_once):
                places = members[:, first : first + at_once]
                prompts = prompter.prompts(candidates[places], features)
                images = prompted(canvas[:, None], prompts, prompt_scale)
                yield places.reshape(-1), images.flatten(0, 1)
