"""What score functions with a model on this machine have in common: loading once, files, devices and pixels."""

from __future__ import annotations

import hashlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch

from ..exceptions import ImageError
from .wrappers import LeavesOutLive

__all__ = [
    "HoldsModel",
    "LoadedOnce",
    "as_floats",
    "as_pixels",
    "digest_of",
    "files_of",
    "loaded_models",
    "stamp_of",
]


class LoadedOnce:
    """Models that are loaded once in a process, whichever scorers and threads use them.

    A model is kept as long as a scorer holds it, so there are never more than the scorers need.
    """

    def __init__(self) -> None:
        # Guards the two dicts.
        self._lock = threading.Lock()
        self._loading: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()
        self._models: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()

    def get(self, key: Hashable, load: Callable[[], Any]) -> Any:
        """Return the model of a key, and load it if no scorer holds it. Other keys are not kept waiting meanwhile.

        Parameters
        ----------
        key : hashable
            All that the model depends on, with the stamp of its files.
        load : callable
            It returns the model, of a class that allows weak references.

        Returns
        -------
        model : object
        """
        with self._lock:
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:
            with self._lock:
                model = self._models.get(key)
            if model is None:
                model = load()
                with self._lock:
                    self._models[key] = model
            return model

    def __len__(self) -> int:
        return len(self._models)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._models.values()))


#: The models of all scorers in this process.
loaded_models = LoadedOnce()


def files_of(place: str | os.PathLike[str]) -> dict[str, Path]:
    """Return the files of a saved model by their name.

    Parameters
    ----------
    place : str or path-like
        A file, whose own name does not matter; or a folder, of which hidden files, Markdown and subfolders are left
        out.

    Returns
    -------
    files : dict from str to Path
        Empty if there is no such place.
    """
    path = Path(place).absolute()
    if path.is_file():
        return {"": path}
    files = sorted(path.iterdir()) if path.is_dir() else []
    return {
        file.name: file for file in files if file.is_file() and file.name[0] != "." and file.suffix.lower() != ".md"
    }


def stamp_of(files: Mapping[str, Path]) -> tuple[tuple[str, int, int], ...]:
    """Return a value that changes when one of the files is overwritten: their paths, sizes and times."""
    found = [(os.fspath(path), path.stat()) for path in files.values()]
    return tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in found)


def digest_of(files: Mapping[str, Path]) -> str:
    """Return a digest of the contents and names of files, the same wherever they are.

    A file is read once, and again only when its size or time has changed.
    """
    contents = zip(files, (_file_digest(*stamp) for stamp in stamp_of(files)))
    return hashlib.sha256(repr(sorted(contents)).encode()).hexdigest()


@lru_cache(maxsize=1000)
def _file_digest(path: str, size: int, time: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class HoldsModel(LeavesOutLive, ABC):
    """Base of score functions with a model that is loaded at the first call, once for all that use the same one.

    A clone or a pickle holds the parameters alone.
    """

    _live_attributes = ("_loaded",)
    _loaded: tuple[Hashable, Hashable, Any] | None = None

    @abstractmethod
    def _source(self) -> tuple[Hashable, ...]:
        """Return what tells the loaded model from others: parameters and the device."""

    @abstractmethod
    def _files(self) -> dict[str, Path]:
        """Return the files on this machine that the model is loaded from; none if it comes from a hub."""

    @abstractmethod
    def _load(self) -> Any:
        """Load the model."""

    def _model(self) -> Any:
        """Return the model; it is loaded unless this scorer or another one has it."""
        source, files = self._source(), self._files()
        stamp, loaded = stamp_of(files), self._loaded
        if loaded is None or loaded[0] != source:
            model = loaded_models.get((type(self), source, stamp), self._load)
            loaded = self._loaded = (source, stamp, model)
        elif files and loaded[1] != stamp:
            # A run must not continue with another model under the name of the first one.
            where = os.path.commonpath([os.fspath(path) for path in files.values()])
            raise ValueError(
                f"{where} has changed since this {type(self).__name__} loaded its model; expected the same files. "
                "Make a new scorer, or a clone of this one, to load what is there now."
            )
        return loaded[2]


def as_pixels(images: Any) -> torch.Tensor:
    """Return images as a tensor (n, 3, height, width) of 8 bits, or of floats in [0, 1]."""
    if isinstance(images, torch.Tensor):
        if images.ndim == 4 and images.shape[1] == 3 and images.is_floating_point():
            return images
        expected = "floats in [0, 1] of shape (n, 3, height, width)"
    else:
        images = np.asarray(images)
        if images.ndim == 4 and images.shape[3] == 3 and images.dtype == np.uint8:
            return torch.from_numpy(np.require(images, requirements=("C", "W"))).movedim(3, 1)
        expected = "uint8 of shape (n, height, width, 3), or a float tensor of shape (n, 3, height, width)"
    raise ImageError(f"The images are {images.dtype} of shape {tuple(images.shape)}; expected {expected}.")


def as_floats(pixels: torch.Tensor) -> torch.Tensor:
    """Return pixels of 8 bits, or floats in [0, 1], as single-precision floats in [0, 1]."""
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
