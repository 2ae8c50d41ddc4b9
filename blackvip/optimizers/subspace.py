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
from .base import GainProbe, Optimizer

__all__ = ["Subspace"]

_KINDS = ("orthonormal", "gaussian")


class Subspace(Optimizer):
    r"""An optimizer in a random linear subspace: :math:`w = w_0 + P z`, of which it sees only z.

    Li et al. (ICLR 2018, "intrinsic dimension", eq. 2) train networks in such subspaces. Sun et al. (ICML 2022,
    black-box tuning) train prompts in them, with CMA-ES.

    Parameters
    ----------
    optimizer : Optimizer
        Optimizer of z, which starts at zero.
    n_dims : int, default=100
        Dimensions of z, at most the number of parameters.
    kind : {"orthonormal", "gaussian"}, default="orthonormal"
        Columns of P. "gaussian": normal random numbers, with columns of length 1 on average. "orthonormal": such
        columns made orthonormal. A step in z is then as long in w, so the optimizer's gains mean the same, but it is
        spread over d parameters.
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
        # One that continues stays in its subspace.
        n_dims = self.state["P"].shape[1] if self.started else self.n_dims
        return self.optimizer.n_candidates_for(n_dims)

    def n_candidates_for(self, d: int) -> int:
        if self.kind not in _KINDS:
            raise ValueError(f"kind={self.kind!r}; expected one of {', '.join(_KINDS)}.")
        if not 1 <= self.n_dims <= d:
            raise ValueError(f"n_dims={self.n_dims}, for {d} parameters; expected 1 to {d}.")
        return self.n_candidates

    @property
    def figure_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the figures of its optimizer."""
        return self.optimizer.figure_names

    @property
    def n_comparisons(self) -> int:
        """Number of groups of candidates of its optimizer."""
        return self.optimizer.n_comparisons

    @property
    def a_(self) -> float | None:
        """Step size of its optimizer."""
        return self._inner().a_ if self.started else None

    @property
    def c_(self) -> float | None:
        """Perturbation size of its optimizer."""
        return self._inner().c_ if self.started else None

    def gain_cost(self, d: int, n_rows_each: int, n_training_rows: int, budget: int) -> int:
        return self.optimizer.gain_cost(self.n_dims, n_rows_each, n_training_rows, budget)

    def find_gains(self, probe: GainProbe, w: np.ndarray, rng: np.random.Generator) -> None:
        """Let its optimizer find its gains within the subspace.

        Parameters
        ----------
        probe : GainProbe
            Measurements on the problem. They bill `gain_cost` images.
        w : ndarray of shape (d,)
            The vector at which training will start.
        rng : numpy.random.Generator
            Source of random numbers.
        """
        P = self._draw(len(w), rng)
        inner = clone(self.optimizer)
        inner.state = {}
        inner.find_gains(_ProbeWithin(probe, w, P), np.zeros(self.n_dims), rng)
        self.state = {"P": P, "inner": inner.state}

    def start(self, w: np.ndarray, rng: np.random.Generator) -> None:
        self.n_candidates_for(len(w))
        self.rng = rng
        # What find_gains drew and found; another start draws another subspace.
        found = {} if self.started else self._known
        P = found["P"] if "P" in found else self._draw(len(w), rng)
        inner = clone(self.optimizer)
        inner.state = dict(found.get("inner", {}))
        inner.start(np.zeros(self.n_dims), rng)
        origin = np.array(w, dtype=np.float64)
        self.state = {"w": origin, "origin": origin, "P": P, "inner": inner.state}

    def continue_from(self, earlier: Optimizer) -> None:
        super().continue_from(earlier)
        if not self.started:
            return
        before = copy(earlier.get_params(deep=False)["optimizer"])
        before.rng, before.state = self.rng, self.state["inner"]
        inner = clone(self.optimizer)
        inner.continue_from(before)
        if inner.started:
            self.state["inner"] = inner.state
        else:
            # An optimizer of another kind starts anew.
            del self.rng, self.state

    def restart_from(self, w: np.ndarray) -> None:
        super().restart_from(w)
        # With another origin every vector can be reached, including those outside of the subspace.
        self.state["origin"] = self.w
        inner = self._inner()
        inner.restart_from(np.zeros_like(inner.w))
        self.state["inner"] = inner.state

    def begin_run(self, n_steps: int) -> None:
        inner = self._inner()
        inner.begin_run(n_steps)
        self.state["inner"] = inner.state

    def adapt(self, improvement: float, best_w: np.ndarray | None) -> None:
        if best_w is None:
            return
        inner = self._inner()
        inner.adapt(improvement, np.linalg.lstsq(self.state["P"], best_w - self.state["origin"], rcond=None)[0])
        self._take(inner)

    def figures(self) -> dict[str, float]:
        return self._inner().figures()

    def ask(self) -> np.ndarray:
        inner = self._inner()
        candidates = inner.ask()
        self.state["inner"] = inner.state
        return self.state["origin"] + candidates @ self.state["P"].T

    def tell(self, losses: np.ndarray) -> None:
        inner = self._inner()
        inner.tell(losses)
        self._take(inner)

    def _take(self, inner: Optimizer) -> None:
        """Take over the state of the optimizer of z."""
        self.state.update(inner=inner.state, w=self.state["origin"] + self.state["P"] @ inner.w)

    def _draw(self, d: int, rng: np.random.Generator) -> np.ndarray:
        """Draw P, of shape (d, n_dims)."""
        P = rng.normal(scale=d**-0.5, size=(d, self.n_dims))
        return P if self.kind == "gaussian" else np.ascontiguousarray(np.linalg.qr(P).Q)

    def _inner(self) -> Optimizer:
        """Return a copy of the optimizer of z in its current state; `optimizer` itself does not change."""
        inner = copy(self.optimizer)
        inner.rng, inner.state = self.rng, self.state["inner"]
        return inner


class _ProbeWithin:
    """Measurements in the coordinates of a subspace."""

    def __init__(self, probe: GainProbe, origin: np.ndarray, P: np.ndarray):
        self.probe = probe
        self.origin = origin
        self.P = P
        self.budget, self.rows = probe.budget, probe.rows
        self.n_rows_each, self.next_rows = probe.n_rows_each, probe.next_rows

    def prompt_rms(self, w: np.ndarray, directions: np.ndarray) -> np.ndarray:
        return self.probe.prompt_rms(self.origin + self.P @ w, directions @ self.P.T)

    def losses(self, candidates: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return self.probe.losses(self.origin + candidates @ self.P.T, rows)
