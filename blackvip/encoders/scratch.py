"""A convolutional encoder that is trained together with the decoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F

from ..persistence.fields import integer
from ..persistence.format import expect
from .base import Encoder
from .cells import CELLS, n_stages_for, split_moments

__all__ = ["ScratchEncoder"]


class ScratchEncoder(Encoder, name="scratch"):
    """Convolutional encoder that is trained together with the decoder: the paper's variant without weights.

    Each stage halves the image by a 3x3 convolution, a 2x2 convolution with stride 2, BatchNorm and GELU, until 7 x 7
    cells are left. For 224 px there are five stages (3 -> 32 -> 64 -> 64 -> 128 -> 32 channels). Smaller images have
    fewer stages, and the last one always has 32 channels. Images are resized to 7·2^s pixels first.

    Attributes
    ----------
    n_stages_ : int
        Number of stages s, 1 to 5.
    n_features_out_ : int
        Number of features that the decoder gets for each image, 1,568.

    Notes
    -----
    At 224 px it has several hundred thousand parameters, all of which SPSA perturbs. It serves for comparisons with the
    paper; `PCAEncoder` needs far fewer billed images. Its features are the resized images.
    """

    is_frozen = False
    n_channels_out = 32
    _widths = (32, 64, 64, 128)

    saved_attributes = {"n_stages_": integer(1, 5)}

    def _finish_loading(self) -> None:
        super()._finish_loading()
        n_features = self.n_channels_out * CELLS**2
        expect(self.n_features_out_ == n_features, f"n_features_out_ is {self.n_features_out_}; expected {n_features}")

    def check_image_size(self, height: int, width: int) -> None:
        expect(self.n_stages_ == n_stages_for(height, width), f"{self.n_stages_} stages do not fit the images")

    @property
    def n_parameters(self) -> int:
        """Number of parameters that are trained with the decoder's."""
        return sum(math.prod(shape) for shape, _ in self._shapes())

    @property
    def n_statistics(self) -> int:
        """Length of the vector of batch statistics: mean and variance of each channel after each stage."""
        return 2 * sum(self._out_widths())

    def fit_pixels(self, pixels: torch.Tensor) -> ScratchEncoder:
        self.n_stages_ = n_stages_for(pixels.shape[-2], pixels.shape[-1])
        self.n_features_out_ = self.n_channels_out * CELLS**2
        return self

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        side = CELLS * 2**self.n_stages_
        # Images are many times as large as other encoders' features: single precision is enough for them.
        return F.interpolate(pixels.float(), size=(side, side), mode="bilinear", antialias=True)

    def initial_parameters(self, rng: np.random.Generator) -> np.ndarray:
        """Draw initial parameters as torch.nn does.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of random numbers.

        Returns
        -------
        parameters : ndarray of shape (n_parameters,)
            Weights and biases of the convolutions, gains and shifts of BatchNorm.
        """
        parts = []
        for index, (shape, fan) in enumerate(self._shapes()):
            size = math.prod(shape)
            if fan is None:
                parts.append(np.full(size, 1.0 if index % 5 == 3 else 0.0))
            else:
                parts.append(rng.uniform(-1, 1, size) / math.sqrt(fan))
        return np.concatenate(parts)

    def latents(
        self, parameters: torch.Tensor, features: torch.Tensor, statistics: torch.Tensor | None = None
    ) -> torch.Tensor:
        outputs = [
            self._normalised_stages(self._pieces(w), images, statistics, self.n_stages_).flatten(1)
            for vectors, images in zip(parameters, features.to(parameters.dtype))
            for w in vectors
        ]
        return torch.stack(outputs).unflatten(0, parameters.shape[:2])

    def batch_statistics(self, parameters: torch.Tensor, batches: Callable[[], Iterable[torch.Tensor]]) -> torch.Tensor:
        pieces = self._pieces(parameters)
        statistics = parameters.new_empty(0)
        for stage in range(self.n_stages_):
            halfway = (
                self._convolved(self._normalised_stages(pieces, images, statistics, stage), pieces, stage)
                for images in batches()
            )
            moments = _pooled_moments(h.movedim(1, -1).flatten(0, 2) for h in halfway)
            statistics = torch.cat([statistics, moments.to(parameters.dtype)])
        return statistics

    @property
    def _n_features_out(self) -> int:
        return 3 * (CELLS * 2**self.n_stages_) ** 2

    def _out_widths(self) -> tuple[int, ...]:
        return (*self._widths[: self.n_stages_ - 1], self.n_channels_out)

    def _shapes(self) -> list[tuple[tuple[int, ...], int | None]]:
        """Return each parameter tensor's shape, and the fan-in that bounds its uniform start (None: a constant)."""
        shapes: list[tuple[tuple[int, ...], int | None]] = []
        widths = (3, *self._out_widths())
        for n_in, n_out in zip(widths[:-1], widths[1:]):
            n_mid = n_in if n_in != 3 else n_out
            shapes += [
                ((n_mid, n_in, 3, 3), n_in * 9),
                ((n_mid,), n_in * 9),
                ((n_out, n_mid, 2, 2), n_mid * 4),
                ((n_out,), None),
                ((n_out,), None),
            ]
        return shapes

    def _pieces(self, parameters: torch.Tensor) -> list[torch.Tensor]:
        """Split a vector into parameter tensors, five for each stage."""
        shapes = [shape for shape, _ in self._shapes()]
        parts = parameters.split([math.prod(shape) for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes)]

    def _normalised_stages(
        self, pieces: list[torch.Tensor], h: torch.Tensor, statistics: torch.Tensor | None, n_stages: int
    ) -> torch.Tensor:
        """Compute the output of the first `n_stages` stages, each with BatchNorm and GELU."""
        given = None if statistics is None else split_moments(statistics, self._out_widths()[:n_stages])
        for stage in range(n_stages):
            gain, shift = pieces[5 * stage + 3 : 5 * stage + 5]
            mean, variance = (None, None) if given is None else given[stage]
            h = self._convolved(h, pieces, stage)
            h = F.gelu(F.batch_norm(h, mean, variance, gain, shift, training=statistics is None))
        return h

    @staticmethod
    def _convolved(h: torch.Tensor, pieces: list[torch.Tensor], stage: int) -> torch.Tensor:
        conv, bias, down = pieces[5 * stage : 5 * stage + 3]
        return F.conv2d(F.conv2d(h, conv, bias, padding=1), down, stride=2)


def _pooled_moments(parts: Iterable[torch.Tensor]) -> torch.Tensor:
    """Compute mean and biased variance (2 * width,) over all rows of all parts, in double precision."""
    zero = torch.zeros((), dtype=torch.float64)
    count, total, square = 0, zero, zero
    for part in parts:
        part = part.double()
        count += len(part)
        total = total + part.sum(0)
        square = square + part.square().sum(0)
    mean = total / count
    return torch.cat([mean, (square / count - mean.square()).clamp(min=0)])
