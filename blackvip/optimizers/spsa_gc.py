"""SPSA with gradient correction, BlackVIP's own optimizer (eq. 5 of the CVPR 2023 paper, arXiv 2303.14773)."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Interval

from .spsa import SPSA

__all__ = ["SPSAGC"]


class SPSAGC(SPSA, name="spsa-gc"):
    r"""SPSA with gradient correction, BlackVIP's optimizer: a Nesterov-like look-ahead on the estimates.

    Parameters
    ----------
    a : float or "auto", default="auto"
        Step size, as in `SPSA`.
    c : float or "auto", default="auto"
        Perturbation size, as in `SPSA`.
    alpha, gamma : float, default=0.4, 0.1
        Exponents with which both gain sequences decay.
    stability : float, default=1.0
        The constant :math:`o` in the step size.
    momentum : float, default=0.9
        The smoothing constant :math:`\beta` of the correction.
    n_directions : int, default=4
        Perturbations per step.
    clip : float, "auto" or None, default="auto"
        Largest Euclidean norm of an estimate, as in `SPSA`.
    sides : {1, 2}, default=2
        Sides of the parameters that an estimate compares, as in `SPSA`.
    normalize : bool, default=False
        Whether estimates are divided by the root mean square of their recent lengths, as in `SPSA`.
    n_steps : int or None, default=None
        Steps over which both gains fall linearly, as in `SPSA`.
    share_batch : bool, default=False
        Whether each direction is scored on all images of a step, as in `SPSA`. The paper does so.

    Notes
    -----
    The paper's gains are ``SPSAGC(a=0.01, c=0.01, n_directions=5, clip=None, share_batch=True)``.
    """

    _parameter_constraints = {
        **SPSA._parameter_constraints,
        "momentum": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        a: float | str = "auto",
        c: float | str = "auto",
        *,
        alpha: float = 0.4,
        gamma: float = 0.1,
        stability: float = 1.0,
        momentum: float = 0.9,
        n_directions: int = 4,
        clip: float | str | None = "auto",
        sides: int = 2,
        normalize: bool = False,
        n_steps: int | None = None,
        share_batch: bool = False,
    ):
        gains: dict[str, Any] = {"alpha": alpha, "gamma": gamma, "stability": stability, "share_batch": share_batch}
        gains.update(n_directions=n_directions, clip=clip, sides=sides, normalize=normalize, n_steps=n_steps)
        super().__init__(a, c, **gains)
        self.momentum = momentum

    def _direction(self, g: np.ndarray) -> np.ndarray:
        m, beta = self.state["m"], self.momentum
        self.state["m"] = m = g if m is None else beta * m + g  # eq. 5
        # The look-ahead.
        return g + beta * m  # eq. 5
