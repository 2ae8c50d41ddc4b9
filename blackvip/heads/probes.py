"""Probes: linear classifiers on local features, which are experts of the fused head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .calibrated import CalibratedHead
from .discriminant import fit_discriminant
from .experts import LEAST_LOG_PROBA, LinearExpert

__all__ = ["N_PROBES", "PROBE_C", "PROBE_FOLDS", "Probes", "fit_probes"]

N_PROBES = 2  #: Number of probes on each block.

#: Default inverse regularisation strength, and the most folds.
PROBE_C, PROBE_FOLDS = 30.0, 5


@dataclass
class Probes:
    """Two linear classifiers on each block of features: a multinomial logistic regression and a linear discriminant.

    They fail on different images: the discriminant only needs means and one covariance.

    Attributes
    ----------
    experts : list of LinearExpert
        The regression and the discriminant of the first block, those of the second one, and so on.
    held_out : ndarray of shape (2 * n_blocks, n_images, n_classes)
        Their cross-validated log probabilities of the training images, at least -15.
    """

    experts: list[LinearExpert]
    held_out: np.ndarray


def fit_probes(
    blocks: Sequence[np.ndarray], index: np.ndarray, weights: np.ndarray, C: float = PROBE_C, n_folds: int = PROBE_FOLDS
) -> Probes:
    """Fit a regression and a discriminant to each block of features.

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
    most = min(n_folds, np.bincount(index).min())
    experts, held_out = [], []
    for block in blocks:
        regression = CalibratedHead(Cs=(C,), n_folds=n_folds, standardize=False)
        held_out.append(np.maximum(regression.fit_held_out(block, index, weights), LEAST_LOG_PROBA))
        discriminant, of_discriminant = fit_discriminant(block, index, weights, most)
        held_out.append(of_discriminant)
        experts += [LinearExpert(regression.coef_, regression.intercept_), discriminant]
    return Probes(experts, np.array(held_out).reshape(-1, len(index), len(np.unique(index))))
