"""Images of one size and pixel range, read in batches, and their conversion to 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral
from threading import Lock
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image

from ..exceptions import ImageError, ImagesResizedWarning, ImagesSkippedWarning, warn_caller
from ..persistence.fields import BOOL, NONE, ListOf, OneOf, choice, integer, number
from ..persistence.format import expect
from ..persistence.saveable import Saveable
from .sources import ItemSource, open_source

__all__ = ["ImageFormat", "Images", "to_uint8"]

_COMMON_SIZE = (224, 224)  # size to which images of unequal sizes are resized, as in the paper
_RULES = ("crop", "pad", "stretch")
_NAMED = 3  # number of unreadable images that an error or a warning names
_CHECKED_AT_ONCE = 256  # images of an array that are checked at once
_MAX_PIXELS = 2**24  # of a loaded format: no bytes in a file stand behind the size that images are resized to

#: An `image_shape` in a file.
IMAGE_SHAPE = OneOf(NONE, ListOf(integer(1)))


class Images(Sequence):  # type: ignore[type-arg]
    """Equally sized images, of which any rows can be read.

    Parameters
    ----------
    source : ndarray of shape (n, height, width, channels), or ItemSource
        The images before they are resized.
    kept : ndarray of int
        Rows of `source` to keep.
    image_format : ImageFormat
        Size of the images, and how they are resized.
    dtype : dtype
        Type of the pixels.
    factor : float, default=1.0
        Factor that brings numbers other than uint8 into the format's range.

    Attributes
    ----------
    size : tuple of int
        (height, width) in pixels.
    in_memory : bool
        Whether X is an array. Other images are read and resized each time they are needed.
    kept : ndarray of int, shape (len(images),)
        Rows of X that were kept: all, unless ``on_error="skip"`` left some out.
    """

    def __init__(
        self,
        source: np.ndarray | ItemSource,
        kept: np.ndarray,
        image_format: ImageFormat,
        dtype: Any,
        factor: float = 1.0,
    ):
        self._source = source[kept] if isinstance(source, np.ndarray) and len(kept) < len(source) else source
        self._format = image_format
        self._dtype = dtype
        self._factor = factor
        self.kept = kept
        # Data sets of others may not be safe for threads.
        self._reading = Lock()
        self.in_memory = isinstance(source, np.ndarray)
        self.size = (image_format.height, image_format.width)

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, rows: Any) -> np.ndarray:  # type: ignore[override]
        """Read raw pixels (len(rows), height, width, 3), for an array of row numbers or a slice.

        Raises
        ------
        ImageError
            If an image can no longer be read, or has changed its size.
        """
        if isinstance(self._source, np.ndarray) and self._source.shape[1:3] == self.size:
            block = self._scaled(self._source[rows])
            return np.broadcast_to(block, (*block.shape[:3], 3))
        positions = np.arange(len(self))[rows]
        block = np.empty((len(positions), *self.size, 3), self._dtype)
        with self._reading:
            for pixels, position in zip(block, positions):
                pixels[:] = self._fitted(int(position))
        return block

    def pixels(self, rows: Any) -> torch.Tensor:
        """Read pixels (len(rows), 3, height, width), float32, in [0, 1]."""
        return self._format.pixels(self[rows])

    def name(self, position: int) -> str:
        """Return the path of an image if it is known, else the number of its row in X."""
        row = int(self.kept[position])
        return str(row) if isinstance(self._source, np.ndarray) else self._source.name(row)

    def _fitted(self, position: int) -> np.ndarray:
        """Read one image in the format's size and in the type of this batch."""
        if isinstance(self._source, np.ndarray):
            return self._format.resized_image(self._scaled(self._source[position]))
        row = int(self.kept[position])
        image = self._scaled(self._source[row])
        if image.shape[:2] != self.size and not self._format.resized:
            raise ImageError(
                f"Image {row} is now {image.shape[0]} x {image.shape[1]} pixels (height x width), but was "
                f"{self.size[0]} x {self.size[1]} when it was first read; expected an image that stays the same."
            )
        # An 8-bit image among images in other numbers takes their range.
        if image.dtype == np.uint8 and self._dtype != np.uint8:
            image = self._format.low + image / 255 * (self._format.high - self._format.low)
        return self._format.resized_image(image)

    def _scaled(self, pixels: np.ndarray) -> np.ndarray:
        return pixels if self._factor == 1 or pixels.dtype == np.uint8 else pixels * self._factor


