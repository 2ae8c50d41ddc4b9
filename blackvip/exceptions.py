"""Errors and warnings of this package."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from sklearn.exceptions import ConvergenceWarning

__all__ = [
    "BlackVIPError",
    "BudgetError",
    "ClassPromptError",
    "ClassPromptWarning",
    "DatasetError",
    "DatasetIncompleteWarning",
    "FitInterruptedWarning",
    "ImageError",
    "ImagesAssumedWarning",
    "ImagesResizedWarning",
    "ImagesSkippedWarning",
    "JournalError",
    "LabelMassWarning",
    "PersistenceError",
    "ModelChangedWarning",
    "PromptNotUsedWarning",
    "Refusal",
    "ScoreError",
    "ServiceError",
    "warn_caller",
]

_NOT_THE_CALLER = ("blackvip", "sklearn")


class BlackVIPError(ValueError):
    """Base class of all errors of this package; also a `ValueError`, as users of scikit-learn expect."""


class ImageError(BlackVIPError):
    """An image or a set of images is unusable."""


class ClassPromptError(BlackVIPError):
    """The class prompts do not fit the classes."""


class DatasetError(BlackVIPError):
    """A data set is unknown, or its folder is missing, incomplete or has an unexpected layout."""


class ScoreError(BlackVIPError):
    """A score function returned something that is not one finite score per image and class."""


class ServiceError(ScoreError):
    """A service did not respond, or responded with an error.

    Parameters
    ----------
    message : str
        One sentence that says what went wrong.
    retry : bool, default=False
        Whether repeating the request may help.
    retry_after : float or None, default=None
        Seconds to wait before the next request, as the service asks; only used if `retry` is True.
    status : int or None, default=None
        HTTP status of the response, or an equivalent one. 429 (too many requests) is retried any number of times.
    """

    def __init__(self, message: str, retry: bool = False, retry_after: float | None = None, status: int | None = None):
        super().__init__(message)
        self.retry = retry
        self.retry_after = retry_after
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.retry, self.retry_after, self.status)


class Refusal(ServiceError):
    """A service refuses one image, as content filters do. The image counts as one without any score."""


class BudgetError(BlackVIPError):
    """The budget of billed images is too small."""


class JournalError(BlackVIPError):
    """A journal belongs to another fit, is in use, is damaged or cannot be written."""


class PersistenceError(BlackVIPError):
    """`load` cannot read a file, or `save` cannot write an estimator."""


class ClassPromptWarning(UserWarning):
    """A template of class prompts was filled with numbers or booleans, which mean little to most services."""


class DatasetIncompleteWarning(UserWarning):
    """A data set's folder has fewer classes than the public data set."""


class ImagesAssumedWarning(UserWarning):
    """The pixel range of the images, or the shape of flattened ones, was assumed, because it is ambiguous."""


class ImagesResizedWarning(UserWarning):
    """The images differ in size and were resized to one size."""


class ImagesSkippedWarning(UserWarning):
    """Unreadable images were left out because of ``on_error="skip"``."""


class ScoreTypeWarning(UserWarning):
    """The type of a service's scores is a guess, which ``score_type`` declares; or lower scores seem to be better."""


class ModelChangedWarning(UserWarning):
    """Another model answers than before, so its scores and those that came before may not belong together."""


class LabelMassWarning(UserWarning):
    """A language model gives the labels of all classes together a low probability, so their scores are mostly noise."""


class PromptNotUsedWarning(ConvergenceWarning):
    """The trained prompt did not beat the baselines, so the fitted estimator does not use it."""


class HeadNotHelpfulWarning(ConvergenceWarning):
    """The head classifies the training images no better than the service's own answers."""


class FitInterruptedWarning(UserWarning):
    """`fit` was interrupted; the estimator is fitted with the best prompt so far."""


def warn_caller(message: str, category: type[Warning]) -> None:
    """Issue a warning that points to the caller's line: the first one outside this package and scikit-learn.

    Parameters
    ----------
    message : str
        One or more sentences.
    category : type of Warning
        The warning's class.
    """
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in _NOT_THE_CALLER:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
