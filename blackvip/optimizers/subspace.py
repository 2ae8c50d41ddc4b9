"""Any optimizer in a few random directions of many parameters."""

from __future__ import annotations

from copy import copy
from numbers import Integral

import numpy as np
from sklearn.base import clone
from sklearn.utils._param_validation import Interval, StrOptions

from ..persistence.arrays import Array
from ..persistence.fields import Record
from ..persistence.format import expect
from ..persistence.objects import AttributeOf
from .base import Optimizer

__all__ = ["Subspace"]

_KINDS = ("orthonormal", "gaussian")


class Subspace(Optimizer):
    r"""An optimizer in a random linear subspace: :math:`w = w_0 + P z`, where it sees z alone.

    Li et al. (ICLR 2018, "intrinsic dimension", eq. 2) train networks in such subspaces; Sun et al. (ICML 2022,
    black-box tuning) prompts, with CMA-ES.

    Parameters
    ----------
    optimizer : Optimizer
        What finds z, from zero on. Its gains must be numbers.
    n_dims : int
        Dimensions of z, no more than there are parameters.
    kind : {"orthonormal", "gaussian"}
        The columns of P: "gaussian" are normal random numbers, of length 1 on average; "orthonormal" are such columns
        made orthonormal. So a step in z is as long in w, and the optimizer's gains mean the same; but it is spread
        over d parameters.
    """

    _parameter_constraints = {
        "optimizer": [Optimizer],
        "n_dims": [Interval(Integral, 1, None, closed="left")],
        "kind": [StrOptions(set(_KINDS))],
    }
    saved_attributes = {
        "state": Record(
            {
                "w": Array(("n_parameters",)),
                "origin": Array(("n_parameters",)),
                "P": Array(("n_parameters", "n_dims")),
                "inner": AttributeOf("optimizer", "state"),
            }
        )
    }

    def _finish_loading(self) -> None:
        super()._finish_loading()
        inner, n_dims = self._inner(), self.state["P"].shape[1]
        inner._finish_loading()
        expect(len(inner.w) == n_dims, f"the optimizer within a Subspace has {len(inner.w)} dimensions, not {n_dims}")

    def __init__(self, optimizer: Optimizer, n_dims: int = 100, kind: str = "orthonormal"):
        self.optimizer = optimizer
        self.n_dims = n_dims
        self.kind = kind

    @property
    def n_candidates(self) -> int:  # type: ignore[override]
        """Candidates that one step asks for: those of its optimizer in `n_dims` dimensions."""
        n_dims = self.state["P"].shape[1] if self.started else self.n_dims  # one that goes on stays in its subspace
        return self.optimizer.n_candidates_for(n_dims)

    def n_candidates_for(self, d: int) -> int:
        if self.kind not in _KINDS:
            raise ValueError(f"kind={self.kind!r}; expected one of {', '.join(_KINDS)}.")
        if not 1 <= self.n_dims <= d:
            raise ValueError(f"n_dims={self.n_dims}, for {d} parameters; expected 1 to {d}.")
        if any(isinstance(value, str) and value == "auto" for value in self.optimizer.get_params().values()):
            raise ValueError(f"Subspace has the optimizer {self.optimizer!r}; expected one with numbers, not 'auto'.")
        return self.n_candidates

    @property
    def figure_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of its optimizer."""
        return self.optimizer.figure_names

    @property
    def n_comparisons(self) -> int:
        """Those of its optimizer."""
        return self.optimizer.n_comparisons

    def start(self, w: np.ndarray, rng: np.random.Generator) -> None:
        self.n_candidates_for(len(w))
        self.rng = rng
        P = rng.normal(scale=len(w) ** -0.5, size=(len(w), self.n_dims))
        if self.kind == "orthonormal":
            P = np.ascontiguousarray(np.linalg.qr(P).Q)
        inner = copy(self.optimizer)
        inner.start(np.zeros(self.n_dims), rng)
        origin = np.array(w, dtype=np.float64)
        self.state = {"w": origin, "origin": origin, "P": P, "inner": inner.state}

    def restart_from(self, w: np.ndarray) -> None:
        super().restart_from(w)
        self.state["origin"] = self.w  # so that any vector can be reached, also one outside of the subspace
        inner = self._inner()
        inner.restart_from(np.zeros_like(inner.w))
        self.state["inner"] = inner.state

    def begin_run(self, n_steps: int) -> None:
        inner = self._inner()
        inner.begin_run(n_steps)
        self.state["inner"] = inner.state
        self.optimizer = clone(inner)  # whose parameters it may have changed

    def figures(self) -> dict[str, float]:
        return self._inner().figures()

    def ask(self) -> np.ndarray:
        inner = self._inner()
        candidates = inner.ask()
        self.state["inner"] = inner.state
        return self.state["origin"] + candidates @ self.state["P"].T

    def tell(self, losses: np.ndarray) -> None:
        """Make one step.

        Parameters
        ----------
        losses : ndarray of shape (n_candidates,)
            Of the candidates asked for last.
        """
        inner = self._inner()
        inner.tell(losses)
        self.state.update(inner=inner.state, w=self.state["origin"] + self.state["P"] @ inner.w)

    def _inner(self) -> Optimizer:
        """The optimizer where it stands. The one that was given stays as it was: all that changes is in `state`."""
        inner = copy(self.optimizer)
        inner.rng, inner.state = self.rng, self.state["inner"]
        return inner
