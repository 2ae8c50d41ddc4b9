"""The budget of a run: what it will spend on finding gains and on steps, before the first image is sent."""

from __future__ import annotations

from dataclasses import dataclass

from ..optimizers import Optimizer
from .batches import Batches

__all__ = ["RunBudget"]


@dataclass(frozen=True)
class RunBudget:
    """Billed images of a run, by what they are spent on.

    Attributes
    ----------
    n_steps : int
        Steps that the run makes.
    step : int
        Images that one step bills.
    gains : int
        Images that finding the gains bills.
    total : int
        Images that training may bill in this run and later ones, by which the gains are chosen.
    """

    n_steps: int
    step: int
    gains: int
    total: int

    @classmethod
    def of(cls, optimizer: Optimizer, d: int, batches: Batches, total: int, max_steps: int | None = None) -> RunBudget:
        """Plan a run of training.

        Parameters
        ----------
        optimizer : Optimizer
            The optimizer, which may have started.
        d : int
            Number of parameters.
        batches : Batches
            Rows of each step.
        total : int
            Images that training may bill.
        max_steps : int or None, default=None
            The most steps. None: as many as the budget pays for.

        Returns
        -------
        budget : RunBudget
            Images for the gains, images of a step, and the number of steps.
        """
        if not d:
            return cls(0, 0, 0, total)
        n_rows_each = batches.n_rows_each(optimizer)
        step = optimizer.n_candidates_for(d) * n_rows_each
        gains = 0 if optimizer.started else optimizer.gain_cost(d, n_rows_each, len(batches.rows), total)
        n_steps = max(0, (total - gains) // step)
        return cls(n_steps if max_steps is None else min(n_steps, max_steps), step, gains, total)
