"""Prompt weights: how much each of a class's prompts counts, learned from labelled images.

The mean of a class's prompts treats good and bad ones alike. Prompt weights deviate from the mean as far as
cross-validation allows. Each prompt has one weight, which acts on its own class, so that few images teach them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.special import log_softmax

from .experts import LinearExpert
from .folds import stratified_folds
from .stack import Examples, lowest_loss

__all__ = ["fit_prompt_weights"]

_STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_LOOSE = 0.01  # ridge penalty of the common weight of the means, and of the intercepts
_ROUGH = 1e-7  # relative tolerance of fits that only compare strengths; folds differ by far more


def fit_prompt_weights(
    examples: Examples, classes: np.ndarray, prompt_classes: Sequence[int], n_folds: int
) -> tuple[LinearExpert, np.ndarray]:
    """Fit prompt weights, with the ridge penalty that has the lowest cross-validated log loss.

    Parameters
    ----------
    examples : Examples
        Its scores are those of all classes, then the deviations of their prompts.
    classes : ndarray of shape (n_classes,)
        Score columns of the classes that have images.
    prompt_classes : sequence of int
        Score column of the class of each deviation.
    n_folds : int
        Number of folds, over the images.

    Returns
    -------
    weights : LinearExpert
        Makes log probabilities of the score columns. Fitted to all rows.
    held_out : ndarray of shape (n_rows, n_classes)
        Log probabilities of each row, from weights that were not fitted to its image.
    """
    index, rows = examples.index, examples.rows
    problem = _Problem(examples, classes, np.asarray(prompt_classes))
    folds = stratified_folds(index, n_folds)
    # Each fold starts from its solution for the last strength.
    starts = [problem.start() for _ in folds]
    found: dict[float, np.ndarray] = {}

    def held_out(strength: float) -> np.ndarray:
        log_proba = np.empty((len(rows), len(classes)))
        for start, (train, test) in zip(starts, folds):
            others = np.isin(rows, test)
            weights = problem.fit(strength, np.isin(rows, train), start, _ROUGH)
            log_proba[others] = weights.log_proba(examples.scores[others])
        found[strength] = log_proba
        return log_proba[: len(index)]

    strength, _ = lowest_loss(_STRENGTHS, held_out, index, examples.weights)
    return problem.fit(strength, np.ones(len(rows), bool), problem.start()), found[strength]


class _Problem:
    """The regression of prompt weights, on columns of one scale."""

    def __init__(self, examples: Examples, classes: np.ndarray, prompt_classes: np.ndarray):
        n_all, n_scores = examples.scores.shape[1] - len(prompt_classes), examples.scores.shape[1]
        # Deviations in classes without images have no use.
        kept = np.flatnonzero(np.isin(prompt_classes, classes))
        self.columns = np.concatenate([classes, n_all + kept])
        self.owner = np.searchsorted(classes, prompt_classes[kept])
        self.n_classes, self.n_scores = len(classes), n_scores
        # (n_classes, n_deviations): adds up the deviations of each class
        n_deviations = len(self.owner)
        places = self.owner, np.arange(n_deviations)
        self.sums = csr_array((np.ones(n_deviations), places), (len(classes), n_deviations))
        self.shares, self.index = examples.shares, examples.index[examples.rows]
        chosen = examples.scores[:, self.columns]
        self.mean = np.average(chosen, axis=0, weights=self.shares)
        spread = np.average((chosen - self.mean)[:, : len(classes)] ** 2, axis=0, weights=self.shares)
        self.scale = float(np.sqrt(spread.mean())) or 1.0
        self.z = (chosen - self.mean) / self.scale

    def start(self) -> np.ndarray:
        """Return the parameters of the means alone: their common weight, the intercepts, and a weight per deviation."""
        return np.concatenate([[1.0], np.zeros(self.n_classes + len(self.owner))])

    def fit(self, strength: float, used: np.ndarray, start: np.ndarray, ftol: float = 1e-10) -> LinearExpert:
        """Minimise the penalised negative log likelihood of the rows that are used, a mask (n_rows,) (B26).

        `start` holds the first parameters, and then the solution.
        """
        n, z, index, weights = self.n_classes, self.z[used], self.index[used], self.shares[used]
        means, deviations = z[:, :n], z[:, n:]
        place = np.arange(len(z))

        def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            common, intercept, own = parameters[0], parameters[1 : n + 1], parameters[n + 1 :]
            # (n_classes, n_deviations) @ (n_deviations, n_rows)
            summed = (self.sums @ (deviations * own).T).T
            log_proba = log_softmax(common * means + intercept + summed, axis=1)
            penalty = _LOOSE * (common**2 + intercept @ intercept) + strength * (own @ own)
            excess = np.exp(log_proba)
            excess[place, index] -= 1
            excess *= weights[:, None]
            gradients = (
                [(excess * means).sum() + _LOOSE * common],
                excess.sum(axis=0) + _LOOSE * intercept,
                (excess[:, self.owner] * deviations).sum(axis=0) + strength * own,
            )
            return float(penalty / 2 - weights @ log_proba[place, index]), np.concatenate(gradients)

        solution = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500, "ftol": ftol}).x
        start[:] = solution
        coef = np.zeros((n, self.n_scores))
        coef[np.arange(n), self.columns[:n]] = solution[0] / self.scale
        coef[self.owner, self.columns[n:]] = solution[n + 1 :] / self.scale
        return LinearExpert(coef, solution[1 : n + 1] - coef[:, self.columns] @ self.mean)
