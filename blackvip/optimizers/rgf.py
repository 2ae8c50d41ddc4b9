"""Random gradient-free optimization as in black-box adversarial reprogramming."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from ..persistence.arrays import Array
from ..persistence.fields import NotSaved, Record, integer
from .base import FIGURES, Optimizer

__all__ = ["RGF"]


class RGF(Optimizer):
    r"""Random gradient-free descent, BAR's optimizer (Tsai et al., ICML 2020, arXiv 2007.08714).

    The estimate is one-sided, from q random directions :math:`u_i` of length 1:
    :math:`\hat g = \frac{d}{q c} \sum_i (L(w + c u_i) - L(w))\, u_i`. The factor d makes it unbiased for a linear
    loss. Steps decay like a polynomial: :math:`a_k = a_{end} + (a - a_{end}) (1 - (k - 1) / n)^p`.

    Parameters
    ----------
    a : float
        Step size at the start.
    c : float or "auto"
        How far a candidate is from the parameters, as a Euclidean distance: BAR's smoothing parameter. "auto":
        `BlackVIPClassifier` takes what moves the prompts by one 8-bit level (root mean square), the least that a
        service sees.
    a_end : float
        Step size after `n_steps` steps, where it stays.
    n_steps : int or "auto"
        Steps over which the step size decays. "auto": those that the budget of `BlackVIPClassifier` pays for, which
        sets it at the start.
    power : float
        The exponent p of the decay.
    n_directions : int
        Directions q that are drawn in one step.

    Notes
    -----
    A step evaluates ``n_directions + 1`` candidates. BAR decays from 5 to 10 down to 0.01 to 0.1, for its own
    parameters, which a sigmoid turns into pixels.
    """

    _parameter_constraints = {
        "a": [Interval(Real, 0, None, closed="left")],
        "c": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "a_end": [Interval(Real, 0, None, closed="left")],
        "n_steps": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "power": [Interval(Real, 0, None, closed="left")],
        "n_directions": [Interval(Integral, 1, None, closed="left")],
    }
    saved_attributes = {
        "state": Record({"k": integer(1), "w": Array(("n_parameters",)), "directions": NotSaved(), "figures": FIGURES})
    }

    def __init__(
        self,
        a: float = 0.01,
        c: float | str = 0.01,
        *,
        a_end: float = 1e-4,
        n_steps: int | str = 1000,
        power: float = 0.9,
        n_directions: int = 5,
    ):
        self.a = a
        self.c: Any = c
        self.a_end = a_end
        self.n_steps: Any = n_steps
        self.power = power
        self.n_directions = n_directions

    @property
    def n_candidates(self) -> int:  # type: ignore[override]
        """Candidates that one step asks for: the parameters themselves, and one for each direction."""
        return self.n_directions + 1

    def n_candidates_for(self, d: int) -> int:
        if isinstance(self.a, str):
            raise ValueError(f"RGF has a={self.a!r}; expected a number: it does not find one itself.")
        return self.n_candidates

    def start(self, w: np.ndarray, rng: np.random.Generator) -> None:
        self.n_candidates_for(len(w))
        if isinstance(self.c, str) or isinstance(self.n_steps, str):
            raise ValueError(f"RGF has c={self.c!r} and n_steps={self.n_steps!r}; expected two numbers at the start.")
        self.rng = rng
        self.state = {"k": 1, "w": np.array(w, dtype=np.float64), "directions": None}

    @property
    def a_k(self) -> float:
        """Step size of the current step."""
        left = max(0.0, 1 - (self.state["k"] - 1) / self.n_steps)
        return self.a_end + (self.a - self.a_end) * left**self.power

    def ask(self) -> np.ndarray:
        w = self.state["w"]
        directions = self.rng.normal(size=(self.n_directions, len(w)))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        self.state["directions"] = directions
        return np.concatenate([w[None], w + self.c * directions])

    def tell(self, losses: np.ndarray) -> None:
        """Make one step.

        Parameters
        ----------
        losses : ndarray of shape (n_candidates,)
            Of the candidates asked for last.
        """
        g = self.estimate(losses)
        self._move(g, self.a_k * g, {"a": self.a, "a_k": self.a_k, "c_k": self.c})

    def estimate(self, losses: np.ndarray) -> np.ndarray:
        """Gradient estimate from losses.

        Parameters
        ----------
        losses : ndarray of shape (n_candidates,)
            Of the candidates asked for last.

        Returns
        -------
        estimate : ndarray of shape (d,)
            The mean over the directions, times d.
        """
        losses, directions = np.asarray(losses, dtype=np.float64), self.state["directions"]
        slopes = (losses[1:] - losses[0]) / self.c
        return directions.shape[1] * (slopes[:, None] * directions).mean(axis=0)
