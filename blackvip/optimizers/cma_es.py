"""CMA-ES, as the package `cmaes` implements it."""

from __future__ import annotations

import math
from numbers import Integral, Real

import numpy as np
from cmaes import CMA
from sklearn.utils._param_validation import Interval

from ..persistence.arrays import Array
from ..persistence.fields import NotSaved, Record, integer, number
from .base import FIGURES, Optimizer

__all__ = ["CMAES"]

# Smallest population with two parents: a single one holds no information on the covariance.
_SMALLEST = 4


class CMAES(Optimizer, name="cma-es"):
    r"""Covariance matrix adaptation evolution strategy (Hansen 2016, arXiv 1604.00772), from the package `cmaes`.

    A step draws a population from a normal distribution and moves its mean, scale and covariance towards the better
    half. It uses only the order of the losses, not their size. The parameter vector is the mean.

    Parameters
    ----------
    sigma : float, default=0.3
        Standard deviation of the first population around the start, in units of the parameters.
    population_size : int or None, default=None
        Candidates per step. None: :math:`4 + \lfloor 3 \ln d \rfloor` (Hansen 2016, eq. 48).

    Notes
    -----
    The covariance is a matrix of d times d numbers, and a step builds one for each candidate. With more than about a
    thousand parameters, use a `Subspace`.
    """

    figure_names = ("sigma", "step_norm")

    _parameter_constraints = {
        "sigma": [Interval(Real, 0, None, closed="neither")],
        "population_size": [None, Interval(Integral, _SMALLEST, None, closed="left")],
    }
    saved_attributes = {
        "state": Record(
            {
                # `cmaes` requires these bounds of a mean and a scale.
                "w": Array(("n_parameters",), low=-1e32, high=1e32),
                "sigma": number(low=np.finfo(float).tiny, high=1e32),
                "C": Array(("n_parameters", "n_parameters")),
                "p_sigma": Array(("n_parameters",)),
                "p_c": Array(("n_parameters",)),
                "generation": integer(0),
                "candidates": NotSaved(),
                "figures": FIGURES,
            }
        )
    }

    def __init__(self, sigma: float = 0.3, *, population_size: int | None = None):
        self.sigma = sigma
        self.population_size = population_size

    @property
    def n_candidates(self) -> int:  # type: ignore[override]
        """Candidates that one step asks for; without a `population_size`, known once it has started."""
        return self.population_size or self.n_candidates_for(len(self.w))

    def n_candidates_for(self, d: int) -> int:
        if self.sigma <= 0:
            raise ValueError(f"sigma={self.sigma}; expected more than 0.")
        if self.population_size is None:
            # The default of `cmaes`, which computes it only with a matrix of d x d numbers.
            return 4 + math.floor(3 * math.log(d))  # Hansen 2016, eq. 48
        if self.population_size < _SMALLEST:
            raise ValueError(f"population_size={self.population_size}; expected {_SMALLEST} or more, or None.")
        return self.population_size

    def start(self, w: np.ndarray, rng: np.random.Generator) -> None:
        self.n_candidates_for(len(w))
        self.rng = rng
        self.state = {"sigma": float(self.sigma), "C": np.eye(len(w)), "candidates": None}
        self.restart_from(w)

    def restart_from(self, w: np.ndarray) -> None:
        super().restart_from(w)
        # The paths lead elsewhere, but the scale and the covariance may still fit.
        zeros = np.zeros_like(self.w)
        self.state.update(generation=0, p_sigma=zeros, p_c=zeros)

    def ask(self) -> np.ndarray:
        distribution = self._distribution(seed=int(self.rng.integers(2**32)))
        self.state["candidates"] = np.stack([distribution.ask() for _ in range(self.n_candidates)])
        return self.state["candidates"]

    def tell(self, losses: np.ndarray) -> None:
        distribution, w = self._distribution(), self.w
        # Hansen 2016, figure 6.
        distribution.tell(list(zip(self.state["candidates"], np.asarray(losses, dtype=np.float64).tolist())))
        self.state.update(
            w=distribution.mean,
            generation=distribution.generation,
            sigma=float(distribution._sigma),
            C=np.ascontiguousarray(distribution._C),
            p_sigma=distribution._p_sigma,
            p_c=distribution._pc,
        )
        self.state["figures"] = {"sigma": self.state["sigma"], "step_norm": float(np.linalg.norm(self.w - w))}

    def _distribution(self, seed: int = 0) -> CMA:
        """Make the package's object from the plain arrays in `state`, which hold everything it has learned.

        Its constructor takes mean, scale and covariance. The paths and the count of generations can only be set through
        private names. These, and the names that `tell` reads, are the same in all releases from 0.12.0 to 0.13.1.
        """
        state = self.state
        size, covariance = self.n_candidates, state["C"]
        distribution = CMA(state["w"], state["sigma"], population_size=size, cov=covariance, seed=seed)
        distribution._p_sigma, distribution._pc = state["p_sigma"], state["p_c"]
        distribution._g = state["generation"]
        return distribution
