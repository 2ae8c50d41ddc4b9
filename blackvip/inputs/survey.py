"""A survey of a set of images, which reads each of them once before any is used."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from ..exceptions import ImageError, ImagesAssumedWarning, ImagesResizedWarning, ImagesSkippedWarning, warn_caller
from .pixel_range import ALMOST_BLACK, FULL, PICTURE, is_doubtful, range_of
from .sources import ItemSource

__all__ = ["Survey", "digest_of"]

_NAMED = 3  # number of unreadable images that an error or a warning names
_CHECKED_AT_ONCE = 256  # images of an array that are checked at once


@dataclass
class Survey:
    """Findings from reading each image once; no image is kept."""

    source: np.ndarray | ItemSource
    identify: bool = False  # whether to make digests of 8-bit images
    rows: list[int] = field(default_factory=list)  # rows of readable images
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)  # first row of each size
    dtypes: set[np.dtype] = field(default_factory=set)
    low: float = np.inf  # smallest and largest number in images that are not uint8
    high: float = -np.inf
    highest_of_8_bits: int = 0
    # Rows of images in other numbers: of fractions up to 16, and of others up to 255.
    fractions: list[int] = field(default_factory=list)
    small: list[int] = field(default_factory=list)
    digests: dict[int, str] = field(default_factory=dict)  # of 8-bit images that are read one by one, by row
    n_failed: int = 0
    failures: list[ImageError] = field(default_factory=list)  # the first errors

    @classmethod
    def of(cls, source: np.ndarray | ItemSource, identify: bool = False) -> Survey:
        """Survey a set of images.

        Parameters
        ----------
        source : ndarray of shape (n, height, width, channels), or ItemSource
            The images.
        identify : bool, default=False
            Whether to make digests of 8-bit images that are read one by one.

        Returns
        -------
        survey : Survey
            The findings. Images that cannot be read are counted, and the first ones named.

        Raises
        ------
        ImageError
            If there are no images, or they have no pixels.
        """
        survey = cls(source, identify)
        if not len(source):
            raise ImageError("Found no images (0 sample(s)) while a minimum of 1 is required.")
        if isinstance(source, np.ndarray):
            for first in range(0, len(source), _CHECKED_AT_ONCE):
                survey._add_block(source[first : first + _CHECKED_AT_ONCE], first)
            return survey
        for row in range(len(source)):
            try:
                pixels = source[row]
            except ImageError as error:
                survey._add_failure(error)
            else:
                survey._add(pixels, [row])
                if identify and pixels.dtype == np.uint8:
                    survey.digests[row] = digest_of(pixels)
        return survey

    def _add_block(self, block: np.ndarray, first: int) -> None:
        if not block.size:
            raise ImageError(f"The images have no pixels: their shape is {block.shape[1:]}; expected at least 1 x 1.")
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
        if pixels.dtype == np.uint8:
            self.highest_of_8_bits = max(self.highest_of_8_bits, int(pixels.max()))
        else:
            images = pixels.reshape(len(rows), -1)
            highest = images.max(axis=1)
            self.low, self.high = min(self.low, float(images.min())), max(self.high, float(highest.max()))
            for position in np.flatnonzero((highest > 0) & (highest <= 255)):
                if highest[position] <= ALMOST_BLACK and (images[position] % 1).any():
                    self.fractions.append(rows[position])
                else:
                    self.small.append(rows[position])

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

    def warn(self, height: int, width: int, resize: str | None) -> None:
        """Warn if training images are left out, have a doubtful range, or are resized to (height, width) unasked.

        Parameters
        ----------
        height, width : int
            Size to which images are resized, in pixels.
        resize : str or None
            How they are resized. None: the size is declared, so no warning of resizing is needed.
        """
        if self.n_failed:
            warn_caller(
                f"{self.n_failed} of {len(self.source)} images cannot be read and are left out: "
                f"{self._named_failures()}",
                ImagesSkippedWarning,
            )
        self._warn_of_range()
        self.warn_of_dark(self.pixel_range()[1])
        if len(self.sizes) > 1 and resize is not None:
            sizes = [f"{height} x {width}" for height, width in sorted(self.sizes, key=lambda size: size[0] * size[1])]
            warn_caller(
                f"The images have {len(sizes)} sizes, from {sizes[0]} to {sizes[-1]} pixels (height x width). They are "
                f"resized to {height} x {width} by resize={resize!r}; set image_shape=(height, width) and resize to "
                "choose.",
                ImagesResizedWarning,
            )

    def _warn_of_range(self) -> None:
        if self.eight_bits:
            self.warn_of_8_bits(ALMOST_BLACK)
        elif is_doubtful(self.low, self.high) and np.dtype(np.uint8) not in self.dtypes:
            black, white = self.pixel_range()
            warn_caller(
                f"The images have numbers between {self.low:g} and {self.high:g}, which are read with {black:g} as "
                f"black and {white:g} as white. If you mean another range, pass numbers between 0 (black) and 1 "
                "(white), or uint8.",
                ImagesAssumedWarning,
            )

    def warn_of_8_bits(self, most: float) -> None:
        """Warn if 8-bit images have numbers above 0, but none above `most`."""
        if 0 < self.highest_of_8_bits <= most:
            warn_caller(
                f"The images are uint8, with no number above {self.highest_of_8_bits}. They are almost black, since "
                "255 is white. If you mean another range, divide by its white: X / white.",
                ImagesAssumedWarning,
            )

    def warn_of_dark(self, white: float) -> None:
        """Warn if some images have much smaller numbers than others, and would be read as almost black."""
        for rows, most, whites in ((self.fractions, ALMOST_BLACK, (255.0, 65_535.0)), (self.small, 255, (65_535.0,))):
            height, width = next(iter(self.sizes))
            if rows and white in whites and height * width >= PICTURE:
                others = f" and {len(rows) - 1} others have" if len(rows) > 1 else " has"
                warn_caller(
                    f"Image {rows[0]}{others} no number above {most:g}, among images in which {white:g} is white: "
                    "almost black. If another range is meant, scale those like the others.",
                    ImagesAssumedWarning,
                )

    @property
    def eight_bits(self) -> bool:
        """Whether all images have 8 bits."""
        return self.dtypes == {np.dtype(np.uint8)}

    def pixel_range(self) -> tuple[float, float]:
        """Find the values of black and white, of all images together."""
        if self.eight_bits:
            return 0.0, 255.0
        if self.dtypes == {np.dtype(np.int8)} and self.low < 0:
            return -128.0, 127.0
        if not np.isfinite(self.high - self.low):
            raise ImageError(
                f"The images have numbers between {self.low:g} and {self.high:g}, which are too far apart; "
                "expected a finite range. Scale the images."
            )
        found = range_of(self.low, self.high)
        if np.dtype(np.uint8) in self.dtypes and found not in FULL:
            raise ImageError(
                f"Some images have 8 bits, and others have numbers between {self.low:g} and {self.high:g}; expected "
                "one range. Scale the others to 0 to 255."
            )
        return found


def digest_of(pixels: np.ndarray) -> str:
    """Return a digest of the size and the pixels of an image (height, width, 1) or (height, width, 3), uint8."""
    colour = np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    return hashlib.blake2b(repr(colour.shape).encode() + colour.tobytes(), digest_size=12).hexdigest()
