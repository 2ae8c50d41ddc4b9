"""Mini-batches: which training images each candidate of a step gets."""

from __future__ import annotations

import numpy as np

from ..optimizers import Optimizer

__all__ = ["Batches"]


class Batches:
    """Mini-batches of rows: every row once in random order, then all again in another order.

    The rows of a step are divided among the groups of candidates that an optimizer compares with one another.

    Parameters
    ----------
    rows : ndarray of int
        Training images.
    batch_size : int
        Rows of a step, at most ``len(rows)``. Each group gets at least one.
    rng : numpy.random.Generator
        Source of random orders.
    """

    def __init__(self, rows: np.ndarray, batch_size: int, rng: np.random.Generator):
        self.rows, self.batch_size, self.rng = rows, batch_size, rng
        self.left = np.empty(0, dtype=int)

    def n_rows_each(self, optimizer: Optimizer) -> int:
        """Return the number of rows that each candidate of a step gets, and is billed for."""
        return max(1, self.batch_size // optimizer.n_comparisons)

    def n_rows(self, optimizer: Optimizer) -> int:
        """Return the number of different rows of a step."""
        return self.n_rows_each(optimizer) * optimizer.n_comparisons

    def for_step(self, optimizer: Optimizer) -> np.ndarray:
        """Return the rows of each candidate of the next step, of shape (n_candidates, n)."""
        return self._divided(self.next(self.n_rows(optimizer)), optimizer)

    def upcoming(self, optimizer: Optimizer) -> np.ndarray | None:
        """Return the next result of `for_step`; None if that needs another random order, which is drawn only then."""
        n_rows = self.n_rows(optimizer)
        return self._divided(self.left[:n_rows], optimizer) if len(self.left) >= n_rows else None

    def next(self, n_rows: int) -> np.ndarray:
        """Return the next rows."""
        while len(self.left) < n_rows:
            self.left = np.concatenate([self.left, self.rng.permutation(self.rows)])
        rows, self.left = self.left[:n_rows], self.left[n_rows:]
        return rows

    def _divided(self, rows: np.ndarray, optimizer: Optimizer) -> np.ndarray:
        return rows.reshape(optimizer.n_comparisons, -1)[optimizer.comparisons]
