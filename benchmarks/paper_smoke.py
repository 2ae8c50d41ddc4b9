"""The smoke run of paper.py: every method, and every loader on a tiny folder in the public layout, with toy images."""

from __future__ import annotations

import hashlib
import json
import pathlib
import shutil
import sys
import tempfile
import time
import warnings
from functools import cache

import numpy as np
import paper
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits

from blackvip import TimmEncoder, datasets
from blackvip.comparison.methods import METHODS
from blackvip.datasets.registry import find_data_set

_SIDE = 32
_N = {"train": 3, "val": 1, "test": 4}  # images of a class
_CLASSES = ("1", "2", "3")
_LOADER_METHODS = ["zero-shot", "calibrated", "basis"]
_MANY_PARAMETERS = ("blackvip-scratch",)  # a fit refuses to spend less than so many directions need
_EVERY_METHOD_ON = "biased_0.8"


class ThumbnailReader:
    """Logits by the likeness of an image's 8 x 8 thumbnail to what a class looks like: a digit, or a fixed pattern."""

    def __call__(self, images, class_prompts):
        pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2) / 255
        return self.differentiable(class_prompts)(pixels).numpy()

    def differentiable(self, class_prompts):
        patterns = torch.from_numpy(np.stack([_pattern(prompt) for prompt in class_prompts])).float()

        def logits(pixels):
            thumbnails = F.adaptive_avg_pool2d(pixels.mean(dim=1), 8).flatten(1)
            thumbnails = thumbnails - thumbnails.mean(dim=1, keepdim=True)
            return 10 * F.normalize(thumbnails, dim=1) @ patterns.T

        return logits


thumbnail_reader = ThumbnailReader()


@cache
def _pattern(prompt: str) -> np.ndarray:
    last = prompt.rstrip(".").split()[-1]
    if last.isdigit() and prompt.startswith("This is a photo of") and "objects" not in prompt and int(last) < 10:
        digits = load_digits()
        pattern = digits.images[digits.target == int(last)].mean(axis=0).ravel()
    else:
        seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "little")
        pattern = np.random.default_rng(seed).standard_normal(64)
    pattern = pattern - pattern.mean()
    return pattern / np.linalg.norm(pattern)


def make_folder(root: pathlib.Path, name: str) -> None:
    """A folder of three classes in a data set's public layout, with the split file where the literature has one."""
    definition = find_data_set(name)
    home = root / definition.folders[0]
    images = home / definition.images
    for place in definition.needs:
        if "." not in pathlib.Path(place).name:
            (home / place).mkdir(parents=True, exist_ok=True)
    for place in (place.split("|")[-1] for place in definition.needs if "|" in place):
        (home / place).mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    split: dict[str, list] = {"train": [], "val": [], "test": []}
    for label, name_of_class in enumerate(_CLASSES):
        for part, n_images in _N.items():
            for number in range(n_images):
                folder = part if name == "clevr" else name_of_class
                path = f"{folder}/{part}_{name_of_class}_{number}.jpg"
                split[part].append([path, label, name_of_class])
    if name == "imagenet":
        _draw(
            home,
            [
                (f"{'train' if part == 'train' else 'val'}/n0{label}/{part}{i}.jpg", label)
                for part, items in split.items()
                for i, (_, label, _) in enumerate(items)
            ],
            generator,
        )
        (root / "imagenet" / "classnames.txt").write_text("".join(f"n0{i} thing {i}\n" for i in range(len(_CLASSES))))
    elif name == "fgvc_aircraft":
        (home / "variants.txt").write_text("".join(f"plane {name}\n" for name in _CLASSES))
        for part, items in split.items():
            names = [(path.rpartition("/")[2].removesuffix(".jpg"), label) for path, label, _ in items]
            lines = [f"{image} plane {_CLASSES[label]}\n" for image, label in names]
            (home / f"images_variant_{part}.txt").write_text("".join(lines))
            _draw(images, [(f"{image}.jpg", label) for image, label in names], generator)
    else:
        _draw(images, [(path, label) for items in split.values() for path, label, _ in items], generator)
        (home / definition.split_files[0]).write_text(json.dumps(split))


def _draw(folder: pathlib.Path, paths: list[tuple[str, int]], generator: np.random.Generator) -> None:
    for path, label in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 90, (_SIDE, _SIDE, 3))
        pixels[:, label * 10 : label * 10 + 10] += 120
        Image.fromarray(pixels.astype(np.uint8)).save(folder / path)


def run(args) -> list[dict]:
    """All of it in a temporary folder; an error wherever something does not run."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="blackvip-smoke-"))
    try:
        return _run(args, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(args, folder: pathlib.Path) -> list[dict]:
    for name in datasets.list_datasets("transfer"):
        make_folder(folder / "data", name)
    args.scorer, args.data, args.image_size = "python:paper_smoke:thumbnail_reader", folder / "data", _SIDE
    args.seeds, args.n_test, args.ares_epochs, args.white_box_epochs = [1], 40, 3, 10
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*classes")  # a tiny folder has few
        # Every loader.
        args.results, args.dataset, args.methods = folder / "loaders", ["all", "synthetic"], _LOADER_METHODS
        args.shots, args.queries = 3, ["200"]
        rows = paper.run(args)
        # Every method.
        args.results, args.dataset = folder / "methods", [_EVERY_METHOD_ON]
        args.shots, args.queries = 2, ["1500"]
        args.encoder = TimmEncoder("test_vit.r160_in1k", pretrained=False)  # in the place of what is downloaded
        paper.ENCODED = ("blackvip", "blackvip-spsa", "blackvip-mae", "blackvip-in21k")
        args.methods = [name for name in METHODS if name not in _MANY_PARAMETERS]
        rows += paper.run(args)
        args.methods, args.queries = list(_MANY_PARAMETERS), ["8500"]
        rows += paper.run(args)
    failed = [f"{row['dataset']}, {row['method']}: {row['refused']}" for row in rows if row["refused"]]
    missing = set(datasets.list_datasets()) - {row["dataset"] for row in rows}
    missing |= set(METHODS) - {row["method"] for row in rows}
    if failed or missing:
        raise SystemExit("\n".join([*failed, *(f"{name} did not run" for name in sorted(missing))]))
    return rows


def main(arguments=None) -> list[dict]:
    begin = time.perf_counter()
    rows = run(paper.parsed(arguments))
    print(f"\nEvery method and every loader ran, in {time.perf_counter() - begin:.0f} s.")
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
