"""All optimizers on functions, each with its own best settings at the same number of evaluations.

    python benchmarks/optimizers.py [--evaluations 1500] [--seeds 6]

Two functions in 12 and in 100 dimensions, without noise and with: an ill-conditioned quadratic, and Rosenbrock's
function. Every optimizer tries the same grid of step sizes, with one and with five directions in a step, or CMA-ES
its scales; the best one, by the mean of the final loss without noise over the tuning seeds, is then run on other
seeds, which are what is printed. A subspace has a quarter of the dimensions.
"""

import argparse
import itertools

import numpy as np

from blackvip import CMAES, RGF, SPSA, SPSAGC, AdamSPSA, Subspace


def quadratic(w):
    return (np.logspace(0, 2, w.shape[-1]) * w**2).mean(axis=-1)


def rosenbrock(w):
    return (100 * (w[..., 1:] - w[..., :-1] ** 2) ** 2 + (1 - w[..., :-1]) ** 2).sum(axis=-1) / w.shape[-1]


FUNCTIONS = {"quadratic": (quadratic, [1.0, 1.0]), "Rosenbrock": (rosenbrock, [-1.2, 1.0])}
DIMS = (12, 100)
NOISES = (0.0, 1.0)
GAINS = [dict(a=a, n_directions=q) for a, q in itertools.product(10.0 ** np.arange(-4, 0.01, 0.5), (1, 5))]
SIGMAS = (0.03, 0.1, 0.3)
C = 0.05  # of SPSA; a candidate is at this distance from the parameters, times the root of 7/12 and of d


def families(d, n_evaluations):
    """Each optimizer with all settings that it tries."""
    n_dims = d // 4
    distance = C * (7 / 12 * d) ** 0.5  # for RGF, whose directions have the length 1
    gc = [SPSAGC(c=C, **gains) for gains in GAINS]
    cma = [CMAES(sigma) for sigma in SIGMAS]
    return {
        "SPSA": [SPSA(c=C, **gains) for gains in GAINS],
        "SPSA, one-sided": [SPSA(c=C, sides=1, **gains) for gains in GAINS],
        "SPSA-GC": gc,
        "SPSA-GC, one-sided": [SPSAGC(c=C, sides=1, **gains) for gains in GAINS],
        "Adam on SPSA": [AdamSPSA(c=C, **gains) for gains in GAINS],
        "RGF": [
            RGF(c=distance, a_end=gains["a"] / 100, n_steps=n_evaluations // (gains["n_directions"] + 1), **gains)
            for gains in GAINS
        ],
        "CMA-ES": cma,
        "SPSA-GC in subspace": [Subspace(optimizer, n_dims) for optimizer in gc],
        "CMA-ES in subspace": [Subspace(optimizer, n_dims) for optimizer in cma],
    }


def loss_curve(optimizer, function, start, noise, n_evaluations, seed):
    """Loss without noise after each step of a run, which ends early, with infinity, if it goes astray."""
    rng = np.random.default_rng(seed)
    optimizer.start(start, rng)
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(n_evaluations // optimizer.n_candidates):
            candidates = optimizer.ask()
            optimizer.tell(function(candidates) + noise * rng.normal(size=len(candidates)))
            if not np.abs(optimizer.w).max() < 1e6:
                yield np.inf
                return
            yield function(optimizer.w)


def final_loss(*problem, seed):
    """Loss without noise at the end of a run; infinite if it went astray."""
    *_, loss = loss_curve(*problem, seed)
    return loss


def best_of(optimizers, *problem, seeds):
    """The optimizer with the lowest mean final loss."""
    return min(optimizers, key=lambda one: np.mean([final_loss(one, *problem, seed=seed) for seed in seeds]))


def settings(optimizer):
    """What was chosen from the grid."""
    optimizer = getattr(optimizer, "optimizer", optimizer)
    if isinstance(optimizer, CMAES):
        return f"sigma = {optimizer.sigma:.2g}"
    return f"a = {optimizer.a:.2g}, n_directions = {optimizer.n_directions}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=1_500)
    parser.add_argument("--seeds", type=int, default=6)
    args = parser.parse_args()
    tuning, testing = range(1000, 1003), range(args.seeds)
    print(f"{args.evaluations} evaluations, {args.seeds} seeds: mean final loss (least to greatest)")
    for (name, (function, pair)), d, noise in itertools.product(FUNCTIONS.items(), DIMS, NOISES):
        start = np.tile(pair, d // 2)
        problem = (function, start, noise, args.evaluations)
        print(f"\n{name} in {d} dimensions, noise {noise} of {function(start):.1f} at the start")
        for family, optimizers in families(d, args.evaluations).items():
            best = best_of(optimizers, *problem, seeds=tuning)
            losses = np.array([final_loss(best, *problem, seed=seed) for seed in testing])
            spread = f"({losses.min():.4f} to {losses.max():.4f})"
            print(f"  {family:20s} {losses.mean():9.4f}  {spread:24s} {settings(best)}", flush=True)


if __name__ == "__main__":
    main()
