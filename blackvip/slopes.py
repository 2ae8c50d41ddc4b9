"""Features of frozen encoders whose slope in the pixels can be followed, for what is trained through them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from .encoders import Encoder, PCAEncoder, TimmEncoder, _network
from .gradients import GradientEncoder, _descriptors

__all__ = ["features_of"]


def features_of(encoder: Encoder) -> Callable[[torch.Tensor], torch.Tensor]:
    """What a fitted encoder computes of pixels, such that its slope can be followed, in the precision of the pixels."""
    if isinstance(encoder, PCAEncoder):
        axes = torch.from_numpy(encoder.axes_ * encoder.scale_)
        return lambda pixels: pixels.flatten(1) @ axes.to(pixels.dtype).T
    if isinstance(encoder, GradientEncoder):
        sizes = np.repeat(encoder.block_sizes_, encoder.block_sizes_)
        mean, scale = torch.from_numpy(encoder.mean_), torch.from_numpy(encoder.scale_ * np.sqrt(sizes))
        return lambda pixels: (_descriptors(pixels) - mean.to(pixels.dtype)) / scale.to(pixels.dtype)
    if isinstance(encoder, TimmEncoder):
        return lambda pixels: _timm_features(encoder, pixels)
    raise TypeError(
        f"local_encoder is a {type(encoder).__name__}, whose slope is not known; expected a GradientEncoder, a "
        "PCAEncoder or a TimmEncoder."
    )


def _timm_features(encoder: TimmEncoder, pixels: torch.Tensor) -> torch.Tensor:
    model, config = _network(encoder.model_name, encoder.pretrained, encoder.device)
    size = tuple(config["input_size"][-2:])
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    resized = pixels.float()
    if resized.shape[-2:] != size:
        resized = F.interpolate(resized, size=size, mode="bicubic", antialias=True).clamp(0, 1)
    features = model(((resized - mean) / std).to(encoder.device)).cpu()
    return features.to(pixels.dtype)
