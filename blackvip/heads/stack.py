"""The stack of the fused head: log probabilities of several experts and log scores, weighted by a regression."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from .base import log_loss
from .folds import stratified_folds
from .scaling import fit_scaler

__all__ = ["Examples", "Stack", "StackWeights", "choose_strength", "lowest_loss", "stack_loss"]

_LOOSE = 0.01  # ridge penalty of the intercepts and of the weights of the experts
_OF_DEVIATIONS = 3.0  # ridge penalty of the weights of deviations, relative to that of other scores
_ROUGH = 1e-7  # relative tolerance for stacks that only compare strengths; folds differ by far more


class StackWeights(NamedTuple):
    """Parameters of a fitted stack.

    Attributes
    ----------
    experts : ndarray of shape (n_experts,)
        Weights of the experts' log probabilities.
    coef : ndarray of shape (n_classes, n_scores)
        Weights that apply to the log scores before standardisation.
    intercept : ndarray of shape (n_classes,)
    """

    experts: np.ndarray
    coef: np.ndarray
    intercept: np.ndarray

    def log_proba(self, experts: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Log probabilities of images (n, n_classes), from the experts' ones (n_experts, n, n_classes) (B15)."""
        return log_softmax(np.tensordot(self.experts, experts, 1) + scores @ self.coef.T + self.intercept, axis=1)


@dataclass
class Examples:
    """Training data of a stack: one row for each answer of the service, of which an image may have several.

    Attributes
    ----------
    experts : ndarray of shape (n_experts, n_rows, n_classes)
        Log probabilities.
    scores : ndarray of shape (n_rows, n_scores)
        Log scores.
    rows : ndarray of shape (n_rows,)
        The image of each row. The first rows are the images themselves, in order.
    index : ndarray of shape (n_images,)
        Class indices.
    weights : ndarray of shape (n_images,)
        Weights of the images; the rows of an image share its weight.
    n_deviations : int
        Number of the last scores that are deviations of class prompts, which have a stronger ridge penalty.
    """

    experts: np.ndarray
    scores: np.ndarray
    rows: np.ndarray
    index: np.ndarray
    weights: np.ndarray
    n_deviations: int = 0

    @property
    def shares(self) -> np.ndarray:
        """Weight of each row: an equal share of its image's."""
        return (self.weights / np.bincount(self.rows))[self.rows]

    def stack(self, images: np.ndarray) -> Stack:
        """Make the stack that is trained on all rows of some images."""
        chosen = np.isin(self.rows, images)
        index, shares = self.index[self.rows[chosen]], self.shares[chosen]
        return Stack(self.experts[:, chosen], self.scores[chosen], index, shares, self.n_deviations)


def choose_strength(examples: Examples, strengths: Sequence[float], n_folds: int) -> tuple[float, np.ndarray]:
    """Choose the regularisation strength by cross-validation over the images.

    Parameters
    ----------
    examples : Examples
        The training data.
    strengths : sequence of float
        Increasing strengths.
    n_folds : int
        Number of folds.

    Returns
    -------
    strength : float
        The one with the lowest log loss.
    log_proba : ndarray of shape (n_images, n_classes)
        Its held-out log probabilities.
    """
    experts, scores, index = examples.experts, examples.scores, examples.index
    stacks = [(examples.stack(train), test) for train, test in stratified_folds(index, n_folds)]

    def held_out(strength: float) -> np.ndarray:
        log_proba = np.empty((len(index), experts.shape[2]))
        for stack, test in stacks:
            log_proba[test] = stack.fit(strength, _ROUGH).log_proba(experts[:, test], scores[test])
        return log_proba

    return lowest_loss(strengths, held_out, index, examples.weights)


