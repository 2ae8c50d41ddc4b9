"""Biased and Loc, the paper's synthetic sets, on services that can be had: all methods, at the same billed images.

    python benchmarks/synthetic.py [--service clip|ocr] [--sets biased_0.8 ...] [--methods ...] [--queries 64000]
                                   [--seeds 1 2 3] [--choose | --draw]

The services are a small open_clip model that is trained on the spot (`small_clip`) and a text reader (`services`).
Their images are scikit-learn's digits, of the size that the service takes. ``--choose`` runs the methods that have a
step size with several, on the development split: shots and test digits of the training part, with the test set's
colours or places. Without it, each method has the step size that did best there, and the seeds draw the shots.
``--draw`` only writes docs/synthetic.md and .png from docs/synthetic.jsonl. Runs are kept in results/synthetic, and are
not made again.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from reports import DOCS, cell, read_lines, table, write_below_marker
from services import text_reader
from small_clip import SIDE, TEMPLATE, digit_clip, split_digits

from blackvip import Comparison, compare, datasets
from blackvip.comparison.methods import make_method
from blackvip.comparison.presets import SEEDS, SHOTS
from blackvip.datasets.digits import resized

RESULTS = pathlib.Path("results") / "synthetic"
SETS = ("biased_0.8", "biased_0.9", "loc_1:1", "loc_1:4")
FAMILIES = ("biased_0.9", "loc_1:1")  # on whose development split the step sizes of Biased and of Loc are chosen
FACTORS = (0.01, 0.1, 1.0, 10.0)  # of the preset's step size
STEPPED = ("vp-spsa-gc", "vp-spsa", "bar", "bar-spsa-gc", "blackvip-se", "blackvip-se-spsa", "blackvip-scratch")
FREE = ("zero-shot", "calibrated", "local-probe", "fused", "frequency", "blm", "blm+", "ares", "ares-both")
METHODS = (*FREE, "basis", *STEPPED, "vp-white-box")
CORE = ("zero-shot", "calibrated", "local-probe", "fused", "vp-spsa-gc", "bar", "blackvip-se", "basis")
_BAR_INNER = {"biased": 64, "loc": 194}  # as the paper has it, and as its published script for Loc does
_CHOICE_QUERIES, _CHOICE_SEED = 25_600, 0
_WHITE_BOX_EPOCHS = 200


@dataclass(frozen=True)
class Service:
    """A score function and the images that it takes."""

    make: Callable
    template: str
    side: int  # pixels

    @property
    def class_prompts(self) -> list[str]:
        return [self.template.format(digit) for digit in range(10)]


SERVICES = {
    "clip": Service(lambda: digit_clip(RESULTS / "digit_clip.pt"), TEMPLATE, SIDE),
    "ocr": Service(lambda: text_reader("ocr6"), "{}", 48),
}


def make_images(name: str, digits: np.ndarray, labels: np.ndarray, side: int, split: str, random_state) -> np.ndarray:
    """Images of a synthetic set (n, side, side, 3), uint8."""
    kind, _, value = name.partition("_")
    if kind == "biased":
        large = resized(digits, side)
        return datasets.make_biased(large, labels, float(value), split=split, random_state=random_state)[0]
    return datasets.make_loc(digits, labels, int(value.partition(":")[2]), size=side, random_state=random_state)[0]


def load(name: str, side: int, seed: int, split: str):
    """X, y, X_test, y_test: the shots depend on the seed, the test images do not."""
    digits = split_digits()
    pool, labels = digits.pool
    random = np.random.RandomState(seed if split == "test" else 100 + seed)
    shots = [random.permutation(np.flatnonzero(labels == digit))[:SHOTS] for digit in range(10)]
    train = np.concatenate(shots)
    rest = np.setdiff1d(np.arange(len(labels)), train)
    tested, y_test, state = (*digits.test, 0) if split == "test" else (pool[rest], labels[rest], 1_000)
    X = make_images(name, pool[train], labels[train], side, "train", random)
    return X, labels[train], make_images(name, tested, y_test, side, "test", state), y_test


def estimator_of(method: str, name: str, score_fn, class_prompts, factor: float = 1.0):
    """A method with the settings of a data set, its step size multiplied by a factor."""
    estimator = make_method(method, score_fn, class_prompts, dataset=name)
    if method.startswith("bar"):
        estimator.prompter.set_params(inner=_BAR_INNER[name.partition("_")[0]])
    if method in STEPPED:
        # SPSA takes its step size from the estimator, BAR's optimizer keeps it.
        stepped = estimator.optimizer if estimator.get_params(deep=False).get("a", "auto") == "auto" else estimator
        sizes = {key: factor * value for key, value in stepped.get_params(deep=False).items() if key in ("a", "a_end")}
        stepped.set_params(**sizes)
    if method == "vp-white-box":
        estimator.set_params(n_epochs=_WHITE_BOX_EPOCHS)
    return estimator


def choices_file(service: str, name: str) -> pathlib.Path:
    family = next(family for family in FAMILIES if family[0] == name[0])
    return RESULTS / f"{service}_{family.replace(':', '-')}_choice.jsonl"


def choose(service: str, methods, verbose: int) -> None:
    """Run the methods that have a step size with each factor, on the development split."""
    made, prompts = SERVICES[service].make(), SERVICES[service].class_prompts
    for name in FAMILIES:
        data = load(name, SERVICES[service].side, _CHOICE_SEED, "development")
        named = {
            f"{method} x {factor:g}": estimator_of(method, name, made, prompts, factor)
            for method in methods
            if method in STEPPED
            for factor in FACTORS
        }
        found = compare(
            named,
            made,
            *data,
            class_prompts=prompts,
            max_queries=_CHOICE_QUERIES,
            seeds=[_CHOICE_SEED],
            results=choices_file(service, name),
            verbose=verbose,
        )
        print(f"{service} {name}\n{found}", flush=True)


def tried(service: str, name: str) -> dict[str, dict[float, float]]:
    """Accuracy on the development split of a set's family, by method and factor."""
    found = {}
    for row in some(known_rows(), service=service, kind="choice"):
        if row["set"][0] == name[0]:
            found.setdefault(row["method"], {})[row["factor"]] = row["accuracy"]
    return found


