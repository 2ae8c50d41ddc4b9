"""Losses on log scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import log_softmax

__all__ = ["LOSSES", "Temperature", "cross_entropy", "fit_temperature", "focal"]

_WINDOW = 500  # scored images to which a temperature is fitted
_PRIOR = 1e-3  # of the squared logarithm of a temperature, in nats: it bounds that of a service that is always right
_NEWTON_STEPS = 4  # after each batch: the temperature was nearly right before it
_CLOSE = 1e-6  # a step of the logarithm after which Newton's method ends


def cross_entropy(log_scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Cross-entropy of the softmax of the scores, image by image.

    Parameters
    ----------
    log_scores : ndarray of shape (..., n_images, n_classes)
        Logits or log probabilities.
    y : ndarray of shape (n_images,)
        Class indices.

    Returns
    -------
    losses : ndarray of shape (..., n_images), in nats
    """
    log_proba = log_softmax(log_scores, axis=-1)
    index = np.broadcast_to(y[:, None], (*log_proba.shape[:-1], 1))
    return -np.take_along_axis(log_proba, index, axis=-1)[..., 0]


def focal(log_scores: np.ndarray, y: np.ndarray, gamma: float = 2.0) -> np.ndarray:
    """Focal loss of the softmax of the scores, image by image (Lin et al., ICCV 2017, eq. 4).

    The cross-entropy times (1 - p)^gamma, p being the probability of the true class: images that are already right
    count for little. BAR's loss, with gamma = 2 (Tsai et al., ICML 2020).

    Parameters
    ----------
    log_scores : ndarray of shape (..., n_images, n_classes)
        Logits or log probabilities.
    y : ndarray of shape (n_images,)
        Class indices.
    gamma : float, default=2.0
        0 gives the cross-entropy.

    Returns
    -------
    losses : ndarray of shape (..., n_images), in nats
    """
    losses = cross_entropy(log_scores, y)
    return (-np.expm1(-losses)) ** gamma * losses


#: What `BlackVIPClassifier` can be told to lower.
LOSSES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"cross-entropy": cross_entropy, "focal": focal}


def fit_temperature(log_scores: np.ndarray, y: np.ndarray, start: float = 1.0, n_steps: int = 50) -> float:
    """The temperature at which the softmax of the scores has the lowest cross-entropy (Guo et al., ICML 2017).

    Parameters
    ----------
    log_scores : ndarray of shape (n_images, n_classes)
    y : ndarray of shape (n_images,)
        Class indices.
    start : float
        Where Newton's method starts.
    n_steps : int
        Of Newton's method on the logarithm, at most.

    Returns
    -------
    temperature : float
        Above 1 for a service that is too sure of itself.
    """
    log_t = np.log(start)
    centred = log_scores - log_scores[np.arange(len(y)), y][:, None]  # the true class scores 0
    for _ in range(n_steps):
        scaled = centred * np.exp(-log_t)
        p = np.exp(log_softmax(scaled, axis=1))
        mean = (p * scaled).sum(axis=1)
        variance = (p * scaled**2).sum(axis=1) - mean**2
        slope = -mean.mean() + 2 * _PRIOR * log_t
        curvature = variance.mean() + abs(mean.mean()) + 2 * _PRIOR  # positive everywhere, unlike the exact one
        step = float(np.clip(slope / curvature, -1, 1))
        log_t -= step
        if abs(step) < _CLOSE:
            break
    return float(np.exp(log_t))


class Temperature:
    """The service's temperature, fitted to the scores that training has paid for last.

    A service that reads a domain badly is often sure of wrong answers. Its cross-entropy is then lowest where a
    prompt washes everything out, and an optimizer goes there and stays. At its own best temperature a service that
    knows nothing costs log(n_classes), and every other prompt less.

    Parameters
    ----------
    fixed : float or None
        A temperature to keep, such as 1, the paper's. None: it is fitted.
    loss : {"cross-entropy", "focal"}, default="cross-entropy"
        What is taken at that temperature, which itself is always the one of the lowest cross-entropy.
    """

    def __init__(self, fixed: float | None = None, loss: str = "cross-entropy"):
        self.fixed = fixed
        self._loss = LOSSES[loss]
        self.value = 1.0 if fixed is None else fixed
        self._log_scores: list[np.ndarray] = []
        self._y: list[np.ndarray] = []

    def losses(self, log_scores: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Losses (n_images,) of log scores (n_images, n_classes) at the temperature so far; then learn them."""
        losses = self._loss(log_scores / self.value, y)
        self.learn(log_scores, y)
        return losses

    def learn(self, log_scores: np.ndarray, y: np.ndarray) -> None:
        """Fit the temperature to the last scores, these among them."""
        if self.fixed is not None or not len(y):
            return
        self._log_scores.append(log_scores)
        self._y.append(y)
        while len(self._y) > 1 and sum(map(len, self._y[1:])) >= _WINDOW:
            del self._log_scores[0], self._y[0]
        self.value = fit_temperature(
            np.concatenate(self._log_scores), np.concatenate(self._y), self.value, _NEWTON_STEPS
        )

    def best_losses(self, log_scores: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Losses (n_images,) at the temperature that suits just these scores; nothing is learned."""
        value = self.value if self.fixed is not None else fit_temperature(log_scores, y, self.value)
        return self._loss(log_scores / value, y)
