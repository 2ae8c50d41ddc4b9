"""Validation during training: held-out images choose among the prompts of a run, and end it when nothing improves."""

from __future__ import annotations

import math

import numpy as np

from ..inputs.training_set import TrainingSet
from ..losses import Temperature
from .prompted_images import PromptedImages

__all__ = ["Validation", "judged_rows", "split_held_out"]


def judged_rows(y: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Draw sorted rows that are scored before and after training: all, or a share of each class if more than `most`."""
    if len(y) <= most:
        return np.arange(len(y))
    of_classes = [rng.permutation(np.flatnonzero(y == label)) for label in np.unique(y)]
    return np.sort(np.concatenate([rows[: max(2, most * len(rows) // len(y))] for rows in of_classes]))


def split_held_out(y: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Draw sorted positions in y that are held out: the share `fraction` of each class, rounded down."""
    of_classes = [
        rng.permutation(np.flatnonzero(y == label))[: int(fraction * np.sum(y == label))] for label in np.unique(y)
    ]
    return np.sort(np.concatenate(of_classes))


class Validation:
    """Checks of the held-out images during a run.

    Parameters
    ----------
    prompted : PromptedImages
        Scores images with prompts.
    data : TrainingSet
        The training set.
    temperature : Temperature
        Temperature of the service. Checks do not update it.
    judged_rows : ndarray of int
        Sorted rows of the images that are scored before and after training.
    rows : ndarray of int
        Sorted rows of the images that are held out. If there are none, nothing is checked.
    n_checks : int
        Checks in a whole run, at most.
    patience : int or None, default=None
        Checks without an improvement after which `exhausted` is true. None: never.

    Attributes
    ----------
    best_w : ndarray of shape (d,) or None
        The vector with the lowest held-out loss.
    best_loss, start_loss : float
        The lowest held-out loss of a check, and the one before training.
    improvement : float
        How far the last check's loss is below the lowest one before it, as a share of that; negative if it is above.
    best_columns : ndarray of shape (len(rows), n_columns) or None
        The held-out images' score columns at `best_w`.
    last_log_scores : ndarray of shape (len(rows), n_classes)
        Their log scores at the last check.
    """

    best_w: np.ndarray | None
    best_columns: np.ndarray | None
    improvement: float
    last_log_scores: np.ndarray

    def __init__(
        self,
        prompted: PromptedImages,
        data: TrainingSet,
        temperature: Temperature,
        judged_rows: np.ndarray,
        rows: np.ndarray,
        n_checks: int,
        patience: int | None = None,
    ):
        self.prompted = prompted
        self.temperature = temperature
        self.judged_rows = judged_rows
        self.rows = rows
        self.n_classes = len(data.classes)
        self.y, self.weights = data.y[rows], data.weights[rows]
        self.n_checks = n_checks
        self.patience = patience
        self.interval = self.n_steps = 1
        self.checks_left = n_checks
        self.best_loss = self.start_loss = np.inf
        self.best_w = None
        self.best_columns = None
        self.checks_since_best = 0

    @property
    def cost(self) -> int:
        """Images that all checks together bill at most."""
        return self.n_checks * len(self.rows)

    @property
    def is_held_out(self) -> np.ndarray:
        """Which of the judged images are held out, of shape (n_judged,)."""
        return np.isin(self.judged_rows, self.rows)

    def set_start(self, log_scores: np.ndarray) -> None:
        """Take the judged images' log scores (n_judged, n_classes) before training, for the first comparison."""
        if len(self.rows):
            self.start_loss = self._loss(log_scores[self.is_held_out])

    def start_from(self, w: np.ndarray) -> None:
        """Make the first check now: a run that continues an earlier one has that one's prompt to beat."""
        if self.checks_left and len(self.rows):
            self.check(w)

    def spread_over(self, n_steps: int) -> None:
        """Spread the checks that are left evenly over a run of `n_steps` steps, the last one at its end."""
        self.interval, self.n_steps = _interval(n_steps, self.checks_left), n_steps

    def is_due(self, n_iter: int) -> bool:
        """Return whether the held-out images are checked after step `n_iter`."""
        if not self.checks_left or not len(self.rows):
            return False
        return n_iter % self.interval == 0 or n_iter == self.n_steps

    def n_checks_due(self, continues: bool, n_steps: int) -> int:
        """Return the number of checks of a run of `n_steps` steps; one that continues another makes one at once.

        It changes nothing, so that a run can be planned.
        """
        if not self.checks_left or not len(self.rows):
            return 0
        left = self.checks_left - continues
        interval = _interval(n_steps, left)
        due = sum(n_iter % interval == 0 or n_iter == n_steps for n_iter in range(1, n_steps + 1))
        return continues + min(left, due)

    def check(self, w: np.ndarray) -> dict[str, float]:
        """Score the held-out images at `w`, keep it if it is the best, and return the figures for the history."""
        self.checks_left -= 1
        columns = self.prompted.score_columns(w, self.rows)
        self.last_log_scores = log_scores = columns[:, : self.n_classes]
        loss = self._loss(log_scores)
        before = min(self.best_loss, self.start_loss)
        self.improvement = (before - loss) / max(before, 1e-12) if np.isfinite(before) else 1.0
        self.checks_since_best += 1
        if loss < self.best_loss:
            self.best_loss, self.best_w, self.best_columns = loss, w.copy(), columns
            self.checks_since_best = 0
        hits = log_scores.argmax(axis=1) == self.y
        accuracy = float(np.average(hits, weights=self.weights))
        return {"validation_loss": loss, "validation_accuracy": accuracy}

    def judged_columns(self, w: np.ndarray) -> np.ndarray:
        """Score columns (n_judged, n_columns) at `w`; bills the images that the best check has not scored at `w`."""
        if self.best_w is None or self.best_columns is None or not np.array_equal(w, self.best_w):
            return self.prompted.score_columns(w, self.judged_rows)
        held_out = self.is_held_out
        columns = np.empty((len(self.judged_rows), self.best_columns.shape[1]))
        columns[held_out] = self.best_columns
        columns[~held_out] = self.prompted.score_columns(w, self.judged_rows[~held_out])
        return columns

    @property
    def exhausted(self) -> bool:
        """Whether `patience` is used up."""
        return self.patience is not None and self.checks_since_best >= self.patience

    def _loss(self, log_scores: np.ndarray) -> float:
        losses = self.temperature.best_losses(log_scores, self.y)
        return float(np.average(losses, weights=self.weights))


def _interval(n_steps: int, n_checks: int) -> int:
    """Return the steps between checks that are spread evenly over a run."""
    return max(1, math.ceil(n_steps / max(1, n_checks)))