def lowest_loss(
    strengths: Sequence[float], held_out: Callable[[float], np.ndarray], index: np.ndarray, weights: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the strength with the lowest log loss, and its held-out log probabilities.

    The loss falls and then rises with the strength, so the search goes downhill from the middle.
    """
    tried: dict[int, np.ndarray] = {}

    def loss(i: int) -> float:
        if not 0 <= i < len(strengths):
            return np.inf
        if i not in tried:
            tried[i] = held_out(strengths[i])
        return float(np.average(log_loss(tried[i], index), weights=weights))

    i = len(strengths) // 2
    for step in (-1, 1):
        while loss(i + step) < loss(i):
            i += step
    return strengths[i], tried[i]


class Stack:
    """A stack's regression on some examples; each fit starts from the solution for the last strength.

    Parameters
    ----------
    experts : ndarray of shape (n_experts, n_rows, n_classes)
        Log probabilities.
    scores : ndarray of shape (n_rows, n_scores)
        Log scores.
    index : ndarray of shape (n_rows,)
        Class indices.
    weights : ndarray of shape (n_rows,)
        Non-negative weights of the rows.
    n_deviations : int, default=0
        Number of the last scores that are deviations of class prompts.
    """

    def __init__(
        self, experts: np.ndarray, scores: np.ndarray, index: np.ndarray, weights: np.ndarray, n_deviations: int = 0
    ):
        self.experts = np.ascontiguousarray(experts.transpose(0, 2, 1))
        self.index, self.weights = index, weights
        n_experts, n_classes, _ = self.experts.shape
        self.mean, self.scale = np.zeros(scores.shape[1]), np.ones(scores.shape[1])
        # There may be no scores.
        if len(self.mean):
            scaler = fit_scaler(scores, weights)
            self.mean, self.scale = scaler.mean_, scaler.scale_
        n_scores = scores.shape[1] - n_deviations
        self.penalty = max(1.0, n_scores / n_classes)
        # A ridge penalty that is so many times stronger is the same as a larger scale.
        self.scale = self.scale * np.where(np.arange(scores.shape[1]) < n_scores, 1.0, np.sqrt(_OF_DEVIATIONS))
        z = (scores - self.mean) / self.scale
        # With a ridge penalty the weights of z are combinations of its rows, so directions that no row has are left
        # out: there are at most as many directions as rows.
        self.axes = np.linalg.svd(np.sqrt(weights)[:, None] * z, full_matrices=False)[2]
        self.z = np.ascontiguousarray((z @ self.axes.T).T)
        self.solution = np.zeros(n_experts + n_classes * (1 + len(self.axes)))
        self.solution[:n_experts] = 1 / max(1, n_experts)

    def fit(self, strength: float, ftol: float = 1e-10) -> StackWeights:
        """Minimise the stack's loss.

        Parameters
        ----------
        strength : float
            Ridge penalty of the weights of the standardised log scores.
        ftol : float, default=1e-10
            The fit ends when a step lowers the loss by less than this share of it.
        """
        n_experts, n_classes, _ = self.experts.shape
        strength *= self.penalty
        stretch = self._curvatures(strength)

        def loss(stretched: np.ndarray) -> tuple[float, np.ndarray]:
            parameters = stretched / stretch
            value, gradient = stack_loss(parameters, self.experts, self.z, self.index, self.weights, strength)
            return value, gradient / stretch

        solution = minimize(
            loss,
            self.solution * stretch,
            jac=True,
            method="L-BFGS-B",
            bounds=[(0, None)] * n_experts + [(None, None)] * (len(stretch) - n_experts),
            options={"maxiter": 1000, "maxfun": 10_000, "ftol": ftol, "gtol": 1e-6},
        )
        self.solution = solution.x / stretch
        of_experts, intercept, coef = _pieces(self.solution, n_experts, n_classes)
        coef = coef @ self.axes / self.scale
        return StackWeights(of_experts, coef, intercept - coef @ self.mean)

    def _curvatures(self, strength: float) -> np.ndarray:
        """Approximate square roots of the loss's curvature in each parameter, at equally likely classes.

        L-BFGS-B needs many times fewer steps with parameters that are scaled by them.
        """
        n_classes = self.experts.shape[1]
        share = self.weights / n_classes
        of_coef = np.tile(np.sqrt(np.square(self.z) @ share + strength), n_classes)
        of_intercept = np.full(n_classes, np.sqrt(share.sum() + _LOOSE))
        of_experts = np.sqrt(self.experts.var(axis=1) @ self.weights + _LOOSE)
        return np.concatenate([of_experts, of_intercept, of_coef])


def stack_loss(
    parameters: np.ndarray,
    experts: np.ndarray,
    z: np.ndarray,
    index: np.ndarray,
    weights: np.ndarray,
    strength: float,
) -> tuple[float, np.ndarray]:
    """Penalised negative log likelihood of a stack, and its gradient (B16).

    Parameters
    ----------
    parameters : ndarray of shape (n_experts + n_classes * (1 + n_scores),)
        Weights of the experts, intercepts, and weights of the scores.
    experts : ndarray of shape (n_experts, n_classes, n_rows)
        Log probabilities. The rows are the last axis, so that sums over classes run along contiguous memory.
    z : ndarray of shape (n_scores, n_rows)
        Standardized log scores.
    index : ndarray of shape (n_rows,)
        Class indices.
    weights : ndarray of shape (n_rows,)
    strength : float
        Ridge penalty of the weights of the scores.

    Returns
    -------
    loss : float
    gradient : ndarray of the shape of `parameters`
    """
    n_experts, n_classes, n_rows = experts.shape
    of_experts, intercept, coef = _pieces(parameters, n_experts, n_classes)
    # (n_classes, n_scores) @ (n_scores, n_rows)
    logits = coef @ z
    logits += intercept[:, None]
    flat = experts.reshape(n_experts, n_classes * n_rows)
    logits += (of_experts @ flat).reshape(n_classes, n_rows)
    logits -= logits.max(axis=0)
    excess = np.exp(logits)
    total = excess.sum(axis=0)
    columns = np.arange(n_rows)
    loss = weights @ (np.log(total) - logits[index, columns])
    penalty = _LOOSE * (of_experts @ of_experts + intercept @ intercept) + strength * np.square(coef).sum()
    # Weighted probabilities minus the true classes: the gradient with respect to the logits.
    excess *= weights / total
    excess[index, columns] -= weights
    gradients: Sequence[np.ndarray] = (
        flat @ excess.ravel() + _LOOSE * of_experts,
        excess.sum(axis=1) + _LOOSE * intercept,
        (excess @ z.T + strength * coef).ravel(),
    )
    return float(loss + penalty / 2), np.concatenate(gradients)


def _pieces(parameters: np.ndarray, n_experts: int, n_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of the experts, intercepts, and weights of the scores (n_classes, n_scores)."""
    of_experts, intercept, coef = np.split(parameters, [n_experts, n_experts + n_classes])
    return of_experts, intercept, coef.reshape(n_classes, len(coef) // n_classes)
