"""Label mappings: from scores for the m labels of a service to scores for k classes.

A label mapping is a matrix of weights (m, k) whose columns sum to 1. The probability of class t is, up to
normalisation,

    P(t | image) = sum_s weights[s, t] P(s | image).                                                           (B22)

Frequency mapping gives each class one label, the one that the service returns most often for its images (Chen et al.,
CVPR 2023). Bayesian-guided label mapping (BLM; Cai et al., NeurIPS 2024) spreads a class over all labels. With
C[s, t] the number of images of class t for which label s has the highest score,

    weights[s, t] ~ C[s, t] / (sum_t C[s, t] + smoothing),                                                     (B23)

and BLM+ counts the probabilities of an image's top labels instead of 1 for the first. All of it is learned from
answers that a fit pays for anyway. Unlike the papers' code, (B22) mixes probabilities and not logits, which is 3 to 20
points of accuracy better on the tasks of `tests/test_label_mapping.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax
from sklearn.base import BaseEstimator

from ...persistence.arrays import Array
from ...persistence.fields import ListOf, text
from ...persistence.format import expect
from ...persistence.objects import Object
from ...persistence.saveable import Saveable
from ..formats import ScoreFormat

__all__ = ["LabelMapping", "bayesian_weights", "frequency_weights", "label_counts"]

_LOGITS = ScoreFormat("logits")
_FLOOR = 1e-6  # of the probability of a class


def label_counts(
    log_scores: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    n_top: int | None = None,
    sample_weight: np.ndarray | None = None,
) -> np.ndarray:
    """Count how often images of each class were given each label.

    Parameters
    ----------
    log_scores : ndarray of shape (n_images, n_labels)
        Log scores; their softmax is the service's belief. An image whose scores are all equal is not counted.
    y : ndarray of shape (n_images,)
        Class indices.
    n_classes : int
        Number of classes.
    n_top : int or None, default=None
        None: the first label of an image counts 1. Otherwise its first `n_top` labels count their probabilities.
    sample_weight : ndarray of shape (n_images,) or None, default=None
        Weights of the images. None: all count alike.

    Returns
    -------
    counts : ndarray of shape (n_labels, n_classes)
        Weighted counts, at least 0.
    """
    counts = np.zeros((log_scores.shape[1], n_classes))
    rows = np.flatnonzero(np.ptp(log_scores, axis=1))
    weights = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if n_top is None:
        np.add.at(counts, (log_scores[rows].argmax(axis=1), y[rows]), weights[rows])
        return counts
    probabilities = softmax(log_scores[rows], axis=1)
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, :n_top]
    added = weights[rows, None] * np.take_along_axis(probabilities, top, axis=1)
    np.add.at(counts, (top, y[rows, None]), added)
    return counts


def frequency_weights(counts: np.ndarray, tie_break: np.ndarray | None = None) -> np.ndarray:
    """Give each class a label of its own, by taking pairs in the order of their counts.

    Parameters
    ----------
    counts : ndarray of shape (n_labels, n_classes)
        Counts from `label_counts`.
    tie_break : ndarray of shape (n_labels, n_classes) or None, default=None
        Among pairs with equal counts, the one with the higher value here comes first.

    Returns
    -------
    weights : ndarray of shape (n_labels, n_classes)
        Each column contains a single 1.

    Raises
    ------
    ValueError
        If there are fewer labels than classes.
    """
    n_labels, n_classes = counts.shape
    if n_labels < n_classes:
        raise ValueError(
            f"mapping='frequency' gives each of {n_classes} classes a label of its own, but there are only "
            f"{n_labels} labels; use mapping='blm+'."
        )
    second = np.zeros_like(counts) if tie_break is None else tie_break
    order = np.lexsort((-second.ravel(), -counts.ravel()))
    weights = np.zeros_like(counts)
    free_labels, free_classes = np.ones(n_labels, bool), np.ones(n_classes, bool)
    for label, target in zip(*np.unravel_index(order, counts.shape)):
        if free_labels[label] and free_classes[target]:
            weights[label, target] = 1
            free_labels[label] = free_classes[target] = False
    return weights


def bayesian_weights(counts: np.ndarray, smoothing: float = 1.0) -> np.ndarray:
    """Return the weights of BLM or BLM+, (B23).

    Parameters
    ----------
    counts : ndarray of shape (n_labels, n_classes)
        Counts from `label_counts`: of first labels for BLM, of the probabilities of top labels for BLM+.
    smoothing : float, default=1.0
        Images added to the count of each label, so that labels that were seen often count more.

    Returns
    -------
    weights : ndarray of shape (n_labels, n_classes)
        Columns sum to 1. A class without any count has equal weights for all labels.
    """
    totals = counts.sum(axis=1, keepdims=True) + smoothing
    # (B23)
    conditional = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    sums = conditional.sum(axis=0)
    return np.where(sums > 0, conditional / np.where(sums > 0, sums, 1), 1 / len(counts))


class LabelMapping(Saveable, BaseEstimator):
    """A learned label mapping, as `LabelMappedScorer.fit_labels` returns it.

    Parameters
    ----------
    labels : list of str
        The service's m labels.
    class_prompts : list of str
        The class prompts of the k classes.
    weights : ndarray of shape (m, k)
        Columns sum to 1.
    score_format : ScoreFormat, default=ScoreFormat("logits")
        Format of the service's scores. `LabelMappedScorer` uses it when it maps scores itself.
    """

    saved_parameters = {
        "labels": ListOf(text()),
        "class_prompts": ListOf(text()),
        "weights": Array(("n_labels", "n_mapped"), low=0, high=1 + 1e-9),
        "score_format": Object(ScoreFormat),
    }

    def _finish_loading(self) -> None:
        shape, expected = self.weights.shape, (len(self.labels), len(self.class_prompts))
        expect(shape == expected, f"a label mapping has weights of shape {shape}; expected {expected}")

    def __init__(
        self,
        labels: Sequence[str],
        class_prompts: Sequence[str],
        weights: np.ndarray,
        score_format: ScoreFormat = _LOGITS,
    ):
        self.labels = labels
        self.class_prompts = class_prompts
        self.weights = weights
        self.score_format = score_format

    def log_scores(self, log_scores: np.ndarray) -> np.ndarray:
        """Return the log scores of the classes.

        Parameters
        ----------
        log_scores : ndarray of shape (n_images, n_labels)
            Log scores of the labels; their softmax is the service's belief.

        Returns
        -------
        log_scores : ndarray of shape (n_images, n_classes)
            Logarithms of probabilities that sum to 1, apart from a floor of 1e-6.
        """
        # (B22): (n, m) @ (m, k)
        probabilities = softmax(log_scores, axis=1) @ self.weights
        total = probabilities.sum(axis=1, keepdims=True)
        shares = np.divide(probabilities, total, out=np.full_like(probabilities, 1.0), where=total > 0)
        return np.log(np.maximum(shares, _FLOOR))

    def top_labels(self, n_labels: int = 3) -> dict[str, dict[str, float]]:
        """Return the labels with the largest weights for each class prompt.

        Parameters
        ----------
        n_labels : int, default=3
            Maximal number of labels for each class.

        Returns
        -------
        labels : dict of str to dict
            Labels of each class prompt and their weights, largest first.
        """
        order = np.argsort(-self.weights, axis=0, kind="stable")[:n_labels]
        return {
            prompt: {self.labels[s]: float(self.weights[s, t]) for s in order[:, t] if self.weights[s, t] > 0}
            for t, prompt in enumerate(self.class_prompts)
        }
