r"""SPSA, and SPSA-GC, BlackVIP's own optimizer.

Equation numbers are those of BlackVIP (CVPR 2023, arXiv 2303.14773), (B6) and so on those of docs/method.md. The
letters are w for the parameters (the paper's :math:`\phi`), g for the estimate, delta for the perturbations, m for the
momentum and beta for its constant.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils._param_validation import Interval, Options, StrOptions

from ..persistence.arrays import Array
from ..persistence.fields import BOOL, NONE, NotSaved, OneOf, Record, integer, number
from .base import FIGURES, GainProbe, Optimizer, segmented_uniform
from .gains import PERTURBATION_RMS, GainSearch, common_factor, mean_factor, noise_tolerance

__all__ = ["SPSA"]

# Share of c that is gone at the end of a run with n_steps.
_C_FALL = 0.9
# Memory of the mean square of the estimates' lengths, which spans some twenty steps.
_MEMORY = 0.95
# Root mean squares, in units of the pixel range, by which c and a times a normalized estimate move the prompts at the
# start of a run that is mostly signal. The momentum adds up to ten such steps.
_ANNEALED_C_RMS, _ANNEALED_A_RMS = 0.15, 0.006
# Random directions on which these sizes, and a c that depends on the tolerance, are measured.
_N_ANNEALED, _N_MEASURED = 16, 8
# Longest estimate that clip="auto" lets pass, as a multiple of the length that was measured.
_CLIP = 2.0
# Factors by which the step size grows or shrinks after a check, and the change of the held-out loss that matters.
_GROWTH, _BACKOFF, _NOTICEABLE = 2.0, 3.0, 0.05


class SPSA(Optimizer, name="spsa"):
    r"""Simultaneous perturbation stochastic approximation.

    Parameters
    ----------
    a : float or "auto", default="auto"
        Step size: :math:`a_k = a / (k + o)^\alpha`. "auto": it is found by `find_gains`, which must be called before
        `start`. A run with more directions than parameters gets normalized steps of a fixed length, which fall
        linearly to the end of the run; this bills nothing. Other runs measure how much noise the service tolerates,
        with at most a tenth of the budget, and correct the step size after each check on held-out images.
    c : float or "auto", default="auto"
        Perturbation size: :math:`c_k = c / k^\gamma`, in units of the parameters. "auto": it is found by
        `find_gains`, as for `a`.
    alpha, gamma : float, default=0.4, 0.1
        Exponents with which both gain sequences decay.
    stability : float, default=1.0
        The constant :math:`o` (Spall's A) in the step size.
    n_directions : int, default=4
        Perturbations per step, whose estimates are averaged.
    clip : float, "auto" or None, default="auto"
        Largest Euclidean norm of an estimate; a longer one is scaled down to it. "auto": twice the length of the
        estimates from which `a` was found, and no limit if it was not found from any. None: no limit.
    sides : {1, 2}, default=2
        2: an estimate compares both sides of the parameters (Spall 1992). 1: it compares one side with the parameters
        themselves, whose loss all directions share (Chen, Duncan & Pasik-Duncan 1999). Its error is then of the order
        of c instead of its square.
    normalize : bool, default=False
        Whether estimates are divided by the root mean square of their recent lengths, which makes `a` the length of a
        step whatever the scale of the losses. Not used if a is "auto" and `find_gains` chooses this.
    n_steps : int or None, default=None
        Steps over which both gains fall linearly, `a` to zero and `c` to a tenth. `alpha`, `gamma` and `stability`
        are then not used. None: the power laws above, unless a is "auto" and `find_gains` chooses otherwise.
    share_batch : bool, default=False
        Whether each direction is scored on all images of a step, instead of on a part of its own.

    Attributes
    ----------
    a_, c_ : float
        Step and perturbation size in use.
    clip_ : float or None
        Largest norm of an estimate in use.
    normalize_ : bool
        Whether estimates are normalized.
    n_steps_ : int or None
        Steps over which the gains fall in the current run.

    Notes
    -----
    A step evaluates ``2 * n_directions`` candidates with two sides and ``n_directions + 1`` with one, whatever the
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
        "share_batch": ["boolean"],
    }
    _saved_state = {
        "a": number(low=0),
        "c": number(low=0),
        "clip": OneOf(NONE, number(low=0)),
        "normalize": BOOL,
        "n_steps": OneOf(NONE, integer(1)),
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
        a: float | str = "auto",
        c: float | str = "auto",
        *,
        alpha: float = 0.4,
        gamma: float = 0.1,
        stability: float = 1.0,
        n_directions: int = 4,
        clip: float | str | None = "auto",
        sides: int = 2,
        normalize: bool = False,
        n_steps: int | None = None,
        share_batch: bool = False,
    ):
        self.a = a
        self.c = c
        self.alpha = alpha
        self.gamma = gamma
        self.stability = stability
        self.n_directions = n_directions
        self.clip = clip
        self.sides = sides
        self.normalize = normalize
        self.n_steps = n_steps
        self.share_batch = share_batch

    @property
    def clip_(self) -> float | None:
        """Largest Euclidean norm of an estimate in use."""
        return self.state["clip"]

    @property
    def normalize_(self) -> bool:
        """Whether estimates are normalized."""
        return self.state["normalize"]

    @property
    def n_steps_(self) -> int | None:
        """Steps over which the gains fall in the current run; None for the power laws."""
        return self.state["n_steps"]

    @property
    def n_candidates(self) -> int:  # type: ignore[override]
        """Candidates that one step asks for: two per direction, or one per direction and one for all."""
        return 2 * self.n_directions if self.sides == 2 else self.n_directions + 1

    def n_candidates_for(self, d: int) -> int:
        if self.sides not in (1, 2):
            raise ValueError(f"sides={self.sides!r}; expected 1 or 2.")
        return self.n_candidates

    @property
    def n_comparisons(self) -> int:
        """One group per direction; a single group with one side, or if directions share the batch."""
        return 1 if self.share_batch or self.sides == 1 else self.n_directions

    def start(self, w: np.ndarray, rng: np.random.Generator) -> None:
        self.n_candidates_for(len(w))
        self.rng = rng
        steps = {"k": 1, "w": np.array(w, dtype=np.float64), "m": None, "square": None, "delta": None}
        self.state = {**self._gains(), **steps}

    def restart_from(self, w: np.ndarray) -> None:
        super().restart_from(w)
        # The gain sequences continue where they were.
        self.state["m"] = None

    def begin_run(self, n_steps: int) -> None:
        if self.n_steps_ is not None:
            self.state.update(n_steps=max(1, n_steps), k=1)

    @property
    def a_k(self) -> float:
        """Step size of the current step: Spall's gain sequence (Spall 1998, section III.B), or the linear fall."""
        if self.n_steps_ is not None:
            return self.state["a"] * (1 - self._progress)  # (B7)
        return self.state["a"] / (self.state["k"] + self.stability) ** self.alpha

    @property
    def c_k(self) -> float:
        """Perturbation size of the current step: Spall's gain sequence (Spall 1998, section III.B), or the fall."""
        if self.n_steps_ is not None:
            return self.state["c"] * (1 - _C_FALL * self._progress)  # (B7)
        return self.state["c"] / self.state["k"] ** self.gamma

    @property
    def _progress(self) -> float:
        """Share of the run that is done; further steps are like the last one."""
        n_steps = self.state["n_steps"]
        return min(self.state["k"] - 1, n_steps - 1) / n_steps

    def ask(self) -> np.ndarray:
        w = self.state["w"]
        self.state["delta"] = delta = segmented_uniform(self.rng, (self.n_directions, len(w)))  # (q, d)
        plus = w + self.c_k * delta
        return np.concatenate([plus, w - self.c_k * delta]) if self.sides == 2 else np.concatenate([w[None], plus])

    def tell(self, losses: np.ndarray) -> None:
        self._step(self._normalized(self._clipped(self.estimate(losses))))

    def estimate(self, losses: np.ndarray) -> np.ndarray:
        """Estimate the gradient from losses (eq. 3; with one side, Chen et al. 1999).

        Parameters
        ----------
        losses : ndarray of shape (n_candidates,)
            Losses of the candidates that were asked for last.

        Returns
        -------
        g : ndarray of shape (d,)
            The mean over the directions.
        """
        losses = np.asarray(losses, dtype=np.float64)
        plus, other = np.split(losses, 2) if self.sides == 2 else (losses[1:], losses[0])
        # Two sides are two c_k apart, and one side is one.
        slopes = (plus - other) / (self.sides * self.c_k)  # (q,)
        return (slopes[:, None] / self.state["delta"]).mean(axis=0)  # eq. 3

    def _step(self, g: np.ndarray) -> None:
        gains = {"a": self.state["a"], "a_k": self.a_k, "c_k": self.c_k}
        self._move(g, self.a_k * self._direction(g), gains)  # eq. 4

    def _direction(self, g: np.ndarray) -> np.ndarray:
        """Return what takes the estimate's place in eq. 4."""
        return g

    def _clipped(self, g: np.ndarray) -> np.ndarray:
        norm, clip = np.linalg.norm(g), self.state["clip"]
        return g if clip is None or norm <= clip else g * (clip / norm)

    def _normalized(self, g: np.ndarray) -> np.ndarray:
        """Return an estimate in units of the root mean square of recent lengths."""
        if not self.normalize_:
            return g
        square, before = float(g @ g), self.state["square"]
        self.state["square"] = v = _MEMORY * before + (1 - _MEMORY) * square if before else square
        # A saturated service gives both sides the same loss.
        return g / np.sqrt(v) if v > 0 else g  # (B6)

    def accumulated_noise(self, n_steps: int) -> float:
        """Return how far steps carry on noise alone, with a = 1 and independent estimates of length 1.

        This is the root of the summed squares of the weights with which estimates enter the final parameters: a_k,
        and its later repetitions by the momentum. Step sizes are chosen with it.

        Parameters
        ----------
        n_steps : int
            Steps that are made.

        Returns
        -------
        distance : float
            Distance in units of the parameters, per unit of a.
        """
        twin = clone(self).set_params(a=1.0, c=1.0)
        twin.start(np.zeros(n_steps), np.random.default_rng(0))
        twin.state["n_steps"] = self._known.get("n_steps", self.n_steps)
        for k in range(n_steps):
            twin._step(np.where(np.arange(n_steps) == k, 1.0, 0.0))
        return float(np.linalg.norm(twin.state["w"]))

    def signal_share(self, d: int, n_steps: int) -> float:
        """Return the squared cosine between the gradient and what a run's directions estimate of it.

        Parameters
        ----------
        d : int
            Number of parameters.
        n_steps : int
            Steps of the run.

        Returns
        -------
        share : float
            A number in [0, 1]: n / (n + d) for n directions.
        """
        n = n_steps * self.n_directions
        return n / (n + d)  # (B9)

    def gain_cost(self, d: int, n_rows_each: int, n_training_rows: int, budget: int) -> int:
        step_cost = self.n_candidates * n_rows_each
        if "auto" not in (self.a, self.c) or self._is_annealed(d, budget // step_cost):
            return 0
        return GainSearch.within(budget, step_cost, n_training_rows, self.a == "auto").cost

    def find_gains(self, probe: GainProbe, w: np.ndarray, rng: np.random.Generator) -> None:
        """Find the gains that are "auto".

        Parameters
        ----------
        probe : GainProbe
            Measurements on the problem. They bill `gain_cost` images.
        w : ndarray of shape (d,)
            The vector at which training will start.
        rng : numpy.random.Generator
            Source of random numbers.
        """
        if "auto" not in (self.a, self.c):
            return
        n_rows_each = probe.n_rows_each(self)
        step_cost = self.n_candidates * n_rows_each
        cost = self.gain_cost(len(w), n_rows_each, len(probe.rows), probe.budget)
        n_steps = max(1, (probe.budget - cost) // step_cost)
        if self._is_annealed(len(w), n_steps):
            self.state = self._annealed_gains(probe, w, rng, n_steps)
        else:
            search = GainSearch.within(probe.budget, step_cost, len(probe.rows), self.a == "auto")
            self.state = self._measured_gains(probe, w, rng, n_steps, search)

    def adapt(self, improvement: float, best_w: np.ndarray | None) -> None:
        """Correct a step size that was found, after a check on held-out images (B13).

        If the loss is more than a twentieth above its lowest value, training returns to the best parameters with a
        third of the step size. If it is below by less than a twentieth, the step size doubles. A step size that was
        given, or that falls to the end of the run, does not change.

        Parameters
        ----------
        improvement : float
            Share by which the loss is below the lowest one before; negative if it is above.
        best_w : ndarray of shape (d,)
            The vector with the lowest loss so far.
        """
        if self.a != "auto" or self.n_steps_ is not None:
            return
        if improvement < -_NOTICEABLE and best_w is not None:
            self.restart_from(best_w)
            self.state["a"] /= _BACKOFF
        elif 0 < improvement < _NOTICEABLE:
            self.state["a"] *= _GROWTH

    def _gains(self) -> dict[str, Any]:
        gains: dict[str, Any] = {name: float(value) for name, value in self._in_use("a", "c").items()}
        # An "auto" step size was found together with how it is used.
        found = self._known if self.a == "auto" else {"normalize": self.normalize, "n_steps": self.n_steps}
        clip = self._known.get("clip") if self.clip == "auto" else self.clip
        gains["clip"] = None if clip is None else float(clip)
        return {**gains, "normalize": bool(found["normalize"]), "n_steps": found["n_steps"]}

    def _is_annealed(self, d: int, n_steps: int) -> bool:
        """Return whether the step size is to be found, and a run has more directions than parameters."""
        return self.a == "auto" and self.signal_share(d, n_steps) > 0.5

    def _annealed_gains(
        self, probe: GainProbe, w: np.ndarray, rng: np.random.Generator, n_steps: int
    ) -> dict[str, Any]:
        """Return sizes of normalized steps and perturbations that fall to the end of a run; bills nothing."""
        delta = segmented_uniform(rng, (_N_ANNEALED, len(w)))
        lengths = np.linalg.norm(delta, axis=1, keepdims=True)
        gains = {"a": common_factor(probe, w, delta / lengths, _ANNEALED_A_RMS), "normalize": True, "n_steps": n_steps}
        if self.c == "auto":
            gains["c"] = common_factor(probe, w, delta, _ANNEALED_C_RMS)
        return gains

    def _measured_gains(
        self, probe: GainProbe, w: np.ndarray, rng: np.random.Generator, n_steps: int, search: GainSearch
    ) -> dict[str, Any]:
        """Return gains that suit the noise which the service tolerates."""
        gains: dict[str, Any] = {}
        tolerance = noise_tolerance(probe, w, rng, search.n_images)
        if self.c == "auto":
            delta = segmented_uniform(rng, (_N_MEASURED, len(w)))
            gains["c"] = mean_factor(probe, w, delta, float(np.clip(tolerance, *PERTURBATION_RMS)))
        if self.a == "auto":
            sampler = clone(self).set_params(a=1.0, c=gains.get("c", self.c), clip=None)
            gains["a"], length = sampler._measured_a(probe, w, rng, search.n_estimates, n_steps, tolerance)
            gains.update(normalize=self.normalize, n_steps=self.n_steps, clip=_CLIP * length if length else None)
        return gains

    def _measured_a(
        self,
        probe: GainProbe,
        w: np.ndarray,
        rng: np.random.Generator,
        n_estimates: int,
        n_steps: int,
        tolerance: float,
    ) -> tuple[float, float]:
        """Return the step size at which a run of noise moves the prompts by the tolerance, and an estimate's length.

        Spall (1998, section III.B) asks for first steps of a length that suits the problem. Here the service tells
        that length: an estimate in d parameters is mostly noise, and the steps add it up. If `n_steps` estimates, as
        long as those measured here, were nothing but noise, they would add up to a random prompt that the service
        still tolerates, times the signal share. This optimizer's c must be a number; its a and clip are not used.
        """
        self.start(w, rng)
        c = self.state["c"]
        squares = []
        for _ in range(n_estimates):
            g = self.estimate(probe.losses(self.ask(), probe.next_rows(self)))
            length = np.linalg.norm(g)
            moved = probe.prompt_rms(w, (c / max(length, 1e-12) * g)[None])[0] / c * length
            squares.append((length**2, moved**2))
        length, moved = np.sqrt(np.mean(squares, axis=0)).tolist()
        # A service that gives all candidates the same loss shows no direction, whatever the step.
        if moved == 0:
            return c, 0.0
        a = self.signal_share(len(w), n_steps) * tolerance / (moved * self.accumulated_noise(n_steps))  # (B12)
        return float(a * length if self.normalize else a), length