def chosen(service: str, name: str, method: str) -> float:
    """The best factor of a method's step size; 1 where none was tried."""
    accuracies = tried(service, name).get(method, {1.0: 0.0})
    return max(accuracies, key=accuracies.get)


def results_file(service: str, name: str, seed: int) -> pathlib.Path:
    return RESULTS / f"{service}_{name.replace(':', '-')}_seed{seed}.jsonl"


def run(service: str, sets, methods, queries: int, seeds, verbose: int) -> None:
    made, prompts = SERVICES[service].make(), SERVICES[service].class_prompts
    for name in sets:
        for seed in seeds:
            found = compare(
                {
                    method: estimator_of(method, name, made, prompts, chosen(service, name, method))
                    for method in methods
                },
                made,
                *load(name, SERVICES[service].side, seed, "test"),
                class_prompts=prompts,
                max_queries=queries,
                seeds=[seed],
                results=results_file(service, name, seed),
                verbose=verbose,
            )
            print(f"{service} {name} seed {seed}\n{found}", flush=True)


def known_rows() -> list[dict]:
    """The rows of docs/synthetic.jsonl, and those of all files of runs here, which take the place of older ones."""
    rows = read_lines(DOCS / "synthetic.jsonl")
    for service in SERVICES:
        for family in FAMILIES:
            path = choices_file(service, family)
            for row in Comparison.load(path).rows if path.exists() else []:
                method, _, factor = row["method"].partition(" x ")
                if row["accuracy"] is not None:
                    key = {"service": service, "set": family, "method": method, "kind": "choice"}
                    rows.append({**key, "factor": float(factor), "accuracy": row["accuracy"]})
        for name in SETS:
            for path in sorted(RESULTS.glob(f"{service}_{name.replace(':', '-')}_seed*.jsonl")):
                key = {"service": service, "set": name, "shots_seed": int(path.stem.rpartition("seed")[2])}
                rows += [{**key, **row, "kind": "test"} for row in Comparison.load(path).rows]
    return list({_what(row): row for row in rows}.values())


def _what(row: dict) -> tuple:
    """Which run a row is of."""
    own = row["factor"] if row["kind"] == "choice" else row["shots_seed"]
    return row["kind"], row["service"], row["set"], row["method"], own


def some(rows: list[dict], **wanted) -> list[dict]:
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def told(rows: list[dict]) -> str:
    """Accuracies of some runs for a table, or that they were refused; a single run has no spread."""
    made = [row["accuracy"] for row in rows if row["accuracy"] is not None]
    if len(made) == 1:
        return f"{made[0]:.3f}"
    return cell(made) if made or not rows else "refused"


