"""Images that fakes receive."""

import io

import numpy as np
from PIL import Image

NO_IMAGES = np.zeros((0, 1, 1, 3), np.uint8)


def decoded(file: bytes) -> np.ndarray:
    """A file to pixels (h, w, 3), uint8."""
    image = Image.open(io.BytesIO(file))
    return np.asarray(image.convert("RGB"))
