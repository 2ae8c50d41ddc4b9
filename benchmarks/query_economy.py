"""Accuracy against billed images: the default, the paper's profile, every control, and the white-box ceiling.

    python benchmarks/query_economy.py [--tasks ocr6-box small-fog ...] [--methods default paper cma-es white-box]
                                       [--queries 1000 4000 16000 64000] [--seeds 0 1 2] [--split test|development]

Each run is appended to docs/query_economy.jsonl as it ends, and is not made again: the script can be stopped and goes
on. It needs the extra `benchmarks`, and Debian's dataset-fashion-mnist for the task fashion. At the end it writes the
tables and the plot of all that the file holds, into docs/query_economy.md and .png.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
import warnings

import numpy as np
import services
import torch
import torch.nn.functional as F
from reports import DOCS, cell, read_lines

from blackvip import CMAES, BlackVIPClassifier, PromptBasis, PromptNotUsedWarning, presets
from blackvip.inputs.images import to_uint8

CONTROLS = ("zero_shot", "calibrated_zero_shot", "local_probe", "fused_zero_shot")
METHODS = {
    "default": {},
    "paper": presets.cvpr2023(),
    "cma-es": {"prompter": "basis", "optimizer": CMAES(sigma=0.3), "batch_size": 40},
}
WHITE_BOX_STEPS = 300


def adapt(task, method, queries, seed, split):
    """One fit: accuracy of the prompt alone, of all, and of each control."""
    X, y, X_test, y_test = task.load(seed, split)
    parameters = {"max_queries": queries, "random_state": seed, "verbose": 0, **METHODS[method]}
    clf = BlackVIPClassifier(task.score_fn, task.class_prompts, **parameters)
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptNotUsedWarning)
        clf.fit(X, y)
    seconds = time.perf_counter() - begin
    prompted = clf.coordinator_.transform(X_test)
    batches = np.array_split(prompted, max(1, len(prompted) // 64))
    scores = np.concatenate([task.score_fn(batch, clf.class_prompts_) for batch in batches])
    return {
        "billed": clf.n_queries_,
        "prompt": float((clf.classes_[scores.argmax(axis=1)] == y_test).mean()),
        "accuracy": clf.score(X_test, y_test),
        "prompt_used": clf.prompt_used_,
        "seconds": round(seconds, 1),
        **clf.score_baselines(X_test, y_test),
    }


def white_box(task, seed, split):
    """The same basis, trained by back-propagation through the service's own network: what no black box can pass."""
    X, y, X_test, y_test = task.load(seed, split)
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
    return {"prompt": float((scores.argmax(axis=1) == y_test).mean())}


def run(args, path):
    """All runs that were asked for and are not in the file yet."""
    known = read_lines(path)
    keys = ("task", "method", "queries", "seed", "split")
    done = {tuple(row[key] for key in keys) for row in known}
    makers = services.tasks()
    for queries in args.queries:
        for name in args.tasks:
            task = makers[name]()
            for method in args.methods:
                if method == "white-box" and (task.network is None or queries != args.queries[0]):
                    continue
                for seed in args.seeds:
                    key = dict(zip(keys, (name, method, 0 if method == "white-box" else queries, seed, args.split)))
                    if tuple(key.values()) in done:
                        continue
                    is_white = method == "white-box"
                    found = (
                        white_box(task, seed, args.split)
                        if is_white
                        else adapt(task, method, queries, seed, args.split)
                    )
                    with path.open("a") as file:
                        print(json.dumps({**key, **found}), file=file, flush=True)
                    print(json.dumps({**key, **found}), flush=True)


def write_tables(rows, path):
    """A table of the controls and one of the methods, of the mean and the least and greatest over seeds."""
    names = list(dict.fromkeys(row["task"] for row in rows))
    lines = [
        "# Query economy",
        "",
        "`python benchmarks/query_economy.py` writes this page. Figures are mean accuracies over seeds (minimum to",
        "maximum). [The method](method.md#what-was-tried) lists what did not help.",
        "",
        "![Accuracy against billed images](query_economy.png)",
        "",
        "## Baselines",
        "",
        "| task | " + " | ".join(control.replace("_", " ") for control in CONTROLS) + " |",
        "|---" * (1 + len(CONTROLS)) + "|",
    ]
    for name in names:
        of_task = {row["seed"]: row for row in rows if row["task"] == name and row["method"] == "default"}
        cells = [cell([row[control] for row in of_task.values()]) for control in CONTROLS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "## With a prompt",
        "",
        "White-box is the same basis, trained with Adam through the network. Where it has 0.099, the prompt washes all",
        "images out, and gradients do not lead back. It is no upper bound there.",
        "",
        "| task | method | budget | billed | seeds | prompt alone | all |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        kinds = dict.fromkeys((row["method"], row["queries"]) for row in rows if row["task"] == name)
        for method, queries in sorted(kinds):
            some = [row for row in rows if (row["task"], row["method"], row["queries"]) == (name, method, queries)]
            billed = f"{max(row.get('billed', 0) for row in some):,d}"
            prompt = cell([row["prompt"] for row in some])
            everything = cell([row["accuracy"] for row in some if "accuracy" in row])
            lines.append(f"| {name} | {method} | {queries:,d} | {billed} | {len(some)} | {prompt} | {everything} |")
    path.write_text("\n".join(lines) + "\n")


def draw_plot(rows, path):
    """Accuracy against billed images, a panel for each task."""
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row["task"] for row in rows))
    n_columns = min(4, len(names))
    figure, axes = plt.subplots(
        -(-len(names) // n_columns),
        n_columns,
        figsize=(3.4 * n_columns, 3 * -(-len(names) // n_columns)),
        squeeze=False,
    )
    for name, axis in zip(names, axes.flat):
        of_task = [row for row in rows if row["task"] == name]
        for method, marker in (("default", "o"), ("cma-es", "^"), ("paper", "s")):
            budgets = sorted({row["queries"] for row in of_task if row["method"] == method})
            values = [[r["accuracy"] for r in of_task if (r["method"], r["queries"]) == (method, b)] for b in budgets]
            if budgets:
                means = [np.mean(v) for v in values]
                spread = [[m - min(v) for m, v in zip(means, values)], [max(v) - m for m, v in zip(means, values)]]
                axis.errorbar(budgets, means, spread, marker=marker, capsize=3, label=method)
        first = [row for row in of_task if row["method"] == "default"]
        for control, style in zip(CONTROLS, (":", "--", "-.", "-")):
            if first:
                axis.axhline(np.mean([row[control] for row in first]), color="grey", ls=style, lw=1, label=control)
        axis.set(title=name, xscale="log", xlim=(600, 100_000))
    for axis in list(axes.flat)[len(names) :]:
        axis.axis("off")
    for axis in axes[-1]:
        axis.set_xlabel("billed images")
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=len(labels), loc="lower center", fontsize=8)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(path, dpi=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=list(services.tasks()))
    parser.add_argument("--methods", nargs="+", default=["default"], choices=[*METHODS, "white-box"])
    parser.add_argument("--queries", nargs="+", type=int, default=[1_000, 4_000, 16_000])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--split", choices=("test", "development"), default="test")
    parser.add_argument("--results", type=pathlib.Path, default=DOCS / "query_economy.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(1)
    run(args, args.results)
    if args.split == "test":
        rows = read_lines(args.results)
        write_tables(rows, DOCS / "query_economy.md")
        draw_plot(rows, DOCS / "query_economy.png")


if __name__ == "__main__":
    main()
