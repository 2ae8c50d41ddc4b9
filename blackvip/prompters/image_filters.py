"""Well-known filters of images, uint8 of shape (n, height, width, 3).

What a filter makes of an image depends neither on the other images nor on the machine's rounding: means are quotients
of integers, and weights come from tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageOps
from scipy import ndimage

__all__ = [
    "Correct",
    "adaptive",
    "autocontrast",
    "bilateral",
    "black_top_hat",
    "blur",
    "clahe",
    "each",
    "equalized",
    "flat_field",
    "flattened",
    "gamma",
    "grey_world",
    "greyscale",
    "in_turn",
    "largest",
    "less_background",
    "median",
    "median_image",
    "non_local_means",
    "otsu",
    "sharpen",
    "smallest",
    "standardized",
    "white_top_hat",
]

Correct = Callable[[np.ndarray], np.ndarray]

_CUTOFF = 1  # percent of the pixels that autocontrast makes black, and as many that it makes white
_MEAN, _SPREAD = 128, 60  # of a standardized channel
_SHADE = 6  # the longer side of an image, in standard deviations of the blur that finds its illumination
_STROKE = 3  # the shorter side of an image, in widths of the strokes and small objects that top-hats keep
_TILE, _MOST_TILES, _CLIP = 16, 8, 2.0  # px; along a side; times the mean of a tile's histogram
_BELOW = 10  # percent of an image's range of grey by which ink is darker than its surroundings
_BILATERAL = 2, 1.5, 30.0  # px; px; grey levels
_NLM = 3, 20.0  # px; grey levels
_LEVELS = np.arange(256)
_NEGLIGIBLE = 10  # negative logarithm of a weight below which it counts as its table's last one


def _rounded(images: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def each(correct: Callable[[Image.Image], Image.Image]) -> Correct:
    """Make a correction of arrays from a function of Pillow images, applied to one image after the other.

    Parameters
    ----------
    correct : callable
        Takes and returns an RGB image of Pillow.

    Returns
    -------
    corrected : callable
        Takes and returns images of shape (n, height, width, 3), uint8.
    """

    def corrected(images: np.ndarray) -> np.ndarray:
        found = [np.asarray(correct(Image.fromarray(image))) for image in images]
        return np.array(found, dtype=np.uint8).reshape(images.shape)

    return corrected


def in_turn(*corrections: Correct) -> Correct:
    """Make a correction that applies several corrections one after another.

    Parameters
    ----------
    *corrections : callable
        Each takes and returns images of shape (n, height, width, 3), uint8.

    Returns
    -------
    correct : callable
        Takes and returns images of the same form.
    """
    return lambda images: reduce(lambda corrected, correct: correct(corrected), corrections, images)


def grey_of(images: np.ndarray) -> np.ndarray:
    """Compute the luminance (n, height, width), uint8, of ITU-R BT.601, rounded as Pillow rounds it."""
    red, green, blue = np.moveaxis(images, 3, 0).astype(np.uint32)
    return ((19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16).astype(np.uint8)


def greyscale(images: np.ndarray) -> np.ndarray:
    """Replace each channel by the luminance."""
    return in_colour(grey_of(images))


def in_colour(grey: np.ndarray) -> np.ndarray:
    """Convert grey images (n, height, width) to three equal channels (n, height, width, 3)."""
    return np.repeat(grey[..., None], 3, axis=3)


# Contrast and tone


def standardized(images: np.ndarray) -> np.ndarray:
    """Scale channels to a mean of 128 and a standard deviation of 60; contrast grows at most 60-fold."""
    n = images.shape[1] * images.shape[2]
    # (n_images, 1, 1, 3)
    mean = images.sum((1, 2), dtype=np.int64, keepdims=True) / n
    square = np.square(images, dtype=np.uint16).sum((1, 2), dtype=np.int64, keepdims=True) / n
    gain = _SPREAD / np.sqrt((square - mean**2).clip(min=1))
    return _rounded(images * gain.astype(np.float32) + (_MEAN - mean * gain).astype(np.float32))


def autocontrast(images: np.ndarray) -> np.ndarray:
    """Stretch channels between their quantiles like `ImageOps.autocontrast`, whose loops over grey levels are slow."""
    n_images, height, width, _ = images.shape
    cut = height * width * _CUTOFF // 100
    counts = np.array([Image.fromarray(image).histogram() for image in images], dtype=np.int64)
    # One row per channel of an image, (3 * n_images, ...)
    n_below = counts.reshape(-1, 256).cumsum(axis=1)
    low, high = ((n_below < most).sum(axis=1, keepdims=True) for most in (cut + 1, height * width - cut))
    scale = np.where(high > low, 255 / np.maximum(high - low, 1), 1)
    tables = (_LEVELS * scale - np.where(high > low, low * scale, 0)).clip(0, 255).astype(np.uint8)
    corrected = np.empty(images.shape, np.uint8)
    for table, (row, channel) in zip(tables, np.ndindex(n_images, 3)):
        values = images[row, :, :, channel].tobytes().translate(table.tobytes())
        corrected[row, :, :, channel] = np.frombuffer(values, np.uint8).reshape(height, width)
    return corrected


def gamma(exponent: float) -> Correct:
    """Make a correction that raises each pixel, as a share of white, to a power.

    Parameters
    ----------
    exponent : float
        Positive; below 1 it brightens, above 1 it darkens.

    Returns
    -------
    correct : callable
        Takes and returns images of shape (n, height, width, 3), uint8.
    """
    table = _rounded(255 * (np.arange(256) / 255) ** exponent)
    return lambda images: table[images]


def clahe(images: np.ndarray) -> np.ndarray:
    """Equalize the luminance within tiles, with clipped histograms and interpolated mappings.

    References
    ----------
    K. Zuiderveld, "Contrast limited adaptive histogram equalization", Graphics Gems IV, 1994.
    """
    grey = grey_of(images)
    n, height, width = grey.shape
    tiles = [int(np.clip(side // _TILE, 1, _MOST_TILES)) for side in (height, width)]
    sizes = [-(-side // count) for side, count in zip((height, width), tiles)]
    beyond = [(0, count * size - side) for side, count, size in zip((height, width), tiles, sizes)]
    padded = np.pad(grey, [(0, 0), *beyond], mode="reflect")

    # histograms of the tiles (n, tile rows, tile columns, 256)
    which = np.arange(n * tiles[0] * tiles[1]).reshape(n, tiles[0], 1, tiles[1], 1) * 256
    pixels = padded.reshape(n, tiles[0], sizes[0], tiles[1], sizes[1]) + which
    area = sizes[0] * sizes[1]
    histograms = np.bincount(pixels.ravel(), minlength=which.size * 256).reshape(n, *tiles, 256)
    clipped = np.minimum(histograms, max(1, int(_CLIP * area / 256)))
    spread = (area - clipped.sum(3, keepdims=True)) * np.arange(1, 257) / 256
    mappings = ((clipped.cumsum(3) + spread) * (255 / area)).astype(np.float32).ravel()

    # each pixel lies between the centres of four tiles
    (above, below, down), (left, right, across) = (
        _between(side, count, size) for side, count, size in zip((height, width), tiles, sizes)
    )
    place = grey + which[:, 0, :, 0]
    found = np.zeros(grey.shape, np.float32)
    for rows, by_row in ((above, 1 - down), (below, down)):
        for columns, by_column in ((left, 1 - across), (right, across)):
            offset = (rows[:, None] * tiles[1] + columns) * 256
            found += by_row[:, None] * by_column * mappings[place + offset]
    change = np.rint(found).astype(np.int16) - grey
    return np.clip(images + change[..., None], 0, 255).astype(np.uint8)


def _between(side: int, count: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the tiles before and after each pixel of a line, and the pixel's place between their centres, 0 to 1."""
    position = (np.arange(side) + 0.5) / size - 0.5
    before = np.floor(position).astype(int)
    share = (position - before).astype(np.float32)
    return before.clip(0), (before + 1).clip(max=count - 1), share


