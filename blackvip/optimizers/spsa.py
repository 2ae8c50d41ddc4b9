"""SPSA, and SPSA-GC, BlackVIP's own optimizer.

Equation numbers are those of BlackVIP (CVPR 2023, arXiv 2303.14773) and of Spall (1998).
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils._param_validation import Interval, Options, StrOptions

from ..persistence.arrays import Array
from ..persistence.fields import NONE, NotSaved, OneOf, Record, integer, number
from .base import FIGURES, Optimizer, segmented_uniform

__all__ = ["SPSA", "SPSAGC"]

_C_FALL = 0.9  # the share of c that is gone at the end of a run with `n_steps`
_MEMORY = 0.95  # of the mean square of the estimates' lengths: it spans some twenty steps


class SPSA(Optimizer):
    r"""Simultaneous perturbation stochastic approximation.

    Parameters
    ----------
    a : float
        Step size: :math:`a_k = a / (k + o)^\alpha`.
    c : float
        Perturbation size: :math:`c_k = c / k^\gamma`, in units of the parameters.
    alpha, gamma : float
        The exponents with which both sequences decay.
    stability : float
        The constant :math:`o` (Spall's A) in the step size.
    n_directions : int
        Perturbations that are drawn, and whose estimates are averaged, in one step.
    clip : float or None
        Greatest Euclidean norm of an estimate; a longer one is scaled down to it. None: no limit.
    sides : {1, 2}
        2: an estimate compares both sides of the parameters (Spall 1992). 1: it compares one side with the parameters
        themselves, whose loss all directions share (Chen, Duncan & Pasik-Duncan 1999); its error is of the order of c,
        and not of its square.
    normalize : bool
        Whether estimates are divided by the root mean square of their recent lengths, so that `a` is the length of a
        step whatever the scale of the losses.
    n_steps : int or None
        Steps over which both gains fall linearly, `a` to nothing and `c` to a tenth; `alpha`, `gamma` and `stability`
        are then not used. None: the power laws above.

    Notes
    -----
    A step evaluates ``2 * n_directions`` candidates with two sides, and ``n_directions + 1`` with one, whatever the
    number of parameters.
    """

    _parameter_constraints = {
        "a": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "c": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "gamma": [Interval(Real, 0, None, closed="left")],
        "stability": [Interval(Real, 0, None, closed="left")],
        "n_directions": [Interval(Integral, 1, None, closed="left")],
        "clip": [None, StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "sides": [Options(Integral, {1, 2})],
        "normalize": ["boolean"],
        "n_steps": [None, Interval(Integral, 1, None, closed="left")],
    }
    _saved_state = {
        "k": integer(1),
        "w": Array(("n_parameters",)),
        "delta": NotSaved(),
        "figures": FIGURES,
        "square": OneOf(NONE, number(low=0)),
        "m": OneOf(NONE, Array(("n_parameters",))),
    }
    saved_attributes = {"state": Record(_saved_state)}

    def __init__(
        self,
        a: float | str = 0.01,
        c: float | str = 0.01,
        *,
        alpha: float = 0.4,
        gamma: float = 0.1,
        stability: float = 1.0,
        n_directions: int = 5,
        clip: float | str | None = None,
        sides: int = 2,
        normalize: bool = False,
        n_steps: int | None = None,
    ):
        self.a: Any = a
        self.c: Any = c
        self.alpha = alpha
        self.gamma = gamma
        self.stability = stability
        self.n_directions = n_directions
        self.clip: Any = clip
        self.sides = sides
        self.normalize = normalize
        self.n_steps = n_steps

    @property
    def n_candidates(self) -> int:  # type: ignore[override]
        """Candidates that one step asks for: two for each direction, or one for each and one for all."""
        return 2 * self.n_directions if self.sides == 2 else self.n_directions + 1

    def n_candidates_for(self, d: int) -> int:
        if self.sides not in (1, 2):
            raise ValueError(f"sides={self.sides!r}; expected 1 or 2.")
        return self.n_candidates

    @property
    def n_comparisons(self) -> int:
        """One for each direction; with one side, all are compared with the same candidate."""
        return self.n_directions if self.sides == 2 else 1

    def start(self, w: np.ndarray, rng: np.random.Generator) -> None:
        self.n_candidates_for(len(w))
        self.rng = rng
        self.state = {"k": 1, "w": np.array(w, dtype=np.float64), "m": None, "square": None, "delta": None}

    @property
    def started(self) -> bool:
        """Whether `start` was called with gains that are numbers, so that another run can go on from here."""
        return super().started and "auto" not in (self.a, self.c, self.clip)

    def restart_from(self, w: np.ndarray) -> None:
        super().restart_from(w)
        self.state["m"] = None  # the gain sequences go on as they were

    def begin_run(self, n_steps: int) -> None:
        if self.n_steps is not None:
            self.n_steps = max(1, n_steps)
            self.state["k"] = 1

    @property
    def a_k(self) -> float:
        """Step size of the current step (Spall 1998, section III.B; or linear)."""
        if self.n_steps is not None:
            return self.a * (1 - self._progress)
        return self.a / (self.state["k"] + self.stability) ** self.alpha

    @property
    def c_k(self) -> float:
        """Perturbation size of the current step (Spall 1998, section III.B; or linear)."""
        if self.n_steps is not None:
            return self.c * (1 - _C_FALL * self._progress)
        return self.c / self.state["k"] ** self.gamma

    @property
    def _progress(self) -> float:
        """The share of `n_steps` that is made; what goes on beyond them goes on as the last one."""
        return min(self.state["k"] - 1, self.n_steps - 1) / self.n_steps  # type: ignore[operator]

    def ask(self) -> np.ndarray:
        w = self.state["w"]
        self.state["delta"] = delta = segmented_uniform(self.rng, (self.n_directions, len(w)))
        plus = w + self.c_k * delta
        return np.concatenate([plus, w - self.c_k * delta]) if self.sides == 2 else np.concatenate([w[None], plus])

    def tell(self, losses: np.ndarray) -> None:
        """Make one step.

        Parameters
        ----------
        losses : ndarray of shape (n_candidates,)
            Of the candidates asked for last.
        """
        self._step(self._normalized(self._clipped(self.estimate(losses))))

    def _step(self, g: np.ndarray) -> None:
        gains = {"a": self.a, "a_k": self.a_k, "c_k": self.c_k}
        self._move(g, self.a_k * self._direction(g), gains)  # BlackVIP, eq. 4

    def estimate(self, losses: np.ndarray) -> np.ndarray:
        """Gradient estimate from losses (BlackVIP, eq. 3; with one side, Chen et al. 1999).

        Parameters
        ----------
        losses : ndarray of shape (n_candidates,)
            Of the candidates asked for last.

        Returns
        -------
        estimate : ndarray of shape (d,)
            The mean over the directions.
        """
        losses = np.asarray(losses, dtype=np.float64)
        plus, other = np.split(losses, 2) if self.sides == 2 else (losses[1:], losses[0])
        slopes = (plus - other) / (self.sides * self.c_k)  # between points that are one or two c_k apart
        return (slopes[:, None] / self.state["delta"]).mean(axis=0)

    def accumulated_noise(self, n_steps: int) -> float:
        """How far `n_steps` steps carry on noise alone, for a = 1 and independent estimates of length 1.

        The root of the summed squares of the weights with which the estimates enter the final parameters:
        a_k, and what the momentum repeats of them later. Used to choose a step size.

        Parameters
        ----------
        n_steps : int
            Steps that are made.

        Returns
        -------
        distance : float
            In units of the parameters, per unit of a.
        """
        twin = clone(self).set_params(a=1.0)
        twin.start(np.zeros(n_steps), np.random.default_rng(0))
        for k in range(n_steps):
            twin._step(np.where(np.arange(n_steps) == k, 1.0, 0.0))
        return float(np.linalg.norm(twin.state["w"]))

    def _clipped(self, g: np.ndarray) -> np.ndarray:
        norm = np.linalg.norm(g)
        return g if self.clip is None or norm <= self.clip else g * (self.clip / norm)

    def _normalized(self, g: np.ndarray) -> np.ndarray:
        """An estimate in units of the root mean square of recent ones' lengths."""
        if not self.normalize:
            return g
        square, before = float(g @ g), self.state.get("square")
        self.state["square"] = mean = _MEMORY * before + (1 - _MEMORY) * square if before else square
        return g / np.sqrt(mean) if mean > 0 else g  # a saturated service answers both sides alike

    def _direction(self, g: np.ndarray) -> np.ndarray:
        return g


class SPSAGC(SPSA):
    r"""SPSA with gradient correction, BlackVIP's optimizer: a Nesterov-like look-ahead on the estimates.

    Parameters
    ----------
    a : float
        Step size, as in `SPSA`.
    c : float
        Perturbation size, as in `SPSA`.
    alpha, gamma : float
        The exponents with which both sequences decay.
    stability : float
        The constant :math:`o` in the step size.
    momentum : float
        The smoothing constant :math:`\beta` of the correction.
    n_directions : int
        Perturbations in one step.
    clip : float or None
        Greatest Euclidean norm of an estimate.
    sides : {1, 2}
        Sides of the parameters that an estimate compares, as in `SPSA`.
    normalize : bool
        Whether estimates are divided by the root mean square of recent ones' lengths.
    n_steps : int or None
        Steps over which both gains fall linearly, as in `SPSA`.
    """

    _parameter_constraints = {
        **SPSA._parameter_constraints,
        "momentum": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        a: float | str = 0.01,
        c: float | str = 0.01,
        *,
        alpha: float = 0.4,
        gamma: float = 0.1,
        stability: float = 1.0,
        momentum: float = 0.9,
        n_directions: int = 5,
        clip: float | str | None = None,
        sides: int = 2,
        normalize: bool = False,
        n_steps: int | None = None,
    ):
        gains: dict[str, Any] = {"alpha": alpha, "gamma": gamma, "stability": stability}
        gains.update(n_directions=n_directions, clip=clip, sides=sides, normalize=normalize, n_steps=n_steps)
        super().__init__(a, c, **gains)
        self.momentum = momentum

    def _direction(self, g: np.ndarray) -> np.ndarray:
        m = self.state["m"]
        self.state["m"] = m = g if m is None else self.momentum * m + g  # BlackVIP, eq. 5
        return g + self.momentum * m  # the look-ahead of BlackVIP, eq. 5
