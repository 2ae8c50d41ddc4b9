"""Biased and Loc: the paper's synthetic data sets, made from MNIST or from any other images of digits.

Biased-MNIST and its ten colours are due to Bahng et al., ICML 2020 (arXiv 1910.02806), Loc-MNIST to BlackVIP.
"""

from __future__ import annotations

import gzip
import pathlib
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch, check_random_state

from ..exceptions import DatasetError
from .registry import DataSet, few_shot, register
from .splits import SPLIT_SEED, Item, Parts, split_validation

__all__ = ["COLOURS", "DigitsDataSet", "make_biased", "make_loc", "read_digits"]

#: The ten colours of Biased-MNIST, by digit: uint8 array of shape (10, 3), RGB.
COLOURS = np.array(
    [
        [255, 0, 0],
        [0, 255, 0],
        [0, 0, 255],
        [225, 225, 0],
        [225, 0, 225],
        [0, 255, 255],
        [255, 128, 0],
        [255, 0, 128],
        [128, 0, 255],
        [128, 128, 128],
    ],
    dtype=np.uint8,
)
_GARMENTS = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
_FOLDERS = (".", "mnist", "MNIST/raw", "raw", "FashionMNIST/raw", "fashion-mnist")
_SIDE = 28  # pixels, of MNIST's images


