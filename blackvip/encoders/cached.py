"""A feature cache: no image goes through an encoder twice, whichever fit, fold or candidate of a search asks for it."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from importlib import metadata
from numbers import Integral
from pathlib import Path

import joblib
import numpy as np
import torch
from sklearn.utils._param_validation import Interval

from .._version import __version__
from ..journal.journal import Journal
from ..persistence.format import expect
from ..persistence.objects import Object
from .base import ENCODER, Encoder, TrainableEncoder
from .by_name import make_encoder

__all__ = ["CachedEncoder"]

_IDENTITY = {"kind": "cache of features"}


class CachedEncoder(Encoder):
    """An encoder that remembers the features of every image that it has seen, for all its clones.

    It is an encoder itself, and takes the place of the one it wraps. Features are found by the pixels, to the bit, and
    by the encoder with all that it has learned: a frozen network, which learns nothing, is shared by all folds and
    candidates of a search, while components of other training images are others.

    Parameters
    ----------
    encoder : str or Encoder, default="pca"
        A frozen encoder, as `BlackVIPClassifier` takes it.
    path : str, path-like or None, default=None
        A file that keeps the features, which is made where there is none; several processes on one machine may use it.
        None: they are kept in the memory of this process, by all cached encoders together.
    max_bytes : int, default=2**28
        Without a file, the most that is kept; of what was not asked for longest, the least is.

    Attributes
    ----------
    encoder_ : Encoder
        The fitted encoder.
    n_features_out_ : int
        Numbers that the decoder gets for an image.
    key_ : str
        Digest of the fitted encoder and of the versions of this package and timm.

    Notes
    -----
    An image that is new goes through the encoder alone, so that its features do not depend on which others were new
    with it. Caching pays where an encoder is slow, as networks are: finding an image costs a digest of its pixels,
    about 1 ms at 224 px. It does not pay with augmentation, whose images are all new.

    Examples
    --------
    >>> from blackvip import BlackVIPClassifier, CachedEncoder
    >>> def service(images, class_prompts):
    ...     return images.mean(axis=(1, 2))
    >>> network = CachedEncoder("vit_base_patch16_224.mae")
    >>> clf = BlackVIPClassifier(service, prompter="coordinator", encoder=network, local_encoder=network)
    """

    _parameter_constraints = {
        "encoder": [str, Encoder],
        "path": [str, os.PathLike, None],
        "max_bytes": [Interval(Integral, 0, None, closed="left")],
    }
    saved_attributes = {"encoder_": Object(Encoder)}
    derived_attributes = ("n_features_out_", "key_")
    saved_parameters = {"encoder": ENCODER}
    not_saved = ("path",)

    def __init__(
        self, encoder: str | Encoder = "pca", path: str | os.PathLike[str] | None = None, max_bytes: int = 2**28
    ):
        self.encoder = encoder
        self.path = path
        self.max_bytes = max_bytes

    def _finish_loading(self) -> None:
        super()._finish_loading()
        expect(self.encoder_.n_parameters == 0, "a CachedEncoder has an encoder that is trained")
        self.n_features_out_ = self.encoder_.n_features_out_
        self.key_ = digest_of(self.encoder_)

    def check_image_size(self, height: int, width: int) -> None:
        self.encoder_.check_image_size(height, width)

    def fit_pixels(self, pixels: torch.Tensor) -> CachedEncoder:
        self._validate_params()
        encoder = make_encoder(self.encoder)
        if isinstance(encoder, TrainableEncoder):
            raise ValueError(
                f"encoder={self.encoder!r} is trained, so that an image's features change with every step; expected "
                "a frozen one, such as a timm model's name."
            )
        self.encoder_ = encoder.fit_pixels(pixels)
        self.n_features_out_ = self.encoder_.n_features_out_
        self.key_ = digest_of(self.encoder_)
        return self

    @property
    def block_sizes_(self) -> tuple[int, ...]:
        """Features of each block of the encoder's features."""
        return self.encoder_.block_sizes_

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        keys, cache = self._keys(pixels), _cache_of(self.path)
        features = cache.find(keys, self.n_features_out_)
        rows_of_new = {key: row for row, key in enumerate(keys) if key not in features}
        new = {key: self._encoded(pixels[row : row + 1]) for key, row in rows_of_new.items()}
        cache.add(new, self.max_bytes)
        features.update(new)
        found = np.array([features[key] for key in keys])
        return torch.from_numpy(found.reshape(-1, self.n_features_out_))

    def _encoded(self, image: torch.Tensor) -> np.ndarray:
        return self.encoder_.encode(image).flatten().double().numpy()

    def _keys(self, pixels: torch.Tensor) -> list[bytes]:
        base = hashlib.sha256(f"{self.key_} {pixels.dtype} {tuple(pixels.shape[1:])}".encode())
        keys = []
        for image in pixels.numpy():
            digest = base.copy()
            digest.update(np.ascontiguousarray(image).data)
            keys.append(digest.digest())
        return keys


def digest_of(encoder: Encoder) -> str:
    """What tells a fitted encoder, of these releases, from all others."""
    return str(joblib.hash((type(encoder).__qualname__, vars(encoder), __version__, metadata.version("timm"))))


class _InMemory:
    """The features that were asked for last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._features: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self.n_bytes = 0

    def find(self, keys: list[bytes], n_features: int) -> dict[bytes, np.ndarray]:
        with self._lock:
            found = {key: self._features[key] for key in keys if key in self._features}
            for key in found:
                self._features.move_to_end(key)
            return found

    def add(self, features: dict[bytes, np.ndarray], max_bytes: int) -> None:
        with self._lock:
            for key, values in features.items():
                if key not in self._features:
                    self._features[key] = values
                    self.n_bytes += values.nbytes
            while self.n_bytes > max_bytes:
                self.n_bytes -= self._features.popitem(last=False)[1].nbytes


class _InFile:
    """Features in a journal, of which the memory holds the keys alone."""

    def __init__(self, path: Path):
        self._path = path
        self._journal = self._opened()

    def find(self, keys: list[bytes], n_features: int) -> dict[bytes, np.ndarray]:
        if self._journal.closed:  # as after a fork
            self._journal = self._opened()
        self._journal.refresh()
        places = {key: self._journal.find(key) for key in keys}
        return {key: self._journal.scores(place, n_features) for key, place in places.items() if place is not None}

    def add(self, features: dict[bytes, np.ndarray], max_bytes: int) -> None:
        if features:
            self._journal.add(list(features), np.stack(list(features.values())))

    def _opened(self) -> Journal:
        return Journal(self._path, _IDENTITY, shared=True)


_in_memory = _InMemory()
_in_files: dict[Path, _InFile] = {}
_opening = threading.Lock()


def _cache_of(path: str | os.PathLike[str] | None) -> _InMemory | _InFile:
    if path is None:
        return _in_memory
    place = Path(path).expanduser().resolve()
    with _opening:
        if place not in _in_files:
            _in_files[place] = _InFile(place)
        return _in_files[place]
