"""Histograms and pairs of gradient orientations: image features that need no weights, download or training.

Features are computed in single precision, and the features of an image depend neither on the other images of a batch
nor on the number of threads, to the bit. A pixel's numbers are made of those around it by additions, subtractions,
multiplications and divisions in an order that nothing changes. Before they are summed over cells, they are rounded to
multiples of 2^-12, so the sums over cells are exact, in whatever order a library adds; so are those of pairs.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from ..persistence.arrays import Array
from ..persistence.format import expect
from .base import Encoder
from .orientation_pairs import N_ORIENTATIONS, N_PAIRS, orientation_pairs

__all__ = ["GradientEncoder"]

_SIDE = 64  # px: larger images are shrunk until their shorter side has this length
_WINDOWS = (17, 9)  # px, in an image and in one of half its size: squares over which magnitudes are averaged
_SLOPE = 128  # response of the gradient filter where brightness rises by 1 per pixel
_SMOOTH = 16  # response of the filter that makes images smaller where brightness is 1
_FAINT = 0.02  # is added to the average magnitude, so that noise on an even background stays small
_EMPTY = 1e-6  # is added to a histogram before its square root, whose slope at 0 would amplify rounding errors
_COARSE, _FINE, _COLOUR = (1, 2), (4, 7), (1, 2, 4)  # sides of the grids
_ROUNDING = 3 * 2.0**10  # single precision has multiples of 2^-12 there
_AT_ONCE = 2**16  # pixels of images whose maps fit into a processor's cache
_CHANNELS_AT_ONCE = 2**19  # numbers in the channels of images in full size that do
_MIN_SPREAD = 0.01  # smallest divisor of a feature
_MIN_SHARE = 0.1  # smallest divisor, as a share of the root mean square spread in the feature's part


class GradientEncoder(Encoder, name="gradients"):
    """Histograms and pairs of gradient orientations, and mean colours: image features that need no training.

    There are three blocks of features, in this order:

    - histograms of gradient orientations over coarse grids, of 1 x 1 and 2 x 2 cells, and over fine ones, of 4 x 4 and
      7 x 7 cells: what is where,
    - the mean of each channel over grids of 1 x 1, 2 x 2 and 4 x 4 cells,
    - how often two orientations occur at certain offsets from each other: what there is, wherever it is.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features_out_,)
        Mean of each feature over the training images.
    scale_ : ndarray of shape (n_features_out_,)
        Standard deviation of each feature over the training images, and at least a tenth of the typical one in its
        part, of which the first block has two.
    n_features_out_ : int
        Number of features.

    Notes
    -----
    The mean of the channels is shrunk until its shorter side has at most 64 px. Gradients are those of a 5 x 5 Sobel
    filter, in this size and in half of it. A gradient is the sum of two vectors in the two nearest of eight
    orientations; their lengths are its shares, and add up to its magnitude. Shares are divided by the mean magnitude
    around them, so features depend little on contrast, and not at all on brightness. Pairs are 2, 4 and 8 px apart in
    the first size and twice as far in the second, see `orientation_pairs`. The means over cells and the shares of pairs
    are square-rooted. Finally each feature is standardised and divided by the square root of its part's size, so a part
    of a training image has a norm near 1.
    """

    saved_attributes = {"mean_": Array(("n_features",)), "scale_": Array(("n_features",), low=1e-3)}

    def _finish_loading(self) -> None:
        super()._finish_loading()
        n_features = sum(self.block_sizes_)
        expect(self.n_features_out_ == n_features, f"n_features_out_ is {self.n_features_out_}; expected {n_features}")
        expect(len(self.mean_) == n_features, f"mean_ has {len(self.mean_)} numbers; expected {n_features}")

    @property
    def block_sizes_(self) -> tuple[int, ...]:
        """Number of features in each block: histograms, colours, pairs."""
        coarse, fine, colours, pairs = self._part_sizes
        return coarse + fine, colours, pairs

    @property
    def _part_sizes(self) -> tuple[int, ...]:
        """Number of features in each part: histograms over coarse and over fine grids, colours, pairs."""
        per_cell = len(_WINDOWS) * N_ORIENTATIONS
        cells = per_cell * _n_cells(_COARSE), per_cell * _n_cells(_FINE), 3 * _n_cells(_COLOUR)
        return *cells, len(_WINDOWS) * N_PAIRS

    def fit_pixels(self, pixels: torch.Tensor) -> GradientEncoder:
        self.fit_features(pixels)
        return self

    def fit_features(self, pixels: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            descriptors = _descriptors(pixels)
        features = descriptors.numpy()
        self.mean_ = features.mean(axis=0)
        parts = np.split(features.std(axis=0), np.cumsum(self._part_sizes)[:-1])
        floors = [max(_MIN_SPREAD, _MIN_SHARE * math.sqrt(np.square(spread).mean())) for spread in parts]
        self.scale_ = np.concatenate([np.maximum(spread, floor) for spread, floor in zip(parts, floors)])
        self.n_features_out_ = len(self.mean_)
        standardized: np.ndarray = self._standardized(descriptors).numpy()
        return standardized

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._standardized(_descriptors(pixels)).to(pixels.dtype)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self._standardized(_descriptors(pixels))

    def _standardized(self, features: torch.Tensor) -> torch.Tensor:
        sizes = np.repeat(self._part_sizes, self._part_sizes)
        mean, scale = torch.as_tensor(self.mean_), torch.as_tensor(self.scale_ * np.sqrt(sizes))
        return (features - mean) / scale  # (B14)


def _n_cells(grids: tuple[int, ...]) -> int:
    return sum(side**2 for side in grids)


def _descriptors(pixels: torch.Tensor) -> torch.Tensor:
    """Compute features before they are standardised: (n, n_features), float64."""
    parts = _equal_parts(pixels, _CHANNELS_AT_ONCE)
    greys, colours = zip(*(_grey_and_colours(part.float()) for part in parts))
    found = [_histograms_and_pairs(grey) for grey in _equal_parts(torch.cat(greys), _AT_ONCE)]
    histograms, pairs = map(torch.cat, zip(*found))
    return torch.cat([histograms, torch.cat(colours), pairs], dim=1)


def _equal_parts(images: torch.Tensor, most: int) -> tuple[torch.Tensor, ...]:
    """Split images into parts of about the same size: of some `most` numbers or fewer, or of one image."""
    return images.chunk(max(1, -(-images.numel() // most)))


def _grey_and_colours(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the sum of the channels (n, height, width), at most 64 px, and mean colours (n, n_features), float64."""
    red, green, blue = pixels.unbind(1)
    grey = red + green + blue
    height, width = grey.shape[1:]
    ratio = _SIDE / min(height, width)
    if ratio < 1:
        size = round(height * ratio), round(width * ratio)
        grey = F.interpolate(grey[:, None], size=size, mode="bilinear", antialias=True)[:, 0]
    # By grid, then by channel.
    colours = [means.flatten(1) for means in _pooled(_rounded(pixels), _COLOUR)]
    return grey, torch.cat(colours, dim=1)


