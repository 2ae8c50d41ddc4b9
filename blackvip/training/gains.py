"""Step and perturbation sizes that fit the problem, found before training starts.

The right step size differs by orders of magnitude between problems, since parameters, prompts and services
differ. All rules here measure in pixels, which are the same for all of them.

Where a run has more directions than parameters, its estimates are mostly signal. Steps of a set length, from estimates
that are normalized, and a perturbation that is large at first, both falling to the end of the run, then do better than
any that was measured (docs/method.md), and cost nothing to find. Where a run has fewer, what it adds up is mostly
noise, and how much of that the service bears has to be asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..optimizers import RGF, Optimizer, segmented_uniform

if TYPE_CHECKING:
    from .batches import Batches
    from .objective import Objective
    from .validation import Validation

__all__ = [
    "BUDGET_SHARE",
    "adapt_step_size",
    "find_a",
    "gain_cost",
    "needs_gains",
    "noise_tolerance",
    "set_gains",
    "signal_share",
]

BUDGET_SHARE = 0.1  #: The most of a training budget that gains which are "auto" may cost.
PERTURBATION_RMS = (0.03, 0.08)  #: By how much c="auto" moves a prompt: root mean square, in units of the pixel range.
_ANNEALED_C_RMS = 0.15  # by which c moves a prompt at the start of a run that is mostly signal
_ANNEALED_A_RMS = 0.006  # by which a does, times a normalized estimate; the momentum adds up to ten of them
_LEVEL = 1 / 255  # of an 8-bit pixel, in the same unit
_CLOSE = 1e-6  # to a size that was asked for
_N_MEASURED = 16  # directions on which these sizes are measured
_SIZES = (0.01, 0.03, 0.09, 0.27)  # of random prompts that are tried, in the same unit
_MAX_ESTIMATES = 5  # whose length is averaged
_CLIP = 2.0  # times the length of the estimate that was measured: the longest that clip="auto" lets pass
_GROWTH, _BACKOFF = 2.0, 3.0  # by which the step size grows or shrinks after a check
_NOTICEABLE = 0.05  # share of the held-out loss
_MAX_IMAGES = 160  # on which each size is tried at most
_N_DIRECTIONS = 2  # random prompts, each with both signs, among which these images are divided


def needs_gains(optimizer: Optimizer) -> bool:
    """Whether the optimizer has a step or perturbation size that is still "auto", and that may cost images to find."""
    return not isinstance(optimizer, RGF) and "auto" in (getattr(optimizer, "a", None), getattr(optimizer, "c", None))


def is_annealed(optimizer: Any, d: int, n_steps: int) -> bool:
    """Whether the step size is to be found, and a run of `n_steps` steps in `d` parameters is mostly signal."""
    return getattr(optimizer, "a", None) == "auto" and mostly_signal(optimizer, d, n_steps)


def gain_cost(optimizer: Any, d: int, batches: Batches, budget: int) -> int:
    """Images that finding the gains bills: at most a tenth of `budget`, but no less than the search needs."""
    if not needs_gains(optimizer) or is_annealed(optimizer, d, budget // _step_cost(optimizer, batches)):
        return 0
    estimates = _n_estimates(optimizer, batches, budget) * _step_cost(optimizer, batches)
    return estimates + len(_SIZES) * _n_images(optimizer, batches, budget)


def _step_cost(optimizer: Any, batches: Batches) -> int:
    return optimizer.n_candidates * batches.n_rows_each(optimizer)


def _n_estimates(optimizer: Any, batches: Batches, budget: int) -> int:
    """Gradient estimates whose length is averaged: what a quarter of the share allows."""
    if optimizer.a != "auto":
        return 0
    return int(np.clip(BUDGET_SHARE * budget / 4 // _step_cost(optimizer, batches), 1, _MAX_ESTIMATES))


def _n_images(optimizer: Any, batches: Batches, budget: int) -> int:
    """Images on which each size of random prompts is tried."""
    estimates = _n_estimates(optimizer, batches, budget) * _step_cost(optimizer, batches)
    affordable = (BUDGET_SHARE * budget - estimates) // len(_SIZES)
    most = min(_MAX_IMAGES, len(batches.rows))
    return int(np.clip(affordable, min(2 * _N_DIRECTIONS, most), most))


def set_gains(
    objective: Objective, optimizer: Any, w: np.ndarray, batches: Batches, rng: np.random.Generator, budget: int
) -> None:
    """Replace the optimizer's "auto" gains by numbers; what that bills is `gain_cost`.

    Parameters
    ----------
    objective : Objective
    optimizer : Optimizer
        Unchanged unless its `a`, `c`, `clip` or `n_steps` is "auto".
    w : ndarray of shape (d,)
        Where training will start.
    batches : Batches
    rng : numpy.random.Generator
    budget : int
        Images that training may bill, what is billed here included.
    """
    if getattr(optimizer, "n_steps", None) == "auto":  # a decay to the end of the run, whose gains are numbers
        optimizer.set_params(n_steps=max(1, budget // _step_cost(optimizer, batches)))
    if isinstance(optimizer, RGF) and optimizer.c == "auto":
        directions = rng.normal(size=(_N_MEASURED, len(w)))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        optimizer.set_params(c=_common_factor(objective, w, directions, _LEVEL))
    length = None
    if needs_gains(optimizer):
        n_steps = max(1, (budget - gain_cost(optimizer, len(w), batches, budget)) // _step_cost(optimizer, batches))
        if is_annealed(optimizer, len(w), n_steps):
            _anneal(objective, optimizer, w, rng, n_steps)
        else:
            length = _measure(objective, optimizer, w, batches, rng, budget, n_steps)
    if getattr(optimizer, "clip", None) == "auto":  # what bounds a run of such estimates must bound longer ones
        optimizer.set_params(clip=_CLIP * length if length else None)


def _anneal(objective: Objective, optimizer: Any, w: np.ndarray, rng: np.random.Generator, n_steps: int) -> None:
    """Normalized steps and a perturbation of set sizes, which fall to the end of the run; bills nothing."""
    directions = segmented_uniform(rng, (_N_MEASURED, len(w)))
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    a = _common_factor(objective, w, directions / lengths, _ANNEALED_A_RMS)
    if optimizer.c == "auto":
        optimizer.set_params(c=_common_factor(objective, w, directions, _ANNEALED_C_RMS))
    optimizer.set_params(a=a, normalize=True, n_steps=n_steps)


def _common_factor(objective: Objective, w: np.ndarray, directions: np.ndarray, rms: float) -> float:
    """The factor with which random directions move the prompts by `rms`, taken over all of them; bills nothing."""
    return float(np.mean(_lengths_for(objective, w, directions, rms) ** -2) ** -0.5)


def _measure(
    objective: Objective,
    optimizer: Any,
    w: np.ndarray,
    batches: Batches,
    rng: np.random.Generator,
    budget: int,
    n_steps: int,
) -> float | None:
    """Gains by what the service tolerates; the length of an estimate, where `a` was found."""
    tolerance = noise_tolerance(objective, w, batches.rows, rng, _n_images(optimizer, batches, budget))
    if optimizer.c == "auto":
        optimizer.set_params(c=_find_c(objective, w, rng, float(np.clip(tolerance, *PERTURBATION_RMS))))
    if optimizer.a != "auto":
        return None
    n_estimates = _n_estimates(optimizer, batches, budget)
    a, length = find_a(objective, optimizer, w, batches, rng, n_estimates, n_steps, tolerance)
    optimizer.set_params(a=a)
    return length


def noise_tolerance(
    objective: Objective, w: np.ndarray, rows: np.ndarray, rng: np.random.Generator, n_images: int
) -> float:
    """The size of random prompts that the service likes best: their root mean square, in units of the pixel range.

    A few random prompts are scaled to four sizes, and each size is scored on the same `n_images` training images.
    The size with the lowest mean loss wins: small ones do nothing and large ones hurt, but where the service reads
    the domain badly, those between often help.
    """
    images = rng.permutation(rows)[:n_images]
    directions = segmented_uniform(rng, (_N_DIRECTIONS, len(w)))
    losses = np.zeros(len(_SIZES))
    for direction, some in zip(np.concatenate([directions, -directions]), np.array_split(images, 2 * _N_DIRECTIONS)):
        if len(some):
            lengths = np.concatenate([_lengths_for(objective, w, direction[None], rms) for rms in _SIZES])
            losses += objective.candidate_losses(w + lengths[:, None] * direction, some) * len(some)
    return _SIZES[int(losses.argmin())]


def _find_c(objective: Objective, w: np.ndarray, rng: np.random.Generator, rms: float) -> float:
    """The c at which a perturbation moves the prompts by `rms`, on the average of a few; bills nothing."""
    lengths = _lengths_for(objective, w, segmented_uniform(rng, (8, len(w))), rms)
    return float(1 / np.mean(np.reciprocal(lengths)))


def find_a(
    objective: Objective,
    optimizer: Any,
    w: np.ndarray,
    batches: Batches,
    rng: np.random.Generator,
    n_estimates: int,
    n_steps: int,
    tolerance: float,
) -> tuple[float, float]:
    """The step size at which a whole run, on noise alone, moves the prompts by what the service tolerates.

    Spall (1998, section III.B) asks for first steps of a length that suits the problem. Here the service
    tells that length: an estimate from simultaneous perturbation in d parameters is mostly noise, and the
    steps add it up. So a is set such that `n_steps` estimates as long as those that are measured here, were
    they all noise, would add up to a random prompt that the service still tolerates, or where a run's n random
    directions are few for its d parameters, to the share n / (n + d) of it: the squared cosine between what they
    estimate and the gradient, and so what of a step's length is not noise. Bills `n_estimates` estimates.

    Parameters
    ----------
    objective : Objective
    optimizer : SPSA
        With its c set.
    w : ndarray of shape (d,)
    batches : Batches
    rng : numpy.random.Generator
    n_estimates : int
        Estimates whose length is measured.
    n_steps : int
        Steps that the budget allows.
    tolerance : float
        See `noise_tolerance`.

    Returns
    -------
    a : float
    length : float
        Root mean square of the estimates' Euclidean norms.
    """
    optimizer.start(w, rng)
    squares = []
    for _ in range(n_estimates):
        estimate = optimizer.estimate(objective.candidate_losses(optimizer.ask(), batches.for_step(optimizer)))
        length = np.linalg.norm(estimate)
        direction = optimizer.c / max(length, 1e-12) * estimate
        moved = objective.prompt_rms(w, direction[None])[0] / optimizer.c * length
        squares.append((length**2, moved**2))
    length, moved = np.sqrt(np.mean(squares, axis=0)).tolist()
    if moved == 0:  # a service that answers all alike shows no direction, whatever the step
        return float(optimizer.c), 0.0
    a = signal_share(optimizer, len(w), n_steps) * tolerance / (moved * optimizer.accumulated_noise(n_steps))
    return float(a * length if optimizer.normalize else a), length


def signal_share(optimizer: Any, d: int, n_steps: int) -> float:
    """n / (n + d): the squared cosine between the gradient in d parameters and what a run's n directions estimate."""
    n_directions = n_steps * optimizer.n_directions
    return n_directions / (n_directions + d)


