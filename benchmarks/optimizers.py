"""SPSA-GC against SPSA on functions, each with its own best gains at the same number of evaluations.

    python benchmarks/optimizers.py [--evaluations 4000] [--seeds 10]

Two functions in 100 dimensions, whose evaluations are noisy: an ill-conditioned quadratic, and Rosenbrock's
function. Every optimizer tries the same grid of step sizes; its best one, by the mean of the final loss without
noise over the tuning seeds, is then run on other seeds, which are what is printed.
"""

import argparse
import itertools

import numpy as np

from blackvip import SPSA, SPSAGC

D = 100


def quadratic(w):
    return (np.logspace(0, 2, D) * w**2).sum(axis=-1) / D


def rosenbrock(w):
    return (100 * (w[..., 1:] - w[..., :-1] ** 2) ** 2 + (1 - w[..., :-1]) ** 2).sum(axis=-1) / D


FUNCTIONS = {"quadratic": (quadratic, np.ones(D)), "Rosenbrock": (rosenbrock, np.tile([-1.2, 1.0], D // 2))}
STEP_SIZES = 10.0 ** np.arange(-5, 0.01, 1 / 3)
MOMENTA = (0.5, 0.9)


def final_loss(optimizer, function, start, noise, n_evaluations, seed):
    """Loss without noise at the end of a run."""
    rng = np.random.default_rng(seed)
    optimizer.start(start, rng)
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(n_evaluations // optimizer.n_candidates):
            candidates = optimizer.ask()
            optimizer.tell(function(candidates) + noise * rng.normal(size=len(candidates)))
        loss = function(optimizer.w)
    return loss if np.isfinite(loss) else np.inf


def best_of(optimizers, *problem, seeds):
    """The optimizer with the lowest mean final loss."""
    return min(optimizers, key=lambda optimizer: np.mean([final_loss(optimizer, *problem, seed) for seed in seeds]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=4_000)
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args()
    tuning, testing = range(1000, 1003), range(args.seeds)
    print(f"{D} dimensions, {args.evaluations} evaluations, {args.seeds} seeds: mean final loss (least to greatest)")
    for (name, (function, start)), noise in itertools.product(FUNCTIONS.items(), (0.0, 0.1, 1.0)):
        problem = (function, start, noise, args.evaluations)
        print(f"\n{name}, noise {noise} of {function(start):.1f} at the start")
        families = {
            "SPSA": [SPSA(a, 0.05, n_directions=1) for a in STEP_SIZES],
            "SPSA-GC": [SPSAGC(a, 0.05, n_directions=1, momentum=m) for a, m in itertools.product(STEP_SIZES, MOMENTA)],
        }
        results = {}
        for family, optimizers in families.items():
            best = best_of(optimizers, *problem, seeds=tuning)
            losses = results[family] = np.array([final_loss(best, *problem, seed) for seed in testing])
            gains = f"a = {best.a:.2g}" + (f", momentum = {best.momentum}" if family == "SPSA-GC" else "")
            print(f"  {family:8s} {losses.mean():9.4f}  ({losses.min():.4f} to {losses.max():.4f})   {gains}")
        wins = int((results["SPSA-GC"] < results["SPSA"]).sum())
        print(f"  SPSA-GC is lower on {wins} of {args.seeds} seeds")


if __name__ == "__main__":
    main()
