"""Accuracy against billed images: baselines, image corrections, the default, the paper's profile.

    python benchmarks/query_economy.py [--tasks ocr6-box clipart-fog ...] [--queries 500 1000 4000 16000]
        [--methods baselines corrections default paper cma-es white-box cascade views] [--shots 5 10 16] [--seeds 0 1 2]
        [--split test|development] [--jobs 1]

Each run is appended to docs/query_economy.jsonl as it ends, and is not made again: the script can be stopped and goes
on. Delete the file to measure a new version. It needs the extra `benchmarks`, Debian's dataset-fashion-mnist for
garments, and openclipart-png for clip art. At the end it writes tables of all that the file holds below the words of
docs/query_economy.md, and draws docs/query_economy.png.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
import warnings
from functools import partial

import numpy as np
import services
import torch
import torch.nn.functional as F
from joblib import Parallel, delayed
from reports import DOCS, cell, read_lines, table, write_below_marker

from blackvip import CMAES, BlackVIPClassifier, PromptBasis, presets
from blackvip.exceptions import BudgetError, ClassPromptWarning, PromptNotUsedWarning
from blackvip.inputs.images import to_uint8

BASELINES = ("zero_shot", "calibrated_zero_shot", "local_probe", "fused_zero_shot")
METHODS = {
    "baselines": {},
    "corrections": {},
    "default": {},
    "paper": presets.cvpr2023(),
    "cma-es": {"prompter": "basis", "optimizer": CMAES(sigma=0.3), "batch_size": 40},
    "white-box": {},
    "cascade": {"cascade": True},
    "views": {"max_views": 2},
}
# Methods that are measured once, with budgets that depend on the number of training images alone. The one of the
# corrections pays for all comparisons of corrections (27 of them on 4 images, 13 on 8 ...), but for no trained prompt.
ONCE = {"baselines": lambda n: n, "corrections": lambda n: 2 * n + 300, "white-box": lambda n: 0}
KEYS = ("task", "method", "queries", "shots", "seed", "split")
WHITE_BOX_STEPS = 300
PICTURE_BUDGET, PICTURE_SHOTS = 4_000, services.SHOTS


def adapt(task, method, queries, shots, seed, split):
    """One fit: accuracy of the service's own answers with the prompt, and of the classifier."""
    X, y, X_test, y_test = task.load(seed, split, shots)
    budget = ONCE[method](len(y)) if method in ONCE else queries
    parameters = {"random_state": seed, "verbose": 0, **METHODS[method], "max_queries": budget}
    # The wrapper does not declare that images may be enlarged, which is no correction.
    score_fn = partial(task.score_fn) if method in ONCE else task.score_fn
    clf = BlackVIPClassifier(score_fn, task.class_prompts, **parameters)
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptNotUsedWarning)
        warnings.simplefilter("ignore", ClassPromptWarning)  # the template "{}" is meant like this
        try:
            clf.fit(X, y)
        except BudgetError as error:
            return {"refused": str(error)}
    seconds = time.perf_counter() - begin
    prompted = clf.prompter_.transform(X_test)
    batches = np.array_split(prompted, max(1, len(prompted) // 64))
    scores = np.concatenate([task.score_fn(batch, clf.class_prompts_) for batch in batches])
    found = {
        "billed": clf.n_queries_,
        "own_answers": float((clf.classes_[scores.argmax(axis=1)] == y_test).mean()),
        "accuracy": clf.score(X_test, y_test),
        "per_prediction": round(clf.n_queries_predict_ / len(y_test), 3),
        "prompter": repr(clf.prompter_) if clf.prompt_used_ else None,
        "ended": clf.termination_reason_,
        "seconds": round(seconds, 1),
    }
    if method == "baselines":
        found |= clf.score_baselines(X_test, y_test)
        found["chosen"] = max(clf.baselines_, key=lambda name: rank(clf.baselines_[name]))
    return found


def rank(baseline):
    """Cross-validated accuracy of a baseline, then its log loss: the greatest is the baseline to choose."""
    return baseline.accuracy, -baseline.log_loss


def white_box(task, shots, seed, split):
    """The same basis, trained by back-propagation through the service's own network: what no black box can pass."""
    X, y, X_test, y_test = task.load(seed, split, shots)
    pixels = [torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255 for x in (X, X_test)]
    basis = PromptBasis().fit_pixels(pixels[0])
    features = [basis.features(x) for x in pixels]
    w = torch.zeros(1, basis.n_parameters_, requires_grad=True)
    optimizer = torch.optim.Adam([w], lr=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, WHITE_BOX_STEPS)
    log_scale = torch.zeros(1, requires_grad=True)  # a temperature, as the default has one
    optimizer.add_param_group({"params": [log_scale]})
    for _ in range(WHITE_BOX_STEPS):
        drawn = (pixels[0] + basis.prompts(w[None], features[0][None])[0, 0]).clamp(0, 1)
        loss = F.cross_entropy(task.network(drawn) * log_scale.exp(), torch.as_tensor(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        drawn = (pixels[1] + basis.prompts(w[None], features[1][None])[0, 0]).clamp(0, 1)
        scores = task.score_fn(to_uint8(drawn), None)
    return {"own_answers": float((scores.argmax(axis=1) == y_test).mean())}


def measure(key):
    """The row of one run."""
    name, method, queries, *others = key
    task = services.tasks()[name]()
    torch.set_num_threads(1)
    found = white_box(task, *others) if method == "white-box" else adapt(task, method, queries, *others)
    return {**dict(zip(KEYS, key)), **found}


def run(args, path):
    """All runs that were asked for and are not in the file yet."""
    done = {tuple(row[key] for key in KEYS) for row in read_lines(path)}
    missing = dict.fromkeys(
        (name, method, 0 if method in ONCE else queries, shots, seed, args.split)
        for queries in args.queries
        for name in args.tasks
        for method in args.methods
        if method != "white-box" or name.startswith("small-")
        for shots in args.shots or services.shots_of(name)
        for seed in args.seeds
    )
    jobs = [delayed(measure)(key) for key in missing if key not in done]
    for row in Parallel(n_jobs=args.jobs, return_as="generator_unordered")(jobs):
        with path.open("a") as file:
            print(json.dumps(row), file=file, flush=True)
        print(json.dumps(row), flush=True)


def some(rows, **values):
    """The rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def settings_of(rows):
    """Each task with each number of shots that was measured, in the order of the tasks."""
    found = {(row["task"], row["shots"]) for row in rows}
    order = list(services.tasks())
    return sorted(found, key=lambda setting: (order.index(setting[0]), -setting[1]))


def by_seed(rows, field):
    """A field of the rows by seed; for "chosen", the accuracy of the baseline that cross-validation chooses."""
    value = lambda row: row[row["chosen"]] if field == "chosen" else row[field]
    return {row["seed"]: value(row) for row in rows if field in row}


def gain(rows, baselines):
    """Mean difference to the chosen baseline over the seeds that have both, as text."""
    reference, found = by_seed(baselines, "chosen"), by_seed(rows, "accuracy")
    gains = [found[seed] - reference[seed] for seed in found if seed in reference]
    return f"{np.mean(gains):+.3f}" if gains else ""


def tables(rows):
    """Lines of a table of the baselines and one of the methods, of means and ranges over seeds."""
    titles, of_baselines, of_methods = services.titles(), [], []
    for name, shots in settings_of(rows):
        here = some(rows, task=name, shots=shots)
        baselines = some(here, method="baselines")
        cells = [cell(list(by_seed(baselines, field).values())) for field in (*BASELINES, "chosen")]
        of_baselines.append([titles[name], f"`{name}`", str(shots), *cells])
        for method, queries in sorted({(list(METHODS).index(row["method"]), row["queries"]) for row in here}):
            runs = some(here, method=list(METHODS)[method], queries=queries)
            if method and not any("refused" in row for row in runs):
                budget = f"{queries:,d}" if queries else ""
                cells = [titles[name], str(shots), runs[0]["method"], budget, *outcome(runs), gain(runs, baselines)]
                of_methods.append(cells)
    plain = ["plain service", "calibrated", "local probe", "fused", "chosen by cross-validation"]
    titles_of_methods = ["method", "budget", "billed", "seeds", "own answers", "per prediction", "accuracy", "gain"]
    return [
        "## Baselines",
        "",
        *table(["task", "`--tasks`", "shots", *plain], of_baselines),
        "",
        "## With a prompt",
        "",
        *table(["task", "shots", *titles_of_methods], of_methods),
    ]


def outcome(runs):
    """Billed images, number of seeds, own answers, images per prediction and accuracy of some runs, as text."""
    billed = cell(list(by_seed(runs, "billed").values()), digits=0)
    figures = [cell(list(by_seed(runs, field).values())) for field in ("own_answers", "per_prediction", "accuracy")]
    return [billed, str(len(runs)), *figures]


def dots_of(rows, name):
    """Mean accuracies of the dots in a task's line of the picture, by their names, over the seeds that all have."""
    of_task = some(rows, task=name, shots=PICTURE_SHOTS)
    baselines, corrections = (some(of_task, method=method) for method in ("baselines", "corrections"))
    budgets = [row["queries"] for row in some(of_task, method="default") if row["queries"] <= PICTURE_BUDGET]
    default = some(of_task, method="default", queries=max(budgets, default=None))
    known = [{row["seed"] for row in runs} for runs in (baselines, corrections, default) if runs]

    def mean(runs, field):
        values = [value for seed, value in by_seed(runs, field).items() if all(seed in seeds for seeds in known)]
        return np.mean(values or [np.nan])

    return {
        "plain service": mean(baselines, "zero_shot"),
        "best baseline": max(mean(baselines, field) for field in BASELINES),
        "best image correction": mean(corrections, "accuracy"),
        "default": mean(default, "accuracy"),
    }


def draw_picture(rows, path):
    """A line for each task, from the plain service to the default. The axis gives room to differences near 1."""
    import matplotlib.pyplot as plt

    names = [name for name, shots in settings_of(rows) if shots == PICTURE_SHOTS]
    line = {"color": "#CCCCCC", "linewidth": 3, "solid_capstyle": "round", "zorder": 1}
    # Colours of Okabe and Ito, which colour-blind readers can tell apart, and a shape for each. The largest dot lies
    # lowest, so that equal ones can be seen.
    looks = {
        "plain service": {"marker": "o", "s": 38, "facecolor": "white", "edgecolor": "#555555", "linewidth": 1.4},
        "best baseline": {"marker": "s", "s": 34, "color": "#56B4E9", "edgecolor": "white", "linewidth": 0.6},
        "best image correction": {"marker": "^", "s": 52, "color": "#E69F00", "edgecolor": "white", "linewidth": 0.6},
        "default": {"marker": "o", "s": 100, "color": "#0072B2"},
    }
    named = [services.titles()[name].split(", ") for name in names]
    is_first = [number == 0 or named[number - 1][1] != service for number, (_, service) in enumerate(named)]
    heights = np.cumsum(np.where(is_first, 1.9, 1.0))  # room for a service's name above the first of its tasks
    figure, axis = plt.subplots(figsize=(7.2, 0.27 * heights[-1] + 1.1), layout="constrained")
    aside = axis.get_yaxis_transform()
    for name, (_, service), first, y in zip(names, named, is_first, heights):
        dots = dots_of(rows, name)
        axis.plot([np.nanmin(list(dots.values())), np.nanmax(list(dots.values()))], [y, y], **line)
        for order, (dot, look) in enumerate(reversed(looks.items()), start=2):
            axis.scatter(dots[dot], y, zorder=order, **look)
        if np.isfinite(dots["default"]):
            text = f"{dots['default']:.1%}"
            axis.text(1.08, y, text, transform=aside, ha="right", va="center", color=looks["default"]["color"])
        if first:
            title = service[0].upper() + service[1:]
            axis.text(-0.01, y - 0.9, title, transform=aside, ha="right", va="center", weight="bold")
    axis.set_xscale("logit")
    ticks = [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99]
    axis.set_xticks(ticks, [f"{tick:.0%}" for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.set_yticks(heights, [images for images, _ in named])
    axis.set(xlim=(0.09, 0.994), ylim=(heights[-1] + 0.7, 0.3), xlabel="accuracy on test images")
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="#EEEEEE")
    axis.set_axisbelow(True)
    axis.spines[["left", "right", "top"]].set_visible(False)
    handles = [axis.scatter([], [], **look) for look in looks.values()]
    figure.legend(handles, looks, loc="outside upper center", ncols=len(looks), frameon=False, handletextpad=0.2)
    figure.savefig(path, dpi=200)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    published = [name for name in services.tasks() if name not in services.OTHER_CONDITIONS]
    parser.add_argument("--tasks", nargs="*", default=published)
    parser.add_argument("--methods", nargs="+", default=list(METHODS)[:4], choices=METHODS)
    parser.add_argument("--queries", nargs="+", type=int, default=[500, 1_000, 4_000, 16_000])
    parser.add_argument(
        "--shots", nargs="+", type=int, help="of every task; default: 5, 10 and 16 of clip art, else 16"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--split", choices=("test", "development"), default="test")
    parser.add_argument("--results", type=pathlib.Path, default=DOCS / "query_economy.jsonl")
    parser.add_argument("--jobs", type=int, default=1, help="processes, each with one thread")
    args = parser.parse_args()
    run(args, args.results)
    if args.split == "test":
        rows = some(read_lines(args.results), split="test")
        write_below_marker(DOCS / "query_economy.md", "benchmarks/query_economy.py", tables(rows))
        draw_picture(rows, DOCS / "query_economy.png")


if __name__ == "__main__":
    main()
