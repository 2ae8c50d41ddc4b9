"""Adam's steps on SPSA's estimates."""

from __future__ import annotations

from numbers import Real

import numpy as np
from sklearn.utils._param_validation import Interval

from ..persistence.arrays import Array
from ..persistence.fields import Record, integer
from .spsa import SPSA

__all__ = ["AdamSPSA"]


class AdamSPSA(SPSA):
    r"""Adam (Kingma & Ba 2015, algorithm 1) with SPSA's estimate in place of the gradient.

    Chen et al. (NeurIPS 2019, ZO-AdaMM) study this family of steps on estimates from losses.

    Parameters
    ----------
    a : float, default=0.01
        Step size, as in `SPSA`: about how far a parameter moves in one step. It must be a number, because "auto" finds
        the size of steps that are as long as their estimates, and Adam's are not.
    c : float or "auto", default=0.01
        Perturbation size, as in `SPSA`.
    alpha, gamma : float, default=0.4, 0.1
        Exponents with which both gain sequences decay.
    stability : float, default=1.0
        The constant :math:`o` in the step size.
    beta1, beta2 : float, default=0.9, 0.999
        Decay rates of the means of the estimates and of their squares.
    epsilon : float, default=1e-8
        Constant that is added to the root of the mean square.
    n_directions : int, default=5
        Perturbations per step.
    clip : float or None, default=None
        Largest Euclidean norm of an estimate.
    sides : {1, 2}, default=2
        Sides of the parameters that an estimate compares, as in `SPSA`.
    share_batch : bool, default=False
        Whether each direction is scored on all images of a step, as in `SPSA`.
    """

    _parameter_constraints = {
        **SPSA._parameter_constraints,
        "beta1": [Interval(Real, 0, 1, closed="left")],
        "beta2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="left")],
    }
    saved_attributes = {
        "state": Record(
            {
                **SPSA._saved_state,
                "t": integer(0),
                "m": Array(("n_parameters",)),
                "v": Array(("n_parameters",), low=0),
            }
        )
    }

    # Adam does both in its own way, so they are no parameters here.
    normalize = False
    n_steps = None

    def __init__(
        self,
        a: float = 0.01,
        c: float | str = 0.01,
        *,
        alpha: float = 0.4,
        gamma: float = 0.1,
        stability: float = 1.0,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        n_directions: int = 5,
        clip: float | str | None = None,
        sides: int = 2,
        share_batch: bool = False,
    ):
        self.a = a
        self.c = c
        self.alpha = alpha
        self.gamma = gamma
        self.stability = stability
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon
        self.n_directions = n_directions
        self.clip = clip
        self.sides = sides
        self.share_batch = share_batch

    def n_candidates_for(self, d: int) -> int:
        if self.a == "auto":
            raise ValueError("AdamSPSA has a='auto'; expected a number: about how far a parameter moves in a step.")
        return super().n_candidates_for(d)

    def start(self, w: np.ndarray, rng: np.random.Generator) -> None:
        super().start(w, rng)
        self._forget()

    def restart_from(self, w: np.ndarray) -> None:
        super().restart_from(w)
        self._forget()

    def _forget(self) -> None:
        zeros = np.zeros_like(self.w)
        # t counts the estimates that both means contain.
        self.state.update(t=0, m=zeros, v=zeros)

    def _direction(self, g: np.ndarray) -> np.ndarray:
        t = self.state["t"] + 1
        m = self.beta1 * self.state["m"] + (1 - self.beta1) * g
        v = self.beta2 * self.state["v"] + (1 - self.beta2) * g**2
        self.state.update(t=t, m=m, v=v)
        # Both means started at zero.
        m_hat, v_hat = m / (1 - self.beta1**t), v / (1 - self.beta2**t)
        return m_hat / (np.sqrt(v_hat) + self.epsilon)