# Light and colour


def grey_world(images: np.ndarray) -> np.ndarray:
    """Scale the channels to a common mean.

    References
    ----------
    G. Buchsbaum, "A spatial processor model for object colour perception", J. Franklin Institute 310, 1980.
    """
    total = images.sum((1, 2), dtype=np.int64, keepdims=True)
    gain = total.mean(3, keepdims=True) / total.clip(min=1)
    return _rounded(images * gain.astype(np.float32))


def _illumination(images: np.ndarray) -> np.ndarray:
    return each(lambda image: image.filter(ImageFilter.GaussianBlur(max(image.size) / _SHADE)))(images)


def flattened(images: np.ndarray) -> np.ndarray:
    """Subtract the illumination, and add a middle grey."""
    return np.clip(images.astype(np.int16) - _illumination(images) + 128, 0, 255).astype(np.uint8)


def flat_field(images: np.ndarray) -> np.ndarray:
    """Divide by the illumination, and keep its mean."""
    light = _illumination(images)
    mean = light.mean((1, 2), dtype=np.float64, keepdims=True).astype(np.float32)
    return _rounded(images * (mean / light.clip(min=1)))


def _window(images: np.ndarray) -> tuple[int, int, int, int]:
    """Return the size of a square window, odd in pixels, that is wider than strokes."""
    side = min(images.shape[1:3]) // _STROKE // 2 * 2 + 1
    return 1, side, side, 1


