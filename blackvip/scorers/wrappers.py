"""Score functions around another score function."""

from __future__ import annotations

import copy
import inspect
from typing import Any, ClassVar, Self

from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import HasMethods

from .declarations import declared

__all__ = [
    "ForwardsAttributes",
    "IsScoreFunction",
    "LeavesOutLive",
    "ScorerWrapper",
    "WrapperEstimator",
    "innermost",
    "scorer_name",
]


class LeavesOutLive:
    """Mixin of estimators whose pickles and copies leave out open files, loaded models and the like."""

    _live_attributes: ClassVar[tuple[str, ...]] = ()

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        return {name: value for name, value in state.items() if name not in self._live_attributes}


class ForwardsAttributes:
    """Mixin of score functions that call another one, `score_fn`, and declare what it declares."""

    score_fn: Any

    @property
    def images_per_call(self) -> int | None:
        """The most images in one call, as the score function inside declares."""
        return declared(self.score_fn, "images_per_call")

    @property
    def max_class_prompts(self) -> int | None:
        """The most class prompts of a request, as the score function inside declares."""
        return declared(self.score_fn, "max_class_prompts")

    @property
    def score_type(self) -> str:
        """Type of the scores, as the score function inside declares."""
        return declared(self.score_fn, "score_type", "auto")

    @property
    def price_per_image(self) -> float | None:
        """Price of an image in any currency, as the score function inside declares."""
        return declared(self.score_fn, "price_per_image")

    @property
    def model_(self) -> str | None:
        """The model that answered last, as the score function inside declares."""
        return declared(self.score_fn, "model_")

    @property
    def takes_any_size(self) -> bool:
        """Whether images may have any size, as the score function inside declares."""
        return declared(self.score_fn, "takes_any_size", False)

    @property
    def takes_tensors(self) -> bool:
        """Whether images are float tensors, as the score function inside declares."""
        return declared(self.score_fn, "takes_tensors", False)

    @property
    def tensor_device(self) -> str:
        """Device on which tensors are best made, as the score function inside declares."""
        return declared(self.score_fn, "tensor_device", "cpu")

    def with_scorer(self, score_fn: Any) -> Self:
        """Return a copy of this score function that calls another one.

        Parameters
        ----------
        score_fn : callable
            The score function to call.

        Returns
        -------
        twin : score function
            The copy, which shares counts and files with the original.
        """
        twin = copy.copy(self)
        twin.score_fn = score_fn
        return twin


class ScorerWrapper(ForwardsAttributes):
    """Base class of score functions that return the scores of their `score_fn` unchanged."""

    @property
    def vector_size(self) -> int | None:
        """Size of the vectors at the end of the scores, as the score function inside declares."""
        return declared(self.score_fn, "vector_size")


class WrapperEstimator(LeavesOutLive, ScorerWrapper, BaseEstimator):
    """Base class of wrappers that are estimators: their clones share the score function instead of copying it."""

    def __sklearn_clone__(self) -> Self:
        return copy.copy(self)


def innermost(score_fn: Any) -> Any:
    """Return the score function inside all wrappers that leave scores unchanged."""
    while isinstance(score_fn, ScorerWrapper):
        score_fn = score_fn.score_fn
    return score_fn


class IsScoreFunction(HasMethods):
    """Constraint of a parameter: a callable, also within wrappers, and not a class."""

    def __init__(self) -> None:
        super().__init__(["__call__"])

    def is_satisfied_by(self, val: Any) -> bool:
        return callable(val) and not isinstance(innermost(val), type)

    def __str__(self) -> str:
        return "a callable, and of a class an instance, such as MyService() instead of MyService"


def scorer_name(score_fn: Any) -> str:
    """Return a name for a score function, never its repr, which may contain a secret."""
    name = inspect.getattr_static(score_fn, "__name__", None) and getattr(score_fn, "__name__", None)
    return name if isinstance(name, str) else type(score_fn).__name__
