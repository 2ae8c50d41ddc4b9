"""Score functions that pass on the answers of another one."""

from __future__ import annotations

import copy
from typing import Any, Self

from ..journal.identity import describe

__all__ = ["ForwardsAttributes", "ScorerWrapper", "innermost", "service_identity"]


class ForwardsAttributes:
    """Base of score functions that ask another one, their `score_fn`: what that one declares, they declare."""

    score_fn: Any

    @property
    def images_per_call(self) -> int | None:
        """The most images in one call, as the score function declares."""
        return getattr(self.score_fn, "images_per_call", None)

    @property
    def score_type(self) -> str:
        """What the scores are, as the score function declares."""
        return getattr(self.score_fn, "score_type", "auto")

    @property
    def price_per_image(self) -> float | None:
        """What an image costs, as the score function declares, in any currency."""
        return getattr(self.score_fn, "price_per_image", None)

    @property
    def takes_tensors(self) -> bool:
        """Whether images are float tensors, as the score function declares."""
        return getattr(self.score_fn, "takes_tensors", False)

    @property
    def tensor_device(self) -> str:
        """Where tensors are best made, as the score function declares."""
        return getattr(self.score_fn, "tensor_device", "cpu")


class ScorerWrapper(ForwardsAttributes):
    """Base of score functions whose answers are those of their `score_fn`."""

    def around(self, score_fn: Any) -> Self:
        """The same around another score function.

        Parameters
        ----------
        score_fn : callable
            What it asks instead of its own.

        Returns
        -------
        twin : score function
            It counts and keeps what this one does.
        """
        twin = copy.copy(self)
        twin.score_fn = score_fn
        return twin


def innermost(score_fn: Any) -> Any:
    """The score function behind those that only pass its answers on."""
    while isinstance(score_fn, ScorerWrapper):
        score_fn = score_fn.score_fn
    return score_fn


def service_identity(score_fn: Any) -> Any:
    """A score function as JSON: its name, and the parameters on which its answers depend.

    Those are what it declares as ``identity_params``, else all that its ``get_params`` gives. What only passes answers
    on is looked through. A plain function, and an object that is no estimator, are known by their name alone.
    """
    return describe(innermost(score_fn), open_names=False)
