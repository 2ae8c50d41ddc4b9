"""The paper's tables: methods on data sets, the measured figures beside the published ones.

    python benchmarks/paper.py --dataset eurosat --data /data --scorer openclip:ViT-B-16/openai
                               [--methods zero-shot blackvip-mae ...] [--shots 16] [--seeds 1 2 3]
                               [--queries 16000 | paper]

``--dataset all`` makes the paper's Table 2, and ``--dataset synthetic`` Biased and Loc, which need no folder. Each run
is kept in the folder of ``--results`` as it ends, and is not made again: the script can be stopped and goes on.
``python benchmarks/paper_smoke.py`` runs every method and every loader in three minutes, on toy data.

A scorer is ``openclip:MODEL/WEIGHTS``, where weights are a tag or a path, ``openclip:hf-hub:...`` or
``openclip:local-dir:...``; with ``--model-config`` MODEL may be one that open_clip does not list. Or it is
``python:MODULE:NAME``, any score function. The class prompts are those of the data set.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pathlib
import sys

import numpy as np

from blackvip import Comparison, compare, datasets, presets
from blackvip.comparison.methods import METHODS, make_method
from blackvip.scorers.open_clip import OpenCLIPScorer

RESULTS = pathlib.Path("results") / "paper"
#: What runs without being asked for: the paper's rows, what was free, and the rival.
DEFAULT = ("zero-shot", "calibrated", "local-probe", "fused", "bar", "vp-spsa-gc", "blackvip-mae", "blackvip-se")
DEFAULT = (*DEFAULT, "ares", "ares-both", "basis")
#: Accuracy in %, CLIP ViT-B/16, 16 shots, as METHOD.md has it: arXiv 2303.14773; of AReS arXiv 2604.01474, whose code
#: selects on test images and trains its second stage on more than the shots, see `AReSClassifier`.
PUBLISHED = {
    "zero-shot": {"svhn": 18.1, "eurosat": 47.9, "clevr": 14.5, "average": 57.6},
    "bar": {"average": 61.4},
    "vp-spsa-gc": {"average": 58.8},
    "blackvip-mae": {
        "eurosat": 73.1,
        "food101": 86.6,
        "sun397": 64.7,
        "ucf101": 69.1,
        "svhn": 44.3,
        "imagenet": 67.1,
        "resisc45": 64.5,
        "oxford_pets": 89.7,
        "clevr": 36.8,
        "average": 64.0,
    },
    "vp-white-box": {"average": 71.1},
    "ares": {"eurosat": 85.7, "svhn": 63.2},
}
_SYNTHETIC = datasets.list_datasets("synthetic")
ENCODED = ("blackvip", "blackvip-spsa")  # whose encoder --encoder names


def make_scorer(spec: str, device: str = "auto", model_config: pathlib.Path | None = None):
    """The score function that a text names, see above."""
    kind, _, rest = spec.partition(":")
    if kind == "openclip" and rest:
        if model_config is not None:
            import open_clip

            open_clip.add_model_config(model_config)
        if rest.startswith(("hf-hub:", "local-dir:")):
            return OpenCLIPScorer(rest, device=device)
        model, _, weights = rest.partition("/")
        return OpenCLIPScorer(model, weights or None, device=device)
    if kind == "python" and ":" in rest:
        module, _, name = rest.partition(":")
        sys.path.insert(0, "")
        return getattr(importlib.import_module(module), name)
    raise SystemExit(f"--scorer {spec}: expected openclip:MODEL/WEIGHTS or python:MODULE:NAME.")


def preset_of(dataset: str) -> str | None:
    """The name under which `presets` has the settings of a data set, if at all."""
    return dataset if dataset in presets.SETTINGS else None


def methods_for(dataset: str, names, scorer, args) -> dict:
    """Estimators by name, with the settings of the data set."""
    preset, found = preset_of(dataset), {}
    for name in names:
        encoder = args.encoder if name in ENCODED else None
        estimator = make_method(name, scorer, dataset=preset, encoder=encoder)
        changes = {} if dataset in _SYNTHETIC else {"image_shape": (args.image_size, args.image_size)}
        if args.local_encoder:
            changes["local_encoder"] = args.local_encoder
        if name.startswith("ares"):
            changes["reprogramming"] = args.reprogramming
            if args.ares_epochs:
                changes["epochs"] = args.ares_epochs
        if args.white_box_epochs:
            changes["n_epochs"] = args.white_box_epochs
        known = estimator.get_params(deep=False)
        found[name] = estimator.set_params(**{key: value for key, value in changes.items() if key in known})
    return found


def run_dataset(dataset: str, scorer, args) -> list[dict]:
    """All methods with each seed, which draws the shots as well."""
    rows = []
    for seed in args.seeds:
        root = args.digits if dataset in _SYNTHETIC else args.data
        data = datasets.load(dataset, root, shots=args.shots, seed=seed, download=args.download)
        X_test, y_test = data.X_test, data.y_test
        if args.n_test and args.n_test < len(y_test):  # the same for all seeds
            kept = np.sort(np.random.default_rng(0).permutation(len(y_test))[: args.n_test])
            X_test = X_test[kept] if isinstance(X_test, np.ndarray) else [X_test[row] for row in kept]
            y_test = y_test[kept]
        budget = (
            presets.paper_queries(preset_of(dataset), len(data.y_train))
            if args.queries == ["paper"]
            else list(map(int, args.queries))
        )
        path = args.results / f"{dataset.replace(':', '-')}_{args.shots}-shot_seed{seed}.jsonl"
        found = compare(
            methods_for(dataset, args.methods, scorer, args),
            scorer,
            data.X_train,
            data.y_train,
            X_test,
            y_test,
            class_prompts=dict(enumerate(data.class_prompts)),
            max_queries=budget,
            seeds=[seed],
            results=path,
            n_jobs=args.jobs,
            verbose=args.verbose,
        )
        rows += [{"dataset": dataset, "shots": args.shots, **row, "seed": seed} for row in found.rows]
    return rows


def of_dataset(rows: list[dict], dataset: str) -> list[dict]:
    """What `Comparison.summary` makes of a data set's rows."""
    return Comparison([row for row in rows if row["dataset"] == dataset]).summary()