def white_top_hat(images: np.ndarray) -> np.ndarray:
    """Keep what is lighter than its surroundings, on black: the image minus its morphological opening."""
    return images - ndimage.grey_opening(images, size=_window(images))


def black_top_hat(images: np.ndarray) -> np.ndarray:
    """Keep what is darker than its surroundings, on white: the inverse of the closing minus the image."""
    return 255 - (ndimage.grey_closing(images, size=_window(images)) - images)


# Neighbourhoods of 3 x 3 pixels


def _three(images: np.ndarray, axis: int) -> list[np.ndarray]:
    """Return the images moved by -1, 0 and 1 pixels along an axis; the border is repeated."""
    padded = np.pad(images, [(int(other == axis),) * 2 for other in range(4)], mode="edge")
    n = images.shape[axis]
    return [padded[:, first : first + n] if axis == 1 else padded[:, :, first : first + n] for first in range(3)]


def _extreme(choose: np.ufunc) -> Correct:
    return lambda images: reduce(choose, _three(reduce(choose, _three(images, 1)), 2))


smallest, largest = _extreme(np.minimum), _extreme(np.maximum)


def _middle(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    return np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))


def median(images: np.ndarray) -> np.ndarray:
    """Replace each pixel by the median of its 3 x 3 neighbourhood.

    The columns of three pixels are sorted first. The result is the median of the largest minimum, the median of the
    medians, and the smallest maximum, which takes some twenty comparisons of whole images.

    References
    ----------
    N. Devillard, "Fast median search", 1998.
    """
    column = _three(images, 1)
    lows, highs = _three(reduce(np.minimum, column), 2), _three(reduce(np.maximum, column), 2)
    return _middle(reduce(np.maximum, lows), _middle(*_three(_middle(*column), 2)), reduce(np.minimum, highs))


# Denoising by weighted means


def _weighted_mean(images: np.ndarray, radius: int, weigh: Callable[[np.ndarray, int, int], np.ndarray]) -> np.ndarray:
    """Compute a weighted mean of the pixels within `radius` rows and columns; pixels beyond the border do not count.

    Parameters
    ----------
    images : ndarray of shape (n, height, width, 3), uint8
        The images.
    radius : int
        Largest distance of a pixel that counts, in rows and in columns.
    weigh : callable
        Takes squared differences of shape (n, h, w), summed over the channels, and the distance of the compared pixels
        in rows and in columns. It returns the weights, of shape (n, h, w). A pixel's own weight is 1.

    Returns
    -------
    filtered : ndarray of shape (n, height, width, 3), uint8
        The weighted means.
    """
    # (3, n, height, width)
    planes = np.ascontiguousarray(images.transpose(3, 0, 1, 2), dtype=np.int32)
    total, weights = planes.astype(np.float32), np.ones(planes.shape[1:], np.float32)
    values = total.copy()
    for here, there, down, across in _pairs(planes.shape[2:], radius):
        of_weights = weigh(np.square(planes[here] - planes[there]).sum(0, dtype=np.int32), down, across)
        # What one pixel is to the other, the other is to the first.
        for at, other in ((here, there), (there, here)):
            total[at] += of_weights * values[other]
            weights[at] += of_weights
    return _rounded((total / weights).transpose(1, 2, 3, 0))


