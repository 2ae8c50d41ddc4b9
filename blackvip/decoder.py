"""The Coordinator's decoder, for many parameter vectors at once.

Every layer of BlackVIP's decoder is a transposed convolution with kernel and stride 2, a 1x1 convolution,
or acts on single values. None of them mixes neighbouring positions, so a stage is one matrix product
C_in -> 4 C_out for each position, and p perturbed decoders are p of them: one batched product. Positions
stay in the order in which they are split (each position's four children side by side) until the last
permutation puts them where they belong in the picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

__all__ = ["CELLS", "MAX_STAGES", "Decoder", "fit_to_image", "n_stages_for", "pooled_moments", "split_moments"]

CELLS = 7  #: The decoder starts from CELLS x CELLS positions.
MAX_STAGES = 5  #: and doubles them this often at most: 7 -> 224 pixels.
_WIDTHS = (64, 32, 32, 16)  # channels behind the paper's first four stages; the last one has 3
_EPS = 1e-5  # BatchNorm's
_CACHE_BYTES = 32 * 2**20  # activations of one chunk of candidates; measured at 224 px in benchmarks/decoder.py


def n_stages_for(height: int, width: int) -> int:
    """Number of doublings for an image: the fewest whose 7·2^s px cover it, at least 1 and at most 5."""
    return min(MAX_STAGES, max(1, math.ceil(math.log2(max(height, width) / CELLS))))


def fit_to_image(pictures: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Cut the centre out of square pictures (..., side, side), enlarged first where the image is larger."""
    side = max(height, width)
    if side > pictures.shape[-1]:
        flat = pictures.reshape(-1, 1, *pictures.shape[-2:])
        flat = F.interpolate(flat, size=(side, side), mode="bilinear")
        pictures = flat.view(*pictures.shape[:-2], side, side)
    top, left = (pictures.shape[-1] - height) // 2, (pictures.shape[-1] - width) // 2
    return pictures[..., top : top + height, left : left + width]


def pooled_moments(parts: Iterable[torch.Tensor]) -> torch.Tensor:
    """Mean and biased variance over all rows of all parts (rows, width), in double precision: (2 * width,)."""
    count, total, square = 0, torch.zeros(()), torch.zeros(())
    for part in parts:
        part = part.double()
        count += len(part)
        total = total + part.sum(0)
        square = square + part.square().sum(0)
    mean = total / count
    return torch.cat([mean, (square / count - mean.square()).clamp(min=0)])