@dataclass
class ImageFormat(Saveable):
    """Size and pixel range of the training images, with which later images are read.

    Attributes
    ----------
    height, width : int
        Size of the images, in pixels.
    low, high : float
        Values of black and white. They are 0 and 255 for uint8, PIL images and files, and for other numbers between 0
        and 255 that reach above 127. They are 0 and 1 for numbers between 0 and 1. Otherwise they are the smallest and
        largest value of the training images.
    eight_bits : bool
        Whether all training images had 8 bits. If so, later images in other numbers, none above 1, are read as numbers
        between 0 and 1.
    image_shape : tuple of int or None
        (height, width) or (height, width, channels) as set: the shape of rows of flattened pixels.
    resize : {"crop", "pad", "stretch"}
        How images of another size are resized, by bicubic interpolation with antialiasing. "crop": the image is scaled
        until it covers the size, and its centre is cut out, as in CLIP's own preprocessing. "pad": the image is scaled
        until it fits inside, and is surrounded by black. "stretch": height and width are scaled separately.
    resized : bool
        Whether images of another size are resized instead of refused. This is so if `image_shape` is set, or if the
        training images had unequal sizes.
    """

    height: int
    width: int
    low: float
    high: float
    eight_bits: bool = False
    image_shape: tuple[int, ...] | None = None
    resize: str = "crop"
    resized: bool = False

    saved_parameters = {
        "height": integer(1),
        "width": integer(1),
        "low": number(),
        "high": number(),
        "eight_bits": BOOL,
        "image_shape": IMAGE_SHAPE,
        "resize": choice(*_RULES),
        "resized": BOOL,
    }

    def _finish_loading(self) -> None:
        height, width, shape = self.height, self.width, self.image_shape
        expect(height * width <= _MAX_PIXELS, f"its images have {height} x {width} pixels, which is too large")
        expect(self.low < self.high, f"its images' black, {self.low}, is not less than their white, {self.high}")
        if shape is not None:
            expect(type(shape) is tuple and len(shape) in (2, 3), f"image_shape is {shape}")
            expect(shape[:2] == (height, width) and self.resized, f"image_shape={shape} does not fit {self}")

    @classmethod
    def learn(
        cls, X: Any, image_shape: Sequence[int] | None = None, resize: str = "crop", on_error: str = "raise"
    ) -> tuple[ImageFormat, Images]:
        """Learn the format of training images, and open them. Each image is read once.

        Parameters
        ----------
        X : images
            Images in any form of `blackvip.inputs.sources`. Rows of flattened pixels must be a finite 2-D array.
        image_shape : sequence of int or None, default=None
            (height, width) or (height, width, channels), to which images are resized and rows of flattened pixels
            reshaped. None: such rows are grey images that are one pixel high, images of one size keep it, and images of
            unequal sizes are resized to 224 x 224 with a warning.
        resize : {"crop", "pad", "stretch"}, default="crop"
            See `ImageFormat`.
        on_error : {"raise", "skip"}, default="raise"
            "skip": images that cannot be read are left out, and a warning counts them.

        Returns
        -------
        image_format : ImageFormat
            The learned format.
        images : Images
            The opened images.

        Raises
        ------
        ImageError
            If X is not a set of images, if an image cannot be read (with "skip": if none can), or if `image_shape` does
            not fit.
        ValueError
            If `resize` or `on_error` has another value.
        """
        if resize not in _RULES or on_error not in ("raise", "skip"):
            raise ValueError(
                f"resize={resize!r} and on_error={on_error!r} were given; expected one of {_RULES} and one of "
                "('raise', 'skip')."
            )
        shape = None if image_shape is None else _checked_shape(image_shape)
        source = open_source(X, shape)
        survey = _Survey.of(source)
        if survey.n_failed and (on_error == "raise" or not len(survey.rows)):
            survey.fail('Repair or remove them, or set on_error="skip" to leave them out.')
        low, high = survey.pixel_range()
        height, width = shape[:2] if shape else _COMMON_SIZE if len(survey.sizes) > 1 else next(iter(survey.sizes))
        resized = shape is not None or len(survey.sizes) > 1
        eight_bits = survey.dtypes == {np.dtype(np.uint8)}
        image_format = cls(height, width, low, high, eight_bits, shape, resize, resized)
        survey.warn(image_format)
        return image_format, survey.images(image_format)

    def open(self, X: Any) -> Images:
        """Open later images with this format. Each image is read once before any is used.

        Parameters
        ----------
        X : images
            Images in any form of `blackvip.inputs.sources`.

        Returns
        -------
        images : Images
            The opened images.

        Raises
        ------
        ImageError
            If X is not a set of images, if an image cannot be read, or if it has another size and `resized` is False.
        """
        survey = _Survey.of(open_source(X, self.image_shape))
        if survey.n_failed:
            survey.fail("Repair or remove them; every prediction needs its image.")
        for (height, width), row in survey.sizes.items():
            if (height, width) != (self.height, self.width) and not self.resized:
                raise ImageError(
                    f"Image {row} is {height} x {width} pixels (height x width), but the estimator was fitted to "
                    f"{self.height} x {self.width}. Resize it to that, or fit with image_shape=({self.height}, "
                    f"{self.width}), with which images of other sizes are resized."
                )
        unit = self.eight_bits and survey.low >= 0 and survey.high <= 1
        return survey.images(self, factor=255.0 if unit else 1.0)

    def pixels(self, raw: np.ndarray) -> torch.Tensor:
        """Convert raw pixels (n, height, width, 3) to a tensor (n, 3, height, width), float32, in [0, 1].

        uint8 ranges from 0 to 255, whatever the range of the training images was.
        """
        # torch may own this copy.
        planes = np.array(np.moveaxis(raw, 3, 1), order="C")
        if raw.dtype == np.uint8:
            return torch.from_numpy(planes).float().div_(255)
        scaled = (planes.astype(np.float64) - self.low) / (self.high - self.low)
        return torch.from_numpy(scaled.clip(0, 1).astype(np.float32))

    def resized_image(self, image: np.ndarray) -> np.ndarray:
        """Resize an image (height, width, channels) to this format's size, within its pixel range."""
        height, width = image.shape[:2]
        target = (self.height, self.width)
        if (height, width) == target:
            return image
        black, white = (0.0, 255.0) if image.dtype == np.uint8 else (self.low, self.high)
        if self.resize == "stretch":
            return _interpolated(image, target, (0, 0, width, height), black, white)
        if self.resize == "pad":
            scale = min(self.height / height, self.width / width)
            inner = (max(1, round(height * scale)), max(1, round(width * scale)))
            padded = np.full((*target, image.shape[2]), black, np.uint8 if image.dtype == np.uint8 else np.float64)
            top, left = (self.height - inner[0]) // 2, (self.width - inner[1]) // 2
            padded[top : top + inner[0], left : left + inner[1]] = _interpolated(
                image, inner, (0, 0, width, height), black, white
            )
            return padded
        # The covering size of torchvision's Resize, and the offset of its CenterCrop. The box is in the image's own
        # pixels, so the rest of a very long image is never computed.
        if self.height * width >= self.width * height:
            covering = (self.height, width * self.height // height)
        else:
            covering = (height * self.width // width, self.width)
        top, left = round((covering[0] - self.height) / 2), round((covering[1] - self.width) / 2)
        y, x = height / covering[0], width / covering[1]
        box = (left * x, top * y, min((left + self.width) * x, width), min((top + self.height) * y, height))
        return _interpolated(image, target, box, black, white)


@dataclass
class _Survey:
    """Findings from reading each image once; no image is kept."""

    source: np.ndarray | ItemSource
    rows: list[int] = field(default_factory=list)  # rows of readable images
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)  # first row of each size
    dtypes: set[np.dtype] = field(default_factory=set)
    low: float = np.inf  # smallest and largest number in images that are not uint8
    high: float = -np.inf
    n_failed: int = 0
    failures: list[ImageError] = field(default_factory=list)  # the first errors

    @classmethod
    def of(cls, source: np.ndarray | ItemSource) -> _Survey:
        survey = cls(source)
        if not len(source):
            raise ImageError("Found no images (0 sample(s)) while a minimum of 1 is required.")
        if isinstance(source, np.ndarray):
            for first in range(0, len(source), _CHECKED_AT_ONCE):
                survey._add_block(source[first : first + _CHECKED_AT_ONCE], first)
            return survey
        for row in range(len(source)):
            try:
                survey._add(source[row], [row])
            except ImageError as error:
                survey._add_failure(error)
        return survey

    def _add_block(self, block: np.ndarray, first: int) -> None:
        if not block.size:
            raise ImageError(f"The images have no pixels: their shape is {block.shape[1:]}.")
        finite = np.isfinite(block).all(axis=(1, 2, 3)) if block.dtype.kind == "f" else np.ones(len(block), bool)
        for row in first + np.flatnonzero(~finite):
            self._add_failure(ImageError(f"Image {row} contains NaN or infinity; expected finite pixels."))
        if finite.any():
            self._add(block if finite.all() else block[finite], (first + np.flatnonzero(finite)).tolist())

    def _add(self, pixels: np.ndarray, rows: list[int]) -> None:
        self.rows += rows
        height, width = pixels.shape[-3:-1]
        self.sizes.setdefault((height, width), rows[0])
        self.dtypes.add(pixels.dtype)
        if pixels.dtype != np.uint8:
            self.low, self.high = min(self.low, float(pixels.min())), max(self.high, float(pixels.max()))

    def _add_failure(self, error: ImageError) -> None:
        self.n_failed += 1
        if len(self.failures) < _NAMED:
            self.failures.append(error)

    def _named_failures(self) -> str:
        return " ".join(map(str, self.failures)) + (" ..." if self.n_failed > len(self.failures) else "")

    def fail(self, advice: str) -> NoReturn:
        """Raise an error that names the images that cannot be read."""
        count = f"{self.n_failed} of {len(self.source)} images cannot be read"
        raise ImageError(f"{count}: {self._named_failures()} {advice}") from self.failures[0]

    def warn(self, image_format: ImageFormat) -> None:
        """Warn if training images are left out, or are resized to a common size."""
        if self.n_failed:
            warn_caller(
                f"{self.n_failed} of {len(self.source)} images cannot be read and are left out: "
                f"{self._named_failures()}",
                ImagesSkippedWarning,
            )
        if len(self.sizes) > 1 and image_format.image_shape is None:
            sizes = [f"{height} x {width}" for height, width in sorted(self.sizes, key=lambda size: size[0] * size[1])]
            warn_caller(
                f"The images have {len(sizes)} sizes, from {sizes[0]} to {sizes[-1]} pixels (height x width). They are "
                f"resized to {image_format.height} x {image_format.width} by resize={image_format.resize!r}; set "
                "image_shape=(height, width) and resize to choose.",
                ImagesResizedWarning,
            )

    def pixel_range(self) -> tuple[float, float]:
        """Values of black and white."""
        low, high = self.low, self.high
        if self.dtypes == {np.dtype(np.uint8)} or (low >= 0 and 127 < high <= 255):
            return 0.0, 255.0
        if np.dtype(np.uint8) in self.dtypes:
            raise ImageError(
                f"Some images have 8 bits, and others have numbers between {low:g} and {high:g}; expected one range. "
                "Scale the others to 0 to 255."
            )
        return (0.0, 1.0) if low >= 0 and high <= 1 else (low, max(high, low + 1e-12))

    def images(self, image_format: ImageFormat, factor: float = 1.0) -> Images:
        dtype = np.result_type(*self.dtypes)
        if dtype != np.uint8 and (image_format.resized or len(self.dtypes) > 1 or factor != 1):
            # Interpolation makes fractions of integers.
            dtype = np.dtype(np.float64)
        return Images(self.source, np.array(self.rows, dtype=np.intp), image_format, dtype, factor)


def _checked_shape(image_shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(image_shape)
    if len(shape) not in (2, 3) or not all(isinstance(side, Integral) and side > 0 for side in shape):
        raise ImageError(f"image_shape={shape} was given; expected (height, width) or (height, width, channels).")
    return tuple(map(int, shape))


def _interpolated(
    image: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float], black: float, white: float
) -> np.ndarray:
    """Resize the part `box` (left, top, right, bottom) of an image (height, width, channels).

    It uses Pillow's antialiased bicubic interpolation in 32-bit floats, so files and arrays give the same result.
    """
    bands = [Image.fromarray(band) for band in np.moveaxis(image, 2, 0).astype(np.float32)]
    resized = [np.asarray(band.resize(size[::-1], Image.Resampling.BICUBIC, box)) for band in bands]
    clipped = np.clip(np.stack(resized, axis=2).astype(np.float64), black, white)
    return np.rint(clipped).astype(np.uint8) if image.dtype == np.uint8 else clipped


def to_uint8(pixels: torch.Tensor) -> np.ndarray:
    """Round pixels (n, 3, height, width) in [0, 1] to images for a service: (n, height, width, 3), uint8."""
    planes = pixels.mul(255).round_().to(torch.uint8).unbind(1)
    # This is faster than a permuted copy.
    return torch.stack(planes, dim=3).numpy()
