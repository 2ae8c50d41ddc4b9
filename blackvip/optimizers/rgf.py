"""Random gradient-free descent, the optimizer of black-box adversarial reprogramming (BAR)."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from ..persistence.arrays import Array
from ..persistence.fields import NotSaved, Record, integer, number
from .base import FIGURES, GainProbe, Optimizer
from .gains import common_factor

__all__ = ["RGF"]

# Root mean square of a change of the prompts by one 8-bit level, in units of the pixel range.
_LEVEL = 1 / 255
# Directions on which c="auto" is measured.
_N_MEASURED = 16


class RGF(Optimizer):
    r"""Random gradient-free descent, BAR's optimizer (Tsai et al., ICML 2020, arXiv 2007.08714).

    The estimate is one-sided, from q random directions :math:`u_i` of length 1:
    :math:`\hat g = \frac{d}{q c} \sum_i (L(w + c u_i) - L(w))\, u_i`. The factor d makes it unbiased for a linear
    loss. Steps decay like a polynomial: :math:`a_k = a_{end} + (a - a_{end}) (1 - (k - 1) / n)^p`.

    Parameters
    ----------
    a : float, default=0.01
        Step size at the start.
    c : float or "auto", default=0.01
        Euclidean distance of a candidate from the parameters: BAR's smoothing parameter. "auto": `find_gains` chooses
        the distance that moves the prompts by one 8-bit level (root mean square), the least that a service sees.
    a_end : float, default=1e-4
        Step size after `n_steps` steps, at which it stays.
    n_steps : int or "auto", default=1000
        Steps over which the step size decays. "auto": `find_gains` takes the number that the budget pays for.
    power : float, default=0.9
        The exponent p of the decay.
    n_directions : int, default=5
        Directions q per step.

    Attributes
    ----------
    a_, c_ : float
        Step size at the start, and distance of the candidates.
    n_steps_ : int
        Steps over which the step size decays.

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
        "state": Record(
            {
                "a": number(low=0),
                "c": number(low=0),
                "n_steps": integer(1),
                "k": integer(1),
                "w": Array(("n_parameters",)),
                "directions": NotSaved(),
                "figures": FIGURES,
            }
        )
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
        self.c = c
        self.a_end = a_end
        self.n_steps = n_steps
        self.power = power
        self.n_directions = n_directions

    @property
    def n_steps_(self) -> int:
        """Steps over which the step size decays."""
        return self.state["n_steps"]

    @property
    def n_candidates(self) -> int:  # type: ignore[override]
        """Candidates that one step asks for: the parameters themselves, and one for each direction."""
        return self.n_directions + 1

    def n_candidates_for(self, d: int) -> int:
        if isinstance(self.a, str):
            raise ValueError(f"RGF has a={self.a!r}; expected a number, because it does not find one.")
        return self.n_candidates

    def find_gains(self, probe: GainProbe, w: np.ndarray, rng: np.random.Generator) -> None:
        """Find `c` and `n_steps` where they are "auto"; bills nothing.

        Parameters
        ----------
        probe : GainProbe
            Measurements on the problem.
        w : ndarray of shape (d,)
            The vector at which training will start.
        rng : numpy.random.Generator
            Source of random numbers.
        """
        found: dict[str, Any] = {}
        if self.n_steps == "auto":
            found["n_steps"] = max(1, probe.budget // (self.n_candidates * probe.n_rows_each(self)))
        if self.c == "auto":
            found["c"] = common_factor(probe, w, self._directions(_N_MEASURED, len(w), rng), _LEVEL)
        self.state = found

    def start(self, w: np.ndarray, rng: np.random.Generator) -> None:
        self.n_candidates_for(len(w))
        self.rng = rng
        self.state = {**self._gains(), "k": 1, "w": np.array(w, dtype=np.float64), "directions": None}

    def _gains(self) -> dict[str, Any]:
        gains = self._in_use("a", "c", "n_steps")
        return {"a": float(gains["a"]), "c": float(gains["c"]), "n_steps": int(gains["n_steps"])}

    def _directions(self, n: int, d: int, rng: np.random.Generator) -> np.ndarray:
        """Draw `n` directions of length 1, of shape (n, d)."""
        directions = rng.normal(size=(n, d))
        return directions / np.linalg.norm(directions, axis=1, keepdims=True)

    @property
    def a_k(self) -> float:
        """Step size of the current step."""
        left = max(0.0, 1 - (self.state["k"] - 1) / self.n_steps_)
        return self.a_end + (self.state["a"] - self.a_end) * left**self.power

    def ask(self) -> np.ndarray:
        w = self.state["w"]
        self.state["directions"] = directions = self._directions(self.n_directions, len(w), self.rng)  # (q, d)
        return np.concatenate([w[None], w + self.state["c"] * directions])

    def tell(self, losses: np.ndarray) -> None:
        g = self.estimate(losses)
        self._move(g, self.a_k * g, {"a": self.state["a"], "a_k": self.a_k, "c_k": self.state["c"]})

    def estimate(self, losses: np.ndarray) -> np.ndarray:
        """Estimate the gradient from losses.

        Parameters
        ----------
        losses : ndarray of shape (n_candidates,)
            Losses of the candidates that were asked for last.

        Returns
        -------
        g : ndarray of shape (d,)
            The mean over the directions, times d.
        """
        losses, directions = np.asarray(losses, dtype=np.float64), self.state["directions"]
        slopes = (losses[1:] - losses[0]) / self.state["c"]  # (q,)
        return directions.shape[1] * (slopes[:, None] * directions).mean(axis=0)