def table_of(rows: list[dict], dataset: str) -> str:
    """A data set's figures, the published ones beside them, in Markdown."""
    lines = [
        f"### {dataset}",
        "",
        "| method | budget | published | measured (least to greatest) | seeds | billed | s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in of_dataset(rows, dataset):
        published = PUBLISHED.get(row["method"], {}).get(dataset)
        budget = "" if row["max_queries"] is None else f"{row['max_queries']:,d}"
        if row["accuracy"] is None:
            cells = [
                row["method"],
                budget,
                _percent(published),
                "refused: " + row["refused"].split(".")[0],
                "0",
                "",
                "",
            ]
        else:
            spread = f"{100 * row['accuracy']:.1f} ({100 * row['least']:.1f} to {100 * row['greatest']:.1f})"
            bill, seconds = f"{row['n_queries']:,.0f}", f"{row['seconds']:.0f}"
            cells = [row["method"], budget, _percent(published), spread, str(row["n_runs"]), bill, seconds]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table_2(rows: list[dict], names: list[str]) -> str:
    """Methods by data sets: measured, and behind it published; the average over all where there are all."""
    found: dict = {}
    for name in names:
        for row in of_dataset(rows, name):
            if row["accuracy"] is not None:
                label = row["method"] if row["max_queries"] is None else f"{row['method']}, {row['max_queries']:,d}"
                found.setdefault((row["method"], label), {})[name] = 100 * row["accuracy"]
    lines = ["| method | " + " | ".join([*names, "average"]) + " |", "|---" * (len(names) + 2) + "|"]
    for (method, label), values in found.items():
        published = PUBLISHED.get(method, {})
        if len(values) == len(names):
            values["average"] = float(np.mean(list(values.values())))
        cells = [_both(values.get(name), published.get(name)) for name in [*names, "average"]]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "Measured (published)."])


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _both(measured: float | None, published: float | None) -> str:
    return (_percent(measured) or "–") + (f" ({_percent(published)})" if published is not None else "")


def run(args) -> list[dict]:
    """Everything that was asked for; tables on the way, and at the end the rows and the tables in files."""
    scorer = make_scorer(args.scorer, args.device, args.model_config)
    names = {"all": datasets.list_datasets("transfer"), "synthetic": datasets.list_datasets("synthetic")}
    names = [name for wanted in args.dataset for name in names.get(wanted, [wanted])]
    args.results.mkdir(parents=True, exist_ok=True)
    rows: list[dict] = []
    for name in names:
        rows += run_dataset(name, scorer, args)
        print("\n" + table_of(rows, name), flush=True)
        write(args, rows, names)
    if len(names) > 1:
        print("\n" + table_2(rows, names), flush=True)
    return rows


def write(args, rows: list[dict], names: list[str]) -> None:
    found = {"arguments": vars(args), "rows": rows}
    (args.results / "paper.json").write_text(json.dumps(found, indent=1, default=str) + "\n")
    tables = [table_of(rows, name) for name in dict.fromkeys(row["dataset"] for row in rows)]
    (args.results / "paper.md").write_text("\n\n".join([*tables, table_2(rows, names)]) + "\n")


def parsed(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", default=["synthetic"], help="names, or all, or synthetic")
    parser.add_argument("--data", type=pathlib.Path, help="the folder that holds the data sets' folders")
    parser.add_argument(
        "--digits", type=pathlib.Path, help="MNIST's folder, for Biased and Loc; scikit-learn's without"
    )
    parser.add_argument("--download", action="store_true", help="what torchvision can download, it does")
    parser.add_argument("--scorer", default="openclip:ViT-B-16/openai")
    parser.add_argument("--model-config", type=pathlib.Path, help="JSON file of an open_clip model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--methods", nargs="+", default=list(DEFAULT), choices=METHODS, metavar="METHOD")
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument(
        "--queries", nargs="+", default=["16000"], help="budgets, or paper: as many as the paper's steps"
    )
    parser.add_argument("--image-size", type=int, default=224, help="to which images of files are resized and cropped")
    parser.add_argument("--encoder", help="of the methods blackvip and blackvip-spsa")
    parser.add_argument("--local-encoder", help="of the probe, the fused head and AReS; theirs is vit_base_patch16_224")
    parser.add_argument("--reprogramming", choices=("watermark", "padding"), default="watermark", help="of AReS")
    parser.add_argument("--ares-epochs", type=int, help="of its second stage; as published without it")
    parser.add_argument("--white-box-epochs", type=int, help="of vp-white-box; 1,000 as published without it")
    parser.add_argument("--n-test", type=int, help="test images, drawn once; all of them without it")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS, help="a folder")
    parser.add_argument("--jobs", type=int, help="runs at once")
    parser.add_argument("--verbose", type=int, choices=(0, 1, 2), default=1)
    args = parser.parse_args(arguments)
    if args.queries != ["paper"] and not all(text.isdigit() and int(text) for text in args.queries):
        parser.error(f"--queries {' '.join(args.queries)}: expected numbers of images, or paper.")
    return args


def main(arguments=None) -> list[dict]:
    return run(parsed(arguments))


if __name__ == "__main__":
    main()
