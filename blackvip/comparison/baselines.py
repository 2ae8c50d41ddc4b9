"""Methods without a prompt, as estimators that `compare` can fit: baselines and label mappings."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions

from ..encoders.base import Encoder
from ..encoders.by_name import make_frozen_encoder
from ..heads.baselines import fit_baselines
from ..heads.scored import ScoredImages
from ..inputs.class_names import class_names
from ..inputs.class_prompts import make_class_prompts, make_prompt_groups
from ..inputs.estimators import PredictsFromLogProba
from ..inputs.images import Images
from ..inputs.labels import class_indices
from ..inputs.prompt_groups import ClassPrompts, PromptGroups
from ..inputs.reading import ReadsImages, most_to_fit, pixel_batches
from ..scorers.declarations import declared
from ..scorers.formats import SCORE_TYPES
from ..scorers.labels.scorer import LabelMappedScorer, learning_scorer, refuse_several_prompts
from ..scorers.wrappers import IsScoreFunction, innermost
from .service import Service

__all__ = ["LabelMappedService", "ServiceBaselines"]


class _ReadsTrainingSet(ReadsImages):
    """Mixin that reads training images, their classes and the class prompts."""

    class_prompts: Any
    classes_: np.ndarray
    class_prompts_: ClassPrompts
    #: `fit` bills one image per training image, whatever the budget is.
    fixed_cost = True

    def _training_set(self, X: Any, y: Any) -> tuple[Images, np.ndarray]:
        """Open the images and return them with their class indices."""
        names = class_names(X, y)
        images, y = self._learn_labelled(X, y)
        self.classes_ = np.unique(y)
        self.class_prompts_ = self._class_prompts(names)
        return images, class_indices(y, self.classes_)

    def _class_prompts(self, names: Mapping[Any, str]) -> ClassPrompts:
        return make_class_prompts(self.class_prompts, self.classes_, names)


class ServiceBaselines(_ReadsTrainingSet, BaseEstimator):
    """All baselines of `BlackVIPClassifier`, from one billed image per training image.

    Parameters
    ----------
    score_fn, class_prompts, local_encoder, score_type, images_per_call, image_shape, resize
        As in `BlackVIPClassifier`.

    Attributes
    ----------
    baselines_ : dict of str to HeadResult
        The baselines, as in `BlackVIPClassifier`.
    service_ : Service
        The service, with the format of its scores.
    probe_encoder_ : Encoder
        The fitted local encoder.
    n_queries_ : int
        Images billed by `fit`.
    """

    def __init__(
        self,
        score_fn: Any,
        class_prompts: Any = "{}",
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

    def fit(self, X: Any, y: Any) -> ServiceBaselines:
        """Score each training image once, and fit all baselines.

        Parameters
        ----------
        X : images, in any form that `BlackVIPClassifier` takes
            Training images; each is billed once.
        y : array-like of shape (n,)
            Their labels.

        Returns
        -------
        self : ServiceBaselines
            The fitted estimator.
        """
        images, index = self._training_set(X, y)
        encoder = make_frozen_encoder(self.local_encoder)
        sample = np.linspace(0, len(images) - 1, min(len(images), most_to_fit(self.image_format_))).astype(int)
        self.probe_encoder_ = encoder.fit_pixels(images.pixels(sample))
        learning, groups = learning_scorer(self.score_fn), PromptGroups.of(self.class_prompts_)
        if groups.several:
            refuse_several_prompts(self.score_fn)
        asked_for = groups.prompts if learning is None else learning.service_labels
        service = Service(self.score_fn, asked_for, self.score_type, self.images_per_call, groups=groups.if_several)
        answer = service.score(images, self._encode, index)
        mapping, plain, weights = None, answer.columns, np.ones(len(index))
        if learning is not None:
            mapping = learning.fit_labels(plain, index, groups.prompts, weights)
            plain = mapping.log_scores(plain)
        self.service_ = replace(service, score_format=answer.score_format, label_mapping=mapping)
        self.n_queries_ = answer.n_queries
        scored = ScoredImages.before_training(
            index,
            weights,
            plain,
            groups.prompt_classes,
            declared(self.score_fn, "vector_size", 0),
            features=answer.features,
            held_out=np.zeros(len(index), dtype=bool),
            block_sizes=tuple(self.probe_encoder_.block_sizes_),
        )
        self.baselines_ = fit_baselines(scored.without_prompt())
        return self

    def _class_prompts(self, names: Mapping[Any, str]) -> ClassPrompts:
        return make_prompt_groups(self.class_prompts, self.classes_, names).class_prompts

    def log_probas(self, X: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Predict log probabilities by some of the baselines.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Each image is billed once; none if only the local probe is asked for.
        names : sequence of str
            Keys of `baselines_`.

        Returns
        -------
        log_probas : dict of str to ndarray of shape (n_images, n_classes)
            Log probabilities by each baseline.

        Raises
        ------
        ValueError
            If the fit had too few images for a baseline.
        """
        missing = [name for name in names if name not in self.baselines_]
        if missing:
            raise ValueError(
                f"The baselines {', '.join(missing)} need at least two images of each class. Leave them out, or add "
                "training images."
            )
        images = self._open_images(X)
        heads = {name: self.baselines_[name].head for name in names}
        if any(head.needs_scores for head in heads.values()):
            answer = self.service_.score(images, self._encode)
            plain, features = answer.columns, answer.features
        else:
            plain = np.empty((len(images), 0))
            features = self.probe_encoder_.encode_batches(pixel_batches(self.image_format_, images))
        n_classes = len(self.classes_)
        return {name: head.predict_log_proba_of(plain, features, n_classes) for name, head in heads.items()}

    def _encode(self, pixels: torch.Tensor) -> np.ndarray:
        return self.probe_encoder_.encode_batches([pixels])


