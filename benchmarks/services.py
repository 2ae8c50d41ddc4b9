"""Services of different kinds, with labelled images that they read badly: what the benchmarks adapt.

Each kind is a score function and a loader of training and test images. ``split="test"`` gives the figures that are
published; ``split="development"`` draws shots, places and test images of its own from the training part of the same
data, so that nothing is ever tuned on the test images.
"""

from __future__ import annotations

import functools
import gzip
import itertools
import pathlib
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageChops
from torch import nn

from blackvip import demo
from blackvip.demo import label_reader

SHOTS = 16
READERS = {"ocr6": "PP-OCRv6", "ocr4": "PP-OCRv4"}
SURFACES = {
    "box": "digits in boxes",
    "strike": "digits struck through",
    "ruled": "digits on ruled lines",
    "plain": "plain digits",
}
DAMAGES = {
    "gradient": "digits in uneven light",
    "fog": "digits in fog",
    "low": "digits in low contrast",
    "background": "digits on coloured backgrounds",
}
CONDITIONS = {
    "clipart": "clip art",
    "clipart-fog": "clip art in fog",
    "clipart-dark": "clip art in the dark",
    "clipart-cast": "clip art in coloured light",
}
OTHER_CONDITIONS = {f"other-{name}": f"other {images}" for name, images in CONDITIONS.items()}
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
CLIPART = pathlib.Path("/usr/share/openclipart/png")  # Debian's openclipart-png, in the public domain
PICTURES = {  # folders of at least sixty pictures, and the ImageNet labels that they mean
    "animals/mammals": "101-106 147-299 330-388",
    "food/fruit": "948-957",
    "food/desserts": "415 509 927-929 960",  # bakery, confectionery, trifle, ice cream, ice lolly, chocolate sauce
    "people/clothing": (
        "399-400 411 433 439 445 451-452 457 459 474 501-502 514-515 518 568 578 601 608 610 614 617 630 638-639 652 "
        "655 658 667 689 697 715 735 770 774-775 793 806 808 824 834 836-837 841-842 869 887 906"
    ),
    "recreation/music": (  # instruments, and what plays records
        "401-402 420 432 481-482 485-486 494 513 541-542 546 558 566 577 579 593-594 605 632 641-642 650 683-684 687 "
        "699 754 776 822 848 875 881 889"
    ),
    "recreation/sports": "416 422 429-430 522 543 560 574 602 702 722 736 746-747 752 768 795 805 852 890 981 983",
    "transportation/vehicles": (
        "403-405 407-408 436 444 450 466 468 472 484 510-511 537 547 554-555 561 565 569 573 575-576 586 595 603 609 "
        "612 625 627-628 654 656 660-661 665 670-671 675 690 705 717 734 751 757 779-780 802-803 812 814 817 820 829 "
        "833 847 864 866-867 870-871 874 880 895 914"
    ),
}

