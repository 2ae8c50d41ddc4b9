"""Folds: how labelled images are divided for cross-validation, the same way for all heads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedKFold

__all__ = ["Fold", "stratified_folds", "usual_folds", "weights_of_folds"]

#: Training and test rows.
Fold = tuple[np.ndarray, np.ndarray]

_MOST = 5


def stratified_folds(y: np.ndarray, n_folds: int) -> list[Fold]:
    """Divide images with labels y (n_images,) into folds with all classes in each."""
    return list(StratifiedKFold(n_folds, shuffle=True, random_state=0).split(y, y))


def usual_folds(y: np.ndarray) -> list[Fold]:
    """Divide images into five folds, or fewer if a class has fewer images; none if a class has a single one."""
    n_folds = min(_MOST, np.unique(y, return_counts=True)[1].min())
    return stratified_folds(y, n_folds) if n_folds > 1 else []


def weights_of_folds(weights: np.ndarray, folds: Sequence[Fold]) -> np.ndarray:
    """Weights (n_folds, n_images) of the training images of each fold; those of its test images are 0."""
    of_folds = np.zeros((len(folds), len(weights)))
    for of_fold, (train, _) in zip(of_folds, folds):
        of_fold[train] = weights[train]
    return of_folds
