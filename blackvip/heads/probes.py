"""Probes: linear classifiers on local features, which are experts of the fused head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .calibrated import CalibratedHead
from .discriminant import fit_discriminant
from .experts import LEAST_LOG_PROBA, LinearExpert

__all__ = ["PROBE_C", "PROBE_FOLDS", "Probes", "fit_probes"]

#: Default inverse regularisation strength, and the most folds.
PROBE_C, PROBE_FOLDS = 30.0, 5


@dataclass
class Probes:
    """Multinomial logistic regressions, one on each block of features, and a linear discriminant of all of them.

    They fail on different images: the discriminant only needs means and one covariance.

    Attributes
    ----------
    coef : ndarray of shape (n_classes, n_features)
        Weights. Each block has its columns.
    intercept : ndarray of shape (n_blocks, n_classes)
    discriminant : LinearExpert or None
        None without features.
    held_out : ndarray of shape (n_experts, n_images, n_classes)
        Cross-validated log probabilities of the training images, at least -15: those of the regressions, and then of
        the discriminant.
    """

    coef: np.ndarray
    intercept: np.ndarray
    discriminant: LinearExpert | None
    held_out: np.ndarray


def fit_probes(
    blocks: Sequence[np.ndarray], index: np.ndarray, weights: np.ndarray, C: float = PROBE_C, n_folds: int = PROBE_FOLDS
) -> Probes:
    """Fit a probe to each block of features, and a discriminant to all.

    Parameters
    ----------
    blocks : sequence of ndarray of shape (n_images, n_features_of_block)
        Features.
    index : ndarray of shape (n_images,)
        Class indices.
    weights : ndarray of shape (n_images,)
        Weights of the images.
    C : float, default=30.0
        Inverse regularisation strength.
    n_folds : int, default=5
        Maximum number of folds.
    """
    probes, held_out = [], []
    for block in blocks:
        probe = CalibratedHead(Cs=(C,), n_folds=n_folds, standardize=False)
        held_out.append(np.maximum(probe.fit_held_out(block, index, weights), LEAST_LOG_PROBA))
        probes.append(probe)
    discriminant = None
    if probes:
        most = min(n_folds, np.bincount(index).min())
        discriminant, of_discriminant = fit_discriminant(np.hstack(blocks), index, weights, most)
        held_out.append(of_discriminant)
    n_classes = len(np.unique(index))
    return Probes(
        np.hstack([np.empty((n_classes, 0)), *(probe.coef_ for probe in probes)]),
        np.array([probe.intercept_ for probe in probes]).reshape(-1, n_classes),
        discriminant,
        np.array(held_out).reshape(-1, len(index), n_classes),
    )
