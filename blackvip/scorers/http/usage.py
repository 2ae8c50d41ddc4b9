"""Usage: what answers report on tokens, cost, the model and refusals, and the totals."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from ...exceptions import Refusal, ServiceError

__all__ = ["Tally", "Usage", "are_too_many", "token_prices"]

# The most images of a short run without scores, and their largest share of a longer one.
_FEW_EMPTY = 4
_EMPTY_SHARE = 0.1


@dataclass(frozen=True)
class Usage:
    """What one answer costs.

    Parameters
    ----------
    input_tokens, output_tokens : int, default=0
        Number of billed tokens of the request, and of the answer.
    cost : float or None, default=None
        Cost in the service's currency. None: the answer does not report it.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None

    @property
    def n_tokens(self) -> int:
        """Number of tokens, of the request and the answer together."""
        return self.input_tokens + self.output_tokens

    @classmethod
    def of(cls, told: Any) -> Usage | None:
        """Return the usage that a JSON object reports, under the names that most services use; None if there is none.

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
    model : str or None
        The model that answered last; None if the answers do not name it.
    """

    def __init__(self) -> None:
        self.n_answered = 0
        self.n_refused = 0
        self.model: str | None = None
        self._tokens = [0, 0]
        # Costs that the answers told; tokens of answers that told no cost, and their images; images of other answers.
        self._cost: float | None = None
        self._unpriced_tokens = [0, 0]
        self._n_images_with_tokens = 0
        self._n_images_alone = 0
        self._change: tuple[str, str] | None = None
        self._is_told = False
        self._lock = threading.Lock()

    @property
    def n_tokens(self) -> int:
        """Number of tokens, of requests and answers together."""
        return sum(self._tokens)

    def add_answer(self, usage: Usage | None, model: str | None = None) -> None:
        """Count what an answer reports."""
        with self._lock:
            if model is not None:
                if self.model not in (None, model) and self._change is None:
                    self._change = str(self.model), model
                self.model = model
            if usage is None:
                return
            if usage.cost is not None:
                self._cost = (self._cost or 0.0) + usage.cost
            for counts in [self._tokens] if usage.cost is not None else [self._tokens, self._unpriced_tokens]:
                counts[0] += usage.input_tokens
                counts[1] += usage.output_tokens

    def add_images(self, n_images: int, usage: Usage | None, refusals: list[Refusal]) -> None:
        """Count the images of an answer with this usage, and those that were refused.

        Raises
        ------
        ServiceError
            If too many images were refused.
        """
        with self._lock:
            self.n_answered += n_images + len(refusals)
            self.n_refused += len(refusals)
            n_refused, n_answered = self.n_refused, self.n_answered
            if usage is None or (usage.cost is None and not usage.n_tokens):
                self._n_images_alone += n_images
            elif usage.cost is None:
                self._n_images_with_tokens += n_images
        if refusals and are_too_many(n_refused, n_answered):
            raise ServiceError(
                f"The service refused {n_refused} of {n_answered} images; expected at most {_EMPTY_SHARE:.0%}. Leave "
                f"out the images that it refuses, or change the request. The last refusal was: {refusals[-1]}"
            )

    def take_change(self) -> tuple[str, str] | None:
        """Return the first change of the model, from one name to another, the first time that it is asked for."""
        with self._lock:
            if self._change is None or self._is_told:
                return None
            # Only once, since a service with several backends may change to and fro.
            self._is_told = True
            return self._change

    def cost(self, price_per_image: float | None, price_per_million_tokens: Any) -> float | None:
        """Return the money spent so far: costs that answers told, else those of their tokens, else of their images.

        None if an answer has no price.
        """
        prices = token_prices(price_per_million_tokens)
        with self._lock:
            cost, n_images = self._cost, self._n_images_alone
            if prices is None:
                n_images += self._n_images_with_tokens
            else:
                priced = sum(count * price for count, price in zip(self._unpriced_tokens, prices))
                cost = (cost or 0.0) + priced / 1e6
        if price_per_image is not None:
            return (cost or 0.0) + n_images * price_per_image
        return None if n_images else cost


def are_too_many(n_empty: int, n_images: int) -> bool:
    """Tell whether more images are without scores than may well be hard ones: some few, or a share of all."""
    return n_empty > max(_FEW_EMPTY, _EMPTY_SHARE * n_images)


def token_prices(prices: Any) -> tuple[float, float] | None:
    """Return the prices of a million input and a million output tokens, from one price or a pair of them.

    Raises
    ------
    ValueError
        If they are not finite numbers of at least 0.
    """
    pair = prices if isinstance(prices, (tuple, list)) else (prices, prices)
    if prices is None:
        return None
    if len(pair) != 2 or any(_number(price) is None for price in pair):
        raise ValueError(
            f"price_per_million_tokens is {prices!r}; expected a number of at least 0, a pair of them for input and "
            "output tokens, or None."
        )
    return float(pair[0]), float(pair[1])


def _number(value: Any) -> Any:
    """Return a number of at least 0 unchanged, and None for anything else."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return value if is_number and 0 <= float(value) < math.inf else None
