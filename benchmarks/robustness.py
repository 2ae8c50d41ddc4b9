"""SPSA-GC against SPSA on Rosenbrock's function in 100 dimensions with noise: the paper's picture of robustness.

    python benchmarks/robustness.py [--evaluations 10000] [--seeds 20] [--noises 0 0.3 1 3 10 30] [--draw]

Both have five directions in a step, as in the paper, and try the same grid of step sizes. The best one, by the mean
final loss over three tuning seeds, is run on other seeds, which are what is shown: chosen for each noise level, or at
the level of the loss curves and kept for all. The figures are in docs/robustness.jsonl, .md and .png.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from optimizers import C, best_of, final_loss, loss_curve, rosenbrock
from reports import DOCS, cell, read_lines, table, write_below_marker

from blackvip import SPSA, SPSAGC

D = 100
START = np.tile([-1.2, 1.0], D // 2)
CURVE_NOISE = 1.0  # of the loss curves: standard deviation of what is added to each evaluation
STEP_SIZES = 10 ** np.arange(-4.5, -0.9, 0.25)
KINDS = {"SPSA": SPSA, "SPSA-GC": SPSAGC}
OPTIMIZERS = {name: [kind(a, C, n_directions=5) for a in STEP_SIZES] for name, kind in KINDS.items()}
COLOURS = {"SPSA": "tab:orange", "SPSA-GC": "tab:blue"}
TUNING_SEEDS = range(1000, 1003)
N_POINTS = 100  # of a loss curve in the file


def measure(noises, n_evaluations, seeds):
    """All rows of figures: "curve", "final" by noise level, "grid" by step size; a loss of None is infinite."""
    for name, grid in OPTIMIZERS.items():
        at_curve = (rosenbrock, START, CURVE_NOISE, n_evaluations)
        kept = best_of(grid, *at_curve, seeds=TUNING_SEEDS)
        for seed in seeds:
            losses = np.array([rosenbrock(START), *loss_curve(kept, *at_curve, seed)])
            shown = np.linspace(0, len(losses) - 1, N_POINTS + 1).round().astype(int)
            yield {
                **{"kind": "curve", "optimizer": name, "noise": CURVE_NOISE, "a": kept.a, "seed": seed},
                **{"evaluations": (shown * kept.n_candidates).tolist(), "losses": _rounded(losses[shown])},
            }
        for noise in noises:
            problem = (rosenbrock, START, noise, n_evaluations)
            for chosen, optimizer in (("each", best_of(grid, *problem, seeds=TUNING_SEEDS)), ("kept", kept)):
                losses = [final_loss(optimizer, *problem, seed=seed) for seed in seeds]
                key = {"kind": "final", "optimizer": name, "noise": noise, "chosen": chosen, "a": optimizer.a}
                yield {**key, "losses": _rounded(losses)}
        for optimizer in grid:
            losses = [final_loss(optimizer, *at_curve, seed=seed) for seed in seeds]
            key = {"kind": "grid", "optimizer": name, "noise": CURVE_NOISE, "a": optimizer.a}
            yield {**key, "losses": _rounded(losses)}


def _rounded(losses):
    return [float(f"{loss:.5g}") if np.isfinite(loss) else None for loss in losses]


def rows_of(rows, **wanted):
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def losses_of(row):
    return np.array([np.inf if loss is None else loss for loss in row["losses"]])


def told(row):
    """The losses of a row for a table: diverged runs are counted."""
    losses = losses_of(row)
    n_astray = int(np.isinf(losses).sum())
    return f"{n_astray} of {len(losses)} diverge" if n_astray else cell(losses, 2)


def write_tables(rows, path):
    noises = list(dict.fromkeys(row["noise"] for row in rows_of(rows, kind="final")))
    lines = ["Mean final loss over the seeds (minimum to maximum), and the step size.", ""]
    cells = []
    for noise in noises:
        found = [
            row
            for chosen in ("each", "kept")
            for name in OPTIMIZERS
            for row in rows_of(rows, kind="final", optimizer=name, noise=noise, chosen=chosen)
        ]
        cells.append([f"{noise:g}", *(f"{told(row)}, a = {row['a']:.2g}" for row in found)])
    columns = [f"{name}, {where}" for where in ("chosen here", f"chosen at {CURVE_NOISE:g}") for name in OPTIMIZERS]
    lines += table(["noise", *columns], cells)
    lines += ["", f"All step sizes of the grid, at noise {CURVE_NOISE:g}.", ""]
    grid = {name: {row["a"]: row for row in rows_of(rows, kind="grid", optimizer=name)} for name in OPTIMIZERS}
    steps = sorted(set().union(*grid.values()))
    cells = [[f"{a:.2g}", *(told(found[a]) for found in grid.values())] for a in steps]
    lines += table(["a", *grid], cells)
    write_below_marker(path, "benchmarks/robustness.py", lines)


def draw_plot(rows, path):
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    for name, colour in COLOURS.items():
        found = rows_of(rows, kind="curve", optimizer=name)
        losses = np.array([losses_of(row) for row in found])
        evaluations, label = found[0]["evaluations"], f"{name}, a = {found[0]['a']:.2g}"
        left.plot(evaluations, losses.mean(axis=0), color=colour, label=label)
        left.fill_between(evaluations, losses.min(axis=0), losses.max(axis=0), color=colour, alpha=0.25, lw=0)
        for chosen, style, words in (("each", "-", "chosen for each level"), ("kept", ":", "as on the left")):
            lines = rows_of(rows, kind="final", optimizer=name, chosen=chosen)
            noises, finals = [row["noise"] for row in lines], np.array([losses_of(row) for row in lines])
            places = range(len(noises))
            right.plot(places, finals.mean(axis=1), style, marker="o", ms=4, color=colour, label=f"{name}, a {words}")
            if chosen == "each":
                right.fill_between(places, finals.min(axis=1), finals.max(axis=1), color=colour, alpha=0.25, lw=0)
    left.set(title=f"Noise {CURVE_NOISE:g}", xlabel="evaluations", ylabel="loss without noise", yscale="log")
    right.set(title="At the end", xlabel="standard deviation of the noise", ylabel="loss without noise", yscale="log")
    right.set_xticks(places, [f"{noise:g}" for noise in noises])
    for axis in (left, right):
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--noises", type=float, nargs="+", default=[0, 0.3, 1, 3, 10, 30])
    parser.add_argument("--draw", action="store_true", help="only the table and the plot, from the file")
    args = parser.parse_args()
    if not args.draw:
        with (DOCS / "robustness.jsonl").open("w") as file:
            for row in measure(args.noises, args.evaluations, range(args.seeds)):
                print(json.dumps(row), file=file, flush=True)
    rows = read_lines(DOCS / "robustness.jsonl")
    write_tables(rows, DOCS / "robustness.md")
    draw_plot(rows, DOCS / "robustness.png")


if __name__ == "__main__":
    main()
