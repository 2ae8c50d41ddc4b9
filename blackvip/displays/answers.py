"""What the service answers to images as they are and with their prompts: each is sent once, and counted."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.special import softmax

from ..inputs.images import Images
from ..scorers.contract import check_scores
from ..scorers.scoring import Drawing

__all__ = ["Answers", "ask", "log_scores_of"]


class Answers(NamedTuple):
    """The service's answers to the same images.

    Attributes
    ----------
    plain, prompted : ndarray of shape (n_images, n_classes)
        Log scores of the images as they are, and with their prompts.
    n_queries : int
        Images that were billed.
    seconds : float
        Spent waiting for the service.
    """

    plain: np.ndarray
    prompted: np.ndarray
    n_queries: int
    seconds: float


def ask(estimator: Any, images: Images) -> Answers:
    """Send images as they are and with their prompts, all within one budget.

    Bills two images each, and one each where the classifier draws no prompt: both would be the same.
    """
    draws: list[Drawing | None] = [None]
    if estimator.prompt_used_:
        draws.append(estimator.coordinator_.draw)
    found, ledger = estimator._asked(images, draws)
    return Answers(found[0], found[-1], ledger.n_queries, ledger.seconds)


def log_scores_of(estimator: Any, scores: Any, n_images: int) -> np.ndarray:
    """Log scores (n_images, n_classes) of scores as the estimator's service gave them."""
    checked = check_scores(scores, n_images, estimator._asked_for, estimator.score_type_)
    log_scores = estimator._score_format.log_scores(checked)
    mapping = estimator.label_mapping_
    return log_scores if mapping is None else mapping.log_scores(log_scores)


def probabilities(log_scores: np.ndarray) -> np.ndarray:
    """What the service believes (n_images, n_classes): the softmax of its log scores."""
    return softmax(log_scores, axis=1)
