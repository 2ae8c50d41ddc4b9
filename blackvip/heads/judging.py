"""Judging heads: how each does on training images that it has not seen, and which of them is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold
from sklearn.utils.validation import has_fit_parameter

from .base import CalibratedHead, ServiceHead, _LogProbaClassifier, log_loss
from .fused import FusedHead, Probes

__all__ = ["HeadResult", "choose_head", "head_inputs", "judge", "log_proba_of"]

LastAnswers = tuple[np.ndarray, np.ndarray]  #: Rows of images, and log scores that they had with other prompts.

_FLOOR = 1e-12  # of a classifier's probabilities, before their logarithm is taken


def head_inputs(head: Any, log_scores: np.ndarray, features: np.ndarray | None) -> np.ndarray:
    """What a head takes of log scores (n_images, n_classes) and local features (n_images, n_features)."""
    if not isinstance(head, FusedHead):
        return log_scores
    assert features is not None
    return np.hstack([log_scores, features]) if head.n_scores else features


def log_proba_of(head: Any, inputs: np.ndarray, n_classes: int) -> np.ndarray:
    """Log probabilities (n_images, n_classes) of a classifier of class indices, which need not have seen them all."""
    if isinstance(head, _LogProbaClassifier):
        known = head.predict_log_proba(inputs)
    else:
        known = np.log(np.maximum(head.predict_proba(inputs), _FLOOR))
    return _of_all_classes(known, head, n_classes)


def _of_all_classes(known: np.ndarray, head: Any, n_classes: int) -> np.ndarray:
    """Log probabilities of the classes that a head knows, with the least one for those that it has not seen."""
    log_proba = np.full((len(known), n_classes), np.log(_FLOOR))
    log_proba[:, head.classes_] = known
    return log_proba


@dataclass(repr=False)
class HeadResult:
    """A fitted head, and how it does on training images that it has not seen.

    Attributes
    ----------
    head : classifier
        Fitted to all training images.
    held_out : ndarray of shape (n_images, n_classes)
        Log probabilities of the training images, each from a head that has not seen it.
    hits : ndarray of shape (n_images,), bool
        Which of them are right.
    losses : ndarray of shape (n_images,)
        Negative log probability of the true class, in nats.
    weights : ndarray of shape (n_images,)
        Of the images, in `accuracy` and `log_loss`.
    """

    head: Any
    held_out: np.ndarray
    hits: np.ndarray
    losses: np.ndarray
    weights: np.ndarray

    def __repr__(self) -> str:
        return f"HeadResult({self.head}, accuracy={self.accuracy:.3f}, log_loss={self.log_loss:.3f})"

    @property
    def accuracy(self) -> float:
        """Share of the images that are right."""
        return float(np.average(self.hits, weights=self.weights))

    @property
    def log_loss(self) -> float:
        """Mean of `losses`."""
        return float(np.average(self.losses, weights=self.weights))


def judge(
    head: Any,
    inputs: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    n_classes: int,
    last_answers: LastAnswers | None = None,
    probes: Probes | None = None,
) -> HeadResult:
    """Fit a head to inputs (n_images, n_inputs) and class indices (n_images,), and judge it on held-out folds.

    A fused head is also trained on `last_answers`, more answers to the same images, and may be given its `probes`, see
    `FusedHead.fit_held_out`.
    """
    if isinstance(head, ServiceHead):
        held_out = log_proba_of(head.fit(inputs, y), inputs, n_classes)
    elif isinstance(head, FusedHead):
        last_answers = last_answers if head.n_scores else None  # a probe of features takes no answers
        held_out = _of_all_classes(head.fit_held_out(inputs, y, weights, last_answers, probes), head, n_classes)
    elif isinstance(head, CalibratedHead):
        held_out = _of_all_classes(head.fit_held_out(inputs, y, weights), head, n_classes)
    else:
        held_out = _fit_classifier(head, inputs, y, weights, n_classes)
    return HeadResult(head, held_out, held_out.argmax(axis=1) == y, log_loss(held_out, y), weights)


def _fit_classifier(head: Any, inputs: np.ndarray, y: np.ndarray, weights: np.ndarray, n_classes: int) -> np.ndarray:
    """Fit any classifier, and return log probabilities of the images, each from a twin that has not seen it."""
    weighted = has_fit_parameter(head, "sample_weight")
    if not weighted and np.ptp(weights):
        raise ValueError(
            f"The head {head} takes no sample_weight, but the images have different weights. Leave sample_weight and "
            "class_weight out, or take another head."
        )

    def fitted(model: Any, rows: Any) -> Any:
        return model.fit(inputs[rows], y[rows], **({"sample_weight": weights[rows]} if weighted else {}))

    fitted(head, slice(None))
    n_folds = min(5, np.unique(y, return_counts=True)[1].min())
    if n_folds < 2:
        return log_proba_of(head, inputs, n_classes)
    held_out = np.empty((len(y), n_classes))
    for train, test in StratifiedKFold(n_folds, shuffle=True, random_state=0).split(inputs, y):
        held_out[test] = log_proba_of(fitted(clone(head), train), inputs[test], n_classes)
    return held_out


def choose_head(
    head: Any,
    log_scores: np.ndarray,
    features: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    held_out: np.ndarray,
    block_sizes: tuple[int, ...],
    judged: Mapping[str, HeadResult] | None = None,
    last_answers: LastAnswers | None = None,
    probes: Probes | None = None,
) -> HeadResult:
    """The head that `head` asks for.

    Parameters
    ----------
    head : {"auto", "fused", "calibrated"}, None or classifier
        None: `ServiceHead`. "auto": a fused head; a calibrated one where by cross-validation the fused one gets fewer
        images right and has a log loss that is higher by more than a standard error; and the service's own where that
        one gets fewer right and has a higher log loss, or a class has less than two images. A `FusedHead`: "fused",
        with its parameters; its layout is set here.
    log_scores : ndarray of shape (n_images, n_classes)
    features : ndarray of shape (n_images, n_features)
        Of the local encoder.
    y : ndarray of shape (n_images,)
        Class indices.
    weights : ndarray of shape (n_images,)
    held_out : ndarray of int
        Images on which "auto" compares with the service, since a prompt flatters it on the images that it was trained
        on; where there are none, all are used.
    block_sizes : tuple of int
        How many features each of the local encoder's blocks has.
    judged : mapping or None
        Heads on these scores that are known already: "service", "calibrated", "fused".
    last_answers : (ndarray of shape (n,), ndarray of shape (n, n_classes)) or None
        Rows, and log scores of these images with other prompts, to which a fused head is fitted too.
    probes : Probes or None
        Those of a fused head with default parameters, where they are known already.
    """
    n_classes = log_scores.shape[1]
    known = dict(judged or {})

    def judged_head(kind: str, new: Any) -> HeadResult:
        if kind not in known:
            known[kind] = judge(
                new, head_inputs(new, log_scores, features), y, weights, n_classes, last_answers, probes
            )
        return known[kind]

    fused_head = FusedHead(n_scores=n_classes, block_sizes=block_sizes)
    if isinstance(head, FusedHead):  # one with parameters of its own
        n_scores = 0 if head.n_scores == 0 else n_classes
        fused_head = clone(head).set_params(n_scores=n_scores, block_sizes=block_sizes)
        head, probes = "fused", None
        known.pop("fused", None)
    if not (isinstance(head, str) or head is None):
        return judge(clone(head), log_scores, y, weights, n_classes)
    if head not in ("auto", "fused", "calibrated", None):
        raise ValueError(
            f"head={head!r}; expected 'auto', 'fused', 'calibrated', None or a classifier with predict_proba."
        )
    counts = np.bincount(y, minlength=n_classes)
    if head is None or (head == "auto" and counts.min() < 2) or np.count_nonzero(counts) < 2:
        return judged_head("service", ServiceHead())
    calibrated = judged_head("calibrated", CalibratedHead())
    if head == "calibrated" or counts[counts > 0].min() < 2:  # a fused head asks for two images of a class
        return calibrated
    fused = judged_head("fused", fused_head)
    if head == "fused":
        return fused
    every = np.arange(len(y))
    best = calibrated if _is_worse(fused, calibrated, every, margin=1.0) else fused
    rows = held_out if len(held_out) > 1 else every
    service = judged_head("service", ServiceHead())
    return service if _is_worse(best, service, rows) else best


def _is_worse(head: HeadResult, other: HeadResult, rows: np.ndarray, margin: float = 0.0) -> bool:
    """Whether a head gets fewer of these images right, and has a log loss higher by `margin` standard errors."""
    weights, excess = head.weights[rows], (head.losses - other.losses)[rows]
    standard_error = excess.std() / np.sqrt(len(rows))
    fewer = weights @ head.hits[rows] < weights @ other.hits[rows]
    return bool(fewer and np.average(excess, weights=weights) > margin * standard_error)
