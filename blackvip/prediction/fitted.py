"""Prediction: images -> prompted images -> scores -> probabilities, with a fitted estimator."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from numbers import Integral
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Options, validate_params

from ..documentation import pipeline_block
from ..heads.base import Head
from ..heads.decision import check_head_fits
from ..heads.judging import HeadResult
from ..heads.leaderboard import Leaderboard
from ..heads.scored import ScoredImages
from ..inputs.class_prompts import make_prompt_groups
from ..inputs.estimators import PredictsFromLogProba
from ..inputs.images import Images
from ..inputs.labels import check_classes, check_labels, class_indices
from ..inputs.reading import pixel_batches
from ..inputs.training_set import ReadsTrainingSets, TrainingSet
from ..journal.identity import describe
from ..journal.predictions import PredictionsFile
from ..prompters.base import Prompter
from ..prompters.by_name import make_prompter
from ..scorers import ScoreFormat
from ..scorers.scoring import score_columns_of_each
from ..scorers.wrappers import scorer_name
from ..training.outcomes import Outcome, Outcomes
from ..training.progress import ProgressBar
from ..training.setup import rows_to_judge
from .answering import AnswersImages
from .saving import SavedClassifier

__all__ = ["PromptComparison", "PromptedClassifier"]


class PromptComparison(NamedTuple):
    """Scores of the same images without and with a prompt.

    Attributes
    ----------
    images : Images
        The images, without prompts.
    y : ndarray of shape (n_images,) or None
        Their labels.
    plain, prompted : ndarray of shape (n_images, n_classes) or None
        Log scores of the images without and with their prompts.
    n_queries : int
        Billed images.
    seconds : float
        Time spent waiting for the service.
    labels : dict of str to ndarray of shape (n_images,)
        Labels predicted by each of `baselines_`, by the service with the prompt ("prompt") and by the classifier
        ("classifier"), if they were asked for.
    """

    images: Images
    y: np.ndarray | None
    plain: np.ndarray | None = None
    prompted: np.ndarray | None = None
    n_queries: int = 0
    seconds: float = 0.0
    labels: Mapping[str, np.ndarray] = MappingProxyType({})


class PromptedClassifier(
    SavedClassifier, ReadsTrainingSets, PredictsFromLogProba, AnswersImages, BaseEstimator, saveable=False
):
    """Fitted half of `BlackVIPClassifier`: prediction."""

    prompter: Any
    head: Any
    n_queries_: int
    result_: HeadResult
    rungs_: list[dict[str, Any]]
    _rng: np.random.Generator

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "head_")

    @contextmanager
    def _earlier_fit_kept(self, continues: bool) -> Iterator[None]:
        """Restore an earlier fit if an error comes before anything is sent; later errors leave no mixture of two."""
        before = dict(self.__dict__)
        if not continues:
            self.__dict__.pop("n_queries_", None)
        try:
            yield
        except BaseException:
            if getattr(self, "n_queries_", 0) == (before.get("n_queries_") if continues else 0):
                self.__dict__.clear()
                self.__dict__.update(before)
            elif not continues and self.__dict__.get("head_") is before.get("head_"):
                for name in ("head_", "optimizer_"):
                    self.__dict__.pop(name, None)
            raise

    def _check_same_classes(self, classes: Any) -> None:
        """Raise a `ValueError` if class labels differ from those of the fit that is continued."""
        labels = check_classes(classes).tolist()
        if labels != self.classes_.tolist():
            raise ValueError(
                f"classes={labels} is not the same as on the last call to partial_fit, {self.classes_.tolist()}. Leave "
                "it out, or start again with fit."
            )

    @property
    def coordinator_(self) -> Prompter:
        """The fitted prompter, an alias of `prompter_`."""
        return self.prompter_

    def _sk_visual_block_(self) -> Any:
        """Make the diagram in a notebook: the path of an image."""
        parts = {"prompter": make_prompter(self.prompter), "service": f"service: {scorer_name(self.score_fn)}"}
        return pipeline_block({**parts, "head": "softmax" if self.head is None else self.head})

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Predict the logarithms of class probabilities; bills one image each, see `cascade` and `max_views`.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Images of the training images' size, unless `fit` had to resize.

        Returns
        -------
        log_proba : ndarray of shape (n_images, n_classes)
            Columns are in the order of `classes_`.
        """
        return np.concatenate(list(self._log_proba_parts(X)))

    def _log_proba_parts(self, X: Any) -> Iterator[np.ndarray]:
        images = self._open_images(X)
        return self._log_probas(images, np.arange(len(images)))

    @validate_params(
        {"overwrite": ["boolean"], "verbose": [Options(Integral, {0, 1, 2}), "boolean"]},
        prefer_skip_nested_validation=False,
    )
    def predict_to(self, path: str | os.PathLike[str], X: Any, *, overwrite: bool = False, verbose: int = 1) -> None:
        """Predict any number of images into a table on disk; bills one image each.

        Each batch is on disk before the next one starts. If a call is interrupted, make it again with the same images
        in the same order: those that are in the table, recognised by their pixels, are skipped and not billed.

        Parameters
        ----------
        path : str or path-like
            CSV file with the columns "image" (the path if X is paths, else the row number), "label", "proba_" followed
            by the label for each class, and "pixels" and "model", which identify the image and the estimator.
        X : images, in any form that `fit` takes
            Images of the training images' size, unless `fit` had to resize.
        overwrite : bool, default=False
            Whether to replace an existing table. A file that is not a table of predictions is never overwritten.
        verbose : {0, 1, 2}, default=1
            Progress bar: never, on a terminal, always.

        Raises
        ------
        BlackVIPError
            If the file has other classes or images, or predictions of another model. Nothing is sent then.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"path is a {type(path).__name__}; expected the path of a CSV file.")
        images = self._open_images(X, identify=True)
        with PredictionsFile(path, images, self.classes_.tolist(), self._fingerprint(), overwrite) as file:
            bar = ProgressBar(len(images), "predict", verbose, initial=file.n_done)
            with bar, closing(self._log_probas(images, np.arange(file.n_done, len(images)))) as parts:
                for log_proba in parts:
                    file.add(np.exp(log_proba))
                    bar.update(len(log_proba))

    def score_baselines(self, X: Any, y: Any) -> dict[str, float]:
        """Score the baselines on other images; bills one image each.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Images of the training images' size, unless `fit` had to resize.
        y : array-like of shape (n_images,)
            Their labels.

        Returns
        -------
        accuracies : dict of str to float
            Accuracy of each of `baselines_`.
        """
        images, y = self._open_labelled(X, y)
        hits = dict.fromkeys(self.baselines_, 0)
        for rows, plain, features in self._score_in_batches(images, np.arange(len(images)), encode=self._encode):
            for name, baseline in self.baselines_.items():
                hits[name] += int((self._labels_by(baseline.head, plain, features) == y[rows]).sum())
        return {name: n / len(images) for name, n in hits.items()}

    def compare_prompt(
        self, X: Any, y: Any = None, *, scores: Any = "ask", heads: bool = False, some_unknown: bool = False
    ) -> PromptComparison:
        """Score images without and with the prompt; bills two images each.

        If the prompt is not used (``prompt_used_`` is False), both are the same, and one image each is billed.

        Parameters
        ----------
        X : images, in any form that `fit` takes
            Images of the training images' size, unless `fit` had to resize.
        y : array-like of shape (n_images,) or None, default=None
            Their labels, if they are known.
        scores : "ask", None, or pair of array-like of shape (n_images, n_classes), default="ask"
            "ask": send the images to the service. None: do without scores. A pair: the service's scores for the
            images without prompts and for ``prompter_.transform(X)``. Only "ask" bills images.
        heads : bool, default=False
            Whether to predict labels with each of `baselines_`, the service alone and the classifier.
        some_unknown : bool, default=False
            Whether y may have labels besides those of `classes_`.

        Returns
        -------
        comparison : PromptComparison
            The images, both sets of log scores, and what they have cost.
        """
        images, y = (self._open_images(X), None) if y is None else self._open_labelled(X, y, some_unknown)
        if scores is None:
            return PromptComparison(images, y)
        if isinstance(scores, str) and scores != "ask":
            raise ValueError(f"scores={scores!r}; expected 'ask', None, or two arrays of scores.")
        pixels = pixel_batches(self.image_format_, images)
        features = self.probe_encoder_.encode_batches(pixels) if heads else None
        n_queries, seconds = 0, 0.0
        if isinstance(scores, str):
            draws = [None, self.prompter_.draw] if self.prompt_used_ else [None]
            rows, budget = np.arange(len(images)), len(draws) * len(images)
            with self._prediction_ledger(budget) as ledger:
                found = list(score_columns_of_each(ledger, images, rows, draws))
            n_queries, seconds = ledger.n_queries, ledger.seconds
        else:
            found = [self._score_columns_from(given, len(images)) for given in scores]
        plain, prompted = (columns[:, : len(self.classes_)] for columns in (found[0], found[-1]))
        labels = {}
        if heads:
            labels = {
                name: self._labels_by(baseline.head, found[0], features) for name, baseline in self.baselines_.items()
            }
            labels["prompt"] = self.classes_[prompted.argmax(axis=1)]
            log_proba = self._log_proba_from(found[-1], found[0], features)
            labels["classifier"] = self.classes_[log_proba.argmax(axis=1)]
        return PromptComparison(images, y, plain, prompted, n_queries, seconds, labels)

    @property
    def leaderboard_(self) -> Leaderboard:
        """The baselines and what predictions use, as a table of cross-validated results."""
        return Leaderboard(self.baselines_, self.result_, self.prompt_used_)

    @property
    def scored_images_(self) -> ScoredImages:
        """The training images on which the heads and the prompt were judged, with their labels and log scores."""
        return self._scored

    def _read(self, X: Any, y: Any, sample_weight: Any, classes: Any, known: bool, adds: bool = False) -> TrainingSet:
        """Read the training set, and learn the format of the images, the classes and the class prompts.

        With `adds`, the head will be fitted to earlier images too.
        """
        data = self._read_training_set(X, y, sample_weight, classes, known)
        self.label_mapping_ = self.label_mapping_ if known else None
        self.classes_, self.n_skipped_ = data.classes, data.n_skipped
        self.class_prompts_ = make_prompt_groups(self.class_prompts, data.classes, data.names).class_prompts
        rows = rows_to_judge(data.y, np.random.default_rng(0))
        y, weights = data.y[rows], data.weights[rows]
        if adds:
            self._check_vector_size()
            y, weights = np.concatenate([self._scored.y, y]), np.concatenate([self._scored.weights, weights])
        check_head_fits(self.head, len(data.classes), y, weights)
        return data

    def _open_labelled(self, X: Any, y: Any, some_unknown: bool = False) -> tuple[Images, np.ndarray]:
        """Open images and convert their labels to those of `classes_`; with `some_unknown`, others may occur too."""
        images, y = self._open_images(X), check_labels(y)
        if len(images) != len(y):
            raise ValueError(f"X has {len(images)} images, but y has {len(y)} labels; expected a label for each image.")
        index = class_indices(y, self.classes_, "ignore" if some_unknown else "raise")
        if some_unknown and (index < 0).all():
            class_indices(y, self.classes_)
        return images, np.where(index < 0, y, self.classes_[index])

    def _labels_by(self, head: Head, log_scores: np.ndarray, features: np.ndarray | None) -> np.ndarray:
        """Predict class labels (n_images,) with a head."""
        log_proba = head.predict_log_proba_of(log_scores, features, len(self.classes_))
        return self.classes_[log_proba.argmax(axis=1)]

    def _fingerprint(self) -> str:
        """Return twelve digits that identify the prompt and the head."""
        n_classes, n_features = len(self.classes_), sum(self.probe_encoder_.block_sizes_)
        n_columns = n_classes + len(self._prompt_groups.prompt_classes) + self.vector_size_
        features = np.zeros((n_columns, n_features))
        log_proba = self.head_.predict_log_proba_of(-np.eye(n_columns), features, n_classes).round(6)
        parts = [*self.prompter_.frozen_state, log_proba, self.class_prompts_, *self._stages.state]
        return hashlib.sha256(json.dumps(describe(parts)).encode()).hexdigest()[:12]

    def _summary(self) -> str:
        """Describe the result of a fit in a few lines."""
        return (
            f"{self.leaderboard_}\n{self.n_queries_:,} images were billed. Scores were read as "
            f"{self.score_format_.finding}"
        )

    def _store(self, outcome: Outcome, outcomes: Outcomes, adds: bool) -> None:
        """Set the fitted attributes; with `adds`, the history continues that of earlier runs."""
        run, result, decision = outcome.run, outcome.result, outcome.decision
        ledger = run.objective.ledger
        self.prompt_used_, self.result_, self.head_ = decision.prompt_used, decision.result, decision.result.head
        self.prompter_ = run.prompted.freeze(result.w, None if decision.prompt_used else 0.0)
        self.prompter_.read_like(self)
        self.probe_encoder_, self.baselines_ = run.probe, outcomes.without.result().baselines
        self.optimizer_, self.a_, self.c_ = result.optimizer, result.a, result.optimizer.c_
        # A service may have given no score to a single image.
        self.score_format_ = ledger.score_format or ScoreFormat("logits")
        self.vector_size_ = ledger.reader.vector_size
        self.seconds_per_image_ = ledger.seconds_per_image
        n_iter, n_queries = self.n_iter_ if adds else 0, self.n_queries_ - ledger.n_queries
        history = [
            {**row, "n_iter": row["n_iter"] + n_iter, "n_queries": row["n_queries"] + n_queries}
            for row in outcomes.history
        ]
        self.history_ = (self.history_ if adds else []) + history
        self.n_iter_ = n_iter + len(outcomes.history)
        self._scored, self._memory, self.rungs_ = outcome.scored, run.objective.memory, outcomes.rungs
        self._memory.recalls = True
        self._stages = self._choose_stages(decision, outcomes.without.result(), outcome.scored)
        self.termination_reason_ = result.termination_reason
