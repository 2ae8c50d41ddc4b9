"""Losses on log scores, and the temperature at which they are taken."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import log_softmax

__all__ = ["LOSSES", "Temperature", "cross_entropy", "fit_temperature", "focal"]

_WINDOW = 500  # number of recent scored images that the temperature is fitted to
_PRIOR = 1e-3  # penalty of the squared log temperature, in nats; keeps it finite if the service is always right
_NEWTON_STEPS = 4  # after each batch; few are enough, because one batch changes the temperature little
_CLOSE = 1e-6  # Newton's method stops after a smaller step of the log temperature


def cross_entropy(log_scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute the cross-entropy of each image's scores, after a softmax (eq. 2).

    Parameters
    ----------
    log_scores : ndarray of shape (..., n_images, n_classes)
        Logits or log probabilities.
    y : ndarray of shape (n_images,)
        Class indices.

    Returns
    -------
    losses : ndarray of shape (..., n_images)
        Losses in nats, at least 0.
    """
    log_proba = log_softmax(log_scores, axis=-1)
    index = np.broadcast_to(y[:, None], (*log_proba.shape[:-1], 1))
    return -np.take_along_axis(log_proba, index, axis=-1)[..., 0]


def focal(log_scores: np.ndarray, y: np.ndarray, gamma: float = 2.0) -> np.ndarray:
    """Compute the focal loss of each image's scores, after a softmax (Lin et al., ICCV 2017).

    The cross-entropy times (1 - p)^gamma, where p is the probability of the true class. Images that are classified
    correctly count for little. BAR uses it with gamma = 2 (Tsai et al., ICML 2020).

    Parameters
    ----------
    log_scores : ndarray of shape (..., n_images, n_classes)
        Logits or log probabilities.
    y : ndarray of shape (n_images,)
        Class indices.
    gamma : float, default=2.0
        Exponent, at least 0; 0 gives the cross-entropy.

    Returns
    -------
    losses : ndarray of shape (..., n_images)
        Losses in nats, at least 0.
    """
    losses = cross_entropy(log_scores, y)
    return (-np.expm1(-losses)) ** gamma * losses


#: The losses that `BlackVIPClassifier` can minimise, by name.
LOSSES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"cross-entropy": cross_entropy, "focal": focal}


def fit_temperature(
    log_scores: np.ndarray, y: np.ndarray, start: float = 1.0, n_steps: int = 50, weights: np.ndarray | None = None
) -> float:
    """Fit the temperature with the lowest cross-entropy of the scores (B5; Guo et al., ICML 2017).

    Parameters
    ----------
    log_scores : ndarray of shape (n_images, n_classes)
        Logits or log probabilities.
    y : ndarray of shape (n_images,)
        Class indices.
    start : float, default=1.0
        Initial temperature.
    n_steps : int, default=50
        Maximum number of steps of Newton's method on the log temperature.
    weights : ndarray of shape (n_images,) or None, default=None
        Weights of the images. None: all count alike.

    Returns
    -------
    temperature : float
        Positive; above 1 if the service is overconfident.
    """
    log_t = np.log(start)
    shares = np.full(len(y), 1 / len(y)) if weights is None else weights / np.sum(weights)
    # The true class scores 0.
    centred = log_scores - log_scores[np.arange(len(y)), y][:, None]
    highest = centred.max(axis=1, keepdims=True)
    for _ in range(n_steps):
        factor = np.exp(-log_t)
        scaled = centred * factor
        p = np.exp(scaled - highest * factor)
        p /= p.sum(axis=1, keepdims=True)
        p *= scaled
        of_images = p.sum(axis=1)
        mean = shares @ of_images
        variance = shares @ ((p * scaled).sum(axis=1) - of_images**2)
        # (B5): its derivative with respect to log_t.
        slope = -mean + 2 * _PRIOR * log_t
        # Positive everywhere, unlike the exact curvature.
        curvature = variance + abs(mean) + 2 * _PRIOR
        step = float(np.clip(slope / curvature, -1, 1))
        log_t -= step
        if abs(step) < _CLOSE:
            break
    return float(np.exp(log_t))


class Temperature:
    """Temperature of the training loss, fitted to the most recent scores.

    A service that does not fit the images is often confident and wrong. Its cross-entropy is then lowest for a prompt
    that washes everything out, and an optimizer finds that prompt. At the best temperature, such a prompt costs
    log(n_classes), and every prompt that helps the service costs less.

    Parameters
    ----------
    fixed : float or None
        A constant temperature; the paper uses 1. None: fit it.
    loss : {"cross-entropy", "focal"}, default="cross-entropy"
        The loss at this temperature. The temperature itself always minimises the cross-entropy.
    """

    def __init__(self, fixed: float | None = None, loss: str = "cross-entropy"):
        self.fixed = fixed
        self._loss = LOSSES[loss]
        self._value = 1.0 if fixed is None else fixed
        self._log_scores: list[np.ndarray] = []
        self._y: list[np.ndarray] = []
        self._is_current = True

    @property
    def value(self) -> float:
        """The temperature."""
        self.update()
        return self._value

    def update(self) -> None:
        """Fit the temperature to what was learned last, unless that is done: before it is needed, to save time then."""
        if not self._is_current:
            log_scores, y = np.concatenate(self._log_scores), np.concatenate(self._y)
            self._value = fit_temperature(log_scores, y, self._value, _NEWTON_STEPS)
            self._is_current = True

    def losses(self, log_scores: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Compute losses at the current temperature, and then learn from the scores.

        Parameters
        ----------
        log_scores : ndarray of shape (n_images, n_classes)
            Log scores of the images.
        y : ndarray of shape (n_images,)
            Class indices.

        Returns
        -------
        losses : ndarray of shape (n_images,)
            Losses of the images, at least 0.
        """
        losses = self._loss(log_scores / self.value, y)
        self.learn(log_scores, y)
        return losses

    def learn(self, log_scores: np.ndarray, y: np.ndarray) -> None:
        """Learn from the log scores (n_images, n_classes) of images of the classes y (n_images,), see `update`."""
        if self.fixed is not None or not len(y):
            return
        # Each fit starts from the one before.
        self.update()
        self._log_scores.append(log_scores)
        self._y.append(y)
        while len(self._y) > 1 and sum(map(len, self._y[1:])) >= _WINDOW:
            del self._log_scores[0], self._y[0]
        self._is_current = False

    def best_losses(self, log_scores: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Compute losses at the temperature that is best for these log scores alone, without an update.

        Parameters
        ----------
        log_scores : ndarray of shape (n_images, n_classes)
            Log scores of the images.
        y : ndarray of shape (n_images,)
            Class indices.

        Returns
        -------
        losses : ndarray of shape (n_images,)
            Losses of the images, at least 0.
        """
        value = self.value if self.fixed is not None else fit_temperature(log_scores, y, self.value)
        return self._loss(log_scores / value, y)
