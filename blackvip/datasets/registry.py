"""Definitions of data sets, the search for their folders, and the registry of `load`."""

from __future__ import annotations

import os
import pathlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from ..exceptions import DatasetError, DatasetIncompleteWarning, warn_caller
from .readers import Folder
from .splits import VALIDATION_SHOTS, Item, Parts, draw_shots, read_fewshot, read_split

__all__ = ["DataSet", "FolderDataSet", "find_data_set", "list_datasets", "load", "register"]

_REGISTRY: dict[str, DataSet] = {}


@dataclass(frozen=True)
class DataSet(ABC):
    """Base class of data sets.

    Parameters
    ----------
    name : str
        Name for `load`.
    title : str
        Title, as in the papers.
    template : str
        Class prompt with ``{}`` for the name of the class.
    kind : {"transfer", "synthetic"}, default="transfer"
        The paper's table that the data set belongs to.
    """

    name: str
    title: str
    template: str
    _: KW_ONLY
    kind: str = "transfer"

    @abstractmethod
    def parts(self, root: pathlib.Path | None, shots: int | None, seed: int, download: bool) -> Parts:
        """List the training, validation and test images.

        Parameters
        ----------
        root, shots, seed, download
            Arguments of `blackvip.datasets.load`.

        Returns
        -------
        parts : Parts
            The images, with training images reduced to the shots.

        Raises
        ------
        DatasetError
            If the data set is missing or incomplete.
        """

    def assemble(self, items: list[Item], part: str, seed: int) -> list[str] | np.ndarray:
        """Convert the images of one part to the form that `load` returns.

        Parameters
        ----------
        items : list of Item
            Images with their labels.
        part : {"train", "val", "test"}
            The part.
        seed : int
            Seed of the shots.

        Returns
        -------
        images : list of str or ndarray of shape (n, height, width, 3)
            Paths, or pixels.
        """
        images = [item.image for item in items]
        return np.stack(images) if images and not isinstance(images[0], str) else images

    def load(self, root: Any, shots: int | None, seed: int, download: bool) -> Bunch:
        """Load the data set.

        Parameters
        ----------
        root, shots, seed, download
            Arguments of `blackvip.datasets.load`.

        Returns
        -------
        data : Bunch
            Result of `blackvip.datasets.load`.

        Raises
        ------
        DatasetError
            If the data set is missing or incomplete.
        """
        path = None if root is None else pathlib.Path(os.path.expanduser(root)).absolute()
        parts = self.parts(path, shots, seed, download)
        names: dict[int, str] = {}
        for item in [*parts.train, *parts.val, *parts.test]:
            names.setdefault(item.label, item.class_name.replace("_", " "))
        labels = sorted(names)
        data = Bunch(
            name=self.name,
            title=self.title,
            template=self.template,
            class_names=[names[label] for label in labels],
            class_prompts=[self.template.replace("{}", names[label]) for label in labels],
            split=parts.origin,
        )
        for part, items in (("train", parts.train), ("val", parts.val), ("test", parts.test)):
            data[f"X_{part}"] = self.assemble(items, part, seed)
            data[f"y_{part}"] = np.searchsorted(labels, [item.label for item in items])
        return data