def _histograms_and_pairs(grey: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute square roots of orientation histograms, and of pairs of orientations, float64.

    Parameters
    ----------
    grey : tensor of shape (n, height, width)
        Sum of the channels.

    Returns
    -------
    histograms : tensor of shape (n, n_features)
        Over coarse, then over fine grids; by scale, orientation and cell. The first orientation points to the right,
        the next ones clockwise.
    pairs : tensor of shape (n, n_pairs)
        By scale.
    """
    faint = 3 * _SLOPE * _FAINT
    lengths = torch.tensor([1, math.sqrt(2)] * (N_ORIENTATIONS // 2), dtype=torch.float64)[:, None]
    scales, pairs = [], []
    for window in _WINDOWS:
        to_right, down, smaller = _gradients(grey)
        shares = _shares(*_relative(to_right, down, window, faint))
        means = torch.cat([means.flatten(2) for means in _pooled(shares, _COARSE + _FINE)], dim=2)
        scales.append((means * lengths + _EMPTY).sqrt())
        pairs.append((orientation_pairs(_halved(shares), lengths) + _EMPTY).sqrt())
        # In a smaller image, brightness rises twice as much per pixel.
        grey, faint = smaller, 2 * _SMOOTH * faint
    # (n, scales, orientations, cells)
    parts = torch.stack(scales, dim=1).split([_n_cells(_COARSE), _n_cells(_FINE)], dim=3)
    return torch.cat([part.flatten(1) for part in parts], dim=1), torch.cat(pairs, dim=1)


def _halved(maps: torch.Tensor) -> torch.Tensor:
    """Shrink maps (n, c, height, width) of multiples of 2^-12 to means of 2 x 2 pixels, multiples of 2^-14, float64."""
    return F.avg_pool2d(maps.double(), 2, ceil_mode=True)


def _gradients(grey: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Filter images (n, height, width): gradients to the right and down, and images of half the size.

    Beyond the border, the nearest pixel counts. Filters are sums and differences of neighbours, and are not divided by
    `_SLOPE` and `_SMOOTH`.
    """
    smooth = _smoothed(_smoothed(_padded(grey, 2), 1), 2)
    along_columns, along_rows = _smoothed(smooth, 1), _smoothed(smooth, 2)
    to_right = along_columns[:, :, 2:] - along_columns[:, :, :-2]
    down = along_rows[:, 2:] - along_rows[:, :-2]
    return to_right, down, smooth[:, 1:-1:2, 1:-1:2]


def _relative(
    to_right: torch.Tensor, down: torch.Tensor, window: int, faint: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Divide gradients (n, height, width) by the mean magnitude in a window around them, and round them."""
    across, along = to_right.abs(), down.abs()
    # The sum of the shares.
    magnitude = torch.maximum(across, along) + torch.minimum(across, along) * (math.sqrt(2) - 1)
    sums = _window_sums(_window_sums(_padded(magnitude, window // 2), 1, window), 2, window)
    factor = window**2 / (sums + window**2 * faint)  # (B14)
    return _rounded(to_right * factor), _rounded(down * factor)


def _shares(to_right: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Split gradients (n, height, width) into multiples of (1, 0), (1, 1), (0, 1), (-1, 1), ...: (n, 8, height, width).

    At most two are not 0, those of the vectors to either side of the gradient.
    """
    right, below = to_right.clamp(min=0), down.clamp(min=0)
    left, above = right - to_right, below - down
    across, along = right + left, below + above
    shares = [
        (right - along).clamp_(min=0),
        torch.minimum(right, below),
        (below - across).clamp_(min=0),
        torch.minimum(left, below),
        (left - along).clamp_(min=0),
        torch.minimum(left, above),
        (above - across).clamp_(min=0),
        torch.minimum(right, above),
    ]
    return torch.stack(shares, dim=1)


def _padded(images: torch.Tensor, reach: int) -> torch.Tensor:
    """Repeat the border of images (n, height, width)."""
    return F.pad(images[:, None], (reach,) * 4, mode="replicate")[:, 0]


def _smoothed(images: torch.Tensor, dim: int) -> torch.Tensor:
    """Filter with (1, 2, 1) along a dimension, which gets shorter by 2."""
    for _ in range(2):
        n = images.shape[dim] - 1
        images = images.narrow(dim, 0, n) + images.narrow(dim, 1, n)
    return images


def _window_sums(images: torch.Tensor, dim: int, window: int) -> torch.Tensor:
    """Sum `window` neighbours along a dimension; the window is a power of two, and one more."""
    sums, reach = images, 1
    while reach < window - 1:
        n = sums.shape[dim] - reach
        sums = sums.narrow(dim, 0, n) + sums.narrow(dim, reach, n)
        reach *= 2
    n = images.shape[dim] - window + 1
    return sums.narrow(dim, 0, n) + images.narrow(dim, window - 1, n)


def _rounded(numbers: torch.Tensor) -> torch.Tensor:
    """Round numbers between -1,000 and 1,000 to multiples of 2^-12; gradients pass as if it changed nothing."""
    return (numbers + _ROUNDING).sub_(_ROUNDING)


def _pooled(maps: torch.Tensor, grids: tuple[int, ...]) -> list[torch.Tensor]:
    """Compute means over the cells of grids; cells share pixels if there are fewer pixels than cells.

    Parameters
    ----------
    maps : tensor of shape (n, c, height, width), float32
        Multiples of 2^-12. Their sums over columns are exact below 4,096.
    grids : tuple of int
        Sides of the grids.

    Returns
    -------
    means : list of tensor of shape (n, c, side, side), float64
        One for each grid.
    """
    height, width = maps.shape[2:]
    # Sums over all pairs of a cell of rows and one of columns, (n, c, cells, cells): few of them are needed.
    sums = (_cells(height, grids, torch.float32) @ maps).double() @ _cells(width, grids, torch.float64).T
    means, end = [], 0
    for side in grids:
        cells = slice(end, end + side)
        means.append(sums[:, :, cells, cells] / _n_pixels(height, width, side))
        end += side
    return means


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # gradients pass through the matrix later, even if it was first needed without a graph
def _cells(side: int, grids: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return the matrix (cells, side), of 0 and 1, that sums the pixels of a line in each cell of all grids."""
    pixel = torch.arange(side)
    cells = [(pixel >= cell * side // n) & (pixel < -(-(cell + 1) * side // n)) for n in grids for cell in range(n)]
    return torch.stack(cells).to(dtype)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _n_pixels(height: int, width: int, side: int) -> torch.Tensor:
    """Count the pixels in each cell of a grid: (side, side), float64."""
    along, across = (_cells(length, (side,), torch.float64).sum(dim=1) for length in (height, width))
    return torch.outer(along, across)