def split_moments(statistics: torch.Tensor, widths: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(mean, variance) of each stage, whose width is given, from the vector in which they stand one after another."""
    parts = statistics.split([width for width in widths for _ in range(2)])
    return list(zip(parts[::2], parts[1::2]))


class Layer(NamedTuple):
    """One of the decoder's parameter tensors, its shape and the bound of its uniform start (None: constant)."""

    name: str
    shape: tuple[int, ...]
    bound: float | None
    constant: float = 0.0


class Decoder:
    """Decoder from 7 x 7 cells of features to square prompts.

    Parameters
    ----------
    n_channels : int
        Channels of the 7 x 7 input cells (BlackVIP's src_dim / 49).
    n_stages : int
        Doublings, 1 to 5: prompts are 7·2^n_stages pixels wide. Five is the paper's decoder, whose stages are
        64, 32, 32, 16 and 3 channels wide. With fewer it is the last `n_stages` of them, at half their width:
        a smaller picture needs fewer parameters, and what SPSA pays for is parameters.
    max_groups : int, default=64
        The first stage's transposed convolution has min(max_groups, n_channels) groups (BlackVIP: 64, and
        32 for the ResNet).

    Attributes
    ----------
    n_parameters : int
        Length of a parameter vector. 9,120 for 32 channels and five stages.
    side : int
        Width and height of the prompts, in pixels.
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
            # The first transposed convolution widens to n_out channels; the later ones are depthwise.
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
        """Parameters as torch.nn starts them (He et al. 2015, as torch.nn does it).

        Parameters
        ----------
        rng : numpy.random.Generator
        last_layer : {"zero", "random"}
            "zero": the first prompt is zero, so that training starts at the zero-shot service. "random":
            the paper's start, whose first prompt is noise.

        Returns
        -------
        parameters : ndarray of shape (n_parameters,)
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
        """Prompts of every parameter vector for every image.

        Parameters
        ----------
        parameters : tensor of shape (p, n_parameters)
        cells : tensor of shape (p, n, n_channels, 49)
        statistics : tensor of shape (n_statistics,) or None
            BatchNorm's mean and variance, stage after stage. None: those of the batch, for each candidate alone.

        Returns
        -------
        prompts : tensor of shape (p, n, 3, side, side), not bounded
        """
        p, n = cells.shape[:2]
        # Many 224-px decoders at once are slower on a CPU than one after another: memory traffic.
        chunk = max(1, _CACHE_BYTES // (n * self._bytes_per_image(cells.element_size())))
        if p > chunk:
            parts = zip(parameters.split(chunk), cells.split(chunk))
            return torch.cat([self(w, part, statistics) for w, part in parts])
        pieces = self._pieces(parameters)
        h = self._normalised_stages(self._nested(cells), pieces, statistics, self.n_stages - 1)
        last = pieces["last"].permute(0, 1, 3, 2).reshape(p, h.shape[-1], -1)
        return self._picture(h @ last, p, n)

    @property
    def n_statistics(self) -> int:
        """Length of the vector of batch statistics."""
        return 2 * sum(self.widths[:-1])

    def batch_statistics(self, parameters: torch.Tensor, batches: Callable[[], Iterable[torch.Tensor]]) -> torch.Tensor:
        """BatchNorm's statistics over any number of images, a stage after the other, in bounded memory.

        Parameters
        ----------
        parameters : tensor of shape (n_parameters,)
        batches : callable returning an iterator of tensors of shape (1, n, n_channels, 49)

        Returns
        -------
        statistics : tensor of shape (n_statistics,)
            Mean and biased variance, which normalises, over all positions of all images, stage after stage.
        """
        pieces = self._pieces(parameters[None])
        statistics = parameters.new_empty(0)
        for stage in range(self.n_stages - 1):
            halfway = (
                self._stage(self._normalised_stages(self._nested(cells), pieces, statistics, stage), pieces, stage)
                for cells in batches()
            )
            statistics = torch.cat([statistics, pooled_moments(h[0] for h in halfway).to(parameters.dtype)])
        return statistics

    def _normalised_stages(
        self, h: torch.Tensor, pieces: dict[str, torch.Tensor], statistics: torch.Tensor | None, n_stages: int
    ) -> torch.Tensor:
        """The first `n_stages` stages, with BatchNorm and GELU after each."""
        given = None if statistics is None else split_moments(statistics, self.widths[:n_stages])
        for stage in range(n_stages):
            h = self._stage(h, pieces, stage)
            mean, variance = self._moments(h) if given is None else given[stage]
            h = self._normalised(h, pieces, stage, mean, variance)
        return h

    def _pieces(self, parameters: torch.Tensor) -> dict[str, torch.Tensor]:
        """The named parameter tensors, each with the candidates first."""
        parts = parameters.split(self.sizes, dim=1)
        return {layer.name: part.reshape(-1, *layer.shape) for layer, part in zip(self.layers, parts)}

    @staticmethod
    def _nested(cells: torch.Tensor) -> torch.Tensor:
        p, n, channels, _ = cells.shape
        return cells.transpose(2, 3).reshape(p, n * CELLS**2, channels)

    def _stage(self, h: torch.Tensor, pieces: dict[str, torch.Tensor], stage: int) -> torch.Tensor:
        """Transposed convolution and 1x1 convolution as one product: (p, positions, c) -> (p, 4 positions, c')."""
        p, n_in = h.shape[0], h.shape[2]
        deconv, bias, mix = (pieces[f"{stage}.{name}"] for name in ("deconv", "bias", "mix"))
        n_out = mix.shape[2]
        grouped = mix.view(p, deconv.shape[1], deconv.shape[3], n_out)
        matrix = torch.einsum("pgimq,pgmo->pgiqo", deconv, grouped).reshape(p, n_in, 4 * n_out)
        offset = (bias[:, None] @ mix).repeat(1, 1, 4)
        return torch.baddbmm(offset, h, matrix).view(p, -1, n_out)

    @staticmethod
    def _moments(h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        variance, mean = torch.var_mean(h, dim=1, keepdim=True, correction=0)
        return mean, variance

    @staticmethod
    def _normalised(
        h: torch.Tensor, pieces: dict[str, torch.Tensor], stage: int, mean: torch.Tensor, variance: torch.Tensor
    ) -> torch.Tensor:
        """BatchNorm and GELU."""
        slope = pieces[f"{stage}.gain"][:, None] * torch.rsqrt(variance + _EPS)
        return F.gelu(torch.addcmul(pieces[f"{stage}.shift"][:, None] - mean * slope, h, slope))

    def _picture(self, h: torch.Tensor, p: int, n: int) -> torch.Tensor:
        """(p, positions in nested order, 4 x 3) -> (p, n, 3, side, side)."""
        s = self.n_stages
        h = h.view(p, n, CELLS, CELLS, *(2, 2) * s, 3)
        rows, columns = range(4, 4 + 2 * s, 2), range(5, 4 + 2 * s, 2)
        h = h.permute(0, 1, 4 + 2 * s, 2, *rows, 3, *columns)
        return h.reshape(p, n, 3, self.side, self.side)

    def _bytes_per_image(self, itemsize: int) -> int:
        # The widest pair of neighbouring activations, of the last two stages.
        positions = (CELLS * 2 ** (self.n_stages - 1)) ** 2
        return positions * (4 * self.widths[-1] + 2 * (self.widths[-2] if self.n_stages > 1 else 0)) * itemsize
