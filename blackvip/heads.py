"""Heads: from the service's log scores to class probabilities.

A calibrated head costs almost no images, since it is trained on scores that are already paid for, and is
often worth more than the prompt (see docs/method.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

__all__ = ["CalibratedHead", "Head", "JudgedHead", "ServiceHead", "choose_head", "judge", "log_loss"]


class Head(BaseEstimator, ABC):
    """What an estimator needs of a head."""

    @abstractmethod
    def fit(self, log_scores: np.ndarray, y: np.ndarray) -> Head:
        """Learn from log scores (n_images, n_classes) and class indices (n_images,)."""

    @abstractmethod
    def predict_log_proba(self, log_scores: np.ndarray) -> np.ndarray:
        """Log probabilities of shape (n_images, n_classes)."""

    @abstractmethod
    def fit_held_out(self, log_scores: np.ndarray, y: np.ndarray) -> np.ndarray:
        """`fit`, and log probabilities of the training images, each from a head that has not seen it."""


class ServiceHead(Head):
    """No head: the softmax of the service's scores, as in the paper."""

    def fit(self, log_scores, y):
        return self

    def predict_log_proba(self, log_scores):
        return log_softmax(log_scores, axis=1)

    def fit_held_out(self, log_scores, y):
        return self.predict_log_proba(log_scores)


class CalibratedHead(Head):
    """Multinomial logistic regression, its strength chosen by cross-validation.

    Parameters
    ----------
    Cs : tuple of float
        Inverse regularisation strengths to choose from, by the cross-validated log loss.
    n_folds : int
        Folds, at most; a class with fewer images allows fewer. With a class of one image, the middle one of
        `Cs` is taken without a choice.
    standardize : bool
        Whether to scale each input to mean 0 and variance 1 first.

    Attributes
    ----------
    C_ : float
        The chosen strength.
    """

    def __init__(self, Cs=(0.1, 0.3, 1.0, 3.0), n_folds=5, standardize=True):
        self.Cs = Cs
        self.n_folds = n_folds
        self.standardize = standardize

    def fit(self, log_scores, y):
        self.fit_held_out(log_scores, y)
        return self

    def fit_held_out(self, log_scores, y):
        self.C_, held_out = self._chosen(log_scores, y)
        self.model_ = self._model(self.C_).fit(log_scores, y)
        return held_out

    def predict_log_proba(self, log_scores):
        return self.model_.predict_log_proba(log_scores)

    def _model(self, C):
        scaler = StandardScaler() if self.standardize else "passthrough"
        return make_pipeline(scaler, LogisticRegression(C=C, max_iter=1000))

    def _chosen(self, log_scores, y):
        """The best strength and its held-out log probabilities."""
        n_folds = min(self.n_folds, np.bincount(y).min())
        if n_folds < 2:
            C = self.Cs[len(self.Cs) // 2]
            return C, self._model(C).fit(log_scores, y).predict_log_proba(log_scores)
        folds = StratifiedKFold(n_folds, shuffle=True, random_state=0)
        tried = {
            C: cross_val_predict(self._model(C), log_scores, y, cv=folds, method="predict_log_proba") for C in self.Cs
        }
        best = min(tried, key=lambda C: log_loss(tried[C], y).mean())
        return best, tried[best]


@dataclass(repr=False)
class JudgedHead:
    """A fitted head, and how it does on training images that it has not seen.

    Attributes
    ----------
    head : Head
        Fitted to all training images.
    held_out : ndarray of shape (n_images, n_classes)
        Log probabilities of the training images, each from a head that has not seen it.
    hits : ndarray of shape (n_images,), bool
        Which of them are right.
    losses : ndarray of shape (n_images,)
        Negative log probability of the true class, in nats.
    """

    head: Head
    held_out: np.ndarray
    hits: np.ndarray
    losses: np.ndarray

    def __repr__(self):
        return f"JudgedHead({self.head}, accuracy={self.accuracy:.3f}, log_loss={self.log_loss:.3f})"

    @property
    def accuracy(self) -> float:
        return float(self.hits.mean())

    @property
    def log_loss(self) -> float:
        return float(self.losses.mean())


def judge(head: Head, inputs: np.ndarray, y: np.ndarray) -> JudgedHead:
    """Fit a head to inputs (n_images, n_inputs) and class indices (n_images,), and judge it on held-out folds."""
    held_out = head.fit_held_out(inputs, y)
    return JudgedHead(head, held_out, held_out.argmax(axis=1) == y, log_loss(held_out, y))


def log_loss(log_proba: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Negative log probability of the true class, image by image, in nats."""
    return -log_proba[np.arange(len(y)), y]


def choose_head(head, log_scores: np.ndarray, y: np.ndarray, held_out: np.ndarray) -> JudgedHead:
    """The head that `head` asks for.

    Parameters
    ----------
    head : {"auto", "calibrated"}, None or Head
        None: `ServiceHead`. "auto": a calibrated head, unless each class does not have two images, or its
        cross-validated log loss is higher than the service's own by more than two standard errors and it gets
        fewer images right.
    log_scores : ndarray of shape (n_images, n_classes)
    y : ndarray of shape (n_images,)
        Class indices, each class at least once.
    held_out : ndarray of int
        Images on which "auto" compares, since a prompt flatters the service on the images that it was trained
        on; where there are none, all are used.
    """
    if isinstance(head, Head):
        return judge(clone(head), log_scores, y)
    if head not in ("auto", "calibrated", None):
        raise ValueError(f"head={head!r}; expected 'auto', 'calibrated', None or a Head.")
    service = judge(ServiceHead(), log_scores, y)
    if head is None or (head == "auto" and np.bincount(y).min() < 2):
        return service
    calibrated = judge(CalibratedHead(), log_scores, y)
    rows = held_out if len(held_out) > 1 else np.arange(len(y))
    excess = (calibrated.losses - service.losses)[rows]
    worse = excess.mean() > 2 * excess.std() / np.sqrt(len(rows))
    fewer = calibrated.hits[rows].sum() < service.hits[rows].sum()
    return service if head == "auto" and worse and fewer else calibrated
