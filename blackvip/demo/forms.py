"""Service and images of the first demo: a text reader, and handwritten digits on forms.

Nothing is downloaded: the reader is part of the package rapidocr, and the digits are scikit-learn's.
"""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Callable

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate

from ..exceptions import DatasetError

__all__ = ["READERS", "SURFACES", "draw_forms", "load_forms", "shuffled_digits", "text_reader"]

#: Surfaces that digits are drawn on.
SURFACES = ("plain", "box", "strike", "ruled")
#: For each reader, the package that contains it and its file.
READERS = {
    "PP-OCRv6": ("rapidocr", "PP-OCRv6_rec_small.onnx"),
    "PP-OCRv4": ("rapidocr_onnxruntime", "ch_PP-OCRv4_rec_infer.onnx"),
}
_SIDE = 48  # pixels, of a form and of a line of text as the reader takes it
_N_TRAIN, _N_TEST = 1000, 500  # of the 1,797 digits


def text_reader(name: str = "PP-OCRv6", n_threads: int | None = None) -> Callable[[np.ndarray, list[str]], np.ndarray]:
    """Make a score function for the ten digits from a text reader's probabilities of characters.

    Parameters
    ----------
    name : {"PP-OCRv6", "PP-OCRv4"}, default="PP-OCRv6"
        "PP-OCRv6" needs the package rapidocr 3.10 or newer, "PP-OCRv4" rapidocr-onnxruntime.
    n_threads : int or None, default=None
        Number of processor threads. None: all cores.

    Returns
    -------
    read : callable
        ``read(images, digits)`` returns log probabilities of shape (n, n_digits). `images` is a uint8 array of shape
        (n, 48, width, 3); `digits` is a list of single characters.

    Raises
    ------
    ImportError
        If the packages of the reader are not installed.
    ValueError
        If there is no such reader.
    """
    if name not in READERS:
        raise ValueError(f"There is no reader {name!r}; expected one of {', '.join(READERS)}.")
    package, file = READERS[name]
    try:
        import onnxruntime

        origin = importlib.util.find_spec(package).origin  # type: ignore[union-attr]
    except (ImportError, AttributeError) as error:
        distribution = package.replace("_", "-")
        raise ImportError(
            f"The reader {name} needs the packages onnxruntime and {distribution}; install them with "
            f"`pip install onnxruntime {distribution}`."
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads or 0
    model = pathlib.Path(str(origin)).parent / "models" / file
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0].name
    characters = session.get_modelmeta().custom_metadata_map["character"].split("\n")

    def read(images: np.ndarray, digits: list[str]) -> np.ndarray:
        columns = [characters.index(digit) + 1 for digit in digits]  # 0 is the blank
        pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32) / 127.5 - 1
        probabilities = session.run(None, {source: pixels})[0]  # (n, positions, characters)
        return np.log(probabilities[:, :, columns].max(axis=1) + 1e-6)

    return read


def draw_forms(digits: torch.Tensor, surface: str, seed: int) -> np.ndarray:
    """Draw handwritten digits on a surface, each at a random place and in a random size.

    Parameters
    ----------
    digits : tensor of shape (n, height, width)
        White on black, in [0, 1].
    surface : {"plain", "box", "strike", "ruled"}
        Black, a box around the digit, a line through it, or ruled paper.
    seed : int
        Seed of the places and sizes.

    Returns
    -------
    forms : ndarray of shape (n, 48, 48, 3), uint8
        Images of the forms.
    """
    if surface not in SURFACES:
        raise DatasetError(f"surface={surface!r}; expected one of {', '.join(SURFACES)}.")
    generator = torch.Generator().manual_seed(seed)
    page = torch.zeros(len(digits), _SIDE, _SIDE)
    for image, digit in zip(page, digits):
        size = int(torch.randint(26, 38, (1,), generator=generator))
        left = int(torch.randint(4, _SIDE - 3 - size, (1,), generator=generator))
        top = int(torch.randint(4, _SIDE - 3 - size, (1,), generator=generator))
        enlarged = interpolate(digit[None, None], size=(size, size), mode="bicubic")
        image[top : top + size, left : left + size] = enlarged[0, 0].clamp(0, 1)
    if surface == "box":
        for edge in (slice(1, 4), slice(_SIDE - 4, _SIDE - 1)):
            page[:, edge, 1:-1] = 1
            page[:, 1:-1, edge] = 1
    elif surface == "strike":
        page[:, 22:26] = 1
    elif surface == "ruled":
        page[:, ::8] = page[:, ::8].clamp(min=0.8)
    return (page * 255).round().to(torch.uint8)[..., None].expand(-1, -1, -1, 3).numpy()


def shuffled_digits() -> tuple[torch.Tensor, np.ndarray]:
    """Return scikit-learn's 1,797 handwritten digits in a fixed shuffled order.

    Returns
    -------
    digits : tensor of shape (1797, 8, 8)
        White on black, in [0, 1].
    labels : ndarray of shape (1797,), int64
        Digits from 0 to 9.
    """
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0)).numpy()
    return torch.tensor(data.images[order] / 16, dtype=torch.float32), data.target[order]


def load_forms(
    surface: str = "box", *, shots: int = 16, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a few labelled training forms of each digit, and 500 test forms.

    Parameters
    ----------
    surface : {"plain", "box", "strike", "ruled"}, default="box"
        Surface, as in `draw_forms`.
    shots : int, default=16
        Number of training images per digit.
    seed : int, default=0
        Seed of the training images; the test images do not depend on it.

    Returns
    -------
    X : ndarray of shape (10 * shots, 48, 48, 3), uint8
        Training images.
    y : ndarray of shape (10 * shots,), int64
        Their digits, in the order of the classes.
    X_test : ndarray of shape (500, 48, 48, 3), uint8
        Test images.
    y_test : ndarray of shape (500,), int64
        Their digits.

    Examples
    --------
    >>> from blackvip.demo import load_forms
    >>> X, y, X_test, y_test = load_forms("strike", shots=2)
    >>> X.shape, y[:4].tolist(), X_test.shape
    ((20, 48, 48, 3), [0, 0, 1, 1], (500, 48, 48, 3))
    """
    digits, labels = shuffled_digits()
    random = np.random.RandomState(seed)
    rows = [random.permutation(np.flatnonzero(labels[:_N_TRAIN] == digit))[:shots] for digit in range(10)]
    train, test = np.concatenate(rows), slice(_N_TRAIN, _N_TRAIN + _N_TEST)
    return (
        draw_forms(digits[train], surface, 1 + seed),
        labels[train],
        draw_forms(digits[test], surface, 5),
        labels[test],
    )
