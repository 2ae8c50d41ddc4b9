"""Decoding of a single image, in any of the forms that `blackvip.inputs.sources` lists, to RGB pixels.

No content of a file is executed.
"""

from __future__ import annotations

import io
import math
import os
import re
import stat
from collections.abc import Mapping
from numbers import Number
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from ..exceptions import ImageError
from .encoded import content_of, is_buffer, is_file, is_row_of_bytes, path_in, shortened

__all__ = [
    "SINGLE",
    "as_array",
    "channels_last",
    "decoded",
    "is_image",
    "is_missing",
    "is_row_of_numbers",
    "is_tensor",
    "path_in_folder",
    "path_of",
    "reason_of",
    "refuse_masked",
]

SINGLE = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)  #: Types of a single image.
_EXPECTED_ITEM = "expected a PIL image, the path or the bytes of an image file, or an array (height, width, 3)"


def decoded(item: Any) -> np.ndarray:
    """Decode an image to pixels.

    Parameters
    ----------
    item : object
        An image in any form that `blackvip.inputs.sources` lists.

    Returns
    -------
    pixels : ndarray of shape (height, width, 3)
        RGB. The type is uint8 for files, PIL images with up to 16 bits, and uint8 and bool arrays, whose range is
        known. Other arrays, and PIL images in mode "I" or "F", keep their numbers.

    Raises
    ------
    Exception
        If the image cannot be decoded. A damaged file may raise nearly any exception; see `reason_of`.
    """
    return _pixels(_unwrapped(item))


def is_tensor(X: Any) -> bool:
    """Return whether X is a torch tensor."""
    return hasattr(X, "detach") and hasattr(X, "cpu")


def is_row_of_numbers(item: Any) -> bool:
    """Return whether an item is a number or a sequence of numbers, and not an image."""
    if isinstance(item, Number):
        return not is_missing(item)
    if is_image(item) or isinstance(item, Mapping):
        return False
    if getattr(item, "ndim", None) is not None:
        return bool(item.ndim <= 1)
    return isinstance(item, (list, tuple)) and (len(item) == 0 or isinstance(item[0], Number) or item[0] is None)


def is_missing(item: Any) -> bool:
    """Return whether an item is None, NaN, or a missing value of pandas."""
    return (
        item is None or (isinstance(item, float) and math.isnan(item)) or type(item).__name__ in ("NAType", "NaTType")
    )


def is_image(item: Any) -> bool:
    """Return whether an item has the type of an image, or is a tuple that starts with an image."""
    if isinstance(item, tuple):
        return len(item) > 0 and is_image(item[0])
    several = (getattr(item, "ndim", None) or 0) >= 2
    if isinstance(item, SINGLE) or several:
        return True
    return _is_undecoded(item) or is_file(item) or is_row_of_bytes(item) or is_buffer(item)


def _is_undecoded(item: Any) -> bool:
    return isinstance(item, Mapping) and {"bytes", "path"} == set(item)


def _unwrapped(item: Any) -> Any:
    """Return the image in a row of a data set."""
    # A scalar of pyarrow.
    if hasattr(item, "as_py"):
        item = item.as_py()
    if isinstance(item, tuple) and is_image(item):
        return _unwrapped(item[0])
    if not isinstance(item, Mapping) or _is_undecoded(item):
        return item
    found = [key for key, value in item.items() if is_image(value) and not isinstance(value, (str, os.PathLike))]
    if len(found) == 1:
        return item[found[0]]
    types = shortened(", ".join(f"{key}: {type(value).__name__}" for key, value in item.items()))
    raise ImageError(f"the row has {len(found)} images ({types}); expected one: pass the column of the images")


def path_of(item: Any) -> str | None:
    """Return the path of an image, or None if it is unknown."""
    if isinstance(item, tuple) and item:
        return path_of(item[0])
    if _is_undecoded(item):
        return path_of(item["path"])
    if isinstance(item, Image.Image):
        return path_of(getattr(item, "filename", None) or None)
    try:
        return path_in(item) and os.fsdecode(item)
    except ImageError:
        return os.fsdecode(item)