@dataclass(frozen=True)
class FolderDataSet(DataSet):
    """Data set that is read from a folder.

    Parameters
    ----------
    name, title, template : str
        As in `DataSet`.
    n_classes : int
        Number of classes of the public data set. A folder with fewer gets a warning.
    folders : tuple of str
        Places of the data set below the root: first as CoOp has it, then as torchvision leaves it.
    images : str
        Folder of the images below that place; paths in split files are relative to it.
    read : callable
        Reads the `Parts` of a `Folder` without a split file.
    obtain : str
        Where to download the data set; the end of the message about a missing folder.
    needs : tuple of str
        Files and folders that must exist in any case; "a|b" stands for either of two.
    labels : tuple of str, default=()
        Files and folders that must also exist if there is no split file.
    split_files : tuple of str, default=()
        Names of the split files of the few-shot literature.
    download : callable or None, default=None
        Downloads the data set into a root, with torchvision.
    kind : {"transfer", "synthetic"}, default="transfer"
        The paper's table that the data set belongs to.
    """

    n_classes: int
    folders: tuple[str, ...]
    images: str
    read: Callable[[Folder], Parts]
    obtain: str
    needs: tuple[str, ...]
    labels: tuple[str, ...] = ()
    split_files: tuple[str, ...] = ()
    download: Callable[[pathlib.Path], Any] | None = None

    def parts(self, root: pathlib.Path | None, shots: int | None, seed: int, download: bool) -> Parts:
        if root is None:
            raise DatasetError(f"{self.title} needs root, the folder that it is in. {self.obtain}")
        folder = self._found(root, download)
        parts = self._split(folder)
        fewshot = None
        if shots is not None:
            found = (read_fewshot(home, shots, seed) for home in folder.homes)
            fewshot = next((part for part in found if part is not None), None)
        if fewshot is None:
            parts = few_shot(parts, shots, seed)
        else:
            train, val = (_located(fewshot.get(part, []), folder.locate) for part in ("train", "val"))
            parts = parts._replace(train=train, val=val, origin=f"{parts.origin}, shots of split_fewshot")
        self._check(folder, parts)
        return parts

    def _split(self, folder: Folder) -> Parts:
        """Return the parts of a split file, if there is one, else the data set's own."""
        path = next((path for path in map(folder.file, self.split_files) if path is not None), None)
        if path is None:
            return self._own(folder)
        found = read_split(path)
        own = self._own(folder) if "test" not in found else None
        train, val, test = (_located(found.get(part, []), folder.find) for part in ("train", "val", "test"))
        return Parts(train, val, test if own is None else own.test, path.name)

    def _own(self, folder: Folder) -> Parts:
        try:
            return self.read(folder)
        except DatasetError:
            raise
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise DatasetError(
                f"{self.title} in {folder.path} is not laid out as expected ({type(error).__name__}: {error}). "
                f"{self._advice()}"
            ) from error

    def _found(self, root: pathlib.Path, download: bool) -> Folder:
        try:
            return self._find(root)
        except DatasetError:
            if not download:
                raise
        if self.download is None:
            raise DatasetError(f"{self.title} cannot be downloaded by torchvision. {self.obtain}")
        root.mkdir(parents=True, exist_ok=True)
        try:
            self.download(root)
        except Exception as error:
            raise DatasetError(f"torchvision could not download {self.title} ({error}). {self.obtain}") from error
        return self._find(root)

    def _find(self, root: pathlib.Path) -> Folder:
        """Return the first folder that has everything the data set needs."""
        lacking = {}
        for path in self._places(root):
            nested = any("/" in place and path.parts[-2:] == pathlib.Path(place).parts for place in self.folders)
            folder = Folder(path, path / self.images, [path, path.parent] if nested else [path], {})
            is_split = any(folder.file(name) for name in self.split_files)
            wanted = self.needs if is_split else (*self.needs, *self.labels)
            missing = [names for names in wanted if not any((path / name).exists() for name in names.split("|"))]
            known = is_split or path != root or path.name in self.folders
            if not missing and (known or "." in self.folders):
                return folder
            if known and path.is_dir():
                lacking[path] = missing
        if not lacking:
            places = " and no ".join(f"{place}/" for place in self.folders if place != ".")
            raise DatasetError(f"{self.title} is not in {root}, where there is no {places}. {self._advice()}")
        path, missing = min(lacking.items(), key=lambda pair: len(pair[1]))
        names = ", ".join(names.replace("|", " or ") for names in missing)
        raise DatasetError(f"{self.title} in {path} is incomplete: it lacks {names}. {self._advice()}")

    def _places(self, root: pathlib.Path) -> list[pathlib.Path]:
        """List the folders in which the data set may be: below the root, or the root itself."""
        below = [root / place for place in self.folders]
        itself = [root.parent / place for place in self.folders if place.split("/")[0] == root.name]
        return [*below, *itself, root]

    def _check(self, folder: Folder, parts: Parts) -> None:
        """Check that every image exists; otherwise say how many are missing."""
        paths = [item.image for part in parts[:3] for item in part if isinstance(item.image, str)]
        here: dict[str, set[str]] = {}
        for parent in {os.path.dirname(path) for path in paths}:
            here[parent] = set(os.listdir(parent)) if os.path.isdir(parent) else set()
        absent = [path for path in paths if os.path.basename(path) not in here[os.path.dirname(path)]]
        if absent:
            raise DatasetError(
                f"{self.title} in {folder.path} is incomplete: {len(absent)} of the {len(paths)} images in its lists "
                f"({parts.origin}) are not there, such as {absent[0]}. {self._advice(False)}"
            )
        for part, items in (("training", parts.train), ("test", parts.test)):
            if not items:
                raise DatasetError(
                    f"{self.title} in {folder.path} is incomplete: there are no {part} images. {self._advice(False)}"
                )
        tested = {item.image for item in parts.test if isinstance(item.image, str)}
        shared = [
            item.image for item in (*parts.train, *parts.val) if isinstance(item.image, str) and item.image in tested
        ]
        if shared:
            raise DatasetError(
                f"{self.title} in {folder.path} has {len(shared)} training or validation images that are among the "
                f"test images ({parts.origin}), such as {shared[0]}. The split file and split_fewshot/ do not belong "
                "together: use the split file from which the shots were drawn, or remove split_fewshot/."
            )
        n_classes = len({item.label for part in parts[:3] for item in part})
        if n_classes < self.n_classes:
            warn_caller(
                f"{self.title} in {folder.path} has {n_classes} of its {self.n_classes} classes, so accuracies "
                f"cannot be compared with the papers'. {self._advice(False)}",
                DatasetIncompleteWarning,
            )

    def _advice(self, may_download: bool = True) -> str:
        splits = f" For the papers' split, put {self.split_files[0]} there too." if self.split_files else ""
        return self.obtain + splits + (" Or pass download=True." if may_download and self.download else "")


