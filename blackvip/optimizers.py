"""Optimizers that see losses only: ask for candidates, tell their losses.

They know nothing of images, networks or services, so that each can be tested alone on a formula.
Equation numbers are those of BlackVIP (CVPR 2023, arXiv 2303.14773) and of Spall (1998).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone

__all__ = ["SPSA", "SPSAGC", "Optimizer", "segmented_uniform"]


def segmented_uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Perturbations whose entries are uniform on [-1, -0.5] and [0.5, 1].

    They are symmetric with a bounded inverse moment, which is what SPSA asks of a perturbation
    (Spall 1992, condition A2); the choice is BlackVIP's.
    """
    magnitude = rng.uniform(0.5, 1.0, shape)
    return magnitude * rng.choice([-1.0, 1.0], shape)


class Optimizer(BaseEstimator, ABC):
    """What a training loop needs of an optimizer.

    `start` once, then `ask` and `tell` in turn. What changes with each step is in `state`, a dict of plain values
    and arrays.
    """

    #: Candidates that one step asks for.
    n_candidates: int
    state: dict[str, Any]

    @property
    def started(self) -> bool:
        """Whether `start` was called, so that another run can go on from here."""
        return "state" in vars(self)

    @property
    def w(self) -> np.ndarray:
        """The current parameter vector, of shape (d,)."""
        return self.state["w"]

    def restart_from(self, w: np.ndarray) -> None:
        """Go on from another parameter vector.

        Parameters
        ----------
        w : ndarray of shape (d,)
            The vector.
        """
        self.state["w"] = np.array(w, dtype=np.float64)

    def figures(self) -> dict[str, float]:
        """What the last step has to tell, as plain numbers, for the history."""
        return {}

    @abstractmethod
    def start(self, w: np.ndarray, rng: np.random.Generator) -> None:
        """Begin at the parameter vector `w` of shape (d,), with random numbers from `rng`."""

    @abstractmethod
    def ask(self) -> np.ndarray:
        """Return candidates of shape (n_candidates, d), whose losses are wanted."""

    @abstractmethod
    def tell(self, losses: np.ndarray) -> None:
        """Take the losses of shape (n_candidates,) of the candidates that were asked for last."""


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

    Notes
    -----
    A step evaluates ``2 * n_directions`` candidates, whatever the number of parameters.
    """

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
    ):
        self.a = a
        self.c = c
        self.alpha = alpha
        self.gamma = gamma
        self.stability = stability
        self.n_directions = n_directions
        self.clip: Any = clip

    @property
    def n_candidates(self) -> int:  # type: ignore[override]
        """Candidates that one step asks for: two for each direction."""
        return 2 * self.n_directions

    def start(self, w: np.ndarray, rng: np.random.Generator) -> None:
        self.rng = rng
        self.state = {"k": 1, "w": np.array(w, dtype=np.float64), "m": None, "delta": None}

    @property
    def started(self) -> bool:
        """Whether `start` was called with gains that are numbers, so that another run can go on from here."""
        return super().started and "auto" not in (self.a, self.c, self.clip)

    def restart_from(self, w: np.ndarray) -> None:
        super().restart_from(w)
        self.state["m"] = None  # the gain sequences go on as they were

    @property
    def a_k(self) -> float:
        """Step size of the current step (Spall 1998, section III.B)."""
        return self.a / (self.state["k"] + self.stability) ** self.alpha

    @property
    def c_k(self) -> float:
        """Perturbation size of the current step (Spall 1998, section III.B)."""
        return self.c / self.state["k"] ** self.gamma

    def ask(self) -> np.ndarray:
        w = self.state["w"]
        self.state["delta"] = delta = segmented_uniform(self.rng, (self.n_directions, len(w)))
        return np.concatenate([w + self.c_k * delta, w - self.c_k * delta])

    def tell(self, losses: np.ndarray) -> None:
        """Make one step.

        Parameters
        ----------
        losses : ndarray of shape (n_candidates,)
            Of the candidates asked for last.
        """
        self._step(self._clipped(self.estimate(losses)))

    def figures(self) -> dict[str, float]:
        return self.state["figures"]

    def _step(self, g: np.ndarray) -> None:
        step = self.a_k * self._direction(g)
        norms = {"estimate_norm": float(np.linalg.norm(g)), "step_norm": float(np.linalg.norm(step))}
        self.state["figures"] = {"a": self.a, "a_k": self.a_k, "c_k": self.c_k, **norms}
        self.state["w"] = self.state["w"] - step  # BlackVIP, eq. 4
        self.state["k"] += 1

    def estimate(self, losses: np.ndarray) -> np.ndarray:
        """Gradient estimate from losses (BlackVIP, eq. 3).

        Parameters
        ----------
        losses : ndarray of shape (n_candidates,)
            Of the candidates asked for last.

        Returns
        -------
        estimate : ndarray of shape (d,)
            The mean over the directions.
        """
        plus, minus = np.split(np.asarray(losses, dtype=np.float64), 2)
        return (((plus - minus) / (2 * self.c_k))[:, None] / self.state["delta"]).mean(axis=0)

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
    """

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
    ):
        super().__init__(a, c, alpha=alpha, gamma=gamma, stability=stability, n_directions=n_directions, clip=clip)
        self.momentum = momentum

    def _direction(self, g: np.ndarray) -> np.ndarray:
        m = self.state["m"]
        self.state["m"] = m = g if m is None else self.momentum * m + g  # BlackVIP, eq. 5
        return g + self.momentum * m  # the look-ahead of BlackVIP, eq. 5
