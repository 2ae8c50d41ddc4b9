"""Fusion: class probabilities from the service's log scores and from local features of the image, together.

What the service and what a local probe get wrong are different images, so that a stack of both is right more often
than either. It is trained on scores that are already paid for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted, validate_data

from ..inputs.labels import check_labels, training_weights
from .base import CalibratedHead, _LogProbaClassifier, log_loss

__all__ = ["FusedHead", "Probes", "fit_probes"]

_LEAST_LOG_PROBA = -15.0  # of a probe: one that is sure and wrong should not outvote all others
_LOOSE = 0.01  # ridge penalty of the intercepts and of the weights of whole log probabilities
_C, _N_FOLDS = 30.0, 5  # of the probes
_ROUGH = 1e-7  # of the loss, to which stacks are fitted that only judge: far less than what folds differ by


@dataclass
class Probes:
    """Multinomial logistic regressions of the blocks of features, one each.

    Attributes
    ----------
    coef : ndarray of shape (n_classes, n_features)
        Each block's weights in its columns.
    intercept : ndarray of shape (n_blocks, n_classes)
    held_out : ndarray of shape (n_blocks, n_images, n_classes)
        Log probabilities of the training images, each from a probe that has not seen it, cut off below -15.
    """

    coef: np.ndarray
    intercept: np.ndarray
    held_out: np.ndarray


def fit_probes(
    blocks: Sequence[np.ndarray], index: np.ndarray, weights: np.ndarray, C: float = _C, n_folds: int = _N_FOLDS
) -> Probes:
    """Probes of blocks of features (n_images, n_features_of_block) of images with class indices (n_images,)."""
    probes, held_out = [], []
    for block in blocks:
        probe = CalibratedHead(Cs=(C,), n_folds=n_folds, standardize=False)
        held_out.append(np.maximum(probe.fit_held_out(block, index, weights), _LEAST_LOG_PROBA))
        probes.append(probe)
    n_classes = len(np.unique(index))
    return Probes(
        np.hstack([np.empty((n_classes, 0)), *(probe.coef_ for probe in probes)]),
        np.array([probe.intercept_ for probe in probes]).reshape(-1, n_classes),
        np.array(held_out).reshape(-1, len(index), n_classes),
    )


class FusedHead(_LogProbaClassifier):
    """Stack of the service's log scores and of probes of local features.

    The columns of X are, from left to right, the service's log scores and the features, block after block.

    Parameters
    ----------
    n_scores : int or None, default=None
        Columns that are log scores; 0 makes a probe of the features alone. None: all that `block_sizes` leaves, which
        is all of X without it.
    block_sizes : tuple of int or None, default=None
        Columns of each block of features. None: one block of all columns behind the scores, if there are any.
    C : float, default=30.0
        Inverse regularisation strength of the blocks' probes. Features should be such that a block has norm 1.
    strengths : tuple of float, default=(0.3, 1, 3, 10, 30, 100)
        Regularisation strengths of `coef_` to choose from, by the cross-validated log loss.
    n_folds : int, default=5
        Folds, at most; a class with fewer images allows fewer.
    scores_of_classes : bool, default=True
        Whether score column k is that of the label k, so that the service's own probabilities of the labels are taken
        into account as such. Only used if all labels in y are numbers of score columns.

    Attributes
    ----------
    alpha_ : ndarray of shape (n_blocks,)
        Weight of each probe's log probabilities, not negative.
    block_coef_ : ndarray of shape (n_classes, n_features)
        Weights of the probes, each block's in its columns.
    block_intercept_ : ndarray of shape (n_blocks, n_classes)
        Intercepts of the probes.
    block_sizes_ : ndarray of shape (n_blocks,)
        Features of each block.
    classes_ : ndarray of shape (n_classes,)
        The labels.
    coef_ : ndarray of shape (n_classes, n_scores)
        Weights of the log scores as they come, not standardised.
    intercept_ : ndarray of shape (n_classes,)
        What is added.
    n_features_in_ : int
        Columns of X.
    strength_ : float
        The chosen strength.
    tau_ : float
        Weight of the service's own log probabilities, not negative; 0 where score columns are not those of labels.

    Notes
    -----
    Each block l has a probe, a multinomial logistic regression with log probabilities q_l, cut off below -15. With
    log scores s, the service's own log probabilities log_softmax(s), and u = coef_ s + intercept_::

        log p = log_softmax(sum_l alpha_l q_l + tau log_softmax(s) + u)

    The stack is trained on held-out log probabilities of the probes, with a ridge penalty of `strength_` / 2 on the
    weights of the standardised log scores (more by n_scores / n_classes where there are more scores than classes),
    and of 0.01 / 2 on everything else. An image of weight two counts as two images.

    Examples
    --------
    >>> import numpy as np
    >>> from blackvip import FusedHead
    >>> log_scores = np.log([[0.6, 0.4], [0.7, 0.3], [0.6, 0.4], [0.8, 0.2]])
    >>> features = np.array([[0.5], [1.0], [-0.5], [-1.0]])
    >>> head = FusedHead(n_scores=2).fit(np.hstack([log_scores, features]), ["cat", "cat", "dog", "dog"])
    >>> head.predict(np.hstack([log_scores, features])).tolist()
    ['cat', 'cat', 'dog', 'dog']
    """

    def __init__(
        self,
        n_scores: int | None = None,
        block_sizes: tuple[int, ...] | None = None,
        C: float = _C,
        strengths: tuple[float, ...] = (0.3, 1, 3, 10, 30, 100),
        n_folds: int = _N_FOLDS,
        scores_of_classes: bool = True,
    ):
        self.n_scores = n_scores
        self.block_sizes = block_sizes
        self.C = C
        self.strengths = strengths
        self.n_folds = n_folds
        self.scores_of_classes = scores_of_classes

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> FusedHead:
        """Train the probes, choose the strength, and train the stack.

        Parameters
        ----------
        X : array-like of shape (n_images, n_scores + n_features)
            Log scores, and the blocks of features behind them.
        y : array-like of shape (n_images,)
            Labels, two classes at least, of two images at least.
        sample_weight : array-like of shape (n_images,) or None, default=None
            Weights of the images, not negative.

        Returns
        -------
        self : FusedHead
            The fitted head.
        """
        self.fit_held_out(X, y, sample_weight)
        return self

    def fit_held_out(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        last_answers: tuple[np.ndarray, np.ndarray] | None = None,
        probes: Probes | None = None,
    ) -> np.ndarray:
        """`fit`, and log probabilities of the training images, each from a stack that has not seen it.

        Parameters
        ----------
        X : array-like of shape (n_images, n_scores + n_features)
            Log scores, and the blocks of features behind them.
        y : array-like of shape (n_images,)
            Labels, two classes at least, of two images at least.
        sample_weight : array-like of shape (n_images,) or None, default=None
            Weights of the images, not negative.
        last_answers : tuple of ndarray or None, default=None
            Rows of X (n,), and further log scores (n, n_scores) that a service gave to these images, with other
            prompts: examples that training has paid for. All scores of an image share its weight.
        probes : Probes or None, default=None
            Of these features, where they are known already.

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes)
            By cross-validation, in the order of `classes_`.

        Raises
        ------
        ValueError
            If a class has one image, or if the columns of X are not those that the parameters tell of.
        """
        y = check_labels(y)
        X, y = validate_data(self, X, y, dtype=np.float64)
        weights = training_weights(sample_weight, None, y)
        self.classes_, index = np.unique(y, return_inverse=True)
        counts = np.bincount(index)
        if len(counts) < 2:
            raise ValueError(f"y has 1 class, {self.classes_.tolist()[0]!r}; expected at least two classes.")
        if counts.min() < 2:
            raise ValueError(
                f"The class {self.classes_.tolist()[counts.argmin()]!r} has 1 image; expected 2 of each at least, "
                'since probes are judged on images that they have not seen. Use head="calibrated", or add images.'
            )
        n_scores, self.block_sizes_ = self._layout(X.shape[1])
        n_folds = int(min(self.n_folds, counts.min()))
        n_classes = len(counts)
        probes = probes or fit_probes(self._blocks(X), index, weights, self.C, n_folds)
        self.block_coef_, self.block_intercept_ = probes.coef, probes.intercept
        rows, scores = np.arange(len(X)), X[:, :n_scores]
        if last_answers is not None:
            rows, scores = np.concatenate([rows, last_answers[0]]), np.concatenate([scores, last_answers[1]])
        shares = (weights / np.bincount(rows))[rows]
        experts = [log_proba[rows] for log_proba in probes.held_out]
        labelled = (
            self.scores_of_classes and self.classes_.dtype.kind in "iu" and set(self.classes_) <= set(range(n_scores))
        )
        if labelled:
            experts.append(log_softmax(scores, axis=1)[:, self.classes_])
        stacked = np.array(experts).reshape(-1, len(rows), n_classes)

        stacks = []
        for train, test in StratifiedKFold(n_folds, shuffle=True, random_state=0).split(X, index):
            seen = np.isin(rows, train)
            stacks.append((_Stack(stacked[:, seen], scores[seen], index[rows[seen]], shares[seen]), test))

        def held_out(strength: float) -> np.ndarray:
            log_proba = np.empty((len(X), n_classes))
            for stack, test in stacks:
                log_proba[test] = _log_proba(stacked[:, test], scores[test], *stack.fit(strength, _ROUGH))
            return log_proba

        strengths = sorted(self.strengths) if n_scores else self.strengths[:1]  # without scores all are the same
        self.strength_, log_proba = _lowest(strengths, held_out, index, weights)
        whole = _Stack(stacked, scores, index[rows], shares)
        of_experts, self.coef_, self.intercept_ = whole.fit(self.strength_)
        self.alpha_ = of_experts[: len(probes.held_out)]
        self.tau_ = float(of_experts[-1]) if labelled else 0.0
        return log_proba

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Log probabilities.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features_in_)
            Log scores, and the blocks of features behind them.

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes)
            In the order of `classes_`.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        scores = X[:, : self.coef_.shape[1]]
        weights, experts = list(self.alpha_), []
        coefs = np.split(self.block_coef_, np.cumsum(self.block_sizes_)[:-1], axis=1)
        for block, coef, intercept in zip(self._blocks(X), coefs, self.block_intercept_):
            experts.append(np.maximum(log_softmax(block @ coef.T + intercept, axis=1), _LEAST_LOG_PROBA))
        if self.tau_:
            weights.append(self.tau_)
            experts.append(log_softmax(scores, axis=1)[:, self.classes_])
        stacked = np.array(experts).reshape(-1, len(X), len(self.classes_))
        return _log_proba(stacked, scores, np.array(weights), self.coef_, self.intercept_)

    def _layout(self, n_columns: int) -> tuple[int, np.ndarray]:
        """Number of score columns, and sizes of the blocks behind them."""
        sizes = None if self.block_sizes is None else [int(size) for size in self.block_sizes]
        n_scores = n_columns - sum(sizes or []) if self.n_scores is None else self.n_scores
        if sizes is None:
            sizes = [n_columns - n_scores] if n_columns != n_scores else []
        if n_scores < 0 or min(sizes, default=1) < 1 or n_scores + sum(sizes) != n_columns:
            raise ValueError(
                f"X has {n_columns} columns, but n_scores={self.n_scores} and block_sizes={self.block_sizes}; expected "
                "the columns of the scores, and those of the blocks behind them."
            )
        return n_scores, np.array(sizes, dtype=np.int64)

    def _blocks(self, X: np.ndarray) -> list[np.ndarray]:
        """The columns of each block."""
        ends = X.shape[1] - self.block_sizes_.sum() + np.cumsum(self.block_sizes_)
        return [X[:, end - size : end] for size, end in zip(self.block_sizes_, ends)]


def _log_proba(
    experts: np.ndarray, scores: np.ndarray, of_experts: np.ndarray, coef: np.ndarray, intercept: np.ndarray
) -> np.ndarray:
    """Log probabilities of a stack; those of its experts have the shape (n_experts, n_images, n_classes)."""
    return log_softmax(np.tensordot(of_experts, experts, 1) + scores @ coef.T + intercept, axis=1)


def _lowest(
    strengths: Sequence[float], log_proba: Callable[[float], np.ndarray], y: np.ndarray, weights: np.ndarray
) -> tuple[float, np.ndarray]:
    """The strength, of increasing ones, whose log probabilities have the lowest loss, and these log probabilities.

    Losses fall to their lowest and rise again, so that it is enough to go from the middle to where they fall.
    """
    tried: dict[int, np.ndarray] = {}

    def loss(i: int) -> float:
        if not 0 <= i < len(strengths):
            return np.inf
        if i not in tried:
            tried[i] = log_proba(strengths[i])
        return float(np.average(log_loss(tried[i], y), weights=weights))

    i = len(strengths) // 2
    for step in (-1, 1):
        while loss(i + step) < loss(i):
            i += step
    return strengths[i], tried[i]


class _Stack:
    """The stack's regression on some images, for one strength after another, each from where the last one ended."""

    def __init__(self, experts: np.ndarray, scores: np.ndarray, index: np.ndarray, weights: np.ndarray):
        self.experts = np.ascontiguousarray(experts.transpose(0, 2, 1))
        self.index, self.weights = index, weights
        n_experts, n_classes, _ = self.experts.shape
        self.mean, self.scale = np.zeros(scores.shape[1]), np.ones(scores.shape[1])
        if len(self.mean):  # there may be no scores
            scaler = StandardScaler().fit(scores, sample_weight=weights)
            self.mean, self.scale = scaler.mean_, scaler.scale_
        self.penalty = max(1.0, scores.shape[1] / n_classes)  # times the strength
        z = (scores - self.mean) / self.scale
        # With a ridge penalty, weights of z are sums of its rows: fewer rows than columns leave as few directions.
        self.axes = np.linalg.svd(np.sqrt(weights)[:, None] * z, full_matrices=False)[2]
        self.z = np.ascontiguousarray((z @ self.axes.T).T)
        self.solution = np.zeros(n_experts + n_classes * (1 + len(self.axes)))
        self.solution[:n_experts] = 1 / max(1, n_experts)

    def fit(self, strength: float, ftol: float = 1e-10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights of the experts, and weights and intercepts that act on the scores as they are.

        The last step lowers the loss by less than the share `ftol`.
        """
        n_experts, n_classes, _ = self.experts.shape
        strength *= self.penalty
        # Each parameter is stretched by about the square root of its curvature, as it is where all classes are as
        # likely: many times fewer steps.
        share = self.weights / n_classes
        of_coef = np.tile(np.sqrt(np.square(self.z) @ share + strength), n_classes)
        of_intercept = np.full(n_classes, np.sqrt(share.sum() + _LOOSE))
        of_experts = np.sqrt(self.experts.var(axis=1) @ self.weights + _LOOSE)
        stretch = np.concatenate([of_experts, of_intercept, of_coef])

        def loss(stretched: np.ndarray) -> tuple[float, np.ndarray]:
            parameters = stretched / stretch
            value, gradient = _stack_loss(parameters, self.experts, self.z, self.index, self.weights, strength)
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
        return of_experts, coef, intercept - coef @ self.mean


def _stack_loss(
    parameters: np.ndarray,
    experts: np.ndarray,
    z: np.ndarray,
    index: np.ndarray,
    weights: np.ndarray,
    strength: float,
) -> tuple[float, np.ndarray]:
    """The penalised negative log likelihood of a stack, and its gradient.

    Parameters
    ----------
    parameters : ndarray of shape (n_experts + n_classes * (1 + n_scores),)
        Weights of the experts, intercepts, and weights of the scores.
    experts : ndarray of shape (n_experts, n_classes, n_images)
        Log probabilities; images stand last, so that sums over classes run along them.
    z : ndarray of shape (n_scores, n_images)
        Standardised log scores.
    index : ndarray of shape (n_images,)
        Class indices.
    weights : ndarray of shape (n_images,)
    strength : float
    """
    n_experts, n_classes, n_images = experts.shape
    of_experts, intercept, coef = _pieces(parameters, n_experts, n_classes)
    logits = coef @ z
    logits += intercept[:, None]
    flat = experts.reshape(n_experts, n_classes * n_images)
    logits += (of_experts @ flat).reshape(n_classes, n_images)
    logits -= logits.max(axis=0)
    excess = np.exp(logits)
    total = excess.sum(axis=0)
    columns = np.arange(n_images)
    loss = weights @ (np.log(total) - logits[index, columns])
    penalty = _LOOSE * (of_experts @ of_experts + intercept @ intercept) + strength * np.square(coef).sum()
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