def path_in_folder(items: Any, row: int) -> str | None:
    """Return the path of a row of torchvision's ImageFolder, or of a subset of it, if an item cannot be read."""
    try:
        while hasattr(items, "indices") and hasattr(items, "dataset"):
            items, row = items.dataset, int(items.indices[row])
        return path_of(items.samples[row])
    except Exception:
        # Other data sets do not tell their paths.
        return None


def reason_of(error: Exception) -> str:
    """Return the end of a sentence that explains why an image cannot be read.

    Parameters
    ----------
    error : Exception
        Error that `decoded` has raised.

    Returns
    -------
    reason : str
        Text without a full stop, such as "there is no such file".
    """
    if isinstance(error, ImageError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):
        return "its content is not an image in a format that Pillow reads"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"{str(error).rstrip('.')}; if you trust the file, raise the limit PIL.Image.MAX_IMAGE_PIXELS"
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    # An error of another library may repeat its input.
    text = shortened((getattr(error, "strerror", None) or str(error)).strip().rstrip("."))
    if isinstance(error, (OSError, ValueError, SyntaxError)) and text:
        return text
    module = type(error).__module__
    kind = type(error).__qualname__ if module == "builtins" else f"{module}.{type(error).__qualname__}"
    return f"{kind}: {text}" if text else kind


def _pixels(item: Any) -> np.ndarray:
    """Return the pixels (height, width, 3) of an image."""
    if _is_undecoded(item):
        item = item["path"] if item["bytes"] is None else item["bytes"]
    if is_missing(item):
        raise ImageError(f"it is missing ({item}); {_EXPECTED_ITEM}")
    if isinstance(item, memoryview) and item.ndim > 1:
        item = np.asarray(item)
    content, path = (None, None) if isinstance(item, Image.Image) else (content_of(item), path_in(item))
    if isinstance(item, Image.Image):
        pixels = _pil_pixels(item)
    elif content is not None:
        pixels = _encoded_pixels(io.BytesIO(content), len(content))
    elif path is not None:
        status = os.stat(path)
        # Reading a pipe or a device may never end.
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("it is a directory" if stat.S_ISDIR(status.st_mode) else "it is not a regular file")
        pixels = _encoded_pixels(path, status.st_size)
    else:
        pixels = _array_pixels(item)
    if not pixels.size:
        raise ImageError(f"it has no pixels (its shape is {pixels.shape}); expected at least 1 x 1")
    return pixels


def _array_pixels(item: Any) -> np.ndarray:
    if not isinstance(item, (list, tuple)) and not hasattr(item, "ndim") and not hasattr(item, "__array__"):
        raise ImageError(f"it is a {type(item).__name__}; {_EXPECTED_ITEM}")
    array = as_array(item)
    if array.dtype.kind not in "uifb":
        raise ImageError(f"it is an array of {shortened(array.dtype)}; {_EXPECTED_ITEM}")
    if array.ndim not in (2, 3):
        raise ImageError(f"it is an array of shape {array.shape}; {_EXPECTED_ITEM}")
    pixels = channels_last(array[None])[0]
    if not np.isfinite(pixels).all():
        raise ImageError("it contains NaN or infinity; expected finite pixels")
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def as_array(values: Any) -> np.ndarray:
    """Convert a tensor, a polars Series or any array to a NumPy array.

    Parameters
    ----------
    values : array-like
        A tensor of any device, layout and type is detached, and converted to one that NumPy has.

    Returns
    -------
    array : ndarray
        The values.

    Raises
    ------
    ImageError
        If pixels are masked, or if the other library cannot convert the values.
    """
    refuse_masked(values)
    try:
        if is_tensor(values):
            values = values.detach().cpu()
            if values.is_quantized:
                values = values.dequantize()
            if "strided" not in str(values.layout):
                values = values.to_dense()
            # NumPy has no bfloat16, and no 8-bit floats.
            return np.asarray(values.float() if re.search("bfloat16|float8", str(values.dtype)) else values)
        return np.asarray(values.to_numpy() if hasattr(values, "to_numpy") else values)
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        kind, reason = type(values).__name__, reason_of(error)
        raise ImageError(f"a {kind} cannot be converted to an array of numbers: {reason}") from error


