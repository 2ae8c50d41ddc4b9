"""The errors and warnings that this package raises on purpose: one small hierarchy."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from sklearn.exceptions import ConvergenceWarning

__all__ = [
    "BlackVIPError",
    "BudgetError",
    "ClassPromptError",
    "DatasetError",
    "DatasetIncompleteWarning",
    "FitInterruptedWarning",
    "ImageError",
    "ImagesResizedWarning",
    "ImagesSkippedWarning",
    "JournalError",
    "PersistenceError",
    "PromptNotUsedWarning",
    "ScoreError",
    "ServiceError",
    "warn_caller",
]

_NOT_THE_CALLER = ("blackvip", "sklearn")


class BlackVIPError(ValueError):
    """Base of all errors of this package; a `ValueError`, as scikit-learn's users expect."""


class ImageError(BlackVIPError):
    """An image, or a set of images, that cannot be used."""


class ClassPromptError(BlackVIPError):
    """Class prompts that do not fit the classes."""


class DatasetError(BlackVIPError):
    """A data set that is not known, or whose folder is missing, incomplete or laid out in another way."""


class ScoreError(BlackVIPError):
    """A score function returned something that is not one finite score per image and class."""


class ServiceError(ScoreError):
    """A service did not answer, or its answer is an error.

    Parameters
    ----------
    message : str
        One sentence.
    retry : bool, default=False
        Whether asking again may help.
    retry_after : float or None, default=None
        Seconds after which the service asks to be asked again; only where `retry` is True.
    status : int or None, default=None
        The HTTP status that came, or that would say the same. 429, too many requests, may come any number of times.
    """

    def __init__(self, message: str, retry: bool = False, retry_after: float | None = None, status: int | None = None):
        super().__init__(message)
        self.retry = retry
        self.retry_after = retry_after
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.retry, self.retry_after, self.status)


class BudgetError(BlackVIPError):
    """The budget of billed images does not cover what was asked for."""


class JournalError(BlackVIPError):
    """A journal of answers that belongs to something else, is in use, is damaged or cannot be written."""


class PersistenceError(BlackVIPError):
    """A file that `load` does not read, or an estimator that `save` cannot write."""


class DatasetIncompleteWarning(UserWarning):
    """A data set's folder has fewer classes than the public data set."""


class ImagesResizedWarning(UserWarning):
    """The images differ in size and were resized to one size."""


class ImagesSkippedWarning(UserWarning):
    """Images that cannot be read were left out, as ``on_error="skip"`` asks."""


class PromptNotUsedWarning(ConvergenceWarning):
    """The trained prompt did not beat what was free, and the fitted estimator does not use it."""


class FitInterruptedWarning(UserWarning):
    """`fit` was interrupted; the estimator is fitted with the best prompt found until then."""


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
