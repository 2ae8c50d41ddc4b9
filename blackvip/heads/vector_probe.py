"""Vector probe: a linear classifier on the vectors with which a service describes images, learned from labelled ones.

A service's vector says more about an image than its similarity to a few class prompts. The probe is an expert of the
fused head.
"""

from __future__ import annotations

import numpy as np

from .experts import LinearExpert
from .folds import stratified_folds
from .regression import Regressions
from .stack import Examples, lowest_loss

__all__ = ["fit_vector_probe"]

# Ridge penalties of the weights, for vectors of length 1 on average.
_STRENGTHS = (1 / 300, 1 / 100, 1 / 30, 1 / 10, 1 / 3)
_ROUGH = 1e-7  # relative tolerance of the loss; folds differ by far more


def fit_vector_probe(examples: Examples, vectors: np.ndarray, n_folds: int) -> tuple[LinearExpert, np.ndarray]:
    """Fit a probe on vectors, with the ridge penalty that has the lowest cross-validated log loss (B30).

    Parameters
    ----------
    examples : Examples
        The images of the rows, their classes and weights.
    vectors : ndarray of shape (n_rows, vector_size)
        A vector for each row, since an image has another one with each prompt.
    n_folds : int
        Number of folds, over the images.

    Returns
    -------
    probe : LinearExpert
        Fitted to all rows.
    held_out : ndarray of shape (n_rows, n_classes)
        Log probabilities of each row, from a probe that was not fitted to its image.
    """
    index, rows, shares = examples.index, examples.rows, examples.shares
    mean = np.average(vectors, axis=0, weights=shares)
    scale = float(np.sqrt(np.average(np.square(vectors - mean).sum(axis=1), weights=shares))) or 1.0
    z = (vectors - mean) / scale
    tests = [np.isin(rows, test) for _, test in stratified_folds(index, n_folds)]
    # The first one is fitted to all rows, once the strength is known.
    weights = np.stack([shares, *(np.where(test, 0, shares) for test in tests)])
    n_classes = int(index.max()) + 1
    regressions = Regressions(z.T[None], index[rows], weights, n_classes)
    found: dict[float, np.ndarray] = {}

    def experts(strength: float, which: slice) -> list[LinearExpert]:
        regressions.fit(strength, _ROUGH, which)
        # (n_fits, n_classes, vector_size)
        coef = regressions.coef / scale
        return list(map(LinearExpert, coef, regressions.intercept - coef @ mean))[which]

    def held_out(strength: float) -> np.ndarray:
        log_proba = np.empty((len(rows), n_classes))
        for test, expert in zip(tests, experts(strength, slice(1, None))):
            log_proba[test] = expert.log_proba(vectors[test])
        found[strength] = log_proba
        return log_proba[: len(index)]

    strength, _ = lowest_loss(_STRENGTHS, held_out, index, examples.weights)
    [probe] = experts(strength, slice(1))
    return probe, found[strength]
