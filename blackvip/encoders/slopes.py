"""Features of frozen encoders whose slope in the pixels can be followed, for what is trained through them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from . import histograms as gradients
from .base import Encoder
from .cached import CachedEncoder
from .histograms import GradientEncoder
from .pca import PCAEncoder
from .timm import TimmEncoder, network

__all__ = ["features_of"]


def features_of(encoder: Encoder) -> Callable[[torch.Tensor], torch.Tensor]:
    """What a fitted encoder computes of pixels, such that its slope can be followed, in the precision of the pixels."""
    if isinstance(encoder, PCAEncoder):
        axes = torch.from_numpy(encoder.axes_ * encoder.scale_)
        return lambda pixels: pixels.flatten(1) @ axes.to(pixels.dtype).T
    if isinstance(encoder, GradientEncoder):
        sizes = np.repeat(encoder.block_sizes_, encoder.block_sizes_)
        mean, scale = torch.from_numpy(encoder.mean_), torch.from_numpy(encoder.scale_ * np.sqrt(sizes))
        return lambda pixels: (_fast_descriptors(pixels) - mean.to(pixels.dtype)) / scale.to(pixels.dtype)
    if isinstance(encoder, CachedEncoder):
        return features_of(encoder.encoder_)
    if isinstance(encoder, TimmEncoder):
        return lambda pixels: _timm_features(encoder, pixels)
    raise TypeError(
        f"local_encoder is a {type(encoder).__name__}, whose slope is not known; expected a GradientEncoder, a "
        "PCAEncoder or a TimmEncoder."
    )


def _fast_descriptors(pixels: torch.Tensor) -> torch.Tensor:
    """`gradients._descriptors`, whose filters are matrices: convolutions of one channel are slow to go back through."""
    grey = gradients._made_smaller(pixels.mean(dim=1, keepdim=True))
    maps = torch.cat([_orientation_maps(grey[:, 0], sigma) for sigma in gradients._SIGMAS], dim=1)
    grids = (gradients._COARSE, gradients._FINE)
    histograms = [(gradients._pooled(maps, grid) + gradients._EMPTY).sqrt() for grid in grids]
    return torch.cat([*histograms, gradients._pooled(pixels, gradients._COLOUR)], dim=1)


def _orientation_maps(grey: torch.Tensor, sigma: float) -> torch.Tensor:
    """As in `gradients`, of images (n, height, width)."""
    reach = math.ceil(2 * sigma)
    at = torch.arange(-reach, reach + 1, dtype=grey.dtype)
    smooth = torch.exp(-at.square() / (2 * sigma**2))
    smooth /= smooth.sum()
    slope = at * smooth
    slope /= (at * slope).sum()
    even = torch.full((gradients._WINDOW,), 1 / gradients._WINDOW, dtype=grey.dtype)
    (rows, columns), n = grey.shape[-2:], gradients._N_ORIENTATIONS
    to_right = _filter(smooth, rows) @ grey @ _filter(slope, columns).T
    down = _filter(slope, rows) @ grey @ _filter(smooth, columns).T
    magnitude = (to_right.square() + down.square()).sqrt()
    magnitude = magnitude / (_filter(even, rows) @ magnitude @ _filter(even, columns).T + gradients._FAINT)
    angle = torch.atan2(down, to_right) * (n / (2 * math.pi))
    shifted = angle[:, None] - torch.arange(n).view(-1, 1, 1) + n / 2
    distance = (shifted - n * torch.floor(shifted / n).detach() - n / 2).abs()
    return magnitude[:, None] * (1 - distance).clamp(min=0)


def _filter(weights: torch.Tensor, size: int) -> torch.Tensor:
    """The matrix (size, size) that weights each pixel's neighbours in a line, whose ends go on as they are."""
    reach = len(weights) // 2
    neighbours = (torch.arange(size)[:, None] + torch.arange(-reach, reach + 1)).clamp(0, size - 1)
    return torch.zeros(size, size, dtype=weights.dtype).scatter_add_(1, neighbours, weights.expand(size, -1))


def _timm_features(encoder: TimmEncoder, pixels: torch.Tensor) -> torch.Tensor:
    model, config = network(encoder.model_name, encoder.pretrained, encoder.device)
    size = tuple(config["input_size"][-2:])
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    resized = pixels.float()
    if resized.shape[-2:] != size:
        resized = F.interpolate(resized, size=size, mode="bicubic", antialias=True).clamp(0, 1)
    features = model(((resized - mean) / std).to(encoder.device)).cpu()
    return features.to(pixels.dtype)
