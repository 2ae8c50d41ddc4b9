"""Stages: how a prediction is made, from the local head, from one view of the image or from two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..persistence.arrays import Array
from ..persistence.fields import NONE, OneOf, integer, number
from ..persistence.format import expect
from ..persistence.objects import Object
from ..persistence.saveable import Saveable
from .base import Head
from .cascade import confidence, cost_curve, cost_of, fit_threshold
from .judging import HeadResult
from .views import mix_views, mixed_log_proba

__all__ = ["Stages", "choose_stages"]


@dataclass
class Stages(Saveable):
    """The stages of a prediction; an image that a stage is sure of does not reach the next one.

    The first stage is a local head, which calls no service. The second is the estimator's own head, on the image with
    the prompt if it is used. The third sends the image without a prompt too, and mixes both.

    Attributes
    ----------
    local : Head or None
        The local head; None: there is no first stage.
    local_threshold : float
        Confidence above which its answer is final.
    second : Head or None
        The head on images without prompts; None: there is no third stage.
    second_threshold : float
        Confidence of the second stage above which its answer is final.
    view_weights : ndarray of shape (2,)
        Weights of the two views.
    curve : ndarray of shape (n_points, 3)
        Images per prediction, accuracy and log loss, cross-validated.
    used : int
        The point of the curve at these thresholds.
    """

    local: Head | None
    local_threshold: float
    second: Head | None
    second_threshold: float
    view_weights: np.ndarray
    curve: np.ndarray
    used: int

    saved_parameters = {
        "local": OneOf(NONE, Object(Head)),
        "local_threshold": number(0, 1),
        "second": OneOf(NONE, Object(Head)),
        "second_threshold": number(0, 1),
        "view_weights": Array((2,), low=0),
        "curve": Array(("n_points", 3), low=0),
        "used": integer(0),
    }

    @classmethod
    def one(cls) -> Stages:
        """Make the stages of a prediction that sends each image once."""
        return cls(None, 1.0, None, 1.0, np.array([1.0, 0.0]), np.array([[1.0, 0.0, 0.0]]), 0)

    def _finish_loading(self) -> None:
        super()._finish_loading()
        expect(self.used < len(self.curve), "used is no point of the curve")

    @property
    def heads(self) -> dict[str, Head]:
        """The heads of these stages by name, besides the estimator's own."""
        named = {"local": self.local, "second": self.second}
        return {name: head for name, head in named.items() if head is not None}

    @property
    def most_images(self) -> int:
        """The most images that a prediction sends."""
        return 2 if self.second is not None else 1

    @property
    def state(self) -> list[Any]:
        """Values that distinguish these stages from others of the same estimator; empty with only its own head."""
        if not self.heads:
            return []
        heads = [None if head is None else type(head).__name__ for head in (self.local, self.second)]
        return [*heads, self.local_threshold, self.second_threshold, self.view_weights]

    def log_proba(
        self,
        n_images: int,
        locally: Callable[[Head], np.ndarray],
        first: Callable[[np.ndarray], np.ndarray],
        second: Callable[[Head, np.ndarray], np.ndarray],
    ) -> np.ndarray:
        """Predict images stage by stage.

        Parameters
        ----------
        n_images : int
            Number of images.
        locally : callable
            ``locally(head)`` returns log probabilities (n_images, n_classes) of all images.
        first : callable
            ``first(rows)`` returns those of some images (len(rows), n_classes), and bills an image each.
        second : callable
            ``second(head, rows)`` likewise, for the second view.

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes)
            Log probabilities of the images.
        """
        rows = np.arange(n_images)
        if self.local is None:
            log_proba = first(rows)
        else:
            log_proba = locally(self.local)
            rows = np.flatnonzero(confidence(log_proba) <= self.local_threshold)
            if len(rows):
                log_proba[rows] = first(rows)
        if self.second is not None:
            rows = rows[confidence(log_proba[rows]) <= self.second_threshold]
        if self.second is not None and len(rows):
            log_proba[rows] = mixed_log_proba(self.view_weights, [log_proba[rows], second(self.second, rows)])
        return log_proba


def choose_stages(
    first: HeadResult, local: HeadResult | None, second: HeadResult | None, y: np.ndarray, cascade: bool
) -> Stages:
    """Choose the stages of predictions by cross-validation on the training images.

    Parameters
    ----------
    first : HeadResult
        Result of the estimator's own head.
    local : HeadResult or None
        Result of a local head. It is used if `cascade` is true, and part of the cost curve in any case.
    second : HeadResult or None
        Result of the second view. It is used if the mixture is right more often and its log loss clearly lower.
    y : ndarray of shape (n_images,)
        Class indices.
    cascade : bool
        Whether an image that a stage is sure of ends there.
    """
    weights, last, curve = np.array([1.0, 0.0]), first, [cost_of(first, np.ones(len(y)))]
    local_threshold = second_threshold = 1.0
    if local is not None:
        curve = cost_curve(local, first, (0, 1), y)
    uses_second = False
    if second is not None:
        weights, mixed = mix_views([first, second], y)
        curve += cost_curve(first, mixed, (1, 2), y)[1:]
        # Twice the price: the mixture must be clearly better than the first view alone with a weight of its own, and
        # surer answers are not enough.
        _, alone = mix_views([first], y)
        gain = alone.losses - mixed.losses
        is_clear = np.average(gain, weights=first.weights) > gain.std() / np.sqrt(len(gain))
        uses_second = bool(is_clear and mixed.accuracy > first.accuracy)
        last = mixed if uses_second else first
    if cascade and uses_second:
        second_threshold = fit_threshold(first, last)
    if cascade and local is not None:
        local_threshold = fit_threshold(local, last)

    # The point at these thresholds.
    is_local = np.zeros(len(y), bool)
    if cascade and local is not None:
        is_local = confidence(local.held_out) > local_threshold
    is_last = ~is_local & uses_second & (confidence(first.held_out) <= second_threshold)
    log_proba = np.where(is_last[:, None], last.held_out, first.held_out)
    if local is not None:
        log_proba = np.where(is_local[:, None], local.held_out, log_proba)
    here = cost_of(HeadResult.of(first.head, log_proba, y, first.weights), 1.0 + is_last - is_local)
    if here not in curve:
        curve = sorted([*curve, here])
    return Stages(
        local.head if cascade and local is not None else None,
        local_threshold,
        second.head if second is not None and uses_second else None,
        second_threshold,
        weights,
        np.array(curve),
        curve.index(here),
    )