def table_of(rows: list[dict]) -> list[str]:
    """Methods by sets: accuracy, and what a fit billed and took."""
    sets = [name for name in SETS if some(rows, set=name)]
    cells = []
    for method in METHODS:
        found = some(rows, method=method)
        if not found:
            continue
        made = [row for row in found if row["accuracy"] is not None]
        billed = f"{np.mean([row['n_queries'] for row in made]):,.0f}" if made else ""
        seconds = f"{np.mean([row['seconds'] for row in made]):.0f}" if made else ""
        cells.append([method, *(told(some(found, set=name)) for name in sets), billed, seconds])
    return table(["method", *sets, "billed", "s"], cells)


def order_of(rows: list[dict]) -> list[str]:
    """The paper's order, set by set: the mean of BlackVIP less those of its rivals."""
    cells = []
    for name in SETS:
        means = {}
        for method in ("blackvip-se", "vp-spsa-gc", "bar"):
            made = [row["accuracy"] for row in some(rows, set=name, method=method) if row["accuracy"] is not None]
            if made:
                means[method] = float(np.mean(made))
        if len(means) == 3:
            ours = means.pop("blackvip-se")
            less = [ours - mean for mean in means.values()]
            cells.append([name, *(f"{value:+.3f}" for value in less), "holds" if min(less) > 0 else "does not hold"])
    return table(["set", "above vp-spsa-gc by", "above bar by", "the paper's order"], cells)


def choices_of(rows: list[dict]) -> list[str]:
    """Accuracy on the development split, by method, set and factor."""
    keys = dict.fromkeys((row["set"], row["method"]) for row in rows)
    cells = [
        [name, method, *(told(some(rows, set=name, method=method, factor=factor)) or "refused" for factor in FACTORS)]
        for name, method in keys
    ]
    return table(["set", "method", *(f"x {factor:g}" for factor in FACTORS)], cells)


def write_tables(rows: list[dict], path: pathlib.Path) -> None:
    titles = {"clip": "The small open_clip model", "ocr": "The text reader"}
    lines = []
    for service, title in titles.items():
        of_service = some(rows, service=service)
        runs, choices = some(of_service, kind="test"), some(of_service, kind="choice")
        if runs:
            lines += [f"## {title}", "", *table_of(runs), ""]
        if order := order_of(runs)[2:]:
            lines += [*order_of(runs)[:2], *order, ""]
        if choices:
            lines += [f"### Step sizes: {title[0].lower()}{title[1:]}, development split", "", *choices_of(choices), ""]
    write_below_marker(path, "benchmarks/synthetic.py", lines)


def draw_plot(rows: list[dict], path: pathlib.Path) -> None:
    """A panel for each set of the open_clip model: the mean, the least and the greatest accuracy of each method."""
    import matplotlib.pyplot as plt

    rows = [row for row in some(rows, service="clip", kind="test") if row["accuracy"] is not None]
    if not rows:
        return
    methods = [method for method in METHODS if some(rows, method=method)][::-1]
    sets = [name for name in SETS if some(rows, set=name)]
    figure, axes = plt.subplots(1, len(sets), figsize=(3.2 * len(sets), 0.27 * len(methods) + 1), sharey=True)
    for name, axis in zip(sets, np.atleast_1d(axes)):
        for place, method in enumerate(methods):
            values = [row["accuracy"] for row in some(rows, set=name, method=method)]
            if values:
                mean = np.mean(values)
                spread = np.maximum([[mean - min(values)], [max(values) - mean]], 0)  # rounding
                colour = "tab:blue" if method.startswith("blackvip") else "tab:orange" if method in STEPPED else "0.4"
                axis.errorbar(mean, place, xerr=spread, fmt="o", ms=5, capsize=3, color=colour)
        axis.set(title=name, xlim=(0, 1), xlabel="accuracy")
        axis.set_yticks(range(len(methods)), methods)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def draw(rows: list[dict]) -> None:
    write_tables(rows, DOCS / "synthetic.md")
    draw_plot(rows, DOCS / "synthetic.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--service", choices=SERVICES, default="clip")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS, metavar="SET")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="METHOD")
    parser.add_argument("--queries", type=int, default=64_000)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--verbose", type=int, choices=(0, 1, 2), default=1)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--draw", action="store_true")
    args = parser.parse_args()
    if args.draw:
        return draw(read_lines(DOCS / "synthetic.jsonl"))
    torch.set_num_threads(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    if args.choose:
        choose(args.service, args.methods, args.verbose)
    else:
        run(args.service, args.sets, args.methods, args.queries, args.seeds, args.verbose)
    rows = known_rows()
    (DOCS / "synthetic.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw(rows)


if __name__ == "__main__":
    main()
