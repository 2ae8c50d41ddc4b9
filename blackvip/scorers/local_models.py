"""What score functions with a model on this machine have in common: devices and pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..exceptions import ImageError

__all__ = ["as_pixels", "device_of"]


def device_of(device: str) -> torch.device:
    """Return a torch device; for "auto" a GPU if there is one."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def as_pixels(images: Any) -> torch.Tensor:
    """Return images as a tensor (n, 3, height, width) of 8 bits, or of floats in [0, 1]."""
    if isinstance(images, torch.Tensor):
        if images.ndim == 4 and images.shape[1] == 3 and images.is_floating_point():
            return images
        expected = "floats in [0, 1] of shape (n, 3, height, width)"
    else:
        images = np.asarray(images)
        if images.ndim == 4 and images.shape[3] == 3 and images.dtype == np.uint8:
            return torch.from_numpy(np.require(images, requirements=("C", "W"))).movedim(3, 1)
        expected = "uint8 of shape (n, height, width, 3), or a float tensor of shape (n, 3, height, width)"
    raise ImageError(f"The images are {images.dtype} of shape {tuple(images.shape)}; expected {expected}.")
