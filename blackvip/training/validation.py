"""The guard: nothing ships that is worse than what was free.

Some labelled images are held out from the prompt's training. They choose among the prompts of a run, end a run
that no longer improves, and at the end decide between the best prompt and none.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .objective import Objective

__all__ = ["Validation", "judged_rows", "split_held_out"]


def judged_rows(y: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Rows, in order, that are scored before and after training: all, or of more than `most` a share of each class."""
    if len(y) <= most:
        return np.arange(len(y))
    of_classes = [rng.permutation(np.flatnonzero(y == label)) for label in np.unique(y)]
    return np.sort(np.concatenate([rows[: max(2, most * len(rows) // len(y))] for rows in of_classes]))


def split_held_out(y: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Positions in y, in order, that are held out: of each class the share `fraction`, rounded down."""
    of_classes = [
        rng.permutation(np.flatnonzero(y == label))[: int(fraction * np.sum(y == label))] for label in np.unique(y)
    ]
    return np.sort(np.concatenate(of_classes))


class Validation:
    """Held-out images that choose among the parameter vectors of a run, and end it when nothing improves.

    Parameters
    ----------
    objective : Objective
    known : ndarray of int
        Images that are scored before and after training, in order.
    rows : ndarray of int
        Those of them that are held out, in order; with none, nothing is checked.
    n_checks : int
        Checks over a whole run.
    patience : int or None
        Checks without an improvement after which `exhausted` is true; None: never.

    Attributes
    ----------
    best_w : ndarray of shape (d,) or None
        The vector with the lowest held-out loss.
    best_loss, start_loss : float
        The lowest held-out loss of a check, and that before training.
    improvement : float
        By what share of the lowest loss before it the last check's loss is lower; negative where it is higher.
    best_log_scores : ndarray of shape (len(rows), n_classes) or None
        The held-out images' log scores at `best_w`.
    last_log_scores : ndarray of shape (len(rows), n_classes)
        Those of the last check.
    """

    best_w: np.ndarray | None
    best_log_scores: np.ndarray | None
    improvement: float
    last_log_scores: np.ndarray

    def __init__(
        self, objective: Objective, known: np.ndarray, rows: np.ndarray, n_checks: int, patience: int | None = None
    ):
        self.objective = objective
        self.known = known
        self.rows = rows
        self.n_checks = n_checks
        self.patience = patience
        self.interval = self.n_steps = 1
        self.checks_left = n_checks
        self.best_loss = self.start_loss = np.inf
        self.best_w = None
        self.best_log_scores = None
        self.checks_since_best = 0

    @property
    def cost(self) -> int:
        """Images that all checks together bill at most."""
        return self.n_checks * len(self.rows)

    def set_start(self, log_scores: np.ndarray) -> None:
        """Tell the log scores (n_known, n_classes) before training, to which the first check is compared."""
        if len(self.rows):
            self.start_loss = self._loss(log_scores[self.is_held_out])

    @property
    def is_held_out(self) -> np.ndarray:
        """Which of the known images are held out, of shape (n_known,)."""
        return np.isin(self.known, self.rows)

    def start_from(self, w: np.ndarray) -> None:
        """Make the first check now: where training goes on from an earlier run, that run's prompt is one to beat."""
        if self.checks_left and len(self.rows):
            self.check(w)

    def spread_over(self, n_steps: int) -> None:
        """Spread the checks that are left evenly over a run of `n_steps` steps, the last one at its end."""
        self.interval = max(1, math.ceil(n_steps / max(1, self.checks_left)))
        self.n_steps = n_steps

    def is_due(self, n_iter: int) -> bool:
        if not self.checks_left or not len(self.rows):
            return False
        return n_iter % self.interval == 0 or n_iter == self.n_steps

    def check(self, w: np.ndarray) -> dict[str, float]:
        """Score the held-out images at `w`, remember it if it is the best, and return the figures."""
        self.checks_left -= 1
        self.last_log_scores = log_scores = self.objective.log_scores(w, self.rows)
        loss = self._loss(log_scores)
        before = min(self.best_loss, self.start_loss)
        self.improvement = (before - loss) / max(before, 1e-12) if np.isfinite(before) else 1.0
        self.checks_since_best += 1
        if loss < self.best_loss:
            self.best_loss, self.best_w, self.best_log_scores = loss, w.copy(), log_scores
            self.checks_since_best = 0
        hits = log_scores.argmax(axis=1) == self.objective.y[self.rows]
        accuracy = float(np.average(hits, weights=self.objective.weights[self.rows]))
        return {"validation_loss": loss, "validation_accuracy": accuracy}

    def _loss(self, log_scores: np.ndarray) -> float:
        losses = self.objective.temperature.best_losses(log_scores, self.objective.y[self.rows])
        return float(np.average(losses, weights=self.objective.weights[self.rows]))

    def completed_log_scores(self, w: np.ndarray) -> np.ndarray:
        """Log scores (n_known, n_classes) at `w`; bills those that are not known from the best check."""
        if self.best_w is None or self.best_log_scores is None or not np.array_equal(w, self.best_w):
            return self.objective.log_scores(w, self.known)
        held_out = self.is_held_out
        log_scores = np.empty((len(self.known), self.best_log_scores.shape[1]))
        log_scores[held_out] = self.best_log_scores
        log_scores[~held_out] = self.objective.log_scores(w, self.known[~held_out])
        return log_scores

    @property
    def exhausted(self) -> bool:
        return self.patience is not None and self.checks_since_best >= self.patience
