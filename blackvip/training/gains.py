"""Measurements on prompts and the service from which an optimizer finds its gains."""

from __future__ import annotations

import numpy as np

from ..optimizers import Optimizer
from .batches import Batches
from .objective import Objective

__all__ = ["TrainingProbe"]


class TrainingProbe:
    """Measurements of a training run, as `GainProbe` describes them.

    Parameters
    ----------
    objective : Objective
        Measures prompts and losses.
    batches : Batches
        Mini-batches of the run.
    budget : int
        Images that training may bill, including those that finding the gains bills.
    """

    def __init__(self, objective: Objective, batches: Batches, budget: int):
        self.objective = objective
        self.batches = batches
        self.budget = budget
        self.rows = batches.rows

    def prompt_rms(self, w: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Return how far `directions` (p, d) move the prompts from `w`, of shape (p,); bills nothing."""
        return self.objective.prompt_rms(w, directions)

    def losses(self, candidates: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the mean losses (p,) of candidates (p, d) on images (n,) or (p, n); bills n images per candidate."""
        return self.objective.candidate_losses(candidates, rows)

    def n_rows_each(self, optimizer: Optimizer) -> int:
        """Return the number of images on which each candidate of a step is scored."""
        return self.batches.n_rows_each(optimizer)

    def next_rows(self, optimizer: Optimizer) -> np.ndarray:
        """Return the images of the next step, of shape (n_candidates, n)."""
        return self.batches.for_step(optimizer)