def make_biased(
    images: Any,
    labels: Any,
    rho: float,
    *,
    split: str = "train",
    threshold: int | None = None,
    random_state: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Colour the background of digits so that it reveals the class in training and misleads in the test.

    Parameters
    ----------
    images : array-like of shape (n, height, width)
        Bright digits on black, uint8.
    labels : array-like of shape (n,)
        Classes from 0 to 9.
    rho : float
        Probability that a training image has the colour of its own class; for a test image, it is 1 - rho. All other
        colours are equally likely. The paper uses 0.8 and 0.9.
    split : {"train", "test"}, default="train"
        Whether to make training or test images.
    threshold : int or None, default=None
        Pixels above it become white, and all others background; Biased-MNIST uses 0. None: pixels are blended by
        their brightness.
    random_state : int, RandomState instance or None, default=None
        Random state for the colours.

    Returns
    -------
    biased : ndarray of shape (n, height, width, 3), uint8
        White digits on coloured backgrounds.
    colours : ndarray of shape (n,), int64
        Class whose colour each image has.

    Examples
    --------
    >>> from blackvip.datasets import make_biased, read_digits
    >>> digits = read_digits()
    >>> biased, colours = make_biased(digits.X_train, digits.y_train, 0.9, random_state=0)
    >>> round(float((colours == digits.y_train).mean()), 1)
    0.9
    """
    images, labels = _checked(images, labels)
    if not 0 <= rho <= 1:
        raise DatasetError(f"rho={rho}; expected a probability, between 0 and 1.")
    if split not in ("train", "test"):
        raise DatasetError(f"split={split!r}; expected 'train' or 'test'.")
    rng = check_random_state(random_state)
    own = rng.uniform(size=len(labels)) < (rho if split == "train" else 1 - rho)
    others = (labels + rng.randint(1, len(COLOURS), size=len(labels))) % len(COLOURS)
    colours = np.where(own, labels, others)
    ground = COLOURS[colours][:, None, None, :]
    if threshold is not None:
        images = np.where(images > threshold, 255, 0)
    ink = images[..., None].astype(np.float32) / 255
    return np.rint(255 * ink + ground * (1 - ink)).astype(np.uint8), colours


def make_loc(
    images: Any, labels: Any, ratio: int = 1, *, size: int = 224, random_state: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Put each digit at a random place on the edge of a black canvas, and a digit of another class in the centre.

    Parameters
    ----------
    images : array-like of shape (n, height, width)
        Bright digits on black, uint8, of at least two classes.
    labels : array-like of shape (n,)
        Classes from 0 to 9.
    ratio : int, default=1
        Size of the fake digit relative to the real one. The paper uses 1 and 4.
    size : int, default=224
        Side of the canvas in pixels. The side of the real digit is an eighth of it: 28 of 224.
    random_state : int, RandomState instance or None, default=None
        Random state for the places and the fake digits.

    Returns
    -------
    canvases : ndarray of shape (n, size, size, 3), uint8
        Grey images, as a read-only view. Their labels are those of the real digits.
    fakes : ndarray of shape (n,), int64
        Class of the digit in the centre, which is one of `images`.
    """
    images, labels = _checked(images, labels)
    side = max(1, size // 8)
    if not (ratio > 0 and round(ratio * side) + 2 * side <= size):
        raise DatasetError(
            f"ratio={ratio}; expected a positive number of at most 6, so that the digits do not overlap."
        )
    if len(np.unique(labels)) < 2:
        raise DatasetError("The labels have only one class; expected at least two, for a fake digit of another class.")
    rng = check_random_state(random_state)
    other = {label: np.flatnonzero(labels != label) for label in np.unique(labels)}
    chosen = np.array([rng.choice(other[label]) for label in labels])
    real, fake = resized(images, side), resized(images, round(ratio * side))
    canvases = np.zeros((len(images), size, size), np.uint8)
    centre = (size - fake.shape[1]) // 2
    for canvas, digit, row in zip(canvases, real, chosen):
        canvas[centre : centre + fake.shape[1], centre : centre + fake.shape[1]] = fake[row]
        along, edge = rng.randint(size - side + 1), (size - side) * rng.randint(2)
        top, left = (along, edge) if rng.randint(2) else (edge, along)
        canvas[top : top + side, left : left + side] = digit
    return np.broadcast_to(canvases[..., None], (*canvases.shape, 3)), labels[chosen]


def _checked(images: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim != 3 or images.dtype != np.uint8 or labels.shape != (len(images),):
        raise DatasetError(
            f"images is {images.dtype} of shape {images.shape} and labels has the shape {labels.shape}; expected grey "
            "images, uint8, of shape (n, height, width), and n labels."
        )
    if labels.dtype.kind not in "iu" or (len(labels) and not 0 <= labels.min() <= labels.max() < len(COLOURS)):
        raise DatasetError(f"The labels are {np.unique(labels)[:12].tolist()}; expected whole numbers from 0 to 9.")
    return images, labels.astype(np.int64)


def resized(images: np.ndarray, side: int) -> np.ndarray:
    """Resize grey images to squares.

    Parameters
    ----------
    images : ndarray of shape (n, height, width), uint8
        The images.
    side : int
        Side of the squares, in pixels.

    Returns
    -------
    resized : ndarray of shape (n, side, side), uint8
        The resized images.
    """
    shape = (side, side)
    if not len(images) or images.shape[1:] == shape:
        return images
    return np.stack([np.asarray(Image.fromarray(image).resize(shape, Image.Resampling.BILINEAR)) for image in images])


def read_digits(root: Any = None) -> Bunch:
    """Read images of digits or garments: scikit-learn's digits, or files in the format of MNIST.

    Parameters
    ----------
    root : str, Path or None, default=None
        A folder with ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same for ``t10k``, each of
        which may end in ``.gz``; or the root of torchvision's `MNIST` or `FashionMNIST`. None: scikit-learn's 1,797
        digits of 8 by 8 pixels, of which half of each class are test images.

    Returns
    -------
    digits : Bunch
        ``X_train`` and ``X_test``, uint8, of shape (n, height, width), bright on black; ``y_train`` and ``y_test``,
        int64; and ``class_names``.
    """
    names = [str(digit) for digit in range(10)]
    if root is None:
        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        X, X_test, y, y_test = train_test_split(
            images, digits.target, test_size=0.5, stratify=digits.target, random_state=SPLIT_SEED
        )
        return Bunch(
            X_train=X, y_train=y.astype(np.int64), X_test=X_test, y_test=y_test.astype(np.int64), class_names=names
        )
    root = pathlib.Path(root).expanduser()
    files = [f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    found: dict[pathlib.Path, list[pathlib.Path]] = {}
    for place in _FOLDERS:
        here = [root / place / (name + end) for name in files for end in ("", ".gz")]
        found[root / place] = [path for path in here if path.is_file()]
    folder = max(found, key=lambda place: len({path.name.removesuffix(".gz") for path in found[place]}))
    paths = {path.name.removesuffix(".gz"): path for path in found[folder]}
    lacking = [name for name in files if name not in paths]
    if lacking:
        raise DatasetError(
            f"{root} lacks {', '.join(lacking)} (each may end in .gz). Put the four files of MNIST or Fashion-MNIST "
            "there or into MNIST/raw/, as torchvision does, or pass root=None to use scikit-learn's digits."
        )
    X, y, X_test, y_test = (_read_idx(paths[name]) for name in files)
    if (len(X), len(X_test)) != (len(y), len(y_test)) or X.ndim != 3 or y.ndim != 1:
        raise DatasetError(f"The four files in {folder} do not belong together; download them again.")
    if any("fashion" in part.casefold() for part in folder.absolute().parts):
        names = _GARMENTS
    return Bunch(
        X_train=X, y_train=y.astype(np.int64), X_test=X_test, y_test=y_test.astype(np.int64), class_names=names
    )


def _read_idx(path: pathlib.Path) -> np.ndarray:
    """Read an array in the IDX format: two zeros, 8 for bytes, the number of dimensions, their sizes, the bytes."""
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError) as error:
        raise DatasetError(f"{path} is damaged ({error}); download it again.") from error
    n_dims = content[3] if content[:3] == b"\x00\x00\x08" else 0
    shape = np.frombuffer(content[4 : 4 + 4 * n_dims], ">u4").astype(int)
    if not n_dims or len(shape) != n_dims or len(content) != 4 + 4 * n_dims + shape.prod():
        raise DatasetError(f"{path} is not a complete IDX file of bytes; download it again.")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * n_dims).reshape(shape)


@dataclass(frozen=True)
class DigitsDataSet(DataSet):
    """Data set made from digits, either those in the root folder or scikit-learn's.

    Parameters
    ----------
    name, title, template : str
        As in `DataSet`.
    kind : {"transfer", "synthetic"}, default="synthetic"
        As in `DataSet`.
    make : callable
        ``make(images, labels, split, random_state)`` returns the images of the data set.
    """

    _: KW_ONLY
    kind: str = "synthetic"
    make: Any

    def parts(self, root: pathlib.Path | None, shots: int | None, seed: int, download: bool) -> Parts:
        if download:
            _download_mnist(root)
        digits = read_digits(root)

        def items(X: np.ndarray, y: np.ndarray) -> list[Item]:
            return [Item(image, label, digits.class_names[label]) for image, label in zip(X, y.tolist())]

        train, val = split_validation(items(digits.X_train, digits.y_train))
        origin = f"seeded, {SPLIT_SEED}" if root is None else "official"
        return few_shot(Parts(train, val, items(digits.X_test, digits.y_test), origin), shots, seed)

    def assemble(self, items: list[Item], part: str, seed: int) -> np.ndarray:
        if not items:
            return np.zeros((0, _SIDE, _SIDE, 3), np.uint8)
        digits, labels = np.stack([item.image for item in items]), np.array([item.label for item in items])
        if part == "test":
            # Test images do not depend on the seed of the shots.
            return self.make(digits, labels, "test", SPLIT_SEED)
        return self.make(digits, labels, "train", np.random.RandomState([seed, part == "val"]))


def _download_mnist(root: pathlib.Path | None) -> None:
    if root is None:
        raise DatasetError("download=True needs root, the folder into which torchvision puts MNIST.")
    from torchvision import datasets  # type: ignore[import-untyped, unused-ignore]

    datasets.MNIST(str(root), download=True)


def _biased(images: np.ndarray, labels: np.ndarray, split: str, state: Any, rho: float) -> np.ndarray:
    # In images of 8 by 8 pixels, few pixels are entirely black.
    threshold = 0 if images.shape[1] == _SIDE else None
    images = resized(images, _SIDE)
    return make_biased(images, labels, rho, split=split, threshold=threshold, random_state=state)[0]


def _loc(images: np.ndarray, labels: np.ndarray, split: str, state: Any, ratio: int) -> np.ndarray:
    return make_loc(images, labels, ratio, random_state=state)[0]


for _rho in (0.8, 0.9):
    register(
        DigitsDataSet(
            f"biased_{_rho}", f"Biased MNIST {_rho}", "This is a photo of {}", make=partial(_biased, rho=_rho)
        )
    )
for _ratio in (1, 4):
    register(
        DigitsDataSet(
            f"loc_1:{_ratio}", f"Loc MNIST 1:{_ratio}", "This is a photo of {}", make=partial(_loc, ratio=_ratio)
        )
    )
