"""Controls: what a user has before any prompt is trained, at one billed image per training image or none."""

from __future__ import annotations

import numpy as np

from .heads import CalibratedHead, JudgedHead, ServiceHead, judge

__all__ = ["fit_controls"]


def fit_controls(
    plain_log_scores: np.ndarray, features: np.ndarray, y: np.ndarray, weights: np.ndarray
) -> dict[str, JudgedHead]:
    """Zero-shot, calibrated zero-shot and local probe.

    Parameters
    ----------
    plain_log_scores : ndarray of shape (n_images, n_classes)
        Of the training images as they are.
    features : ndarray of shape (n_images, n_features)
        Of a frozen encoder, of root mean square 1.
    y : ndarray of shape (n_images,)
        Class indices.
    weights : ndarray of shape (n_images,)
    """
    n_classes = plain_log_scores.shape[1]
    controls = {"zero_shot": judge(ServiceHead(), plain_log_scores, y, weights, n_classes)}
    if len(np.unique(y)) > 1:  # so far: more classes may come with `partial_fit`
        controls["calibrated_zero_shot"] = judge(CalibratedHead(), plain_log_scores, y, weights, n_classes)
        controls["local_probe"] = judge(CalibratedHead(standardize=False), features, y, weights, n_classes)
    return controls
