"""What app.py answers at the urls of hosted services: one line here for each protocol, and a function in a file beside.

A fake is ``fake(headers, data) -> (images, answer, n_classes)``. `data` is the JSON body, None for a GET; `images` are
those of the request, an array (n, h, w, 3), uint8, see `decoded`, or `NO_IMAGES` if it prepares the adapter;
``answer(scores)`` makes the JSON of the answer from `stripe_scores` (n, n_classes). A request that is not as documented
is an error: an assertion that fails answers it with 400 and the assertion's text.
"""

import io

import numpy as np
from PIL import Image

NO_IMAGES = np.zeros((0, 1, 1, 3), np.uint8)


def decoded(file: bytes) -> np.ndarray:
    """A file to pixels (h, w, 3), uint8."""
    image = Image.open(io.BytesIO(file))
    return np.asarray(image.convert("RGB"))


#: By the path of a request.
FAKES = {}
