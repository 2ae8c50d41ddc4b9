"""Rules that find step and perturbation sizes for a problem, before training starts.

The right step size differs by orders of magnitude between problems, because parameters, prompts and services differ.
All rules here measure in pixels, which all problems have in common.

A run with more directions than parameters has estimates that are mostly signal. Two settings then work better than any
found by measuring losses, and finding them bills nothing: steps of a fixed length, from normalized estimates, and a
perturbation that is large at first. Both fall towards the end of the run. A run with fewer directions adds up mostly
noise, so the search measures how much noise the service tolerates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import GainProbe, segmented_uniform

__all__ = [
    "BUDGET_SHARE",
    "PERTURBATION_RMS",
    "GainSearch",
    "common_factor",
    "factors",
    "mean_factor",
    "noise_tolerance",
]

#: The largest share of a training budget that finding gains may cost.
BUDGET_SHARE = 0.1
#: Limits of how far c="auto" moves a prompt if it is measured: root mean square, in units of the pixel range.
PERTURBATION_RMS = (0.03, 0.08)
# Sizes of random prompts that are tried, in the same unit.
_SIZES = (0.01, 0.03, 0.09, 0.27)
# Random prompts, each with both signs, among which the images of a size are divided.
_N_DIRECTIONS = 2
_MAX_IMAGES = 160  # of each size
_MAX_ESTIMATES = 5  # whose length is averaged
_CLOSE = 1e-6  # relative distance to a size that was asked for


@dataclass
class GainSearch:
    """Extent of a search for gains: at most a tenth of the budget, unless the search needs more.

    Attributes
    ----------
    n_estimates : int
        Gradient estimates whose length is averaged. They cost about a quarter of the tenth.
    n_images : int
        Images on which each size of random prompts is tried.
    cost : int
        Images that the search bills.
    """

    n_estimates: int
    n_images: int
    cost: int

    @classmethod
    def within(cls, budget: int, step_cost: int, n_training_rows: int, finds_a: bool) -> GainSearch:
        """Plan a search within a budget.

        Parameters
        ----------
        budget : int
            Images that training may bill, including those of the search.
        step_cost : int
            Images that a step bills.
        n_training_rows : int
            Training images.
        finds_a : bool
            Whether the step size `a` is searched for, which needs gradient estimates.

        Returns
        -------
        search : GainSearch
            The extent of the search.
        """
        share = BUDGET_SHARE * budget
        n_estimates = int(np.clip(share / 4 // step_cost, 1, _MAX_ESTIMATES)) if finds_a else 0
        most = min(_MAX_IMAGES, n_training_rows)
        affordable = (share - n_estimates * step_cost) // len(_SIZES)
        n_images = int(np.clip(affordable, min(2 * _N_DIRECTIONS, most), most))
        return cls(n_estimates, n_images, n_estimates * step_cost + len(_SIZES) * n_images)


def factors(probe: GainProbe, w: np.ndarray, directions: np.ndarray, rms: float) -> np.ndarray:
    """Compute the factor with which each direction moves the prompts by a given distance; bills nothing.

    Parameters
    ----------
    probe : GainProbe
        Measurements on the problem.
    w : ndarray of shape (d,)
        The parameter vector from which the prompts move.
    directions : ndarray of shape (p, d)
        Changes of the parameter vector.
    rms : float
        Root mean square over all pixels, in units of the pixel range.

    Returns
    -------
    factors : ndarray of shape (p,)
        One factor per direction.
    """
    found = np.full(len(directions), rms)
    # Prompts are nearly linear in a small change of the parameters.
    for _ in range(4):
        moved = probe.prompt_rms(w, found[:, None] * directions)
        steps = np.divide(rms, moved, out=np.ones_like(moved), where=moved > 0)
        found *= steps
        if (np.abs(steps - 1) < _CLOSE).all():
            break
    return found


def common_factor(probe: GainProbe, w: np.ndarray, directions: np.ndarray, rms: float) -> float:
    """Compute the factor with which directions move the prompts by a root mean square `rms` over all of them (B8).

    It bills nothing. The parameters are those of `factors`.
    """
    return float(np.mean(factors(probe, w, directions, rms) ** -2) ** -0.5)  # (B8)


def mean_factor(probe: GainProbe, w: np.ndarray, directions: np.ndarray, rms: float) -> float:
    """Compute the factor with which directions move the prompts by a root mean square `rms` on average (B11).

    It bills nothing. The parameters are those of `factors`.
    """
    return float(1 / np.mean(np.reciprocal(factors(probe, w, directions, rms))))  # (B11)


def noise_tolerance(probe: GainProbe, w: np.ndarray, rng: np.random.Generator, n_images: int) -> float:
    """Find the size of random prompts at which the service classifies best (B10).

    A few random prompts are scaled to four sizes, and each size is scored on the same training images. Small prompts
    change nothing and large ones hurt. Sizes in between often help a service that recognises little in the images.

    Parameters
    ----------
    probe : GainProbe
        Measurements on the problem.
    w : ndarray of shape (d,)
        The vector around which the prompts are drawn.
    rng : numpy.random.Generator
        Source of random numbers.
    n_images : int
        Images on which each size is scored.

    Returns
    -------
    rms : float
        The size with the lowest mean loss: root mean square, in units of the pixel range.
    """
    images = rng.permutation(probe.rows)[:n_images]
    directions = segmented_uniform(rng, (_N_DIRECTIONS, len(w)))
    losses = np.zeros(len(_SIZES))
    for direction, some in zip(np.concatenate([directions, -directions]), np.array_split(images, 2 * _N_DIRECTIONS)):
        if len(some):
            lengths = np.concatenate([factors(probe, w, direction[None], rms) for rms in _SIZES])
            losses += probe.losses(w + lengths[:, None] * direction, some) * len(some)
    return _SIZES[int(losses.argmin())]  # (B10)
