"""Splits into training, validation and test images: split files of the few-shot literature, seeded splits, shots.

CoOp (Zhou et al., IJCV 2022, arXiv 2109.01134) fixed the splits that BlackVIP and its rivals use. They are JSON files
with the keys train, val and test, each a list of [path, label, class name], the path relative to the images' folder.
"""

from __future__ import annotations

import io
import json
import pathlib
import pickle
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..exceptions import DatasetError

__all__ = ["Item", "Parts", "draw_shots", "read_fewshot", "read_split", "split_all", "split_validation"]

# Without a split file, this seed splits the images, so test images do not depend on the seed of the shots.
SPLIT_SEED = 0
VALIDATION_SHOTS = 4  # at most, per class


class Item(NamedTuple):
    """An image: its path or its pixels, its class index and its class name."""

    image: Any
    label: int
    class_name: str


class Parts(NamedTuple):
    """Training, validation and test images of a data set; `origin` says where the split comes from."""

    train: list[Item]
    val: list[Item]
    test: list[Item]
    origin: str


def read_split(path: pathlib.Path) -> dict[str, list[Item]]:
    """Read a split file.

    Parameters
    ----------
    path : Path
        A JSON file in the format described above; "val" and "test" may be missing.

    Returns
    -------
    parts : dict of str to list of Item
        Items of each part; their images are the paths in the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parts = {part: content[part] for part in ("train", "val", "test") if part in content}
        found = {part: [_item(*entry) for entry in entries] for part, entries in parts.items()}
    except (ValueError, TypeError, KeyError) as error:
        raise _not_a_split(path, str(error)) from error
    if not found.get("train"):
        raise _not_a_split(path, "no training images")
    return found


def _item(image: str, label: int, class_name: str) -> Item:
    return Item(str(image), int(label), str(class_name))


def _not_a_split(path: pathlib.Path, found: str) -> DatasetError:
    return DatasetError(
        f"{path} is not a split file ({found}); expected JSON with 'train', 'val' and 'test', each a list of [path, "
        "label, class name]. Download it again, or remove it to use a seeded split."
    )


class _Datum:
    """Stand-in for the class in CoOp's few-shot pickles, without its code."""

    _impath: str
    _label: int
    _classname: str


class _DatumUnpickler(pickle.Unpickler):
    """Unpickler of numbers, strings, containers and `Datum` only, so that no code in the file can run."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "Datum" and module.endswith("base_dataset"):
            return _Datum
        raise pickle.UnpicklingError(f"it wants {module}.{name}")


def read_fewshot(folder: pathlib.Path, shots: int, seed: int) -> dict[str, list[Item]] | None:
    """Read the shots that CoOp's code left in ``split_fewshot``.

    Parameters
    ----------
    folder : Path
        A folder that may contain ``split_fewshot/shot_{shots}-seed_{seed}.json``, in the format of a split file, or
        the same as ``.pkl``. From a pickle, only CoOp's own `Datum` is read; nothing is executed.
    shots, seed : int
        Number of shots and seed in the file name.

    Returns
    -------
    parts : dict of str to list of Item, or None
        Items of "train" and, if the file has it, "val"; None without such a file. Their images are paths on the machine
        that wrote the file.
    """
    path = folder / "split_fewshot" / f"shot_{shots}-seed_{seed}.json"
    if path.is_file():
        return read_split(path)
    path = path.with_suffix(".pkl")
    if not path.is_file():
        return None
    try:
        content = _DatumUnpickler(io.BytesIO(path.read_bytes())).load()
        return {
            part: [_item(datum._impath, datum._label, datum._classname) for datum in content[part]]
            for part in ("train", *({"val"} & set(content)))
        }
    except Exception as error:
        # A damaged pickle can raise almost any exception.
        raise DatasetError(
            f"{path} does not contain shots as written by CoOp's code ({error}). Remove it to draw the shots from the "
            "split as CoOp does."
        ) from error


def draw_shots(items: Sequence[Item], shots: int | None, generator: random.Random) -> list[Item]:
    """Draw up to `shots` images of each class.

    With Python's generator seeded by 1, 2 or 3, and used first for the training and then for the validation images of
    a split file, this draws the same images as the code of CoOp and BlackVIP.

    Parameters
    ----------
    items : sequence of Item
        Images with their labels.
    shots : int or None
        Images per class. Classes with fewer images keep all. None: all images.
    generator : random.Random
        Source of random numbers.

    Returns
    -------
    drawn : list of Item
        The drawn images, class by class in the order in which the classes first appear.
    """
    if shots is None:
        return list(items)
    chosen: list[Item] = []
    for members in _by_class(items).values():
        chosen += generator.sample(members, shots) if len(members) >= shots else members
    return chosen


def split_validation(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Split off a fifth of each class for validation, with a fixed seed.

    Parameters
    ----------
    items : sequence of Item
        Images with their labels.

    Returns
    -------
    train, val : list of Item
        Four fifths of each class, and one fifth.
    """
    generator = random.Random(SPLIT_SEED)
    train: list[Item] = []
    val: list[Item] = []
    for members in _by_class(items).values():
        members = generator.sample(members, len(members))
        n_val = round(0.2 * len(members))
        val += members[:n_val]
        train += members[n_val:]
    return train, val


def split_all(items: Iterable[Item]) -> Parts:
    """Split each class with a fixed seed, as CoOp does: 50 % for training, 20 % for validation, 30 % for testing.

    Parameters
    ----------
    items : iterable of Item
        Images with their labels.

    Returns
    -------
    parts : Parts
        The three parts.
    """
    generator = random.Random(SPLIT_SEED)
    parts: tuple[list[Item], list[Item], list[Item]] = ([], [], [])
    for members in _by_class(items).values():
        members = generator.sample(members, len(members))
        first, second = round(0.5 * len(members)), round(0.5 * len(members)) + round(0.2 * len(members))
        for part, chosen in zip(parts, (members[:first], members[first:second], members[second:])):
            part += chosen
    return Parts(*parts, f"seeded, {SPLIT_SEED}")


def _by_class(items: Iterable[Item]) -> dict[int, list[Item]]:
    classes: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        classes[item.label].append(item)
    return classes