class LabelMappedService(_ReadsTrainingSet, PredictsFromLogProba, BaseEstimator):
    """The service with a label mapping that is learned from one billed image per training image.

    If `score_fn` is a `LabelMappedScorer`, the labels are those of its service. Otherwise each class prompt counts as
    a label whose text says nothing about a class.

    Parameters
    ----------
    score_fn, class_prompts, score_type, images_per_call, image_shape, resize
        As in `BlackVIPClassifier`.
    mapping : {"blm+", "blm", "frequency"}, default="blm+"
        How labels become classes, see `blackvip.scorers.labels.mapping`.

    Attributes
    ----------
    service_ : Service
        The service with the mapping.
    n_queries_ : int
        Images billed by `fit`.
    """

    _parameter_constraints = {
        "score_fn": [IsScoreFunction()],
        "class_prompts": [str, dict, "array-like"],
        "mapping": [StrOptions({"blm+", "blm", "frequency"})],
        "score_type": [StrOptions({"auto", *SCORE_TYPES})],
        "images_per_call": [None, Interval(Integral, 1, None, closed="left")],
        "image_shape": [None, tuple, list],
        "resize": [StrOptions({"crop", "pad", "stretch"})],
    }

    def __init__(
        self,
        score_fn: Any,
        class_prompts: Any = "{}",
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
        """Score each training image once, and learn the mapping.

        Parameters
        ----------
        X : images, in any form that `BlackVIPClassifier` takes
            Training images; each is billed once.
        y : array-like of shape (n,)
            Their labels.

        Returns
        -------
        self : LabelMappedService
            The fitted estimator.
        """
        images, index = self._training_set(X, y)
        labelled = innermost(self.score_fn)
        if hasattr(labelled, "fit_labels"):
            scorer = copy.copy(labelled).set_params(mapping=self.mapping)
            labels = scorer.service_labels
        else:
            labels = PromptGroups.of(self.class_prompts_).prompts
            scorer = LabelMappedScorer(self.score_fn, labels, self.mapping, text_weight=0.0)
        service = Service(self.score_fn, labels, self.score_type, self.images_per_call)
        answer = service.score(images, y=index)
        mapping = scorer.fit_labels(answer.columns, index, PromptGroups.of(self.class_prompts_).prompts)
        self.service_ = replace(service, score_format=answer.score_format, label_mapping=mapping)
        self.n_queries_ = answer.n_queries
        return self

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Predict log probabilities; bills one image each.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Images of the training images' size, unless `fit` had to resize.

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes)
            Columns are in the order of `classes_`.
        """
        return log_softmax(self.service_.score(self._open_images(X)).columns, axis=1)
