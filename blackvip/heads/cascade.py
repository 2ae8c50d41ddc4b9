"""Cascades: cheap answers for images with a high confidence, and expensive answers for the rest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .judging import HeadResult

__all__ = ["CostPoint", "confidence", "cost_curve", "cost_of", "fit_threshold"]

_TOLERANCE = 0.0025  # of accuracy that a cascade may lose, by its own estimate
_N_POINTS = 11  # of the curve between two stages


class CostPoint(NamedTuple):
    """A point of a cost curve, cross-validated on the training images.

    Attributes
    ----------
    images_per_prediction : float
        Mean number of images that are sent for a prediction.
    accuracy : float
        Weighted share of the images that are classified correctly.
    log_loss : float
        Weighted mean of the negative log probability of the true class, in nats.
    """

    images_per_prediction: float
    accuracy: float
    log_loss: float


def confidence(log_proba: np.ndarray) -> np.ndarray:
    """Return the probability (n_images,) of the most probable class."""
    return np.exp(log_proba.max(axis=1))


def fit_threshold(cheap: HeadResult, dear: HeadResult) -> float:
    """Choose the confidence above which a cheap answer replaces an expensive one.

    Parameters
    ----------
    cheap, dear : HeadResult
        Results of the same training images, cross-validated.

    Returns
    -------
    threshold : float
        1: no answer is confident enough. 0: all are, so the expensive ones are not better.

    Notes
    -----
    The mistakes that the expensive answers would repair are spread over the images in proportion to 1 - p, where p is
    the cheap answer's confidence (B28). Their number is the mean of what is counted and of what the difference of the
    confidences promises: each alone is noisy with few images. As many images as possible are answered cheaply, the most
    confident first, as long as these mistakes among them are at most 0.25 % of all images. Counting the mistakes above
    each threshold would be noisier, and choosing the largest share among such counts too optimistic.
    """
    weights, n = cheap.weights, len(cheap.hits)
    sure = confidence(cheap.held_out)
    gains = dear.hits.astype(float) - cheap.hits, confidence(dear.held_out) - sure
    total = float(np.mean([weights @ gain for gain in gains]))
    if total <= 0:
        return 0.0
    doubt = weights * (1 - sure)
    allowed = _TOLERANCE * weights.sum()
    order = np.argsort(-sure, kind="stable")
    # (B28)
    lost = total * doubt[order].cumsum() / max(doubt.sum(), np.finfo(float).tiny)
    n_cheap = int(np.searchsorted(lost, allowed, side="right"))
    if n_cheap == n:
        return 0.0
    # Halfway between two images, so that rounding errors change no decision.
    return float((sure[order[n_cheap - 1]] + sure[order[n_cheap]]) / 2) if n_cheap else 1.0


def cost_of(result: HeadResult, sent: np.ndarray) -> CostPoint:
    """Return the cost point of a result (n_images, n_classes) for which `sent` (n_images,) images were sent."""
    averages = (np.average(values, weights=result.weights) for values in (sent, result.hits, result.losses))
    return CostPoint(*map(float, averages))


def cost_curve(cheap: HeadResult, dear: HeadResult, images: tuple[float, float], y: np.ndarray) -> list[CostPoint]:
    """Compute accuracy and log loss as expensive answers replace cheap ones, the least confident first.

    Parameters
    ----------
    cheap, dear : HeadResult
        Results of the same training images, cross-validated.
    images : (float, float)
        Images that are sent for a cheap and for an expensive answer.
    y : ndarray of shape (n_images,)
        Class indices.

    Returns
    -------
    curve : list of CostPoint
        Points from all cheap answers to all expensive ones.
    """
    rank = np.argsort(np.argsort(confidence(cheap.held_out), kind="stable"))
    points = []
    for n_dear in np.linspace(0, len(rank), _N_POINTS).round().astype(int):
        is_dear = rank < n_dear
        log_proba = np.where(is_dear[:, None], dear.held_out, cheap.held_out)
        mixed = HeadResult.of(dear.head, log_proba, y, dear.weights)
        points.append(cost_of(mixed, np.where(is_dear, images[1], images[0])))
    return points