def refuse_masked(values: Any) -> None:
    """Raise an `ImageError` if an array has masked values, since NumPy would use the numbers below the mask."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ImageError("masked pixels have no value; fill them first, as in array.filled(0)")


def channels_last(images: np.ndarray) -> np.ndarray:
    """Move the channels of images to the end; bool becomes uint8, and RGBA is laid on white.

    Parameters
    ----------
    images : ndarray of shape (n, height, width), (n, height, width, c) or (n, c, height, width)
        Images with 1 or 3 channels, or uint8 with 4 channels at the end.

    Returns
    -------
    images : ndarray of shape (n, height, width, 1) or (n, height, width, 3)
        The images; a view if possible.

    Raises
    ------
    ImageError
        If the array has another shape.
    """
    if images.dtype == bool:
        images = images.astype(np.uint8) * np.uint8(255)
    if images.ndim == 3:
        return images[..., None]
    if images.ndim == 4 and images.shape[3] in (1, 3):
        return images
    if images.ndim == 4 and images.shape[1] in (1, 3):
        return np.moveaxis(images, 1, 3)
    if images.ndim == 4 and images.shape[3] == 4 and images.dtype == np.uint8:
        return _on_white(images)
    hint = " (RGBA must be uint8)" if images.ndim == 4 and images.shape[3] == 4 else ""
    raise ImageError(f"it is an array of shape {images.shape[1:]}{hint}; {_EXPECTED_ITEM}")


def _on_white(rgba: np.ndarray) -> np.ndarray:
    """Lay RGBA (..., 4) on a white background and return RGB (..., 3), both uint8."""
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _encoded_pixels(file: Any, n_bytes: int) -> np.ndarray:
    if not n_bytes:
        raise ImageError("it is empty; expected the content of an image file")
    with Image.open(file) as image:
        limit = Image.MAX_IMAGE_PIXELS
        # Pillow itself only warns.
        if limit is not None and image.width * image.height > limit:
            raise Image.DecompressionBombError(
                f"it has {image.height} x {image.width} pixels (height x width), more than {limit}"
            )
        return _pil_pixels(image)


def _pil_pixels(image: Image.Image) -> np.ndarray:
    """Convert a PIL image to RGB (height, width, 3): uint8, but modes "I" and "F" keep their numbers."""
    if image.format == "EPS":
        raise ImageError("it is an EPS file, a program that would be executed; convert it to PNG first")
    sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    # The orientation may stand behind the pixels of a file.
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        grey = _eight_bits(np.asarray(image)) if sixteen_bits else _checked_numbers(np.asarray(image), image.mode)
        return np.broadcast_to(grey[..., None], (*grey.shape, 3))
    # Pillow's `convert` does not know LAB.
    if image.mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return np.asarray(ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB"))
    if not image.has_transparency_data:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    return _on_white(np.asarray((image.convert("LA") if image.mode == "La" else image).convert("RGBA")))


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Round 16-bit grey values to uint8."""
    eight_bits: np.ndarray = np.rint(values / 257).clip(0, 255).astype(np.uint8)
    return eight_bits


def _checked_numbers(values: np.ndarray, mode: str) -> np.ndarray:
    """Return the grey values of mode "I" or "F", whose range is that of the whole set."""
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if not math.isfinite(low + high):
        raise ImageError("it contains NaN or infinity; expected finite pixels")
    if not (low >= 0 and high <= (255 if mode == "F" else 65_535)):
        expected = "0 and 255, or between 0 and 1" if mode == "F" else "0 and 65535"
        raise ImageError(
            f"its mode is {mode!r}, with values between {low:g} and {high:g}; expected between {expected}: scale them, "
            "or pass the images as arrays"
        )
    return values
