"""Findings: recommendations from the results of a fit on test images, and their uncertainty, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..heads.judging import is_clear
from .curves import BASELINE_NAMES
from .drawing import counted

__all__ = [
    "Results",
    "describe_ending",
    "images_per_prediction",
    "price_of_prediction",
    "recommendation",
    "trained_accuracy",
    "uncertainties",
    "what_is_sent",
    "wilson_interval",
]

_FEW = 100  # test images below which an accuracy is known only to within 10 %
_ENDINGS = {
    "budget": "its budget was spent",
    "no_gain": "no further rung of the ladder helped",
    "ceiling": "too little was left to gain",
    "no_improvement": "the held-out images stopped improving",
    "nothing_to_train": "the prompter has nothing to train",
    "callback": "a callback stopped it",
    "interrupted": "it was interrupted",
    "error": "the score function failed",
}


class Results(NamedTuple):
    """Results on the test images.

    Attributes
    ----------
    y : ndarray of shape (n_images,)
        True labels.
    before, after : ndarray of shape (n_images,)
        Labels that the service itself predicts, without and with the prompt.
    hits : dict of str to ndarray of shape (n_images,), bool
        Whether each baseline, the service with the prompt ("prompt") and the classifier ("classifier") are right.
    """

    y: np.ndarray
    before: np.ndarray
    after: np.ndarray
    hits: dict[str, np.ndarray]

    @classmethod
    def of(cls, estimator: Any, found: Any) -> Results:
        """Return the results in a `PromptComparison` that has labels."""
        before, after = (estimator.classes_[scores.argmax(axis=1)] for scores in (found.plain, found.prompted))
        return cls(found.y, before, after, {name: labels == found.y for name, labels in found.labels.items()})

    def accuracy(self, name: str) -> float:
        """Return the share of the images that a method gets right."""
        return float(self.hits[name].mean())

    def is_better(self, one: str, other: str) -> bool:
        """Return whether a method gets more images right than another, by more than a standard error."""
        return is_clear(self.hits[one].astype(float) - self.hits[other])


def what_is_sent(estimator: Any) -> str:
    """Describe what the classifier sends to the service."""
    return f"images with the {estimator.prompter_.title}" if estimator.prompt_used_ else "unmodified images"


def images_per_prediction(estimator: Any) -> float:
    """Return the mean number of images that a prediction of the classifier sends."""
    return float(_point_in_use(estimator)["images_per_prediction"])


def trained_accuracy(estimator: Any) -> float:
    """Return the cross-validated accuracy on the training images, of all stages of a prediction."""
    return float(_point_in_use(estimator)["accuracy"])


def _point_in_use(estimator: Any) -> dict[str, Any]:
    return next(row for row in estimator.cost_curve_ if row["used"])


def price_of_prediction(estimator: Any) -> str:
    """Say how many images a prediction of the classifier sends."""
    n_images = images_per_prediction(estimator)
    few = {0.0: "no image per prediction", 1.0: "one image per prediction"}
    return few.get(n_images, f"{n_images:.2g} images per prediction")


def recommendation(estimator: Any, results: Results) -> str:
    """Recommend the classifier or a baseline, with its accuracy and its price, and name cheaper alternatives.

    The classifier is recommended unless a baseline is clearly better on these images, or the local probe, which calls
    no service, is not clearly worse, neither on them nor by cross-validation.

    Parameters
    ----------
    estimator : BlackVIPClassifier
        The fitted classifier.
    results : Results
        Results on the test images.

    Returns
    -------
    text : str
        One to three sentences.
    """
    alone = results.accuracy("zero_shot")
    reads = f"reads the answers with the {estimator.head_.title}" if estimator.head_.learns else "needs no trained head"
    own = (
        f"this classifier: it sends {what_is_sent(estimator)}, and {reads}. Accuracy "
        f"{results.accuracy('classifier'):.3f} instead of {alone:.3f}, at {price_of_prediction(estimator)}"
    )
    better = [name for name in estimator.baselines_ if results.is_better(name, "classifier")]
    probe = "local_probe" if "local_probe" in estimator.baselines_ else None
    # Few images show no difference, where the training images may.
    is_worse = probe and (
        results.is_better("classifier", probe) or estimator.baselines_[probe].is_less_accurate(estimator.result_)
    )
    if probe and (probe in better or not is_worse):
        return (
            "Use the local probe, which runs on your machine and bills nothing: accuracy "
            f"{results.accuracy(probe):.3f}, against {results.accuracy('classifier'):.3f} of this classifier and "
            f"{alone:.3f} of the service alone."
        )
    if better:
        best = max(better, key=results.accuracy)
        return (
            f"Use the baseline “{BASELINE_NAMES[best]}”, which sends unmodified images: accuracy "
            f"{results.accuracy(best):.3f}, against {results.accuracy('classifier'):.3f} of this classifier, at one "
            "image per prediction."
        )
    if not estimator.prompt_used_ and not estimator.head_.learns:
        return (
            f"Use the service alone: accuracy {alone:.3f}. Neither a prompt nor a head improved its predictions of the "
            "training images."
        )
    cheaper = f" The local probe bills nothing, and reaches {results.accuracy(probe):.3f}." if probe else ""
    rivals = [name for name in estimator.baselines_ if name != probe and not results.is_better("classifier", name)]
    if rivals:
        rival = max(rivals, key=results.accuracy)
        name, accuracy = BASELINE_NAMES[rival], results.accuracy(rival)
        cheaper += f" On these images, the baseline “{name}” is not clearly worse: {accuracy:.3f}."
    return f"Use {own}.{cheaper}"


def uncertainties(estimator: Any, results: Results) -> Iterator[str]:
    """Yield sentences on the uncertainty of the results.

    Parameters
    ----------
    estimator : BlackVIPClassifier
        The fitted classifier.
    results : Results
        Results on the test images.

    Yields
    ------
    sentence : str
        The interval of the gain, too few images or shots, and a difference to cross-validation.
    """
    n, n_train = len(results.y), len(estimator.scored_images_.y)
    gain = results.hits["classifier"].astype(float) - results.hits["zero_shot"]
    error = 1.96 * gain.std(ddof=1) / math.sqrt(n) if n > 1 else math.inf
    yield (
        f"The gain over the service alone is {gain.mean():+.3f} ± {error:.3f} (95 % interval), measured on "
        f"{counted(n, 'test image')}."
        if np.isfinite(error)
        else "One test image says nothing about the gain."
    )
    if n < _FEW:
        width = 1.96 * 0.5 / math.sqrt(n)
        yield f"{counted(n, 'test image')} are few: the 95 % interval of an accuracy is up to ±{100 * width:.0f} %."
    counts = np.bincount(estimator.scored_images_.y, minlength=len(estimator.classes_))
    if counts.min() < 5:
        few = estimator.classes_[counts.argmin()]
        yield f"The class {few} has only {counted(int(counts.min()), 'training image')} of {n_train:,d}."
    expected = trained_accuracy(estimator)
    shift = results.accuracy("classifier") - expected
    low, high = wilson_interval(int(results.hits["classifier"].sum()), n)
    if not low <= expected <= high:
        yield (
            f"Cross-validation on the training images estimated an accuracy of {expected:.3f}. The "
            f"test images are {'easier' if shift > 0 else 'harder'}, or of another kind."
        )


def describe_ending(estimator: Any) -> str:
    """Say why training ended, with the figures behind it."""
    reason, rungs = estimator.termination_reason_, estimator.rungs_
    text = _ENDINGS[reason]
    if reason == "ceiling":
        return f"{text}: the log loss is {estimator.result_.log_loss:.2g} nats"
    if reason == "no_gain" and rungs and not rungs[-1]["helps"]:
        best = next((rung for rung in reversed(rungs) if rung["helps"]), rungs[0])
        last = rungs[-1]
        return (
            f"{text}: with {last['prompter']}, accuracy was {last['accuracy']:.3f} and log loss "
            f"{last['log_loss']:.3g}, and with {best['prompter']} {best['accuracy']:.3f} and {best['log_loss']:.3g}"
        )
    return text


def wilson_interval(n_hits: int, n: int) -> tuple[float, float]:
    """Compute Wilson's 95 % interval of a proportion.

    Parameters
    ----------
    n_hits, n : int
        Number of successes, and of trials.

    Returns
    -------
    low, high : float
        Bounds of the interval, within [0, 1].

    References
    ----------
    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.
    """
    z, p = 1.959964, n_hits / n
    centre, spread = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return max(0.0, (centre - spread) / (1 + z**2 / n)), min(1.0, (centre + spread) / (1 + z**2 / n))
