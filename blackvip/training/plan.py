"""The plan of a run: what it may spend, and on what, before the first image is sent."""

from __future__ import annotations

from dataclasses import dataclass

from ..optimizers import Optimizer
from .batches import Batches

__all__ = ["Plan"]


@dataclass
class Plan:
    """What a run may spend, and how much of it on what; all of it is known before the first image is sent.

    Attributes
    ----------
    n_steps : int
        Steps that will be made.
    step, gains : int
        Images that one step, and finding the gains, bill.
    budget : int
        Images that training may bill in this run and those to come, by which the gains are chosen.
    """

    n_steps: int
    step: int
    gains: int
    budget: int

    @classmethod
    def make(
        cls,
        optimizer: Optimizer,
        d: int,
        batches: Batches,
        validation_cost: int,
        budget: int,
        max_steps: int | None = None,
    ) -> Plan:
        """The plan of a run in `d` parameters that may bill `budget` images, and makes `max_steps` steps at most."""
        n_rows_each = batches.n_rows_each(optimizer)
        step = optimizer.n_candidates_for(d) * n_rows_each
        budget -= validation_cost
        gains = 0 if optimizer.started else optimizer.gain_cost(d, n_rows_each, len(batches.rows), budget)
        n_steps = max(0, (budget - gains) // step)
        return cls(n_steps if max_steps is None else min(n_steps, max_steps), step, gains, budget)
