"""Images: from whatever a user passes as X to batches of pixels."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps

from .exceptions import ImageError

__all__ = ["ImageFormat", "Images", "holds_flattened_rows", "to_uint8"]

_EXPECTED = (
    "expected an array of shape (n, height, width, 3), (n, height, width) or (n, 3, height, width), rows of flattened "
    "pixels (n, n_features), or a sequence of PIL images or of file paths"
)


class Images(Sequence):
    """Equally sized images, of which any rows can be read.

    Parameters
    ----------
    items : ndarray of shape (n, height, width, channels), or list of PIL images or paths
    """

    def __init__(self, items):
        self._items = items
        self.in_memory = isinstance(items, np.ndarray)
        self.size = items.shape[1:3] if self.in_memory else self._checked_size()

    def __len__(self):
        return len(self._items)

    def __getitem__(self, rows):
        """Raw pixels of shape (len(rows), height, width, 3), for an array of row numbers or a slice."""
        if self.in_memory:
            block = self._items[rows]
        else:
            if isinstance(rows, slice):
                rows = range(*rows.indices(len(self)))
            block = np.stack([_decoded(self._items[row], row) for row in rows])
        return np.broadcast_to(block, (*block.shape[:3], 3))

    def _checked_size(self):
        """The size that all images have; every one is read, so that a bad one is found before any is paid for."""
        size = None
        for row, item in enumerate(self._items):
            shape = _decoded(item, row).shape[:2]
            size = size or shape
            if shape != size:
                raise ImageError(
                    f"Image {_name(item, row)} is {shape[0]} x {shape[1]} pixels (height x width), the first one is "
                    f"{size[0]} x {size[1]}; expected images of one size. Resize them before."
                )
        return size


def _name(item, row):
    return f"{row} ({os.fspath(item)})" if isinstance(item, (str, os.PathLike)) else str(row)


def _decoded(item, row) -> np.ndarray:
    """RGB pixels (height, width, 3), uint8, of a PIL image or a file."""
    try:
        if isinstance(item, Image.Image):
            return np.asarray(ImageOps.exif_transpose(item).convert("RGB"))
        with Image.open(item) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, AttributeError, TypeError, Image.DecompressionBombError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise ImageError(
            f"Image {_name(item, row)} cannot be read: {reason}. Expected a PIL image or the path of an image file."
        ) from error


def holds_flattened_rows(X) -> bool:
    """Whether X is what scikit-learn's tools pass: a table of numbers with a row per sample."""
    if isinstance(X, (str, os.PathLike, Image.Image)) or _unpacked(X) is not None:
        return False
    return getattr(X, "ndim", None) not in (3, 4) and not (
        isinstance(X, Sequence) and len(X) and getattr(X[0], "ndim", 1) in (2, 3)
    )


def _unpacked(X):
    """The list of PIL images or paths that X is, or None."""
    if hasattr(X, "iloc") or hasattr(X, "to_numpy"):  # a column of a table, or a table of one column
        X = X.to_numpy()
    if isinstance(X, np.ndarray):
        if X.dtype.kind not in "OUST" or X.ndim not in (1, 2) or (X.ndim == 2 and X.shape[1] != 1):
            return None
        X = X.ravel().tolist()
    if isinstance(X, Sequence) and len(X) and isinstance(X[0], (str, os.PathLike, Image.Image)):
        return list(X)
    return None


