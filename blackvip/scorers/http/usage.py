"""What a service's answers say about themselves: tokens, cost, the model, and refusals."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...exceptions import Refusal, ServiceError

__all__ = ["Prices", "Tally", "Usage"]

#: Price of an image, and of a million input and output tokens; None if not given.
Prices = tuple[float | None, tuple[float, float] | None]

# The most refused images of a short run, and their largest share of a longer one.
_FEW_REFUSED = 4
_REFUSED_SHARE = 0.1


@dataclass(frozen=True)
class Usage:
    """What one answer costs.

    Parameters
    ----------
    input_tokens, output_tokens : int, default=0
        Number of billed tokens of the request, and of the answer.
    cost : float or None, default=None
        Cost in the service's currency. None: the answer does not tell.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None

    @classmethod
    def of(cls, told: Any) -> Usage | None:
        """Return the usage that an object of JSON tells, under the names that most services use; None if there is none.

        Parameters
        ----------
        told : object
            A dict with `input_tokens` or `prompt_tokens`, `output_tokens` or `completion_tokens`, and `cost`, or with
            `total_tokens` alone.
        """
        if not isinstance(told, Mapping):
            return None
        names = (
            ("input_tokens", "prompt_tokens"),
            ("output_tokens", "completion_tokens"),
            ("cost",),
            ("total_tokens",),
        )
        n_input, n_output, cost, n_total = (
            next((number for name in alike if (number := _number(told.get(name))) is not None), None) for alike in names
        )
        if n_input is None:
            n_input = None if n_total is None else n_total - (n_output or 0)
        if n_input is None and n_output is None and cost is None:
            return None
        return cls(max(0, int(n_input or 0)), int(n_output or 0), cost)


class Tally:
    """Counts of what a service told, shared by several threads.

    Attributes
    ----------
    n_answered : int
        Number of images that were answered or refused.
    n_refused : int
        Number of images that the service refused.
    n_tokens : int
        Number of tokens, of requests and answers together.
    model : str or None
        The model that answered last; None if the answers do not name it.
    """

    def __init__(self) -> None:
        self.n_answered = 0
        self.n_refused = 0
        self.model: str | None = None
        self._n_input = 0
        self._n_output = 0
        # Costs that the answers told, and what is left to be priced: tokens of answers that told no cost, and images
        # of answers that told nothing.
        self._cost: float | None = None
        self._n_unpriced_input = 0
        self._n_unpriced_output = 0
        self._n_unpriced_images = 0
        self._n_images_with_tokens = 0
        self._changes: list[tuple[str, str]] = []
        self._n_told = 0
        self._lock = threading.Lock()

    @property
    def n_tokens(self) -> int:
        return self._n_input + self._n_output

    def add(self, usage: Usage | None, model: str | None, n_images: int) -> None:
        """Count an answer for some images; for none if it prepares the adapter."""
        with self._lock:
            if n_images and model is not None:
                if self.model is not None and self.model != model:
                    self._changes.append((self.model, model))
                self.model = model
            if usage is None:
                self._n_unpriced_images += n_images
                return
            self._n_input += usage.input_tokens
            self._n_output += usage.output_tokens
            if usage.cost is not None:
                self._cost = (self._cost or 0.0) + usage.cost
            elif usage.input_tokens or usage.output_tokens:
                self._n_unpriced_input += usage.input_tokens
                self._n_unpriced_output += usage.output_tokens
                self._n_images_with_tokens += n_images
            else:
                self._n_unpriced_images += n_images

    def add_images(self, n_images: int, refusals: list[Refusal]) -> None:
        """Count images, and those of them that were refused; raises a `ServiceError` if these are too many."""
        with self._lock:
            self.n_answered += n_images
            self.n_refused += len(refusals)
            n_refused, n_answered = self.n_refused, self.n_answered
        if refusals and n_refused > max(_FEW_REFUSED, _REFUSED_SHARE * n_answered):
            raise ServiceError(
                f"The service refused {n_refused} of {n_answered} images; expected at most {_REFUSED_SHARE:.0%}. "
                f"The last one: {refusals[-1]} Leave out the images that it refuses, or reword the request."
            )

    def take_change(self) -> tuple[str, str] | None:
        """Return the first change of the model, from one name to another; None from the second call on."""
        with self._lock:
            if not self._changes or self._n_told:
                return None
            self._n_told = 1
            return self._changes[0]

    def cost(self, prices: Prices) -> float | None:
        """Return the money spent so far.

        Parameters
        ----------
        prices : tuple of (price per image, (price per million input tokens, price per million output tokens))

        Returns
        -------
        cost : float or None
            Each answer's own cost, else that of its tokens, else that of its images. None if an answer has no price.
        """
        per_image, per_million = prices
        with self._lock:
            cost, n_images = self._cost, self._n_unpriced_images
            if per_million is not None:
                tokens = self._n_unpriced_input * per_million[0] + self._n_unpriced_output * per_million[1]
                cost = (cost or 0.0) + tokens / 1e6
            else:
                n_images += self._n_images_with_tokens
            if per_image is not None:
                return (cost or 0.0) + n_images * per_image
            return None if n_images else cost


def _number(value: Any) -> Any:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0 else None
