"""The probability that a language model gives to all labels together, over its whole vocabulary."""

from __future__ import annotations

import threading
from typing import Any

from ...exceptions import LabelMassWarning, warn_caller

__all__ = ["LabelMass"]

# Below this, a model answers something else, and what it says of the labels is noise.
_LEAST = 0.05
# A single image may be hard to answer.
_N_ANSWERS = 8


class LabelMass:
    """The mean mass of the labels in all answers; several threads may share it.

    Attributes
    ----------
    n_answers : int
        Number of answers that told the mass.
    """

    def __init__(self) -> None:
        self.n_answers = 0
        self._total = 0.0
        self._has_warned = False
        self._lock = threading.Lock()

    def add(self, mass: Any) -> None:
        """Count the mass of an answer, and warn once if the mean of several is low.

        Parameters
        ----------
        mass : object
            A number from 0 to 1; anything else tells nothing.
        """
        if isinstance(mass, bool) or not isinstance(mass, (int, float)) or not 0 <= mass <= 1 + 1e-3:
            return
        with self._lock:
            self.n_answers += 1
            self._total += mass
            n_answers, mean = self.n_answers, self._total / self.n_answers
            is_low = n_answers >= _N_ANSWERS and mean < _LEAST and not self._has_warned
            self._has_warned |= is_low
        if is_low:
            warn_caller(
                f"In {n_answers} answers, the model gives all labels together a mean probability of {mean:.2g}; "
                f"expected more than {_LEAST}. It does not understand the question, and its scores are mostly noise. "
                "Change the instructions or the class prompts, or use a model that is made for such questions.",
                LabelMassWarning,
            )
