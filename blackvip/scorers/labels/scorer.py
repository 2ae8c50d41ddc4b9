"""A service with its own labels as a score function for classes; `mapping` has the formulas."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_consistent_length

from ...exceptions import ClassPromptError, ScoreError
from ...inputs.class_names import class_names
from ...inputs.class_prompts import make_class_prompts
from ...inputs.decoding import is_missing
from ...inputs.images import ImageFormat, to_uint8
from ...inputs.label_values import plain_label
from ...inputs.labels import check_labels, class_indices
from ...inputs.reading import pixel_batches
from ..answers import Scored, collected, rows_of, scores_of
from ..contract import ScoreFunction, check_anything_given, check_scores
from ..declarations import declared
from ..raw_scores import NamedScores, read_scores
from ..recognition import recognise
from ..wrappers import ForwardsAttributes, IsScoreFunction, innermost
from .mapping import LabelMapping, bayesian_weights, frequency_weights, label_counts
from .texts import text_matches

__all__ = ["LabelMappedScorer", "LabelMapping", "learning_scorer", "refuse_several_prompts"]

# BLM+ counts this share of the number of classes of an image's top labels, and at least so many.
_TOP_SHARE, _LEAST_TOP = 0.15, 5


class LabelMappedScorer(ForwardsAttributes, BaseEstimator):
    """A score function for classes around a service with its own labels.

    Parameters
    ----------
    score_fn : callable
        ``score_fn(images, labels) -> scores``: scores for the service's labels, an array (n, m) or a list of dicts
        from label to score. Most services ignore the second argument; one that scores texts is given `labels`. The
        scorer declares what `score_fn` declares.
    labels : sequence of str, int or None, default=None
        The service's labels in the order of its scores, or the number of scores if they have no names. Other labels
        in dicts are ignored. None: the labels are not known. ``mapping="text"`` does not need them, and `learn` finds
        those that occur.
    mapping : {"blm+", "blm", "frequency", "text"} or LabelMapping, default="blm+"
        How labels become classes, see `blackvip.scorers.labels.mapping`. "text": a class gets the highest score of the
        labels whose texts match its prompt, and nothing is learned. A `LabelMapping`: one that was learned before.
    smoothing : float, default=1.0
        Smoothing of "blm" and "blm+", in images, see `bayesian_weights`.
    n_top : int or "auto", default="auto"
        Number of an image's top labels that "blm+" counts. "auto": 15 % of the number of classes, as in the paper,
        and at least 5.
    text_weight : float, default=1.0
        A label whose text matches a class prompt counts as much as this number of images of the class that were given
        the label. 0: texts are ignored.

    Notes
    -----
    Called with its own labels, the scorer returns the service's scores for them. `BlackVIPClassifier` does so, learns
    the mapping from the scores of the training images, which it pays for in any case, and maps all later scores.
    Wrap this scorer directly around the service, and `CachedScorer` and `SharedBudget` around this scorer.

    Examples
    --------
    >>> import numpy as np
    >>> from blackvip.scorers import LabelMappedScorer
    >>> def service(images, labels):  # its labels are fixed
    ...     return [{"Domestic cat": 0.7, "Sofa": 0.2}, {"Dog": 0.6, "Food": 0.3}]
    >>> scorer = LabelMappedScorer(service, mapping="text")
    >>> scorer(np.zeros((2, 8, 8, 3), np.uint8), ["a photo of a cat.", "a photo of a dog."])
    array([[0.7, nan],
           [nan, 0.6]])
    """

    _parameter_constraints = {
        "score_fn": [IsScoreFunction()],
        "labels": ["array-like", Interval(Integral, 1, None, closed="left"), None],
        "mapping": [StrOptions({"blm+", "blm", "frequency", "text"}), LabelMapping],
        "smoothing": [Interval(Real, 0, None, closed="left")],
        "n_top": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "text_weight": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        score_fn: ScoreFunction,
        labels: Sequence[str] | int | None = None,
        mapping: str | LabelMapping = "blm+",
        *,
        smoothing: float = 1.0,
        n_top: int | str = "auto",
        text_weight: float = 1.0,
    ):
        self.score_fn = score_fn
        self.labels = labels
        self.mapping = mapping
        self.smoothing = smoothing
        self.n_top = n_top
        self.text_weight = text_weight

    @property
    def score_type(self) -> str:
        """Type of the scores: probabilities if they are mixed, else what the score function declares."""
        mixed = isinstance(self.mapping, LabelMapping)
        return "probabilities" if mixed else super().score_type

    maps_labels = True

    @property
    def max_class_prompts(self) -> None:
        """None: class prompts are matched with labels, so any number of them is taken."""
        return None

    @property
    def learns(self) -> bool:
        """Whether a mapping must be learned from labelled images before classes can be scored."""
        return isinstance(self.mapping, str) and self.mapping != "text"

    @property
    def service_labels(self) -> list[str]:
        """The service's labels, in the order of its scores.

        Raises
        ------
        ValueError
            If they are not known, one is missing, or they have no order.
        """
        if self.labels is None:
            raise ValueError(
                "LabelMappedScorer has labels=None, but the mapping is learned from scores for known labels; expected "
                "the service's labels, or their number. `scorer.learn(X, y, class_prompts).labels` finds the labels "
                "that occur in answers."
            )
        if isinstance(self.labels, (int, np.integer)):
            return [str(number) for number in range(self.labels)]
        if isinstance(self.labels, (Mapping, Set)) or not len(self.labels):
            raise ValueError(
                f"labels is {self.labels!r:.60}; expected a list of the service's labels, in the order of its scores."
            )
        labels = [plain_label(label) for label in self.labels]
        missing = [place for place, label in enumerate(labels) if is_missing(label)]
        if missing:
            raise ValueError(f"labels[{missing[0]}] is missing, {labels[missing[0]]!r:.60}; expected a text for each.")
        return [str(label) for label in labels]

    def fit_labels(
        self,
        log_scores: np.ndarray,
        y: np.ndarray,
        class_prompts: Sequence[str],
        sample_weight: np.ndarray | None = None,
    ) -> LabelMapping:
        """Learn a mapping from log scores; calls no service and does not change the scorer.

        Parameters
        ----------
        log_scores : ndarray of shape (n_images, n_labels)
            Log scores of training images for `service_labels`; their softmax is the service's belief.
        y : ndarray of shape (n_images,)
            Class indices.
        class_prompts : sequence of str
            Class prompts in the order of the class indices.
        sample_weight : ndarray of shape (n_images,) or None, default=None
            Weights of the images. None: all count alike.

        Returns
        -------
        mapping : LabelMapping
            A mapping from `service_labels` to `class_prompts`.
        """
        self._validate_params()
        labels, n_classes = self.service_labels, len(class_prompts)
        n_top = max(_LEAST_TOP, int(_TOP_SHARE * n_classes)) if self.n_top == "auto" else int(self.n_top)
        counts = label_counts(log_scores, y, n_classes, n_top if self.mapping == "blm+" else None, sample_weight)
        if self.text_weight:
            counts += self.text_weight * text_matches(labels, class_prompts)
        if self.mapping == "frequency":
            weights = frequency_weights(counts, label_counts(log_scores, y, n_classes, len(labels), sample_weight))
        else:
            weights = bayesian_weights(counts, self.smoothing)
        return LabelMapping(labels, list(class_prompts), weights)

    def learn(self, X: Any, y: Any, class_prompts: Any = "{}") -> LabelMappedScorer:
        """Return a scorer that has learned its mapping, and its labels if they were unknown; bills one image each.

        Use this for a service that publishes no list of labels. Otherwise leave it to `BlackVIPClassifier`, which does
        not pay for the images a second time, and learns from the training images of each fit only.

        Parameters
        ----------
        X : images, in any form that `BlackVIPClassifier.fit` takes
            Training images.
        y : array-like of shape (n_images,)
            Class labels of the images.
        class_prompts : str, dict, Series or sequence of str, default="{}"
            Class prompts, as for the classifier.

        Returns
        -------
        scorer : LabelMappedScorer
            A scorer with known `labels` and a `LabelMapping` for these class prompts.
        """
        self._validate_params()
        names, y = class_names(X, y), check_labels(y)
        check_consistent_length(X, y)
        classes = np.unique(y)
        prompts = make_class_prompts(class_prompts, classes, names)
        sent_prompts = prompts if self.labels is None else self.service_labels
        image_format, images = ImageFormat.learn(X, None, "crop", "raise")
        answers: list[Any] = []
        for pixels in pixel_batches(image_format, images):
            sent = pixels.float() if self.takes_tensors else to_uint8(pixels)
            batch: list[Any] = [None] * len(sent)
            for rows, answer in scores_of(self.score_fn, sent, sent_prompts):
                answer = rows_of(answer, len(rows))
                if len(answer) != len(rows):
                    raise ScoreError(
                        f"The service returned {len(answer)} answers for {len(rows)} images; expected one for each."
                    )
                for row, scores in zip(np.asarray(rows).tolist(), answer):
                    batch[row] = scores
            answers += batch
        labels = _labels_in(answers) if self.labels is None else sent_prompts
        scores = _label_scores(answers, len(answers), labels)
        check_anything_given(scores)
        index = class_indices(y, classes)
        score_format = recognise(scores, declared(self.score_fn, "score_type", "auto"), index)
        known = type(self)(**{**self.get_params(deep=False), "labels": labels})
        mapping = known.fit_labels(score_format.log_scores(scores), index, prompts)
        mapping.set_params(score_format=score_format)
        return known.set_params(mapping=mapping)

    def __call__(self, images: Any, class_prompts: Sequence[str]) -> np.ndarray:
        """Return scores of images for class prompts, or for the service's labels if those are given.

        Parameters
        ----------
        images : ndarray of shape (n, height, width, 3), uint8, or tensor
            Images in the form that the score function takes.
        class_prompts : sequence of str
            Class prompts, or labels of the service.

        Returns
        -------
        scores : ndarray of shape (n, n_classes), float64
            NaN for missing scores.

        Raises
        ------
        NotFittedError
            If the mapping has not been learned yet.
        ScoreError
            If the service's answer does not consist of scores for its labels.
        ClassPromptError
            If the mapping was learned for other class prompts.
        """
        scores: np.ndarray = collected(self.answers(images, class_prompts), len(images), len(class_prompts))
        return scores

    def answers(self, images: Any, class_prompts: Sequence[str]) -> Iterator[Scored]:
        """Yield scores as they arrive, see `blackvip.scorers.contract`.

        Parameters
        ----------
        images : ndarray of shape (n, height, width, 3), uint8, or tensor
            Images in the form that the score function takes.
        class_prompts : sequence of str
            Class prompts, or the service's labels.

        Yields
        ------
        rows : ndarray of int
            Indices into `images`; each comes once.
        scores : ndarray of shape (len(rows), n_classes), float64
            Scores that a call returns for ``images[rows]``.
        """
        self._validate_params()
        sent_prompts = list(class_prompts) if self.labels is None else self.service_labels
        self._check_can_map(class_prompts, sent_prompts)
        pieces = scores_of(self.score_fn, images, sent_prompts)
        try:
            for rows, answer in pieces:
                yield rows, self._mapped(answer, len(rows), sent_prompts, class_prompts)
        finally:
            pieces.close()

    def _check_can_map(self, class_prompts: Sequence[str], sent_prompts: list[str]) -> None:
        if isinstance(self.mapping, LabelMapping):
            if list(self.mapping.class_prompts) != list(class_prompts):
                raise ClassPromptError(
                    f"The label mapping was learned for {list(self.mapping.class_prompts)!s:.200}, but the "
                    f"class prompts are {list(class_prompts)!s:.200}. Learn a mapping for these class prompts."
                )
        elif self.learns and (self.labels is None or list(class_prompts) != sent_prompts):
            raise NotFittedError(
                f"LabelMappedScorer has mapping={self.mapping!r}, which must first be learned from labelled "
                "images. BlackVIPClassifier does so if `labels` are known; otherwise call `learn(X, y, class_prompts)`."
            )
        elif self.mapping == "text" and self.labels is not None:
            _check_all_matched(sent_prompts, class_prompts)

    def _mapped(self, answer: Any, n_images: int, sent_prompts: list[str], class_prompts: Sequence[str]) -> np.ndarray:
        if isinstance(self.mapping, LabelMapping):
            scores = _label_scores(answer, n_images, self.mapping.labels)
            log_scores = self.mapping.score_format.log_scores(scores)
            probabilities = np.exp(self.mapping.log_scores(log_scores))
            # Images in which nothing was recognised.
            probabilities[~np.isfinite(scores).any(axis=1)] = np.nan
            return probabilities
        if self.learns:
            return _label_scores(answer, n_images, sent_prompts)
        if self.labels is not None:
            return _matched(_label_scores(answer, n_images, sent_prompts), sent_prompts, class_prompts)
        found = rows_of(answer, n_images)
        if isinstance(found, np.ndarray):
            raise ScoreError(
                f"The service returned a {type(answer).__name__} of scores without names; with labels=None, expected "
                "dicts from label to score. Pass the labels to LabelMappedScorer."
            )
        # Images are matched one by one, since the scores of one must not depend on the others.
        named = [(_labels_in([row]), row) for row in found]
        rows = [_matched(_label_scores([row], 1, labels), labels, class_prompts) for labels, row in named]
        return np.concatenate(rows)


def learning_scorer(score_fn: Any) -> LabelMappedScorer | None:
    """Return the scorer whose mapping a fit must learn from its first answers, if there is one.

    Parameters
    ----------
    score_fn : object
        A score function, possibly inside wrappers.

    Returns
    -------
    scorer : LabelMappedScorer or None
        The scorer, to be called with its `service_labels`. None: the service is called with class prompts.
    """
    scorer = innermost(score_fn)
    return scorer if declared(scorer, "learns", False) else None


def refuse_several_prompts(score_fn: Any) -> None:
    """Raise a `ClassPromptError` if a score function takes one prompt per class.

    Parameters
    ----------
    score_fn : object
        A score function, possibly inside wrappers.
    """
    scorer = innermost(score_fn)
    reasons = {"maps_labels": "maps a service's own labels to classes", "one_prompt_per_class": "lets prompts compete"}
    reason = next((reason for name, reason in reasons.items() if declared(scorer, name, False)), None)
    if reason is not None:
        raise ClassPromptError(
            f"class_prompts has several prompts for a class, but {type(scorer).__name__} {reason}; expected one prompt "
            "per class. Pass one template, or a dict from label to prompt."
        )


def _matched(scores: np.ndarray, labels: Sequence[str], class_prompts: Sequence[str]) -> np.ndarray:
    """Return the highest score (n_images, n_classes) among the labels that match a class; NaN if there is none."""
    mapped = np.full((len(scores), len(class_prompts)), np.nan)
    for column, of_class in enumerate(text_matches(labels, class_prompts).T):
        if of_class.any():
            mapped[:, column] = np.fmax.reduce(scores[:, of_class], axis=1)
    return mapped


def _check_all_matched(labels: Sequence[str], class_prompts: Sequence[str]) -> None:
    for column in np.flatnonzero(~text_matches(labels, class_prompts).any(axis=0)):
        prompt = class_prompts[int(column)]
        near = difflib.get_close_matches(prompt, labels, n=3, cutoff=0.3) or list(labels[:3])
        raise ClassPromptError(
            f"No label's text matches the class prompt {prompt!r}; the closest are {', '.join(map(repr, near))}. Use "
            "mapping='blm+', which learns from labelled images, or a class prompt that names a label."
        )


def _labels_in(answer: Any) -> list[str]:
    """Return the labels that occur in dicts, sorted, or the column numbers of an array."""
    if all(isinstance(row, Mapping) for row in answer):
        return sorted({str(label) for row in answer for label in row})
    return [str(number) for number in range(np.shape(answer)[-1])]


def _label_scores(answer: Any, n_images: int, labels: Sequence[str]) -> np.ndarray:
    """Return the scores (n_images, n_labels) in an answer; named scores of other labels are ignored."""
    with suppress(TypeError):
        found = read_scores(answer, n_images, labels)
        answer = found.only(labels) if isinstance(found, NamedScores) else found
    return check_scores(answer, n_images, labels)
