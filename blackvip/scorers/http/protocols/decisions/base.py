"""The base of decision endpoints: options in several orders, and a strict reading of their probabilities."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import unicodedata
from abc import ABCMeta, abstractmethod
from collections.abc import Iterable, Mapping
from functools import lru_cache
from numbers import Integral
from typing import Any

import numpy as np

from .....exceptions import ClassPromptError, Refusal, ServiceError
from ....formats import BELOW_ZERO, SUM_ERROR
from ...adapter import Adapter, Images, Request, Send
from ...json_bodies import shortened

__all__ = ["INSTRUCTIONS", "Decisions", "option_orders"]

INSTRUCTIONS = "Which option describes the image best?"
# Error of a probability with two decimals, be it rounded, cut off or kept away from 0: a unit of the last one.
_UNIT = 0.01
_SHOWN_OPTIONS = 3


class Decisions(Adapter, metaclass=ABCMeta):
    """Base of the adapters for decision endpoints. A request has one image, and the class prompts are its options.

    Options compete: their probabilities sum to 1. So each class has one prompt; several prompts of a class would share
    its probability in a way that nobody knows.

    Parameters
    ----------
    model : str
        Name of the model.
    instructions : str, default="Which option describes the image best?"
        The question.
    descriptions : mapping or None, default=None
        Longer descriptions of some or all options: from class prompt to text. Some models read the description of an
        option in place of the option.
    n_orders : int, default=1
        Number of orders of the options. Each is a question of its own in the same request, and probabilities are their
        means. This removes most of a model's preference for early or late options, and refines rounded probabilities.
        The class prompts alone determine the orders: the first is their own, the second its reverse, and all differ.
        Options that have fewer orders are asked for in all of them.

    Attributes
    ----------
    path : str
        Path of requests below the scorer's url.
    max_questions : int
        The most questions of a request, and so the most orders.
    """

    score_type = "probabilities"
    one_prompt_per_class = True
    path: str = "decisions"
    max_questions: int = 64

    def __init__(
        self,
        model: str,
        *,
        instructions: str = INSTRUCTIONS,
        descriptions: Mapping[str, str] | None = None,
        n_orders: int = 1,
    ):
        self.model = model
        self.instructions = instructions
        self.descriptions = descriptions
        self.n_orders = n_orders

    @abstractmethod
    def body(self, image: bytes, questions: dict[str, dict[str, str | None]]) -> Any:
        """Build the body of a request.

        Parameters
        ----------
        image : bytes
            A file.
        questions : dict
            From the name of each question to its options, in order, with their descriptions; None for no description.

        Returns
        -------
        body : object
            JSON; bytes become base64 text.
        """

    @abstractmethod
    def answers(self, answer: Any) -> Iterable[tuple[str, Any]]:
        """Return the answers to the questions.

        Parameters
        ----------
        answer : object
            The answer as `parse` returns it.

        Returns
        -------
        answers : iterable of (str, answer)
            The name of each question, and pairs of options and probabilities; or a `Refusal`.
        """

    def prepare(self, send: Send, class_prompts: list[str]) -> Adapter:
        """Check the options and parameters; see `Adapter`.

        Raises
        ------
        ClassPromptError
            If there are fewer than two options, or if one is empty or comes twice.
        ValueError
            If a parameter is invalid.
        """
        options = set(class_prompts)
        if len(class_prompts) < 2 or len(options) < len(class_prompts) or not all(map(_is_option, options)):
            raise ClassPromptError(
                f"{type(self).__name__} was given the options {_listed(class_prompts)}; expected at least two texts "
                "that differ, without blanks at their ends and control characters."
            )
        n_orders = self.n_orders
        if isinstance(n_orders, bool) or not isinstance(n_orders, Integral) or not 1 <= n_orders <= self.max_questions:
            raise ValueError(
                f"n_orders={n_orders!r} was given; expected a whole number from 1 to {self.max_questions}, which is "
                "the most questions that a request may have."
            )
        for name in ("model", "instructions"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"{name}={value!r} was given; expected a text that is not empty.")
        unknown = sorted(set(self.descriptions or {}) - options)
        if unknown:
            raise ValueError(
                f"descriptions has texts for {_listed(unknown)}, which are no class prompts; expected some of "
                f"{_listed(class_prompts)}."
            )
        return self

    def request(self, images: Images, class_prompts: list[str]) -> Request:
        """Build a request with the image, and a question for each order of the options; see `Adapter`."""
        described = self.descriptions or {}
        orders = option_orders(tuple(class_prompts), int(self.n_orders))
        questions = {
            _name(place): {class_prompts[index]: described.get(class_prompts[index]) for index in order}
            for place, order in enumerate(orders)
        }
        return Request(self.path, self.body(images[0], questions))

    def scores(self, answer: Any, class_prompts: list[str]) -> list[Any]:
        """Return the mean probability of each option over its orders; see `Adapter`."""
        given: dict[str, Any] = {}
        for name, probabilities in self.answers(answer):
            if name in given:
                raise ServiceError(f"The service answered the question {name!r} twice; expected one answer.")
            given[name] = probabilities
        rows = []
        for place in range(len(option_orders(tuple(class_prompts), int(self.n_orders)))):
            name = _name(place)
            if name not in given:
                raise ServiceError(
                    f"The service answered the questions {_listed(given)}, but not {name!r}; expected probabilities "
                    f"of the options. The answer begins {shortened(answer)}."
                )
            # The mean of some orders would not compare with that of all.
            if isinstance(given[name], Refusal):
                return [given[name]]
            rows.append(_row(name, given[name], class_prompts))
        return [np.mean(rows, axis=0)]


@lru_cache(maxsize=64)
def option_orders(options: tuple[str, ...], n_orders: int) -> tuple[tuple[int, ...], ...]:
    """Return orders of some options, which they alone determine.

    Parameters
    ----------
    options : tuple of str
    n_orders : int
        At least 1.

    Returns
    -------
    orders : tuple of tuple of int
        Indices into `options`. The first order is their own. Each second order is the reverse of the one before it, so
        the mean position of all options is the same. If the options have fewer than `n_orders` orders, these are all.
    """
    n_orders = min(n_orders, math.factorial(len(options)))
    # Digests are the same in every version of every library, as random numbers are not.
    seed = hashlib.sha256(json.dumps(options).encode()).hexdigest()
    orders: dict[tuple[int, ...], None] = {}
    for place in itertools.count():
        digests = [hashlib.sha256(f"{seed} {place} {index}".encode()).digest() for index in range(len(options))]
        order = tuple(sorted(range(len(options)), key=digests.__getitem__) if place else range(len(options)))
        orders |= dict.fromkeys((order, order[::-1]))
        if len(orders) >= n_orders:
            break
    return tuple(orders)[:n_orders]


def _is_option(text: str) -> bool:
    """Return whether all services take a text as an option."""
    return text == text.strip() != "" and all(unicodedata.category(character) != "Cc" for character in text)


def _name(place: int) -> str:
    return f"class_{place + 1}" if place else "class"


def _row(name: str, answer: Any, class_prompts: list[str]) -> list[float]:
    """Return the probabilities of the options, in their order, from the answer to one question."""
    given: dict[str, float] = {}
    for option, probability in answer:
        # Some services turn the texts "true" and "false" into truth values.
        option = {True: "true", False: "false"}[option] if isinstance(option, bool) else option
        if option in given:
            raise ServiceError(f"The answer to {name!r} has the option {shortened(option, 60)!r} twice.")
        is_number = isinstance(probability, (int, float)) and not isinstance(probability, bool)
        # False for NaN too.
        if not is_number or not BELOW_ZERO <= probability <= 1 + SUM_ERROR:
            raise ServiceError(
                f"The answer to {name!r} gives {shortened(option, 60)!r} the probability {shortened(probability, 40)}; "
                "expected a number from 0 to 1."
            )
        given[option] = float(probability)
    missing = [option for option in class_prompts if option not in given]
    if missing or len(given) > len(class_prompts):
        unknown = [option for option in given if option not in class_prompts]
        said = f"lacks the options {_listed(missing)}" if missing else "has too many options"
        raise ServiceError(
            f"The answer to {name!r} {said}{f', and has {_listed(unknown)}' if unknown else ''}; expected a "
            f"probability of each of the {len(class_prompts)} options."
        )
    total = sum(given.values())
    if abs(total - 1) > _UNIT * len(given) + SUM_ERROR:
        raise ServiceError(
            f"The probabilities in the answer to {name!r} sum to {total:.4g}; expected 1, apart from rounding."
        )
    return [given[option] for option in class_prompts]


def _listed(texts: Iterable[Any]) -> str:
    shown = [repr(shortened(text, 60)) for text in texts]
    more = f" and {len(shown) - _SHOWN_OPTIONS} more" if len(shown) > _SHOWN_OPTIONS else ""
    return ", ".join(shown[:_SHOWN_OPTIONS]) + more if shown else "none"
