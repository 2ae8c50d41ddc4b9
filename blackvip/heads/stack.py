"""The stack of the fused head: log probabilities of several experts and log scores, weighted by a regression."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax

from .base import log_loss
from .folds import stratified_folds
from .regression import Regressions, linear_logits
from .scaling import scaling_of

__all__ = ["Examples", "StackWeights", "Stacks", "fit_stack", "lowest_loss"]

_LOOSE = 1.0  # ridge penalty of the intercepts and of the weights of the experts: right for some hundred images
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
        mixed = np.einsum("l,lnk->nk", self.experts, experts)
        return log_softmax(mixed + linear_logits(scores, self.coef, self.intercept), axis=1)


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

    def stacks(self, parts: Sequence[np.ndarray]) -> Stacks:
        """Make the stacks that are each trained on all rows of some images."""
        weights = np.where([np.isin(self.rows, images) for images in parts], self.shares, 0)
        return Stacks(self.experts, self.scores, self.index[self.rows], weights, self.n_deviations)


def fit_stack(examples: Examples, strengths: Sequence[float], n_folds: int) -> tuple[float, np.ndarray, StackWeights]:
    """Fit a stack, with the regularisation strength that has the lowest cross-validated log loss.

    Parameters
    ----------
    examples : Examples
        The training data.
    strengths : sequence of float
        Increasing strengths.
    n_folds : int
        Number of folds, over the images.

    Returns
    -------
    strength : float
        The chosen strength.
    held_out : ndarray of shape (n_images, n_classes)
        Log probabilities of each image, from a stack that was not fitted to it.
    weights : StackWeights
        Fitted to all rows.
    """
    experts, scores, index = examples.experts, examples.scores, examples.index
    folds = stratified_folds(index, n_folds)
    # The first one is fitted to all rows, once the strength is known.
    stacks = examples.stacks([examples.rows, *(train for train, _ in folds)])

    def held_out(strength: float) -> np.ndarray:
        log_proba = np.empty((len(index), experts.shape[2]))
        for found, (_, test) in zip(stacks.fit(strength, _ROUGH, slice(1, None)), folds):
            log_proba[test] = found.log_proba(experts[:, test], scores[test])
        return log_proba

    strength, log_proba = lowest_loss(strengths, held_out, index, examples.weights)
    [weights] = stacks.fit(strength, which=slice(1))
    return strength, log_proba, weights


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


class Stacks:
    """Stacks on the same rows, each with weights of its own; each fit starts from the solutions for the last strength.

    Parameters
    ----------
    experts : ndarray of shape (n_experts, n_rows, n_classes)
        Log probabilities.
    scores : ndarray of shape (n_rows, n_scores)
        Log scores.
    index : ndarray of shape (n_rows,)
        Class indices.
    weights : ndarray of shape (n_stacks, n_rows)
        Non-negative weights of the rows; 0 for those that a stack is not trained on.
    n_deviations : int, default=0
        Number of the last scores that are deviations of class prompts.
    """

    def __init__(
        self, experts: np.ndarray, scores: np.ndarray, index: np.ndarray, weights: np.ndarray, n_deviations: int = 0
    ):
        n_classes, n_scores = experts.shape[2], scores.shape[1]
        scaling = scaling_of(scores, weights)
        # A ridge penalty that is so many times stronger is the same as a larger scale.
        is_deviation = np.arange(n_scores) >= n_scores - n_deviations
        self.scaling = scaling._replace(scale=scaling.scale * np.where(is_deviation, np.sqrt(_OF_DEVIATIONS), 1.0))
        self.penalty = max(1.0, (n_scores - n_deviations) / n_classes)
        self.regressions = Regressions(
            self.scaling.apply(scores), index, weights, n_classes, experts.transpose(0, 2, 1), _LOOSE
        )

    def fit(self, strength: float, ftol: float = 1e-10, which: slice = slice(None)) -> list[StackWeights]:
        """Minimise the loss of each stack.

        Parameters
        ----------
        strength : float
            Ridge penalty of the weights of the standardised log scores.
        ftol : float, default=1e-10
            See `Regressions.fit`.
        which : slice, default=slice(None)
            The stacks to fit.
        """
        found = self.regressions.fit(strength * self.penalty, ftol, which)
        return list(map(StackWeights, found.alpha, *self.scaling.undo(found.coef, found.intercept)))[which]