def _pairs(size: tuple[int, ...], radius: int) -> Iterator[tuple[Any, Any, int, int]]:
    """Yield parts of an image and the parts some rows and columns away, with the distance; half of all directions."""
    height, width = size
    for down in range(min(radius, height - 1) + 1):
        for across in range(-min(radius, width - 1), min(radius, width - 1) + 1):
            if (down, across) > (0, 0):
                columns = slice(max(0, -across), width - max(0, across))
                moved = slice(max(0, across), width - max(0, -across))
                yield (..., slice(height - down), columns), (..., slice(down, None), moved), down, across


def _decay(scale: float, step: int = 1) -> np.ndarray:
    """Tabulate exp(-d / scale) for d = 0, step, 2 step and so on."""
    return np.exp(-np.arange(0, _NEGLIGIBLE * scale, step) / scale).astype(np.float32)


def bilateral() -> Correct:
    """Make a filter that averages near pixels of similar colour.

    References
    ----------
    C. Tomasi and R. Manduchi, "Bilateral filtering for gray and color images", ICCV 1998.
    """
    radius, near, similar = _BILATERAL
    table = _decay(2 * similar**2)

    def weigh(squares: np.ndarray, down: int, across: int) -> np.ndarray:
        return np.float32(np.exp(-(down**2 + across**2) / (2 * near**2))) * table[squares.clip(max=len(table) - 1)]

    return lambda images: _weighted_mean(images, radius, weigh)


def non_local_means() -> Correct:
    """Make a filter that averages pixels whose 3 x 3 neighbourhoods are similar.

    References
    ----------
    A. Buades, B. Coll and J.-M. Morel, "A non-local algorithm for image denoising", CVPR 2005.
    """
    radius, similar = _NLM
    step = 8
    table = _decay(27 * similar**2, step)  # of the sum over nine pixels and three channels

    def weigh(squares: np.ndarray, down: int, across: int) -> np.ndarray:
        patches = squares[..., None]
        for axis in (1, 2):
            patches = reduce(np.add, _three(patches, axis))
        return table[(patches[..., 0] // step).clip(max=len(table) - 1)]

    return lambda images: _weighted_mean(images, radius, weigh)


# Black and white


def otsu(images: np.ndarray) -> np.ndarray:
    """Make pixels white above the threshold that maximises the variance between both sides, and black below.

    References
    ----------
    N. Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 9, 1979.
    """
    grey = grey_of(images)
    n = len(grey)
    pixels = grey.reshape(n, -1) + 256 * np.arange(n)[:, None]
    histograms = np.bincount(pixels.ravel(), minlength=256 * n).reshape(n, 256)
    below, first = histograms.cumsum(1), (histograms * np.arange(256)).cumsum(1)
    product = below * (below[:, -1:] - below)
    between = np.square((first[:, -1:] * below - first * below[:, -1:]).astype(np.float64)) / product.clip(min=1)
    threshold = between.argmax(1)[:, None, None]
    return in_colour(np.where(grey > threshold, np.uint8(255), np.uint8(0)))


def adaptive(images: np.ndarray) -> np.ndarray:
    """Make pixels black if they are darker than their surroundings by a tenth of the image's range of grey."""
    grey = grey_of(images)
    darker = _illumination(grey).astype(np.int32) - grey
    reach = np.ptp(grey.astype(np.int32), axis=(1, 2), keepdims=True)
    return in_colour(np.where(100 * darker > _BELOW * reach, np.uint8(0), np.uint8(255)))


# Background


def median_image(images: np.ndarray) -> np.ndarray:
    """Compute the median of images (n, height, width, 3): one image (height, width, 3).

    It goes line by line, since NumPy copies its input.
    """
    return np.stack([np.median(images[:, line], axis=0) for line in range(images.shape[1])]).astype(np.float32)


def less_background(images: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Make a background even: subtract it, and add its own median colour.

    Parameters
    ----------
    images : ndarray of shape (n, height, width, 3), uint8
        The images.
    background : ndarray of shape (height, width, 3)
        The background, with values from 0 to 255.

    Returns
    -------
    images : ndarray of shape (n, height, width, 3), uint8
        The images on an even background.
    """
    return _rounded(images + (np.median(background, axis=(0, 1)) - background))


# Filters of Pillow

equalized = each(ImageOps.equalize)
blur = each(lambda image: image.filter(ImageFilter.GaussianBlur(1)))
sharpen = each(lambda image: image.filter(ImageFilter.UnsharpMask(3, 150)))
