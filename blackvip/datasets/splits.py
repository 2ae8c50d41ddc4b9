"""Who trains and who tests: split files of the few-shot literature, seeded splits, and shots.

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

SPLIT_SEED = 0  # of splits that no file fixes: test images are the same for every seed of the shots
VALIDATION_SHOTS = 4  # at most, a class


class Item(NamedTuple):
    """One image: its path or its pixels, the number of its class, and the class's name."""

    image: Any
    label: int
    class_name: str


class Parts(NamedTuple):
    """The images of a data set by what they are for; `origin` says who split them."""

    train: list[Item]
    val: list[Item]
    test: list[Item]
    origin: str


def read_split(path: pathlib.Path) -> dict[str, list[Item]]:
    """Read a split file.

    Parameters
    ----------
    path : Path
        A JSON file as this module describes it; "val" and "test" may be missing.

    Returns
    -------
    parts : dict of str to list of Item
        Their images are the paths that the file has.
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
        f"{path} is no split file ({found}); expected JSON with 'train', 'val' and 'test', each a list of [path, "
        "label, class name]. Get it again, or remove it for a seeded split."
    )


class _Datum:
    """What a few-shot pickle of CoOp's holds, without its code."""

    _impath: str
    _label: int
    _classname: str


class _DatumUnpickler(pickle.Unpickler):
    """Reads nothing but numbers, texts, containers and `Datum`, so that no code in the file can run."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "Datum" and module.endswith("base_dataset"):
            return _Datum
        raise pickle.UnpicklingError(f"it wants {module}.{name}")


def read_fewshot(folder: pathlib.Path, shots: int, seed: int) -> dict[str, list[Item]] | None:
    """Read the shots that CoOp's code left in ``split_fewshot``.

    Parameters
    ----------
    folder : Path
        The folder that may hold ``split_fewshot/shot_{shots}-seed_{seed}.json``, in the form of a split file, or
        ``.pkl``. Of a pickle only CoOp's own `Datum` is read: nothing in it is executed.
    shots, seed : int

    Returns
    -------
    parts : dict of str to list of Item, or None
        "train" and, where the file has it, "val"; None without such a file. Their images are paths as they were on the
        machine that wrote the file.
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
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DatasetError(
            f"{path} does not hold the shots that CoOp's code writes ({error}); remove it, and they are drawn from the "
            "split as CoOp draws them."
        ) from error


def draw_shots(items: Sequence[Item], shots: int | None, generator: random.Random) -> list[Item]:
    """Draw up to `shots` images of each class, in the order in which the classes first appear.

    With Python's generator seeded by 1, 2 or 3, first for the training and then for the validation images of a split
    file, these are the images that CoOp's and BlackVIP's code draws. A class with fewer images gives all it has.
    """
    if shots is None:
        return list(items)
    chosen: list[Item] = []
    for members in _by_class(items).values():
        chosen += generator.sample(members, shots) if len(members) >= shots else members
    return chosen


def split_validation(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """A fifth of each class's training images as validation images, drawn with a fixed seed: the rest, that fifth."""
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
    """Half of each class to train, a fifth to validate, the rest to test, as CoOp has it; drawn with a fixed seed."""
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
