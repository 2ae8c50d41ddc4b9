"""Augmentation: other views of the training images, drawn anew in each step."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

__all__ = ["AUGMENTATIONS", "augmentation", "crop_and_flip"]

_AREA = (0.08, 1.0)  # of a crop, as a share of the image's
_RATIO = (3 / 4, 4 / 3)  # of its width to its height
_ATTEMPTS = 10  # to draw one that fits into the image


def crop_and_flip(pixels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Crop images at random and resize them, half of them mirrored: the augmentation of BlackVIP's experiments.

    A crop has 8 % to 100 % of the image's area and a ratio of width to height of 3/4 to 4/3, whose logarithm is uniform
    (Szegedy et al., CVPR 2015, section 6, with the numbers that torchvision has). It is resized to the image's size.

    Parameters
    ----------
    pixels : tensor of shape (n, 3, height, width)
        RGB in [0, 1].
    rng : numpy.random.Generator
        Source of random numbers.

    Returns
    -------
    views : tensor of shape (n, 3, height, width)
        RGB in [0, 1]: what bicubic interpolation overshoots is cut off.
    """
    size = (pixels.shape[-2], pixels.shape[-1])
    views = torch.empty_like(pixels)
    for view, image in zip(views, pixels):
        rows, columns = _crop(*size, rng)
        part = F.interpolate(image[None, :, rows, columns], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
        view[:] = part.flip(-1) if rng.random() < 0.5 else part
    return views


def _crop(height: int, width: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """Draw the rows and columns of a crop; the whole image if none of a few fits into it."""
    for _ in range(_ATTEMPTS):
        area = height * width * rng.uniform(*_AREA)
        ratio = math.exp(rng.uniform(*np.log(_RATIO)))
        h, w = max(1, round(math.sqrt(area / ratio))), max(1, round(math.sqrt(area * ratio)))
        if h <= height and w <= width:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return slice(top, top + h), slice(left, left + w)
    return slice(0, height), slice(0, width)


#: Augmentations by name, for the parameter `augment`.
AUGMENTATIONS = {"crop-flip": crop_and_flip}


def augmentation(name: str, rng: np.random.Generator) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return one of `AUGMENTATIONS`, which draws from `rng`."""
    return lambda pixels: AUGMENTATIONS[name](pixels, rng)