OTHER_PICTURES = {  # other folders, on which choices can be made without a look at those above
    "animals/birds": "7-24 80-100 127-146",
    "animals/bugs": "69-79 300-326",
    "buildings": "410 425 437 449 483 497-498 500 580 624 660 663 668 698 706 727 743 762 832 853 858 915",
    "computer/hardware": "487 508 527 590 592 620 622 664 673 681 713 742 782 810",
    "food/beverages": "440-441 503-505 550 572 653 737 849 898-899 901 907 966-969",
    "plants": "738 883 984-990",
    "tools": "473 477 491 499 507 512 587 596 606 623 677 695 726 731 740 758 783-784 792 813 845 882",
    "office": "409 418 446 526 528 549 563 605 662 696 700 707 709-710 749 767 769 771 778 892 921",
    "transportation/boating": "472 484 510 536 554 576 625 628 693 724 780 814 833 871 914",
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
    draw : callable
        (seed, split) to X, y, X_test, y_test with `SHOTS` training images per class.
    network : torch.nn.Module or None
        The service's own, for the white-box ceiling.
    """

    name: str
    score_fn: Callable
    class_prompts: str | list[str]
    draw: Callable[[int, str], Split]
    network: nn.Module | None = None

    def load(self, seed: int, split: str, shots: int = SHOTS) -> Split:
        """X, y, X_test, y_test with the first of the training images of each class, at most `SHOTS`."""
        if not 1 <= shots <= SHOTS:
            raise ValueError(f"shots is {shots}; expected 1 to {SHOTS}.")
        X, y, X_test, y_test = self.draw(seed, split)
        if shots == SHOTS:
            return X, y, X_test, y_test
        rows = np.sort(np.concatenate([np.flatnonzero(y == c)[:shots] for c in np.unique(y)]))
        return X[rows], y[rows], X_test, y_test


def tasks() -> dict[str, Callable[[], Task]]:
    """All tasks by name, made when they are asked for."""
    found: dict[str, Callable[[], Task]] = {}
    for reader, surface in itertools.product(READERS, SURFACES):
        found[f"{reader}-{surface}"] = functools.partial(form_task, reader, surface)
    for damage in DAMAGES:
        found[f"small-{damage}"] = functools.partial(damage_task, damage)
    found["fashion"] = fashion_task
    for name in (*CONDITIONS, *OTHER_CONDITIONS):
        found[name] = functools.partial(clipart_task, name)
    return found


def titles() -> dict[str, str]:
    """The tasks in words: images, a comma and the service."""
    forms = itertools.product(READERS.items(), SURFACES.items())
    return {
        **{f"{reader}-{surface}": f"{images}, {title}" for (reader, title), (surface, images) in forms},
        **{f"small-{damage}": f"{images}, small reader" for damage, images in DAMAGES.items()},
        "fashion": "garments, EfficientNet-Lite0",
        **{name: f"{images}, EfficientNet-Lite0" for name, images in (CONDITIONS | OTHER_CONDITIONS).items()},
    }


def shots_of(name: str) -> tuple[int, ...]:
    """The numbers of shots that are published of a task."""
    return (16, 10, 5) if name in CONDITIONS else (SHOTS,)


# Text readers, and digits on forms


@cache
def text_reader(reader: str) -> Callable:
    """The demo's reader, or an older one, on one core."""
    return demo.text_reader(READERS[reader], n_threads=1)


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
    def draw(seed: int, split: str) -> Split:
        digits, labels = _digits()
        train, test = _rows(labels, seed, split, 1000, 500)
        first, second = (1 + seed, 5) if split == "test" else (300 + seed, 700 + seed)
        return (
            demo.draw_forms(digits[train], surface, first),
            labels[train],
            demo.draw_forms(digits[test], surface, second),
            labels[test],
        )

    return Task(f"{reader}-{surface}", text_reader(reader), "{}", draw)


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


def convolutional(*widths: int) -> nn.Sequential:
    """Convolutions with stride 2, each with batch normalisation; the first of the widths is that of the images."""
    block = lambda i, o: nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.ReLU())
    return nn.Sequential(*map(block, widths, widths[1:]))


def trained(network: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], n_steps: int) -> nn.Module:
    """A network after a step on each of the batches of images and labels; its weights are fixed then."""
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=n_steps)
    for x, y in batches:
        loss = F.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval().requires_grad_(False)


