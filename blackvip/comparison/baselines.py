"""What needs no prompt: the service as it is, a head on its scores, a local probe, the two fused; label mappings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions

from ..encoders.base import Encoder
from ..encoders.by_name import make_frozen_encoder
from ..heads.baselines import fit_baselines
from ..heads.judging import head_inputs, log_proba_of
from ..inputs.class_prompts import make_class_prompts
from ..inputs.images import Images
from ..inputs.labels import class_indices, labels_of
from ..inputs.reading import ReadsImages, most_to_fit
from ..prediction import PromptedClassifier
from ..scorers import Ledger, ScoreFormat
from ..scorers.labels.scorer import LabelMappedScorer
from ..scorers.scoring import log_scores_of, score_images
from ..scorers.wrappers import innermost

__all__ = ["LabelMappedService", "ServiceControls"]


class _Baseline(ReadsImages):
    """Reads a training set."""

    class_prompts: Any
    classes_: np.ndarray
    class_prompts_: list[str]

    def _training_set(self, X: Any, y: Any) -> tuple[Images, np.ndarray]:
        """Images and class indices; sets the classes and their prompts."""
        y = labels_of(X, y)
        images, y = self._learn_images(X, y)
        self.classes_ = np.unique(y)
        self.class_prompts_ = make_class_prompts(self.class_prompts, self.classes_)
        return images, class_indices(y, self.classes_)


class ServiceControls(_Baseline, PromptedClassifier):
    """All that `BlackVIPClassifier` reports in `baselines_`, from one image sent per training image.

    Parameters
    ----------
    score_fn, class_prompts, local_encoder, score_type, images_per_call, image_shape, resize
        As of `BlackVIPClassifier`.
    """

    def __init__(
        self,
        score_fn: Any,
        class_prompts: Any = "a photo of a {}.",
        *,
        local_encoder: str | Encoder = "gradients",
        score_type: str = "auto",
        images_per_call: int | None = None,
        image_shape: tuple[int, ...] | None = None,
        resize: str = "crop",
    ):
        self.score_fn = score_fn
        self.class_prompts = class_prompts
        self.local_encoder = local_encoder
        self.score_type = score_type
        self.images_per_call = images_per_call
        self.image_shape = image_shape
        self.resize = resize

    def fit(self, X: Any, y: Any) -> ServiceControls:
        """Send each training image once, and fit all heads."""
        images, index = self._training_set(X, y)
        encoder = make_frozen_encoder(self.local_encoder)
        sample = np.linspace(0, len(images) - 1, min(len(images), most_to_fit(self.image_format_))).astype(int)
        self.probe_encoder_ = encoder.fit_pixels(images.pixels(sample))
        every = np.arange(len(images))
        with self._ledger(len(images), None, self.score_fn) as ledger:
            plain, features = _joined(score_images(ledger, images, every, encode=self._encode))
        score_format = ledger.score_format or ScoreFormat("logits")
        self.score_type_, self.score_floor_ = score_format.score_type, score_format.floor
        self.n_queries_ = ledger.n_queries
        self.baselines_ = fit_baselines(plain, features, index, np.ones(len(index)), self.probe_encoder_.block_sizes_)
        return self

    def log_probas(self, X: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Log probabilities (n_images, n_classes) by some of `baselines_`; bills one image each, for a probe none."""
        missing = [name for name in names if name not in self.baselines_]
        if missing:
            raise ValueError(
                f"The controls {', '.join(missing)} need two images of each class; leave them out, or add images."
            )
        images = self._open_images(X)
        every = np.arange(len(images))
        if any(name != "local_probe" for name in names):
            plain, features = _joined(self._answers(images, every, encode=self._encode))
        else:
            plain = np.empty((len(images), 0))
            features = self._features(images)
        heads = {name: self.baselines_[name].head for name in names}
        return {
            name: log_proba_of(head, head_inputs(head, plain, features), len(self.classes_))
            for name, head in heads.items()
        }


class LabelMappedService(_Baseline, ClassifierMixin, BaseEstimator):
    """The service through a label mapping that is learned from the training images, each of which is sent once.

    The labels are those of the service where `score_fn` is a `LabelMappedScorer`; else the class prompts are taken for
    labels, whose texts say nothing.

    Parameters
    ----------
    score_fn, class_prompts, score_type, images_per_call, image_shape, resize
        As of `BlackVIPClassifier`.
    mapping : {"blm+", "blm", "frequency"}, default="blm+"
        See `blackvip.scorers.label_weights`.
    """

    _parameter_constraints = {
        "score_fn": [callable],
        "class_prompts": [str, dict, "array-like"],
        "mapping": [StrOptions({"blm+", "blm", "frequency"})],
        "score_type": [StrOptions({"auto", "logits", "probabilities"})],
        "images_per_call": [None, Interval(Integral, 1, None, closed="left")],
        "image_shape": [None, tuple, list],
        "resize": [StrOptions({"crop", "pad", "stretch"})],
    }

    def __init__(
        self,
        score_fn: Any,
        class_prompts: Any = "a photo of a {}.",
        *,
        mapping: str = "blm+",
        score_type: str = "auto",
        images_per_call: int | None = None,
        image_shape: tuple[int, ...] | None = None,
        resize: str = "crop",
    ):
        self.score_fn = score_fn
        self.class_prompts = class_prompts
        self.mapping = mapping
        self.score_type = score_type
        self.images_per_call = images_per_call
        self.image_shape = image_shape
        self.resize = resize

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any) -> LabelMappedService:
        """Send each training image once, and learn the mapping."""
        images, index = self._training_set(X, y)
        service = innermost(self.score_fn)
        if isinstance(service, LabelMappedScorer):
            scorer = LabelMappedScorer(**{**service.get_params(deep=False), "mapping": self.mapping})
            self._labels = scorer.service_labels
        else:
            self._labels = self.class_prompts_
            scorer = LabelMappedScorer(self.score_fn, self._labels, self.mapping, text_weight=0.0)
        log_scores, ledger = asked(self, self._labels, images, None)
        self._format, self.n_queries_ = ledger.score_format, ledger.n_queries
        self.mapping_ = scorer.fit_labels(log_scores, index, self.class_prompts_)
        return self

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithms of the class probabilities (n_images, n_classes); bills one image each."""
        log_scores, _ = asked(self, self._labels, self._open_images(X), self._format)
        return log_softmax(self.mapping_.log_scores(log_scores), axis=1)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities (n_images, n_classes); bills one image each."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """Class labels; bills one image each."""
        best = self.predict_log_proba(X).argmax(axis=1)
        return self.classes_[best]


def _joined(portions: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Log scores and features of all images, of portions in order."""
    _, plain, features = zip(*portions)
    return np.concatenate(plain), np.concatenate(features)


def asked(
    estimator: Any, class_prompts: Sequence[str], images: Images, score_format: ScoreFormat | None
) -> tuple[np.ndarray, Ledger]:
    """Log scores (n_images, n_class_prompts) of images as they are, by an estimator's service, and the ledger."""
    ledger = Ledger(
        estimator.score_fn,
        class_prompts,
        max_queries=len(images),
        images_per_call=estimator.images_per_call,
        score_type=estimator.score_type,
        score_format=score_format,
    )
    with ledger:
        return log_scores_of(ledger, images, np.arange(len(images))), ledger
