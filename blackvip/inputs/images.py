"""Images of one size and pixel range, read in batches, and their conversion to 8 bits."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from threading import Lock
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from ..exceptions import ImageError, ImagesAssumedWarning, warn_caller
from ..persistence.fields import BOOL, NONE, ListOf, OneOf, choice, integer, number
from ..persistence.format import expect
from ..persistence.saveable import Saveable
from .decoding import is_tensor
from .encoded import shortened
from .pixel_range import ALMOST_BLACK, fits_range, is_fraction
from .resizing import RULES, resized
from .sources import ItemSource, open_images, open_source
from .survey import Survey, digest_of

__all__ = ["ImageFormat", "Images", "from_uint8", "to_uint8"]

logger = logging.getLogger("blackvip")

_COMMON_SIZE = (224, 224)  # size to which images of unequal sizes are resized, as in the paper
_MAX_PIXELS = 2**24  # of a loaded format: no bytes in a file stand behind the size that images are resized to

#: An `image_shape` in a file.
IMAGE_SHAPE = OneOf(NONE, ListOf(integer(1)))


class Images(Sequence):  # type: ignore[type-arg]
    """Images of one size, any rows of which can be read.

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
    digests : dict of int to str, optional
        Digests of 8-bit images that are known already, by their row in `source`.

    Attributes
    ----------
    size : tuple of int
        (height, width) in pixels.
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
        digests: Mapping[int, str] = MappingProxyType({}),
    ):
        self._source = source[kept] if isinstance(source, np.ndarray) and len(kept) < len(source) else source
        self._format = image_format
        self._dtype = dtype
        self._factor = factor
        self._digests = digests
        self.kept = kept
        # Data sets of others may not be safe for threads.
        self._reading = Lock()
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
        """Read images as a tensor.

        Parameters
        ----------
        rows : array of int, or slice
            Positions of the images.

        Returns
        -------
        pixels : tensor of shape (n_rows, 3, height, width), float32
            RGB in [0, 1].

        Raises
        ------
        ImageError
            If an image can no longer be read, or has changed its size.
        """
        return self._format.pixels(self[rows])

    def name(self, position: int) -> str:
        """Return the path of an image if it is known, else the number of its row in X."""
        row = int(self.kept[position])
        return str(row) if isinstance(self._source, np.ndarray) else self._source.name(row)

    def digest(self, position: int) -> str:
        """Identify an image by its size and its pixels in 8 bits, before it is resized."""
        row = int(self.kept[position])
        if row in self._digests:
            return self._digests[row]
        with self._reading:
            pixels = self._scaled(self._source[position if isinstance(self._source, np.ndarray) else row])
        return digest_of(to_uint8(self._format.pixels(np.broadcast_to(pixels, (*pixels.shape[:2], 3))[None]))[0])

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
        Values of black and white, found from all training images together. They are 0 and 255 for uint8, files and PIL
        images (except modes "I" and "F"), and for other numbers between 0 and 255 of which some exceed 16. They are 0
        and 65535 for numbers between these of which some exceed 4095, 0 and 1 for numbers between 0 and 1, and -1 and 1
        for numbers between these that fall below -0.5. Otherwise they are the smallest and largest value of the
        training images. A `ImagesAssumedWarning` says what was assumed where another reading is likely, too.
    eight_bits : bool
        Whether all training images had 8 bits. If so, later images in fractions, none above 1, are read as numbers
        between 0 and 1.
    grey : bool
        Whether the training images were arrays without colour.
    image_shape : tuple of int or None
        (height, width) or (height, width, channels) as set: the shape of rows of flattened pixels. If it is not set,
        rows whose length is a square are square grey images.
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
    grey: bool = False
    image_shape: tuple[int, ...] | None = None
    resize: str = "crop"
    resized: bool = False

    saved_parameters = {
        "height": integer(1),
        "width": integer(1),
        "low": number(),
        "high": number(),
        "eight_bits": BOOL,
        "grey": BOOL,
        "image_shape": IMAGE_SHAPE,
        "resize": choice(*RULES),
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
        """Learn the format of training images, and open them; each image is read once.

        Parameters
        ----------
        X : images
            Images in any form of `blackvip.inputs.sources`. Rows of flattened pixels must be a finite 2-D array.
        image_shape : sequence of int or None, default=None
            (height, width) or (height, width, channels), to which images are resized and rows of flattened pixels
            reshaped. None: such rows are square grey images, images of one size keep it, and images of unequal sizes
            are resized to 224 x 224 with a warning.
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
        if resize not in RULES or on_error not in ("raise", "skip"):
            raise ValueError(
                f"resize={shortened(repr(resize))} and on_error={shortened(repr(on_error))} were given; expected one "
                f"of {RULES} and one of ('raise', 'skip')."
            )
        shape = None if image_shape is None else _checked_shape(image_shape)
        opened = open_images(X)
        survey = Survey.of(open_source(opened, shape))
        if survey.n_failed and (on_error == "raise" or not len(survey.rows)):
            survey.fail('Repair or remove them, or set on_error="skip" to leave them out.')
        low, high = survey.pixel_range()
        height, width = shape[:2] if shape else _COMMON_SIZE if len(survey.sizes) > 1 else next(iter(survey.sizes))
        resized = shape is not None or len(survey.sizes) > 1
        grey = isinstance(survey.source, np.ndarray) and survey.source.shape[3] == 1
        image_format = cls(height, width, low, high, survey.eight_bits, grey, shape, resize, resized)
        survey.warn(height, width, None if shape else resize)
        if opened.is_table and shape is None:
            _warn_of_rows(height, width)
        return image_format, image_format._images(survey)

    def open(self, X: Any, identify: bool = False) -> Images:
        """Open later images with this format. Each image is read once before any is used.

        Parameters
        ----------
        X : images
            Images in any form of `blackvip.inputs.sources`.
        identify : bool, default=False
            Whether the images will be identified by their digests, so that those of files are made on the way.

        Returns
        -------
        images : Images
            The opened images.

        Raises
        ------
        ImageError
            If X is not a set of images, if an image cannot be read, if its numbers do not fit the range of the training
            images, or if it has another size and `resized` is False.
        """
        opened = open_images(X)
        if not self.grey:
            _refuse_doubtful(opened.X)
        survey = Survey.of(open_source(opened, self.image_shape), identify)
        if survey.n_failed:
            survey.fail("Repair or remove them; every prediction needs its image.")
        for (height, width), row in survey.sizes.items():
            if (height, width) != (self.height, self.width) and not self.resized:
                raise ImageError(
                    f"Image {row} is {height} x {width} pixels (height x width), but the estimator was fitted to "
                    f"{self.height} x {self.width}. Resize it to that, or fit with image_shape=({self.height}, "
                    f"{self.width}), with which images of other sizes are resized."
                )
        factor = self._factor(survey)
        # Masks of 0 and 1; other dark images may well be meant.
        survey.warn_of_8_bits(1)
        if factor == 1:
            survey.warn_of_dark(self.high)
        return self._images(survey, factor=factor)

    def _images(self, survey: Survey, factor: float = 1.0) -> Images:
        dtype = np.result_type(*survey.dtypes)
        if dtype != np.uint8 and (self.resized or len(survey.dtypes) > 1 or factor != 1):
            # Interpolation makes fractions of integers.
            dtype = np.dtype(np.float64)
        return Images(survey.source, np.array(survey.rows, dtype=np.intp), self, dtype, factor, survey.digests)

    def _factor(self, survey: Survey) -> float:
        """Return the factor that brings later numbers into this format's range; refuse those that do not fit it."""
        fitted = "8-bit images" if self.eight_bits else f"{self.low:g} as black and {self.high:g} as white"
        if self.low >= 0 and 0 < survey.highest_of_8_bits <= self.high <= ALMOST_BLACK and self.high != 1:
            raise ImageError(
                f"The images are uint8, where 255 is white, with no number above {survey.highest_of_8_bits}, but the "
                f"estimator was fitted to {fitted}. Pass the type of the training images."
            )
        if survey.low > survey.high:
            return 1.0
        others = survey.dtypes - {np.dtype(np.uint8)}
        low, high, n_pixels = survey.low, survey.high, self.height * self.width
        unit = self.eight_bits and all(dtype.kind == "f" for dtype in others) and is_fraction(low, high)
        black, white = (0.0, 1.0) if unit else (self.low, self.high)
        if not fits_range(low, high, black, white, n_pixels):
            raise ImageError(
                f"The images have numbers between {low:g} and {high:g}, but the estimator was fitted to {fitted}. "
                "Scale them like the training images, or pass uint8."
            )
        return 255.0 if unit else 1.0

    def pixels(self, raw: np.ndarray) -> torch.Tensor:
        """Convert raw pixels to a tensor.

        Parameters
        ----------
        raw : ndarray of shape (n, height, width, 3)
            Pixels in the range of this format; uint8 always ranges from 0 to 255.

        Returns
        -------
        pixels : tensor of shape (n, 3, height, width), float32
            RGB in [0, 1].
        """
        # torch may own this copy.
        planes = np.array(np.moveaxis(raw, 3, 1), order="C")
        if raw.dtype == np.uint8:
            return torch.from_numpy(planes).float().div_(255)
        scaled = (planes.astype(np.float64) - self.low) / (self.high - self.low)
        return torch.from_numpy(scaled.clip(0, 1).astype(np.float32))

    def resized_image(self, image: np.ndarray) -> np.ndarray:
        """Resize an image (height, width, channels) to this format's size, within its pixel range."""
        return resized(image, (self.height, self.width), self.resize, self.low, self.high)


def _refuse_doubtful(X: Any) -> None:
    """Raise an error if X is an array (3, height, width): a single image in colour, or three in grey."""
    if (isinstance(X, np.ndarray) or is_tensor(X)) and X.ndim == 3 and X.shape[0] == 3:
        raise ImageError(
            f"X has the shape {tuple(X.shape)}: a single image in colour, or three in grey. Pass X[None] for one, or "
            "X[..., None] for three."
        )


def _warn_of_rows(height: int, width: int) -> None:
    """Say as what images rows of flattened pixels are read."""
    if height == 1 and width > 1:
        warn_caller(
            f"The rows of {width} numbers are read as images that are 1 pixel high and {width} wide. If they are "
            "pictures, set image_shape to (height, width) or (height, width, channels).",
            ImagesAssumedWarning,
        )
    else:
        logger.info("rows of %d numbers are read as grey images of %d x %d pixels", height * width, height, width)


def _checked_shape(image_shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(image_shape)
    if (
        len(shape) not in (2, 3)
        or not all(isinstance(side, Integral) and not isinstance(side, bool) and side > 0 for side in shape)
        or (len(shape) == 3 and shape[2] not in (1, 3, 4))
    ):
        raise ImageError(
            f"image_shape={shortened(shape)} was given; expected (height, width) or (height, width, channels), with 1, "
            "3 or 4 channels."
        )
    if math.prod(shape[:2]) > _MAX_PIXELS:
        raise ImageError(f"image_shape={shape} was given; expected at most {_MAX_PIXELS:,} pixels.")
    return tuple(map(int, shape))


def to_uint8(pixels: torch.Tensor) -> np.ndarray:
    """Round pixels to images as a service receives them.

    Parameters
    ----------
    pixels : tensor of shape (n, 3, height, width)
        RGB in [0, 1].

    Returns
    -------
    images : ndarray of shape (n, height, width, 3), uint8
        RGB.
    """
    # NumPy converts to uint8 several times as fast as torch.
    images = pixels.mul(255).round_().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    if images.flags.c_contiguous:
        return images
    # Plane by plane is faster than a permuted copy.
    interleaved = np.empty(images.shape, np.uint8)
    for channel in range(3):
        interleaved[..., channel] = images[..., channel]
    return interleaved


def from_uint8(images: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Convert images that a service receives to pixels.

    Parameters
    ----------
    images : ndarray of shape (n, height, width, 3), uint8
        RGB.
    dtype : torch.dtype, default=torch.float32
        Type of the pixels.

    Returns
    -------
    pixels : tensor of shape (n, 3, height, width)
        RGB in [0, 1], with the channels last in memory.
    """
    return torch.from_numpy(images).permute(0, 3, 1, 2).to(dtype).div_(255)