@cache
def small_reader(n_epochs: int = 40, batch_size: int = 100) -> nn.Module:
    """A convolutional network trained on undamaged digits of several sizes and places, in 20 s."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
        reader = nn.Sequential(convolutional(3, 16, 32, 64, 64), pooled)
        digits, labels = _digits()
        x, y = digits[:1000], torch.as_tensor(labels[:1000])

        def batches():
            for epoch in range(n_epochs):
                size = (28, 32, 36, 40)[epoch % 4]
                generator = torch.Generator().manual_seed(epoch)
                corners = torch.randint(0, _SIDE - size + 1, (len(x), 2), generator=generator)
                page = _placed(x, size, corners.tolist())
                for rows in torch.randperm(len(x)).split(batch_size):
                    yield page[rows], y[rows]

        return trained(reader, batches(), n_epochs * (len(x) // batch_size))


def damage_task(damage: str) -> Task:
    network = small_reader()

    def read(images, class_prompts):
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        return network(pixels).numpy()

    def draw(seed: int, split: str) -> Split:
        digits, labels = _digits()
        train, test = _rows(labels, seed, split, 1000, 797)
        first, second = (1 + seed, 99) if split == "test" else (300 + seed, 700 + seed)
        return damaged(digits[train], damage, first), labels[train], damaged(digits[test], damage, second), labels[test]

    return Task(f"small-{damage}", read, "{}", draw, network)


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


def any_size(read: Callable) -> Callable:
    """The same score function, which declares that it takes images of any size, as a convolutional network does."""
    read.takes_any_size = True
    return read


def fashion_task() -> Task:
    """EfficientNet-Lite0 on garments: of its thousand labels each garment has the sum of those nearest in words."""

    def draw(seed: int, split: str) -> Split:
        images, labels = garments()
        train, test = _rows(labels, seed, split, 5000, 500)
        return _at_96_pixels(images[train]), labels[train], _at_96_pixels(images[test]), labels[test]

    return Task("fashion", any_size(label_reader(GARMENTS.values())), list(GARMENTS), draw)


# The same service, and clip art

_PICTURE_SIDE, _MARGIN = 128, 8
_MOST_PIXELS = 20_000_000  # of a file: a few have more, and take seconds to read
_N_POOL = 30  # pictures per class for shots and development; the others are test images


def label_numbers(ranges: str) -> list[int]:
    """The numbers in "7 10-12": 7, 10, 11, 12."""
    bounds = [[int(bound) for bound in part.split("-")] for part in ranges.split()]
    return [number for part in bounds for number in range(part[0], part[-1] + 1)]


def _on_white(path: pathlib.Path) -> np.ndarray | None:
    """A picture without its empty margin, in the middle of a white square; None if its file is very large."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        picture = Image.open(path)
    if picture.width * picture.height > _MOST_PIXELS:
        return None
    picture = picture.convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    picture = picture.crop(ImageChops.invert(picture).getbbox())
    scale = (_PICTURE_SIDE - 2 * _MARGIN) / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    square = Image.new("RGB", (_PICTURE_SIDE, _PICTURE_SIDE), "white")
    corner = ((_PICTURE_SIDE - width) // 2, (_PICTURE_SIDE - height) // 2)
    square.paste(picture.resize((width, height), Image.Resampling.BILINEAR), corner)
    return np.asarray(square)


def _series(path: pathlib.Path) -> tuple[int, str]:
    """A key that shuffles files, but keeps the versions of one drawing side by side."""
    series = re.sub(r"_bw|[_\d]", "", path.stem)[:10]
    return crc32(series.encode()), path.name


@cache
def clipart(other: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """All pictures (n, 128, 128, 3) and their classes; the first 30 of each class come first, and are never tested.

    With `other`, they are those of the other folders.

    A picture that is in a folder twice counts once, and one in the folders of two classes not at all.
    """
    pools, others = [], []
    of_class: list[dict[bytes, np.ndarray]] = []
    for folder in OTHER_PICTURES if other else PICTURES:
        drawn = (_on_white(path) for path in sorted((CLIPART / folder).rglob("*.png"), key=_series))
        of_class.append({picture.tobytes(): picture for picture in drawn if picture is not None})
    n_classes = Counter(key for found in of_class for key in found)
    for label, found in enumerate(of_class):
        kept = [(picture, label) for key, picture in found.items() if n_classes[key] == 1]
        pools += kept[:_N_POOL]
        others += kept[_N_POOL:]
    images, labels = zip(*pools, *others)
    return np.stack(images), np.array(labels)


def damaged_pictures(images: np.ndarray, damage: str, seed: int) -> np.ndarray:
    """Pictures (n, height, width, 3) in fog, in the dark or in coloured light, each of a strength of its own."""
    random = np.random.RandomState(seed)
    x = images.astype(np.float32) / 255
    if damage == "fog":
        density = random.uniform(0.75, 0.97, (len(x), 1, 1, 1))
        x = x * (1 - density) + density * 0.8
    elif damage == "dark":
        x = x * random.uniform(0.02, 0.1, (len(x), 1, 1, 1))
    elif damage == "cast":
        light = random.uniform(0.05, 0.4, (len(x), 1, 1, 3))
        light[np.arange(len(x)), 0, 0, random.randint(3, size=len(x))] = 1
        x = x * light
    return (x * 255).round().astype(np.uint8)


def clipart_task(name: str) -> Task:
    """EfficientNet-Lite0 on clip art: each class has the sum of all labels that belong to it by their meaning.

    All pictures of the other folders are for development.
    """
    other = name in OTHER_CONDITIONS
    folders = OTHER_PICTURES if other else PICTURES

    def draw(seed: int, split: str) -> Split:
        images, labels = clipart(other)
        damage = name.removeprefix("other-").removeprefix("clipart").removeprefix("-")
        n_pool = len(labels) if other else _N_POOL * len(PICTURES)
        if other and split == "test":
            raise ValueError(f"The pictures of {name} are for development; use --split development.")
        train, test = _rows(labels, seed, split, n_pool, len(labels))
        first, second = (1 + seed, 99) if split == "test" else (300 + seed, 700 + seed)
        return (
            damaged_pictures(images[train], damage, first),
            labels[train],
            damaged_pictures(images[test], damage, second),
            labels[test],
        )

    classes = [folder.split("/")[-1] for folder in folders]
    service = any_size(label_reader(map(label_numbers, folders.values())))
    return Task(name, service, classes, draw)