def few_shot(parts: Parts, shots: int | None, seed: int) -> Parts:
    """Reduce training images to the shots, and validation images to at most four per class.

    Parameters
    ----------
    parts : Parts
        All images of a data set.
    shots : int or None
        Training images per class. None: all.
    seed : int
        Seed of the images that are drawn, see `draw_shots`.

    Returns
    -------
    parts : Parts
        The drawn images, and all test images.
    """
    generator = random.Random(seed)
    train = draw_shots(parts.train, shots, generator)
    val = draw_shots(parts.val, None if shots is None else min(shots, VALIDATION_SHOTS), generator)
    return parts._replace(train=train, val=val)


def _located(items: list[Item], find: Callable[[str], Any]) -> list[Item]:
    return [item._replace(image=find(item.image)) for item in items]


def register(data_set: DataSet) -> None:
    """Register a data set, so that `load` knows it.

    Parameters
    ----------
    data_set : DataSet
        The data set. It replaces an earlier one of the same name.
    """
    _REGISTRY[data_set.name] = data_set


def list_datasets(kind: str | None = None) -> list[str]:
    """List the names of the data sets that `load` knows.

    Parameters
    ----------
    kind : {"transfer", "synthetic"} or None, default=None
        "transfer": the fourteen data sets of the paper's transfer table. "synthetic": Biased and Loc. None: all.

    Returns
    -------
    names : list of str
        Names in the order of the paper's tables, followed by those that were registered later.
    """
    return [name for name, data_set in _REGISTRY.items() if kind in (None, data_set.kind)]


def find_data_set(name: str) -> DataSet:
    """Find a data set by its name or title; only letters and digits matter.

    Parameters
    ----------
    name : str
        Name or title, such as "eurosat" or "Oxford-IIIT Pets".

    Returns
    -------
    data_set : DataSet
        The registered data set.

    Raises
    ------
    DatasetError
        If there is no such data set. The message lists all names.
    """
    plain = {_plain(text): data_set for data_set in _REGISTRY.values() for text in (data_set.title, data_set.name)}
    if _plain(name) not in plain:
        near = get_close_matches(_plain(name), plain, n=1)
        hint = f"Did you mean {plain[near[0]].name!r}? " if near else ""
        raise DatasetError(f"There is no data set {name!r}. {hint}These are known: {', '.join(list_datasets())}.")
    return plain[_plain(name)]


def _plain(name: str) -> str:
    return "".join(character for character in str(name).casefold() if character.isalnum())


def load(name: str, root: Any = None, *, shots: int | None = 16, seed: int = 1, download: bool = False) -> Bunch:
    """Load a data set of the paper, with a few training images of each class.

    Parameters
    ----------
    name : str
        One of `list_datasets()`.
    root : str, Path or None, default=None
        The folder of the data set, or the folder that contains it. None: only for the synthetic data sets, which are
        then made from scikit-learn's digits.
    shots : int or None, default=16
        Number of training images per class. None: all.
    seed : int, default=1
        Seed of the training images; the papers use 1, 2 and 3.
    download : bool, default=False
        Whether torchvision downloads missing data.

    Returns
    -------
    data : Bunch
        ``X_train``, ``X_val`` and ``X_test`` are lists of paths, which `BlackVIPClassifier` reads when needed, or uint8
        arrays (n, height, width, 3). ``y_train``, ``y_val`` and ``y_test`` are arrays of indices into ``class_names``
        and ``class_prompts``; the latter are made from ``template``. ``split`` says where the split comes from: a file,
        the authors of the data set, or a seed. There are at most four validation images per class, and none if the
        literature tests on the validation images.

    Raises
    ------
    DatasetError
        If the data set is unknown, or its folder is missing or incomplete; the message says how to fix it.

    Notes
    -----
    Split files of the few-shot literature, such as ``split_zhou_EuroSAT.json``, and shots in ``split_fewshot`` from
    CoOp's code are used if they are in the folder of the data set. Otherwise the split is the official one or, as in
    CoOp, 50 %, 20 % and 30 % of each class, drawn with a fixed seed. From a split file, a seed draws the same shots as
    in the code of CoOp and BlackVIP.

    Examples
    --------
    >>> from blackvip import datasets
    >>> data = datasets.load("biased_0.8", shots=4)
    >>> data.X_train.shape, data.class_prompts[3]
    ((40, 28, 28, 3), 'This is a photo of 3')
    """
    if shots is not None and not (isinstance(shots, (int, np.integer)) and shots >= 1):
        raise DatasetError(f"shots={shots!r}; expected the number of training images per class, or None for all.")
    return find_data_set(name).load(root, None if shots is None else int(shots), int(seed), download)
