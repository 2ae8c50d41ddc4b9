"""A service with labels of its own as a score function for classes. How one becomes the other: see `label_weights`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_consistent_length

from ...exceptions import ClassPromptError, ScoreError
from ...inputs.class_prompts import make_class_prompts
from ...inputs.images import ImageFormat, to_uint8
from ...inputs.labels import check_labels, class_indices
from ...inputs.reading import pixel_batches
from ..answers import Scored, scores_of
from ..contract import ScoreFunction, check_anything_given, check_scores
from ..formats import ScoreFormat
from ..wrappers import ForwardsAttributes, ScorerWrapper
from .mapping import LabelMapping, bayesian_weights, frequency_weights, label_counts
from .texts import text_matches

__all__ = ["LabelMappedScorer", "LabelMapping", "learning_scorer"]

_TOP_SHARE, _LEAST_TOP = 0.15, 5  # of the number of classes: an image's labels that BLM+ counts, and at least so many


class LabelMappedScorer(ForwardsAttributes, BaseEstimator):
    """A score function for classes, around a service that knows labels of its own.

    Parameters
    ----------
    score_fn : callable
        ``score_fn(images, labels) -> scores``: scores for the service's labels, an array (n, m), or a list of dicts
        from label to score. Most services do not read the second argument. One that is asked by text is asked for
        `labels`. What it declares as attributes is passed on.
    labels : sequence of str, int or None, default=None
        The service's labels, in the order of its scores; or how many scores there are, without names. In dicts, other
        labels are ignored. None: not known; with ``mapping="text"`` they need not be, and `learn` finds those that
        occur.
    mapping : {"blm+", "blm", "frequency", "text"} or LabelMapping, default="blm+"
        How labels become classes, see `blackvip.scorers.label_weights`. "text": a class's score is the highest among
        the labels whose texts match its prompt; nothing is learned. A `LabelMapping`: as it was learned before.
    smoothing : float, default=1.0
        Of "blm" and "blm+", see `bayesian_weights`.
    n_top : int or "auto", default="auto"
        Labels of an image that "blm+" counts. "auto": 15 % of the number of classes, as in the paper, at least 5.
    text_weight : float, default=1.0
        Where a label's text matches a class prompt, it counts like so many images of the class that were given this
        label. 0: texts are not read.

    Notes
    -----
    Asked for its own labels, it returns the service's scores for them. So `BlackVIPClassifier` asks it, learns the
    mapping from the scores of the training images, which it pays for in any case, and maps what comes later.
    Wrap it directly around the service; `CachedScorer` and `SharedBudget` go around it.

    Examples
    --------
    >>> import numpy as np
    >>> from blackvip.scorers.label_mapping import LabelMappedScorer
    >>> def service(images, labels):  # it knows what it knows, whatever it is asked for
    ...     return [{"Domestic cat": 0.7, "Sofa": 0.2}, {"Dog": 0.6, "Food": 0.3}]
    >>> scorer = LabelMappedScorer(service, mapping="text")
    >>> scorer(np.zeros((2, 8, 8, 3), np.uint8), ["a photo of a cat.", "a photo of a dog."])
    array([[0.7, nan],
           [nan, 0.6]])
    """

    _parameter_constraints = {
        "score_fn": [callable],
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
        """What the scores are: probabilities where they are mixed, else what the score function declares."""
        mixed = isinstance(self.mapping, LabelMapping)
        return "probabilities" if mixed else super().score_type

    @property
    def learns(self) -> bool:
        """Whether a mapping has to be learned from labelled images before classes can be asked for."""
        return isinstance(self.mapping, str) and self.mapping != "text"

    @property
    def service_labels(self) -> list[str]:
        """The service's labels.

        Raises
        ------
        ValueError
            If they are not known.
        """
        if self.labels is None:
            raise ValueError(
                "LabelMappedScorer has labels=None, but the mapping is learned from scores for known labels; expected "
                "the service's labels, or their number. `scorer.learn(X, y, class_prompts).labels` finds those that "
                "it gives to some images."
            )
        if isinstance(self.labels, (int, np.integer)):
            return [str(number) for number in range(self.labels)]
        return [str(label) for label in self.labels]

    def fit_labels(
        self,
        log_scores: np.ndarray,
        y: np.ndarray,
        class_prompts: Sequence[str],
        sample_weight: np.ndarray | None = None,
    ) -> LabelMapping:
        """Learn a mapping from answers; this asks nothing, and changes nothing in the scorer.

        Parameters
        ----------
        log_scores : ndarray of shape (n_images, n_labels)
            Of training images, for `service_labels`; their softmax is what the service believes.
        y : ndarray of shape (n_images,)
            Class indices.
        class_prompts : sequence of str
            In the order of the class indices.
        sample_weight : ndarray of shape (n_images,) or None, default=None
            Weights of the images. None: they count alike.

        Returns
        -------
        mapping : LabelMapping
            Of `service_labels` to `class_prompts`.
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

    def learn(self, X: Any, y: Any, class_prompts: Any = "a photo of a {}.") -> LabelMappedScorer:
        """A scorer that has learned its mapping, and its labels where they were not known; bills one image each.

        For a service whose labels nobody has a list of. Else leave it to `BlackVIPClassifier`, which does not pay for
        the images a second time, and learns from the training images of each fit alone.

        Parameters
        ----------
        X : images, in any form that `BlackVIPClassifier.fit` takes
            Training images.
        y : array-like of shape (n_images,)
            Their labels, as of the classifier.
        class_prompts : str, dict or sequence of str, default="a photo of a {}."
            As of the classifier.

        Returns
        -------
        scorer : LabelMappedScorer
            With `labels` and a `LabelMapping`, for these class prompts.
        """
        self._validate_params()
        y = check_labels(y)
        check_consistent_length(X, y)
        classes = np.unique(y)
        prompts = make_class_prompts(class_prompts, classes)
        asked = prompts if self.labels is None else self.service_labels
        image_format, images = ImageFormat.learn(X, None, "crop", "raise")
        answers: list[Any] = []
        for pixels in pixel_batches(image_format, images):
            sent = pixels.float() if self.takes_tensors else to_uint8(pixels)
            batch: list[Any] = [None] * len(sent)
            for rows, answer in scores_of(self.score_fn, sent, asked):
                if len(answer) != len(rows):
                    raise ScoreError(
                        f"The service gave {len(answer)} answers for {len(rows)} images; expected as many."
                    )
                for row, scores in zip(np.asarray(rows).tolist(), answer):
                    batch[row] = scores
            answers += batch
        labels = _labels_in(answers) if self.labels is None else asked
        scores = _label_scores(answers, len(answers), labels)
        check_anything_given(scores)
        score_format = ScoreFormat.recognise(scores, getattr(self.score_fn, "score_type", "auto"))
        known = type(self)(**{**self.get_params(deep=False), "labels": labels})
        mapping = known.fit_labels(score_format.log_scores(scores), class_indices(y, classes), prompts)
        mapping.set_params(score_type=score_format.score_type, floor=score_format.floor)
        return known.set_params(mapping=mapping)

    def __call__(self, images: Any, class_prompts: Sequence[str]) -> np.ndarray:
        """Scores of images for class prompts, or for the labels if the class prompts are these.

        Parameters
        ----------
        images : ndarray of shape (n, height, width, 3), uint8, or tensor
            As the score function takes them.
        class_prompts : sequence of str

        Returns
        -------
        scores : ndarray of shape (n, n_classes), float64
            NaN where there is none.

        Raises
        ------
        NotFittedError
            If a mapping is still to be learned.
        ScoreError
            If the service's answer is not one of scores for its labels.
        ClassPromptError
            If the mapping is not for these class prompts.
        """
        scores = np.empty((len(images), len(class_prompts)))
        for rows, found in self.answers(images, class_prompts):
            scores[rows] = found
        return scores

    def answers(self, images: Any, class_prompts: Sequence[str]) -> Iterator[Scored]:
        """Scores as answers come, see `blackvip.scorers.contract`.

        Parameters
        ----------
        images : ndarray of shape (n, height, width, 3), uint8, or tensor
            As the score function takes them.
        class_prompts : sequence of str
            Or the labels.

        Yields
        ------
        rows : ndarray of int
            Indices into `images`; each comes once.
        scores : ndarray of shape (len(rows), n_classes), float64
            As a call would return them for ``images[rows]``.
        """
        self._validate_params()
        asked = list(class_prompts) if self.labels is None else self.service_labels
        self._check_can_map(class_prompts, asked)
        pieces = scores_of(self.score_fn, images, asked)
        try:
            for rows, answer in pieces:
                yield rows, self._mapped(answer, len(rows), asked, class_prompts)
        finally:
            pieces.close()

    def _check_can_map(self, class_prompts: Sequence[str], asked: list[str]) -> None:
        if isinstance(self.mapping, LabelMapping):
            if list(self.mapping.class_prompts) != list(class_prompts):
                raise ClassPromptError(
                    f"The label mapping was learned for {list(self.mapping.class_prompts)!s:.200}, and was asked for "
                    f"{list(class_prompts)!s:.200}. Learn one for these class prompts."
                )
        elif self.learns and (self.labels is None or list(class_prompts) != asked):
            raise NotFittedError(
                f"LabelMappedScorer has mapping={self.mapping!r}, which is learned from labelled images. "
                "BlackVIPClassifier does that if `labels` are known; `learn(X, y, class_prompts)` does it before."
            )
        elif self.mapping == "text" and self.labels is not None:
            _check_all_matched(asked, class_prompts)

    def _mapped(self, answer: Any, n_images: int, asked: list[str], class_prompts: Sequence[str]) -> np.ndarray:
        if isinstance(self.mapping, LabelMapping):
            scores = _label_scores(answer, n_images, self.mapping.labels)
            log_scores = ScoreFormat(self.mapping.score_type, self.mapping.floor).log_scores(scores)
            probabilities = np.exp(self.mapping.log_scores(log_scores))
            probabilities[~np.isfinite(scores).any(axis=1)] = np.nan  # nothing was recognised
            return probabilities
        if self.learns:
            return _label_scores(answer, n_images, asked)
        if self.labels is not None:
            return _matched(_label_scores(answer, n_images, asked), asked, class_prompts)
        if not all(isinstance(row, Mapping) for row in answer):
            raise ScoreError(
                f"The service answered with a {type(answer).__name__} of scores without names; expected dicts from "
                "label to score, where labels=None. Give LabelMappedScorer the labels."
            )
        named = [(_labels_in([row]), row) for row in answer]  # each image by itself, whatever comes with it
        rows = [_matched(_label_scores([row], 1, labels), labels, class_prompts) for labels, row in named]
        return np.concatenate(rows)


