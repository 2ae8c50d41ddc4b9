"""A cache of features, shared by all fits, folds and candidates of a search."""

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
from .base import ENCODER, Encoder
from .by_name import make_encoder, make_frozen_encoder

__all__ = ["CachedEncoder"]

_IDENTITY = {"kind": "cache of features"}


class CachedEncoder(Encoder):
    """Encoder that remembers the features of every image it has seen, for itself and all its clones.

    It wraps a frozen encoder. The key of an image is a digest of its pixels and of the fitted encoder. All folds and
    candidates of a search share the features of a frozen network, since the network learns nothing. Principal
    components of other training images have features of their own.

    Parameters
    ----------
    encoder : str or Encoder, default="pca"
        The frozen encoder: a short name, the name of a timm model, or an `Encoder`.
    path : str, path-like or None, default=None
        File that keeps the features; it is created if it does not exist. Several processes on one machine may use it.
        None: the features stay in the memory of this process, in one cache for all cached encoders.
    max_bytes : int, default=2**28
        Limit of the cache in memory, in bytes. The least recently used features are dropped first.

    Attributes
    ----------
    encoder_ : Encoder
        The fitted encoder.
    n_features_out_ : int
        Number of features.
    key_ : str
        Digest of the fitted encoder and of the versions of this package and timm.

    Notes
    -----
    Each new image goes through the encoder alone, so its features do not depend on the other images of its batch.
    Caching pays off if the encoder is slow, as networks are: a look-up costs a digest of the pixels, about 1 ms at
    224 px. It does not pay off with augmentation, where every image is new. `encode`, which gradients can pass, does
    not use the cache.

    Examples
    --------
    >>> from blackvip import BlackVIPClassifier, CachedEncoder, Coordinator
    >>> def service(images, class_prompts):
    ...     return images.mean(axis=(1, 2))
    >>> network = CachedEncoder("vit_base_patch16_224.mae")
    >>> clf = BlackVIPClassifier(service, prompter=Coordinator(network), local_encoder=network)
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
        expect(self.encoder_.is_frozen, "a CachedEncoder has an encoder that is trained")
        self.n_features_out_ = self.encoder_.n_features_out_
        self.key_ = digest_of(self.encoder_)

    def check_image_size(self, height: int, width: int) -> None:
        self.encoder_.check_image_size(height, width)

    def fit_pixels(self, pixels: torch.Tensor) -> CachedEncoder:
        self._validate_params()
        self.encoder_ = make_frozen_encoder(self.encoder, "encoder").fit_pixels(pixels)
        self.n_features_out_ = self.encoder_.n_features_out_
        self.key_ = digest_of(self.encoder_)
        return self

    @property
    def block_sizes_(self) -> tuple[int, ...]:
        """Number of features in each block of the encoder's features."""
        return self.encoder_.block_sizes_

    @property
    def is_of_one_size(self) -> bool:  # type: ignore[override]
        """Whether the encoder takes only images of the size that it was fitted to."""
        return make_encoder(self.encoder).is_of_one_size

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.encoder_.encode(pixels)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute the features of images in double precision; only new images go through the encoder.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width)
            RGB in [0, 1].

        Returns
        -------
        features : tensor of shape (n, n_features), float64
            One row per image.
        """
        keys, cache = self._keys(pixels), _cache_of(self.path)
        features = cache.find(keys, self.n_features_out_)
        rows_of_new = {key: row for row, key in enumerate(keys) if key not in features}
        new = {key: self._encoded(pixels[row : row + 1]) for key, row in rows_of_new.items()}
        cache.add(new, self.max_bytes)
        features.update(new)
        found = np.array([features[key] for key in keys])
        return torch.from_numpy(found.reshape(-1, self.n_features_out_))

    def _encoded(self, image: torch.Tensor) -> np.ndarray:
        return self.encoder_.features(image).flatten().double().numpy()

    def _keys(self, pixels: torch.Tensor) -> list[bytes]:
        base = hashlib.sha256(f"{self.key_} {pixels.dtype} {tuple(pixels.shape[1:])}".encode())
        keys = []
        for image in pixels.numpy():
            digest = base.copy()
            digest.update(np.ascontiguousarray(image).data)
            keys.append(digest.digest())
        return keys


def digest_of(encoder: Encoder) -> str:
    """Return a digest of a fitted encoder and of the versions of this package and timm."""
    return str(joblib.hash((type(encoder).__qualname__, vars(encoder), __version__, metadata.version("timm"))))


class _InMemory:
    """Least recently used cache of features in memory."""

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
    """Cache of features in a file."""

    def __init__(self, path: Path):
        self.journal = Journal(path, _IDENTITY, shared=True)

    def find(self, keys: list[bytes], n_features: int) -> dict[bytes, np.ndarray]:
        found = zip(keys, self.journal.find(keys, n_features))
        return {key: answer.scores for key, answer in found if answer is not None}

    def add(self, features: dict[bytes, np.ndarray], max_bytes: int) -> None:
        if features:
            self.journal.add(list(features), np.stack(list(features.values())))


_in_memory = _InMemory()
_in_files: dict[Path, _InFile] = {}
_opening = threading.Lock()


def _cache_of(path: str | os.PathLike[str] | None) -> _InMemory | _InFile:
    if path is None:
        return _in_memory
    place = Path(path).expanduser().resolve()
    with _opening:
        if place not in _in_files or _in_files[place].journal.closed:
            _in_files[place] = _InFile(place)
        return _in_files[place]
