"""Prediction: images -> prompted images -> scores -> probabilities, with a fitted estimator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin

from .checkpoint import predictions_path
from .encoders import Encoder
from .fusion import FusedHead
from .images import Images
from .judging import JudgedHead, head_inputs, log_proba_of
from .labels import check_labels
from .persistence import Saveable
from .prompters import Prompter
from .reading import ReadsImages, pixel_batches
from .scorers import CachedScorer, Ledger, ScoreFormat
from .scorers.formats import FLOOR
from .scorers.label_mapping import LabelMapping, learning_scorer
from .scorers.parallel import spread
from .scorers.replay import Replay

__all__ = ["PromptedClassifier"]

_MOST_BATCHES, _MOST_BYTES = 16, 64 * 2**20  # that are asked for together


class PromptedClassifier(Saveable, ReadsImages, ClassifierMixin, BaseEstimator):
    """What `BlackVIPClassifier` does once it is fitted."""

    score_fn: Any
    checkpoint: Any = None
    images_per_call: int | None
    n_jobs: int | None = None  # of those that an earlier release has saved
    score_type: str
    classes_: np.ndarray
    class_prompts_: list[str]
    coordinator_: Prompter
    head_: Any
    controls_: dict[str, JudgedHead]
    label_mapping_: LabelMapping | None = None
    score_type_: str
    score_floor_: float = FLOOR  # where a file has none
    probe_encoder_: Encoder

    def predict(self, X: Any) -> np.ndarray:
        """Class labels of images; bills one image each.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Of the training images' size, unless `fit` had to resize.

        Returns
        -------
        y : ndarray of shape (n_images,)
            The most probable class of each.
        """
        best = self.predict_log_proba(X).argmax(axis=1)
        return self.classes_[best]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities of images; bills one image each.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Of the training images' size, unless `fit` had to resize.

        Returns
        -------
        proba : ndarray of shape (n_images, n_classes)
            In the order of `classes_`.
        """
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithms of the class probabilities of images; bills one image each.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Of the training images' size, unless `fit` had to resize.

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes)
            In the order of `classes_`.
        """
        images = self._open_images(X)
        log_scores = self._log_scores(images, self.coordinator_.draw)
        features = self._features(images) if isinstance(self.head_, FusedHead) else None
        return log_proba_of(self.head_, head_inputs(self.head_, log_scores, features), len(self.classes_))

    def decision_function(self, X: Any) -> np.ndarray:
        """Log probabilities of images, or the log odds of the second of two classes; bills one image each.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Of the training images' size, unless `fit` had to resize.

        Returns
        -------
        decision : ndarray of shape (n_images, n_classes), or (n_images,) for two classes
            In the order of `classes_`.
        """
        log_proba = self.predict_log_proba(X)
        return log_proba[:, 1] - log_proba[:, 0] if len(self.classes_) == 2 else log_proba

    def score_controls(self, X: Any, y: Any) -> dict[str, float]:
        """Accuracies of what was free, on other images; bills one image each.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Of the training images' size, unless `fit` had to resize.
        y : array-like of shape (n_images,)
            Their labels.

        Returns
        -------
        accuracies : dict of str to float
            Of each of `controls_`.
        """
        images, y = self._open_labelled(X, y)
        plain = self._log_scores(images, lambda pixels: pixels)
        features = self._features(images)
        return {
            name: float((self._labels_by(control.head, plain, features) == y).mean())
            for name, control in self.controls_.items()
        }

    def _open_labelled(self, X: Any, y: Any) -> tuple[Images, np.ndarray]:
        """Images and their labels, a label for each."""
        images, y = self._open_images(X), check_labels(y)
        if len(images) != len(y):
            raise ValueError(f"X has {len(images)} images, but y has {len(y)} labels; expected a label for each image.")
        return images, y

    def _labels_by(self, head: Any, log_scores: np.ndarray, features: np.ndarray | None) -> np.ndarray:
        """Class labels (n_images,) by a head."""
        log_proba = log_proba_of(head, head_inputs(head, log_scores, features), len(self.classes_))
        return self.classes_[log_proba.argmax(axis=1)]

    def _features(self, images: Any) -> np.ndarray:
        """The local encoder's features of images as they are; asks no service."""
        return self.probe_encoder_.encode_batches(pixel_batches(self.image_format_, images))

    def _log_scores(self, images: Any, drawn: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
        """Log scores of images, on whose pixels `drawn` draws prompts."""
        return self._asked(images, [drawn])[0][0]

    def _asked(
        self, images: Images, draws: Sequence[Callable[[torch.Tensor], torch.Tensor]]
    ) -> tuple[list[np.ndarray], Ledger]:
        """Log scores of images with each of several prompts drawn on them, and the ledger that has counted them."""
        budget = len(draws) * len(images)
        with self._keeping() as score_fn, self._ledger(budget, self._score_format, score_fn) as ledger:
            found = []
            for drawn in draws:
                batches = (ledger.as_sent(drawn(pixels)) for pixels in pixel_batches(self.image_format_, images))
                asked = map(ledger.joined, _ahead(batches)) if ledger.streams else batches
                found.append(np.concatenate([ledger.log_scores(batch) for batch in asked]))
            return found, ledger

    @contextmanager
    def _keeping(self) -> Iterator[Any]:
        """The score function; where there is a checkpoint, one that keeps its answers."""
        if self.checkpoint is None or self.score_fn is None:
            yield self.score_fn
            return
        with closing(CachedScorer(self.score_fn, predictions_path(self.checkpoint))) as cached:
            yield cached

    @property
    def _score_format(self) -> ScoreFormat:
        """What `fit` has found the scores to be."""
        return ScoreFormat(self.score_type_, self.score_floor_)

    def _ledger(
        self, max_queries: int, score_format: ScoreFormat | None, score_fn: Any, replay: Replay | None = None
    ) -> Ledger:
        """A ledger of so many images; without a format, it recognises what the scores are."""
        if score_fn is None:
            raise ValueError(
                f"This {type(self).__name__} has no score function, since files do not hold one; give it back with "
                "blackvip.load(path, score_fn) or set_params(score_fn=score_fn)."
            )
        asked = spread(score_fn, self.n_jobs, self.images_per_call)
        return Ledger(
            asked,
            self._asked_for,
            max_queries=max_queries,
            images_per_call=self.images_per_call if asked is score_fn else None,  # what is spread is cut there
            score_type=self.score_type,
            score_format=score_format,
            replay=replay,
            label_mapping=self.label_mapping_,
        )

    @property
    def _asked_for(self) -> list[str]:
        """What the service is asked for: the class prompts, or its own labels, which are mapped to classes."""
        if self.label_mapping_ is not None:
            return list(self.label_mapping_.labels)
        learning = learning_scorer(self.score_fn)
        return self.class_prompts_ if learning is None else learning.service_labels


def _ahead(batches: Iterator[Any]) -> Iterator[list[Any]]:
    """Batches, more and more of them together, which are made while those before them are answered.

    So a score function that makes many requests at a time is seldom without an image to send.
    """

    def some(n: int) -> list[Any]:
        taken: list[Any] = []
        for batch in batches:
            taken.append(batch)
            if len(taken) >= n or sum(batch.nbytes for batch in taken) >= _MOST_BYTES:
                break
        return taken

    n = 1
    with ThreadPoolExecutor(1) as maker:
        coming = maker.submit(some, n)
        while taken := coming.result():
            n = min(2 * n, _MOST_BATCHES)
            coming = maker.submit(some, n)
            yield taken