def learning_scorer(score_fn: Any) -> LabelMappedScorer | None:
    """The scorer whose labels are to be mapped by what `fit_labels` learns from a fit's first answers.

    Parameters
    ----------
    score_fn : object
        A score function, which may pass on the answers of another one.

    Returns
    -------
    scorer : LabelMappedScorer or None
        It is asked for its `service_labels` then. None: class prompts are asked for, as ever.
    """
    while isinstance(score_fn, ScorerWrapper):
        score_fn = score_fn.score_fn
    return score_fn if isinstance(score_fn, LabelMappedScorer) and score_fn.learns else None


def _matched(scores: np.ndarray, labels: Sequence[str], class_prompts: Sequence[str]) -> np.ndarray:
    """The highest score (n_images, n_classes) among the labels that mean a class; NaN where there is none."""
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
            f"No label's text matches the class prompt {prompt!r}; near it are {', '.join(map(repr, near))}. Use "
            "mapping='blm+', which learns from labelled images, or a class prompt that names a label."
        )


def _labels_in(answer: Any) -> list[str]:
    """The labels that occur in dicts, sorted; or the numbers of the columns of an array."""
    if all(isinstance(row, Mapping) for row in answer):
        return sorted({str(label) for row in answer for label in row})
    return [str(number) for number in range(np.shape(answer)[-1])]


def _label_scores(answer: Any, n_images: int, labels: Sequence[str]) -> np.ndarray:
    """Scores (n_images, n_labels) in an answer. Of dicts, labels that are not asked for are left out."""
    if isinstance(answer, (list, tuple)) and any(isinstance(row, Mapping) for row in answer):
        wanted = set(labels)
        answer = [
            {label: score for label, score in row.items() if label in wanted} if isinstance(row, Mapping) else row
            for row in answer
        ]
    return check_scores(answer, n_images, labels)
