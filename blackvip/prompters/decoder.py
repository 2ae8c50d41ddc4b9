"""The Coordinator's decoder, for many parameter vectors at once.

Each layer of BlackVIP's decoder is a transposed convolution with kernel and stride 2, a 1x1 convolution, or a function
of single values. No layer mixes neighbouring positions, so a stage is one matrix product C_in -> 4 C_out for each
position, and p perturbed decoders are one batched product. Positions stay in the order in which they are split, with
the four children of a position side by side, until two stages are left.

On a CPU, memory costs more time than arithmetic. BatchNorm needs the mean and variance of a stage's output. They follow
from the mean and covariance of its input, which has four times fewer numbers, so BatchNorm becomes part of the product.
The last two stages make most of the numbers. They work on blocks of images, and their output is never held as a whole.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ..encoders.cells import CELLS, MAX_STAGES, split_moments

__all__ = ["Decoder"]

_WIDTHS = (64, 32, 32, 16)  # channels after the paper's first four stages; after the fifth there are 3
_EPS = 1e-5  # BatchNorm adds it to the variance
_HELD_BYTES = 8 * 2**20  # activations between stages that are held at once; it limits the candidates at a time
_BLOCK_BYTES = 2 * 2**20  # activations that are worked on together: they fit into the cache of a core


class Layer(NamedTuple):
    """Name and shape of a parameter tensor, and the bound of its uniform start (None: a constant start)."""

    name: str
    shape: tuple[int, ...]
    bound: float | None
    constant: float = 0.0


Moments = Sequence[tuple[torch.Tensor, torch.Tensor]]  # mean and variance of each stage


class Product(NamedTuple):
    """Matrix and offset of a stage: from the c channels of a position to those of its four children."""

    matrix: torch.Tensor  # (p, c, 4 c')
    offset: torch.Tensor  # (p, 1, 4 c')


class Decoder:
    """Decoder from 7 x 7 cells of features to square prompts.

    Parameters
    ----------
    n_channels : int
        Channels of the 7 x 7 input cells (BlackVIP's src_dim / 49).
    n_stages : int
        Number of doublings, 1 to 5; prompts are 7·2^n_stages pixels wide. The paper's decoder has five stages with 64,
        32, 32, 16 and 3 channels. A smaller one has the last `n_stages` of them, at half their width: smaller pictures
        need fewer parameters, and SPSA needs fewer billed images for fewer parameters.
    max_groups : int, default=64
        The first stage's transposed convolution has min(max_groups, n_channels) groups (BlackVIP: 64, and
        32 for the ResNet).

    Attributes
    ----------
    n_parameters : int
        Length of a parameter vector. 9,120 for 32 channels and five stages.
    side : int
        Side of the prompts, in pixels.
    """

    def __init__(self, n_channels: int, n_stages: int = MAX_STAGES, max_groups: int = 64):
        self.n_channels = n_channels
        self.n_stages = n_stages
        self.side = CELLS * 2**n_stages
        halved = 1 if n_stages == MAX_STAGES else 2
        self.widths = (*(width // halved for width in _WIDTHS[MAX_STAGES - n_stages :]), 3)
        self.layers: list[Layer] = []
        n_in = n_channels
        for stage, n_out in enumerate(self.widths[:-1]):
            # The first transposed convolution widens to n_out channels; later ones are depthwise.
            n_mid = n_out if stage == 0 else n_in
            groups = math.gcd(min(max_groups, n_in), n_in, n_mid) if stage == 0 else n_in
            fan = n_mid // groups * 4
            self.layers += [
                Layer(f"{stage}.deconv", (groups, n_in // groups, n_mid // groups, 4), 1 / math.sqrt(fan)),
                Layer(f"{stage}.bias", (n_mid,), 1 / math.sqrt(fan)),
                Layer(f"{stage}.mix", (n_mid, n_out), 1 / math.sqrt(n_mid)),
                Layer(f"{stage}.gain", (n_out,), None, 1.0),
                Layer(f"{stage}.shift", (n_out,), None, 0.0),
            ]
            n_in = n_out
        self.layers.append(Layer("last", (n_in, self.widths[-1], 4), 1 / math.sqrt(self.widths[-1] * 4)))
        self.sizes = [math.prod(layer.shape) for layer in self.layers]
        self.n_parameters = sum(self.sizes)

    def initial_parameters(self, rng: np.random.Generator, last_layer: str = "zero") -> np.ndarray:
        """Draw initial parameters as torch.nn does (He et al. 2015).

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of random numbers.
        last_layer : {"zero", "random"}, default="zero"
            "zero": the first prompt is zero, so training starts from the zero-shot service. "random": the paper's
            start, whose first prompt is noise.

        Returns
        -------
        parameters : ndarray of shape (n_parameters,)
            The parameters, float64.
        """
        parts = []
        for layer, size in zip(self.layers, self.sizes):
            if layer.bound is None:
                parts.append(np.full(size, layer.constant))
            else:
                parts.append(rng.uniform(-layer.bound, layer.bound, size))
        if last_layer == "zero":
            parts[-1] = np.zeros(self.sizes[-1])
        return np.concatenate(parts)

    def __call__(
        self, parameters: torch.Tensor, cells: torch.Tensor, statistics: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Draw the prompts of each parameter vector for each image.

        Parameters
        ----------
        parameters : tensor of shape (p, n_parameters)
            The parameter vectors.
        cells : tensor of shape (p, n, n_channels, 49)
            Features of the images, in cells.
        statistics : tensor of shape (n_statistics,) or None, default=None
            Means and variances of BatchNorm, stage after stage. None: each candidate uses those of its own batch.

        Returns
        -------
        prompts : tensor of shape (p, n, 3, side, side)
            Prompts in units of the pixel range, not bounded.
        """
        p, n = cells.shape[:2]
        pictures = cells.new_empty(p, n, 3, self.side, self.side)
        held = n * (CELLS * 2**self._n_held) ** 2 * (self.n_channels, *self.widths)[self._n_held]
        n_at_once = max(1, _HELD_BYTES // max(1, held * cells.element_size()))
        for first in range(0, p, n_at_once):
            some = slice(first, first + n_at_once)
            self._draw(pictures[some], parameters[some], cells[some], statistics)
        return pictures

    @property
    def n_statistics(self) -> int:
        """Length of the vector of batch statistics."""
        return 2 * sum(self.widths[:-1])

    def batch_statistics(self, parameters: torch.Tensor, batches: Callable[[], Iterable[torch.Tensor]]) -> torch.Tensor:
        """Compute BatchNorm's statistics over any number of images, stage after stage, in bounded memory.

        Parameters
        ----------
        parameters : tensor of shape (n_parameters,)
            The parameter vector.
        batches : callable
            Returns an iterator over tensors of shape (1, n, n_channels, 49), the cells of all images.

        Returns
        -------
        statistics : tensor of shape (n_statistics,)
            Mean and biased variance over all positions of all images, stage after stage.
        """
        pieces = self._pieces(parameters[None])
        statistics = parameters.new_empty(0)
        for stage in range(self.n_stages - 1):
            known = split_moments(statistics, self.widths[:stage])
            inputs = (self._activations(_nested(cells), pieces, known, stage) for cells in batches())
            mean, variance = _output_moments(*_pooled(inputs), self._matrix(pieces, stage))
            statistics = torch.cat([statistics, mean.flatten(), variance.flatten()]).to(parameters.dtype)
        return statistics

    @property
    def _n_held(self) -> int:
        """Number of stages whose output is held as a whole: all but the last two."""
        return max(0, self.n_stages - 2)

    def _draw(
        self, pictures: torch.Tensor, parameters: torch.Tensor, cells: torch.Tensor, statistics: torch.Tensor | None
    ) -> None:
        """Fill the pictures (p, n, 3, side, side) of a few candidates."""
        pieces = self._pieces(parameters)
        known = None if statistics is None else split_moments(statistics, self.widths[:-1])
        h = self._activations(_nested(cells), pieces, known, self._n_held)
        products = [self._product(h, pieces, known, stage) for stage in range(self._n_held, self.n_stages - 1)]
        last = pieces["last"].permute(0, 1, 3, 2).flatten(2)
        products.append(Product(last, last.new_zeros(len(last), 1, last.shape[2])))
        _draw_in_blocks(pictures.flatten(0, 1), _in_rows(h, cells.shape[1]), products)

    def _activations(
        self, h: torch.Tensor, pieces: dict[str, torch.Tensor], known: Moments | None, n_stages: int
    ) -> torch.Tensor:
        """Compute the output (p, positions, c') of the first `n_stages` stages, each with BatchNorm and GELU."""
        for stage in range(n_stages):
            matrix, offset = self._product(h, pieces, known, stage)
            h = F.gelu(torch.baddbmm(offset, h, matrix)).view(len(h), -1, self.widths[stage])
        return h

    def _product(self, h: torch.Tensor, pieces: dict[str, torch.Tensor], known: Moments | None, stage: int) -> Product:
        """Return the product of a stage with the input `h`, including BatchNorm."""
        matrix, offset = product = self._matrix(pieces, stage)
        if known is None:
            n_rows = max(1, _BLOCK_BYTES // (h[:, :1].numel() * h.element_size()))
            mean, variance = _output_moments(*_pooled(h.split(n_rows, dim=1)), product)
        else:
            mean, variance = known[stage]
        slope = pieces[f"{stage}.gain"][:, None] * torch.rsqrt(variance + _EPS).to(h.dtype)
        shift = pieces[f"{stage}.shift"][:, None] - mean.to(h.dtype) * slope
        slope, shift = slope.repeat(1, 1, 4), shift.repeat(1, 1, 4)
        return Product(matrix * slope, torch.addcmul(shift, offset, slope))

    def _pieces(self, parameters: torch.Tensor) -> dict[str, torch.Tensor]:
        """Split vectors into parameter tensors by name, with the candidates as first axis."""
        parts = parameters.split(self.sizes, dim=1)
        return {layer.name: part.reshape(-1, *layer.shape) for layer, part in zip(self.layers, parts)}

    @staticmethod
    def _matrix(pieces: dict[str, torch.Tensor], stage: int) -> Product:
        """Return the product of the transposed convolution and the 1x1 convolution of a stage."""
        deconv, bias, mix = (pieces[f"{stage}.{name}"] for name in ("deconv", "bias", "mix"))
        p, _, n_out = mix.shape
        grouped = mix.view(p, deconv.shape[1], deconv.shape[3], n_out)
        matrix = torch.einsum("pgimq,pgmo->pgiqo", deconv, grouped).reshape(p, -1, 4 * n_out)
        return Product(matrix, (bias[:, None] @ mix).repeat(1, 1, 4))


def _nested(cells: torch.Tensor) -> torch.Tensor:
    """Reshape cells (p, n, c, 49) to (p, positions, c)."""
    return cells.transpose(2, 3).flatten(1, 2)


def _in_rows(h: torch.Tensor, n: int) -> torch.Tensor:
    """Reorder positions of n images (p, positions, c) from nested order to rows: (p, n, positions, c)."""
    p, n_positions, channels = h.shape
    n_splits = int(math.log2(n_positions // (n * CELLS**2))) // 2
    h = h.view(p, n, CELLS, CELLS, *(2, 2) * n_splits, channels)
    rows, columns = range(4, 4 + 2 * n_splits, 2), range(5, 5 + 2 * n_splits, 2)
    return h.permute(0, 1, 2, *rows, 3, *columns, -1).reshape(p, n, -1, channels)


def _draw_in_blocks(pictures: torch.Tensor, h: torch.Tensor, products: Sequence[Product]) -> None:
    """Run the last stages: fill pictures (p n, 3, side, side), a few at a time, from h (p, n, positions, c)."""
    n, n_positions = h.shape[1:3]
    rows, halves = math.isqrt(n_positions), (2,) * len(products)
    h = h.flatten(0, 1)
    pictures = pictures.view(len(h), 3, rows, *halves, rows, *halves)
    matrices, offsets = ([w.mT[:, None].repeat_interleave(n, dim=0) for w in weights] for weights in zip(*products))
    widest = max(n_positions * 4**index * matrix.shape[2] for index, matrix in enumerate(matrices))
    n_at_once = max(1, _BLOCK_BYTES // (widest * h.element_size()))
    in_rows = (0, -3, -2, *range(1, 2 * len(halves), 2), -1, *range(2, 2 * len(halves) + 1, 2))
    for first in range(0, len(h), n_at_once):
        some = slice(first, first + n_at_once)
        x = h[some].mT[:, None]
        for index, (matrix, offset) in enumerate(zip(matrices, offsets)):
            x = F.gelu(x) if index else x
            x = (matrix[some] @ x).add_(offset[some]).view(len(x), 4 ** (index + 1), -1, n_positions)
        x = x.view(len(x), *halves, *halves, 3, rows, rows).permute(in_rows)
        # This is several times faster than a single copy.
        for columns in itertools.product((0, 1), repeat=len(halves)):
            at: tuple[Any, ...] = (..., *columns)
            pictures[some][at] = x[at]


def _pooled(parts: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute mean (p, 1, c) and covariance (p, c, c) over all rows of all parts (p, rows, c), in double precision."""
    zero = torch.zeros((), dtype=torch.float64)
    count, total, scatter = 0, zero, zero
    for part in parts:
        # Around the centre of a part, single precision is enough.
        centre = part.mean(dim=1, keepdim=True)
        centred = part - centre
        centre = centre.double()
        count += part.shape[1]
        total = total + part.shape[1] * centre
        scatter = scatter + (centred.mT @ centred).double() + part.shape[1] * centre.mT @ centre
    mean = total / count
    return mean, scatter / count - mean.mT @ mean


def _output_moments(
    mean: torch.Tensor, covariance: torch.Tensor, product: Product
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute mean and variance (p, 1, c') of a product's output from mean and covariance of its input."""
    matrix = product.matrix.double()
    of_children = (mean @ matrix + product.offset).unflatten(2, (4, -1))
    spread = (matrix * (covariance @ matrix)).sum(dim=1, keepdim=True).unflatten(2, (4, -1))
    mean = of_children.mean(dim=2)
    return mean, (spread + (of_children - mean[:, :, None]).square()).mean(dim=2).clamp(min=0)