@dataclass
class ImageFormat:
    """What `fit` learns about its images, so that later ones are read alike.

    Attributes
    ----------
    height, width : int
        Size of an image, in pixels.
    low, high : float
        The values of black and white. 0 and 255 for uint8, PIL images and files, and for other numbers that
        lie between 0 and 255 and reach above 127; 0 and 1 for numbers between 0 and 1; else the training
        images' least and greatest value.
    """

    height: int
    width: int
    low: float
    high: float

    @classmethod
    def learn(cls, X, image_shape=None) -> tuple[ImageFormat, Images]:
        """The format of training images, and the images.

        Parameters
        ----------
        X : array or sequence
            See `Images`; rows of flattened pixels have been checked to be a finite 2-D array.
        image_shape : tuple of int or None
            (height, width) or (height, width, channels) of rows of flattened pixels; None: grey images that
            are one pixel high.
        """
        images = Images(_opened(X, image_shape))
        if not len(images):
            raise ImageError(f"Found no images (0 sample(s)) while a minimum of 1 is required; {_EXPECTED}.")
        low, high = _pixel_range(images)
        return cls(*images.size, low, high), images

    def open(self, X, image_shape=None) -> Images:
        """Images that must have the learned size."""
        images = Images(_opened(X, image_shape))
        if len(images) and tuple(images.size) != (self.height, self.width):
            raise ImageError(
                f"The images are {images.size[0]} x {images.size[1]} pixels (height x width), but the estimator was "
                f"fitted to {self.height} x {self.width}. Resize them to that."
            )
        return images

    def pixels(self, raw: np.ndarray) -> torch.Tensor:
        """Raw pixels (n, height, width, 3) as a tensor (n, 3, height, width), float32, in [0, 1]."""
        scaled = (np.asarray(raw, dtype=np.float64) - self.low) / (self.high - self.low)
        scaled = np.clip(scaled, 0, 1).astype(np.float32)
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(scaled, 3, 1)))


def _pixel_range(images: Images) -> tuple[float, float]:
    if not images.in_memory or images._items.dtype == np.uint8:
        return 0.0, 255.0
    low, high = float(images._items.min()), float(images._items.max())
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    if low >= 0 and 127 < high <= 255:
        return 0.0, 255.0
    return low, max(high, low + 1e-12)


def to_uint8(pixels: torch.Tensor) -> np.ndarray:
    """Pixels (n, 3, height, width) in [0, 1] as a service is sent them: (n, height, width, 3), uint8."""
    return pixels.mul(255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def _opened(X, image_shape):
    """X as an array (n, height, width, channels) or as a list of PIL images or paths."""
    if isinstance(X, (str, os.PathLike, Image.Image)):
        raise ImageError(f"X is a single {type(X).__name__}; {_EXPECTED}. Put it into a list.")
    listed = _unpacked(X)
    if listed is not None:
        return listed
    if hasattr(X, "detach"):
        X = X.detach().cpu().numpy()
    if not isinstance(X, np.ndarray):
        shapes = {np.shape(image) for image in X} if isinstance(X, Sequence) else set()
        if len(shapes) > 1:
            raise ImageError(f"The images have different shapes, {sorted(shapes)[:3]}; expected images of one size.")
        X = np.asarray(X)
    if X.dtype.kind not in "uifb":
        raise ImageError(f"X is an array of {X.dtype}; {_EXPECTED}.")
    X = _with_channels_last(X, image_shape)
    if not np.isfinite(X).all():
        row = int(np.argwhere(~np.isfinite(X))[0, 0])
        raise ImageError(f"Image {row} contains NaN or infinity; expected finite pixels.")
    return X


def _with_channels_last(X, image_shape):
    if X.ndim == 2:
        if image_shape is None:
            image_shape = (1, X.shape[1])
        if math.prod(image_shape) != X.shape[1]:
            raise ImageError(
                f"X has {X.shape[1]} numbers a row, but image_shape={tuple(image_shape)} needs "
                f"{math.prod(image_shape)}; set image_shape to (height, width) or (height, width, channels)."
            )
        X = X.reshape(len(X), *image_shape)
    if X.ndim == 3:
        return X[..., None]
    if X.ndim == 4 and X.shape[3] in (1, 3):
        return X
    if X.ndim == 4 and X.shape[1] in (1, 3):
        return np.moveaxis(X, 1, 3)
    raise ImageError(f"X has the shape {X.shape}; {_EXPECTED}.")