def mostly_signal(optimizer: Any, d: int, n_steps: int) -> bool:
    """Whether a run has more directions than parameters."""
    return signal_share(optimizer, d, n_steps) > 0.5


def adapt_step_size(optimizer: Any, validation: Validation) -> None:
    """Correct a step size that was measured at the start, after each check of the held-out images.

    Where they are worse by a twentieth than they have been, training goes back to the best parameters, with a third
    of the step size. Where they improve by less than a twentieth, a doubles. One that falls to the end of the run
    stays as it is.
    """
    if optimizer.n_steps is not None:
        return
    if validation.improvement < -_NOTICEABLE:
        optimizer.restart_from(validation.best_w)
        optimizer.set_params(a=optimizer.a / _BACKOFF)
    elif 0 < validation.improvement < _NOTICEABLE:
        optimizer.set_params(a=optimizer.a * _GROWTH)


def _lengths_for(objective: Objective, w: np.ndarray, directions: np.ndarray, rms: float) -> np.ndarray:
    """The factors (p,) with which `directions` (p, d) each move the prompts by `rms`; bills nothing."""
    factors = np.full(len(directions), rms)
    for _ in range(4):  # prompts are nearly linear in a small change of the parameters
        moved = objective.prompt_rms(w, factors[:, None] * directions)
        steps = np.divide(rms, moved, out=np.ones_like(moved), where=moved > 0)
        factors *= steps
        if (np.abs(steps - 1) < _CLOSE).all():
            break
    return factors
