"""Readers of the public layouts of data sets: their images, classes and official splits.

Each reader takes the folder of a data set as a `Folder` and returns its `Parts`. It is used if there is no split file
of the few-shot literature, or for what such a file leaves out.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..exceptions import DatasetError
from .splits import Item, Parts, split_all, split_validation

__all__ = [
    "Folder",
    "read_aircraft",
    "read_cars",
    "read_class_folders",
    "read_clevr",
    "read_flowers",
    "read_imagenet",
    "read_pets",
    "read_sun",
    "read_svhn",
    "read_ucf",
]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".webp", ".tif", ".tiff")


@dataclass
class Folder:
    """The folder of a data set.

    Attributes
    ----------
    path : Path
        The folder.
    images : Path
        Folder to which the paths in split files are relative.
    homes : list of Path
        Folders that may contain split files and class names: `path` and, if it is nested, its parent.
    pixels : dict of str to ndarray
        Images that are not files, by their path in split files.
    """

    path: pathlib.Path
    images: pathlib.Path
    homes: list[pathlib.Path]
    pixels: dict[str, np.ndarray]

    def find(self, path: str) -> Any:
        """Return the image for a path relative to `images`: its own path, or its pixels."""
        return self.pixels[path] if path in self.pixels else str(self.images / path)

    def locate(self, path: str) -> Any:
        """Return the image for a path on another machine, by the longest suffix of the path that exists here."""
        parts = re.split(r"[/\\]", path)
        ends = ["/".join(parts[first:]) for first in range(len(parts))]
        found = next((end for end in ends if end in self.pixels or (end and (self.images / end).is_file())), None)
        return self.find("/".join(parts[-2:]) if found is None else found)

    def file(self, name: str) -> pathlib.Path | None:
        """Find a file in one of the homes; None if there is no such file."""
        return next((home / name for home in self.homes if (home / name).is_file()), None)


def _names(folder: pathlib.Path, folders: bool = False) -> list[str]:
    """List the images in a folder or, with `folders`, its subfolders, sorted and without hidden ones."""
    if not folder.is_dir():
        return []
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    if folders:
        return [name for name in names if os.path.isdir(os.path.join(folder, name))]
    return [name for name in names if name.lower().endswith(_SUFFIXES)]


def _lines(path: pathlib.Path) -> list[str]:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _by_class(folder: pathlib.Path, classes: Sequence[str], names: Mapping[str, str]) -> list[Item]:
    return [
        Item(os.path.join(folder, name, image), label, names.get(name, name))
        for label, name in enumerate(classes)
        for image in _names(folder / name)
    ]


def _with_validation(train: Iterable[Item], test: list[Item], origin: str) -> Parts:
    rest, val = split_validation(list(train))
    return Parts(rest, val, test, origin)


def read_class_folders(folder: Folder, names: Mapping[str, str] | None = None, left_out: Sequence[str] = ()) -> Parts:
    """Read a layout with one folder per class, and split it with a fixed seed.

    Parameters
    ----------
    folder : Folder
        The folder of the data set.
    names : dict of str to str or None, default=None
        Class names by the name of their folder. None: the folders have the names of the classes.
    left_out : sequence of str, default=()
        Folders that are not classes of the data set.

    Returns
    -------
    parts : Parts
        Training, validation and test images.
    """
    classes = [name for name in _names(folder.images, folders=True) if name not in left_out]
    return split_all(_by_class(folder.images, classes, names or {}))


def read_pets(folder: Folder) -> Parts:
    """Read Oxford-IIIT Pets: lines of image, class from 1, and two numbers; the image name contains the breed."""

    def listed(part: str) -> list[Item]:
        items = []
        for line in _lines(folder.path / "annotations" / f"{part}.txt"):
            image, label = line.split()[:2]
            breed = image.rpartition("_")[0].lower()
            items.append(Item(str(folder.images / f"{image}.jpg"), int(label) - 1, breed))
        return items

    return _with_validation(listed("trainval"), listed("test"), "official")


def read_cars(folder: Folder) -> Parts:
    """Read Stanford Cars: MATLAB annotations; class names have the year before make and model."""
    from scipy.io import loadmat

    models = loadmat(folder.path / "devkit" / "cars_meta.mat", squeeze_me=True)["class_names"]
    names = [" ".join([model.split(" ")[-1], *model.split(" ")[:-1]]) for model in np.atleast_1d(models).tolist()]

    def annotated(file: str, images: str) -> list[Item]:
        rows = np.atleast_1d(loadmat(folder.path / file, squeeze_me=True)["annotations"])
        return [
            Item(str(folder.path / images / str(row["fname"])), int(row["class"]) - 1, names[int(row["class"]) - 1])
            for row in rows
        ]

    train = annotated("devkit/cars_train_annos.mat", "cars_train")
    return _with_validation(train, annotated("cars_test_annos_withlabels.mat", "cars_test"), "official")


def read_flowers(folder: Folder) -> Parts:
    """Read Flowers 102: a MATLAB row of classes from 1, in order of image number; split with a fixed seed."""
    from scipy.io import loadmat

    labels = np.atleast_1d(loadmat(folder.path / "imagelabels.mat", squeeze_me=True)["labels"])
    names = _flower_names(folder)
    items = [
        Item(str(folder.images / f"image_{number:05d}.jpg"), int(label) - 1, names[str(int(label))])
        for number, label in enumerate(labels, start=1)
    ]
    return split_all(sorted(items, key=lambda item: item.label))


def _flower_names(folder: Folder) -> dict[str, str]:
    listed = folder.file("cat_to_name.json")
    if listed is not None:
        return json.loads(listed.read_text(encoding="utf-8"))
    from torchvision.datasets import Flowers102  # type: ignore[import-untyped, unused-ignore]

    if not hasattr(Flowers102, "classes"):
        raise DatasetError(
            f"{folder.path} has no cat_to_name.json with the names of the flowers, and neither has this torchvision. "
            "Put CoOp's file there (github.com/KaiyangZhou/CoOp, DATASETS.md), or update torchvision."
        )
    return {str(number): name for number, name in enumerate(Flowers102.classes, start=1)}


def read_aircraft(folder: Folder) -> Parts:
    """Read FGVC Aircraft: a list of variants, and for each part lines of image and variant."""
    variants = _lines(folder.path / "variants.txt")

    def listed(part: str) -> list[Item]:
        rows = [line.split(" ", 1) for line in _lines(folder.path / f"images_variant_{part}.txt")]
        return [Item(str(folder.images / f"{image}.jpg"), variants.index(name), name) for image, name in rows]

    return Parts(listed("train"), listed("val"), listed("test"), "official")


def read_sun(folder: Folder) -> Parts:
    """Read SUN397: the first official partition if its lists exist, else a split with a fixed seed.

    The class of ``/a/apartment_building/outdoor/sun_x.jpg`` is "outdoor apartment_building".
    """
    lists = [folder.path / f"{part}_01.txt" for part in ("Training", "Testing")]
    if all(path.is_file() for path in lists):
        train, test = ([line.lstrip("/") for line in _lines(path)] for path in lists)
    else:
        paths = [path for path in folder.images.rglob("sun_*") if path.suffix.lower() in _SUFFIXES]
        train, test = sorted(path.relative_to(folder.images).as_posix() for path in paths), []
    scenes = sorted({path.rpartition("/")[0] for path in [*train, *test]})
    labels = {scene: label for label, scene in enumerate(scenes)}

    def items(paths: list[str]) -> list[Item]:
        found = []
        for path in paths:
            scene = path.rpartition("/")[0]
            found.append(Item(str(folder.images / path), labels[scene], " ".join(scene.split("/")[:0:-1])))
        return found

    return _with_validation(items(train), items(test), "official, partition 1") if test else split_all(items(train))


def read_clevr(folder: Folder) -> Parts:
    """Read CLEVR: the class is the number of objects; as in the papers, validation scenes are test images."""
    counted = {}
    for part in ("train", "val"):
        path = folder.path / "scenes" / f"CLEVR_{part}_scenes.json"
        scenes = json.loads(path.read_text(encoding="utf-8"))["scenes"]
        counted[part] = {f"{part}/{scene['image_filename']}": str(len(scene["objects"])) for scene in scenes}
    classes = sorted(
        {count for counts in counted.values() for count in counts.values()}
    )  # sorted as strings, as in split files
    train, test = (
        [Item(folder.find(image), classes.index(count), count) for image, count in counts.items()]
        for counts in counted.values()
    )
    return _with_validation(train, test, "official")


def read_ucf(folder: Folder) -> Parts:
    """Read the middle frames of UCF101: one folder per action; the first official split tests on groups 1 to 7.

    Frames of a group come from the same video, so splitting a group would leak test images into the training.
    """
    actions = _names(folder.images, folders=True)
    train: list[Item] = []
    test: list[Item] = []
    for item in _by_class(folder.images, actions, {}):
        group = re.search(r"_g(\d+)_c\d+\.", item.image)
        if group is None:
            raise DatasetError(
                f"The name of {item.image} has no group; expected names such as v_Archery_g08_c01.jpg, or "
                "split_zhou_UCF101.json next to the folder of the images."
            )
        (test if int(group[1]) <= 7 else train).append(item)
    return _with_validation(train, test, "official, split 1")


def read_imagenet(folder: Folder) -> Parts:
    """Read ImageNet: one folder per WordNet id in ``train`` and ``val``; validation images are the test images.

    Class names come from ``classnames.txt`` or, for all 1,000 classes, from open_clip, which lists them in this order.
    """
    ids = _names(folder.images / "train", folders=True)
    listed = folder.file("classnames.txt")
    if listed is not None:
        names = dict(line.split(" ", 1) for line in _lines(listed))
    elif len(ids) == 1000:
        from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES  # type: ignore[import-untyped, unused-ignore]

        names = dict(zip(ids, IMAGENET_CLASSNAMES))
    else:
        names = {}
    unnamed = [name for name in ids if name not in names]
    if unnamed:
        raise DatasetError(
            f"{folder.images / 'train'} has {len(ids)} folders, and {len(unnamed)} of them have no class name, such as "
            f"{unnamed[:3]}. Put classnames.txt, with a WordNet id and a name in each line, into {folder.homes[-1]}."
        )
    train, test = (_by_class(folder.images / part, ids, names) for part in ("train", "val"))
    return Parts(train, [], test, "official")


def read_svhn(folder: Folder) -> Parts:
    """Read cropped SVHN: the MATLAB arrays, or images that BlackVIP's authors made of them, ``train/5/00001.jpg``."""
    arrays = [folder.path / f"{part}_32x32.mat" for part in ("train", "test")]
    if all(path.is_file() for path in arrays):
        train, test = (_svhn_array(folder, path) for path in arrays)
    else:
        digits = _names(folder.images, folders=True)
        train, test = (_by_class(folder.path / part, digits, {}) for part in ("train", "test"))
    return _with_validation(train, test, "official")


def _svhn_array(folder: Folder, path: pathlib.Path) -> list[Item]:
    from scipy.io import loadmat

    content = loadmat(path)
    digits = content["y"].ravel() % 10  # the files write 0 as 10
    items = [
        Item(image, int(digit), str(digit)) for image, digit in zip(np.moveaxis(content["X"], 3, 0), digits.tolist())
    ]
    if path.name.startswith("train"):
        # Split files use the names that these images get as files.
        folder.pixels |= {f"{item.label}/{row:05d}.jpg": item.image for row, item in enumerate(items, start=1)}
    return items
