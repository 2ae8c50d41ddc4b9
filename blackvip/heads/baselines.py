"""Controls: what a user has before any prompt is trained, at one billed image per training image or none."""

from __future__ import annotations

import numpy as np

from .base import CalibratedHead, ServiceHead
from .fused import FusedHead, Probes
from .judging import HeadResult, head_inputs, judge

__all__ = ["fit_baselines"]


def fit_baselines(
    plain: np.ndarray,
    features: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    block_sizes: tuple[int, ...],
    probes: Probes | None = None,
) -> dict[str, HeadResult]:
    """Zero-shot, calibrated zero-shot, local probe, and the fusion of both.

    Parameters
    ----------
    plain : ndarray of shape (n_images, n_classes)
        Log scores of the training images as they are.
    features : ndarray of shape (n_images, n_features)
        Of the local encoder.
    y : ndarray of shape (n_images,)
        Class indices.
    weights : ndarray of shape (n_images,)
    block_sizes : tuple of int
        How many features each of the local encoder's blocks has.
    probes : Probes or None
        Of the features, where they are known already.
    """
    n_classes = plain.shape[1]
    heads = {"zero_shot": ServiceHead()}
    counts = np.bincount(y)
    if np.count_nonzero(counts) > 1:  # so far: more classes may come with `partial_fit`
        heads["calibrated_zero_shot"] = CalibratedHead()
        if counts[counts > 0].min() > 1:
            heads["local_probe"] = FusedHead(n_scores=0, block_sizes=block_sizes)
            heads["fused_zero_shot"] = FusedHead(n_scores=n_classes, block_sizes=block_sizes)
    return {
        name: judge(head, head_inputs(head, plain, features), y, weights, n_classes, probes=probes)
        for name, head in heads.items()
    }
