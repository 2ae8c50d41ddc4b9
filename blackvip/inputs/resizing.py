"""Resizing of images to one size: by cropping, padding or stretching."""

from __future__ import annotations

import numpy as np
from PIL import Image

__all__ = ["RULES", "resized"]

RULES = ("crop", "pad", "stretch")  #: Values of `resize`, see `ImageFormat`.


def resized(image: np.ndarray, size: tuple[int, int], rule: str, low: float, high: float) -> np.ndarray:
    """Resize an image, within its pixel range.

    Parameters
    ----------
    image : ndarray of shape (height, width, channels)
        The image, uint8 or other numbers.
    size : tuple of int
        The new (height, width), in pixels.
    rule : {"crop", "pad", "stretch"}
        How the proportions change, see `ImageFormat`.
    low, high : float
        Values of black and white in numbers other than uint8.

    Returns
    -------
    image : ndarray of shape (*size, channels)
        uint8 if the image is. The image itself if it has this size.
    """
    height, width = image.shape[:2]
    if (height, width) == size:
        return image
    black, white = (0.0, 255.0) if image.dtype == np.uint8 else (low, high)
    if rule == "stretch":
        return _interpolated(image, size, (0, 0, width, height), black, white)
    if rule == "pad":
        scale = min(size[0] / height, size[1] / width)
        inner = (max(1, round(height * scale)), max(1, round(width * scale)))
        padded = np.full((*size, image.shape[2]), black, np.uint8 if image.dtype == np.uint8 else np.float64)
        top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
        padded[top : top + inner[0], left : left + inner[1]] = _interpolated(
            image, inner, (0, 0, width, height), black, white
        )
        return padded
    # The covering size of torchvision's Resize, and the offset of its CenterCrop. The box is in the image's own
    # pixels, so the rest of a very long image is never computed.
    if size[0] * width >= size[1] * height:
        covering = (size[0], width * size[0] // height)
    else:
        covering = (height * size[1] // width, size[1])
    top, left = round((covering[0] - size[0]) / 2), round((covering[1] - size[1]) / 2)
    y, x = height / covering[0], width / covering[1]
    box = (left * x, top * y, min((left + size[1]) * x, width), min((top + size[0]) * y, height))
    return _interpolated(image, size, box, black, white)


def _interpolated(
    image: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float], black: float, white: float
) -> np.ndarray:
    """Resize the part `box` (left, top, right, bottom) of an image (height, width, channels).

    It uses Pillow's antialiased bicubic interpolation in 32-bit floats, so files and arrays give the same result.
    """
    bands = [Image.fromarray(band) for band in np.moveaxis(image, 2, 0).astype(np.float32)]
    resized = [np.asarray(band.resize(size[::-1], Image.Resampling.BICUBIC, box)) for band in bands]
    clipped = np.clip(np.stack(resized, axis=2).astype(np.float64), black, white)
    return np.rint(clipped).astype(np.uint8) if image.dtype == np.uint8 else clipped
