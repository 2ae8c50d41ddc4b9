"""Trial of a classifier on made-up log scores, before any image is billed."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.special import log_softmax

from ..process.settings import global_generators_kept

__all__ = ["try_to_fit"]

_SHOWN_HEAD, _SHOWN_REASON = 100, 300  # characters

#: From log scores, labels and weights to probabilities (1, n_classes) of the first image.
Fitting = Callable[[np.ndarray, np.ndarray, np.ndarray], Any]


def try_to_fit(
    fit: Fitting,
    name: str,
    n_scores: int,
    y: np.ndarray,
    weights: np.ndarray,
    folds: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    """Fit a classifier to made-up log scores of all images, and of the smallest part that cross-validation fits it to.

    Its warnings are not shown. The random generators of the process do not change.

    Parameters
    ----------
    fit : callable
        ``fit(log_scores, y, weights)`` fits a copy, and returns its probabilities (1, n_classes) of the first image.
    name : str
        The classifier's name in the error.
    n_scores : int
        Number of log scores per image.
    y : ndarray of shape (n_images,)
        Class indices.
    weights : ndarray of shape (n_images,)
        Weights of the images.
    folds : list of (ndarray of int, ndarray of int)
        Training and test rows of cross-validation; may be empty.

    Raises
    ------
    ValueError
        If it cannot be fitted, or returns no probability for each class that it was fitted to.
    """
    every = np.arange(len(y))
    parts = [every]
    if folds:
        parts.append(min((train for train, _ in folds), key=lambda rows: (np.bincount(y[rows]).min(), len(rows))))
    for rows in parts:
        failure = _failure(fit, n_scores, y[rows], weights[rows])
        if failure is None:
            continue
        images = f"{len(y)} image{'s' * (len(y) > 1)} of {_classes(y)}"
        what = f"fitted to {images}"
        if rows is not every:
            what = f"cross-validated on {images}, which fits it to {len(rows)} of them"
        reason = textwrap.shorten(f"{type(failure).__name__}: {failure}".rstrip(". "), _SHOWN_REASON)
        raise ValueError(
            f"The head {textwrap.shorten(name, _SHOWN_HEAD)} cannot be {what}: {reason}. Use more images, or another "
            "head, such as head='auto'."
        ) from failure


def _classes(y: np.ndarray) -> str:
    counts = np.unique(y, return_counts=True)[1]
    return "1 class" if len(counts) == 1 else f"{len(counts)} classes, {counts.min()} of the smallest"


def _failure(fit: Fitting, n_scores: int, y: np.ndarray, weights: np.ndarray) -> Exception | None:
    """Return the error of a fit to made-up scores if it fails both on positive logits and on log probabilities."""
    first = None
    for log_scores in _made_up(n_scores, y):
        try:
            with warnings.catch_warnings(), global_generators_kept():
                warnings.simplefilter("ignore")
                proba = np.asarray(fit(log_scores, y, weights), dtype=float)
            expected = (1, len(np.unique(y)))
            if proba.shape != expected or not np.isfinite(proba).all():
                shown = proba if proba.shape == expected else f"an array of shape {proba.shape}"
                raise ValueError(f"predict_proba returned {shown} for one image; expected numbers of shape {expected}")
            return None
        except Exception as error:  # a classifier of the user's may raise anything
            first = first or error
    return first


def _made_up(n_scores: int, y: np.ndarray) -> Iterator[np.ndarray]:
    """Log scores (n_images, n_scores), highest for the true class of many images: positive ones, then negative ones."""
    log_scores = np.random.default_rng(0).normal(size=(len(y), n_scores))
    known = np.flatnonzero(y < n_scores)
    log_scores[known, y[known]] += 1
    yield log_scores - log_scores.min() + 1
    yield log_softmax(log_scores, axis=1)
