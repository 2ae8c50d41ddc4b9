"""Two, ten and 95 classes: the default against the baseline that cross-validation chooses.

    python benchmarks/class_counts.py [--classes 2 10 95] [--damages none fog gradient] [--shots 5 16] [--seeds 0 1 2]
        [--queries 4000]

The service is a small network that knows 95 characters: the digits, and letters of three alphabets that look different.
They are printed in four fonts of matplotlib. The images have other sizes, places and slants than those it was trained
on, and are damaged. Prints a line per fit, and paired differences at the end.
"""

from __future__ import annotations

import argparse
import pathlib
import warnings
from functools import cache

import matplotlib
import numpy as np
import services
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from blackvip import BlackVIPClassifier
from blackvip.exceptions import ClassPromptWarning, HeadNotHelpfulWarning, PromptNotUsedWarning

CHARACTERS = "0123456789ABDEFGHJKLMNPQRSTUVWXYZabdefghijklmnqrtyΓΔΘΛΞΠΣΦΨΩαβγδεζηθλμξπστφψωБДЖЗИЛЦЧШЭЮЯбджзиф"
FONTS = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "DejaVuSans-Bold")
SIDE = 40
FONT_FOLDER = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def drawn(classes: np.ndarray, random: np.random.Generator, slant: float = 0.15) -> np.ndarray:
    """Light characters on a dark ground (n, side, side), with random fonts, sizes, places and slants."""
    pages = np.zeros((len(classes), SIDE, SIDE), np.uint8)
    for page, index in zip(pages, classes):
        font = ImageFont.truetype(str(FONT_FOLDER / f"{random.choice(FONTS)}.ttf"), int(random.integers(20, 33)))
        image = Image.new("L", (SIDE, SIDE))
        place = SIDE / 2 + random.uniform(-4, 4, 2)
        ImageDraw.Draw(image).text(tuple(place), CHARACTERS[index], fill=255, font=font, anchor="mm")
        shear = random.uniform(-slant, slant)
        page[:] = image.transform((SIDE, SIDE), Image.Transform.AFFINE, (1, shear, -shear * SIDE / 2, 0, 1, 0))
    return pages


@cache
def reader(n_steps: int = 1_500, batch_size: int = 100) -> nn.Module:
    """A network that reads undamaged characters, trained in half a minute."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(512, len(CHARACTERS)))
        network = nn.Sequential(services.convolutional(3, 32, 64, 128, 128), pooled)
        classes = np.tile(np.arange(len(CHARACTERS)), 100)
        pages = torch.from_numpy(drawn(classes, np.random.default_rng(0))).float()[:, None].expand(-1, 3, -1, -1) / 255
        y = torch.from_numpy(classes)
        batches = (torch.randint(0, len(y), (batch_size,)) for _ in range(n_steps))
        return services.trained(network, ((pages[rows], y[rows]) for rows in batches), n_steps)


def damaged(pages: np.ndarray, damage: str, random: np.random.Generator) -> np.ndarray:
    """Images (n, side, side, 3) of characters that are slanted more, and in fog or uneven light."""
    x = pages[..., None].repeat(3, axis=3) / 255
    n = len(x)
    if damage == "fog":
        density = random.uniform(0.3, 0.8, (n, 1, 1, 1))
        x = x * (1 - density) + density
    elif damage == "gradient":
        line = np.linspace(0, 1, SIDE)[None, None, :, None]
        strength, falls = random.uniform(0.2, 0.5, (n, 1, 1, 1)), random.random((n, 1, 1, 1)) < 0.5
        x = np.clip(0.6 * x + strength * np.where(falls, line, 1 - line), 0, 1)
    return (x * 255).round().astype(np.uint8)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 10, len(CHARACTERS)])
    parser.add_argument("--damages", nargs="+", default=["none", "fog", "gradient"])
    parser.add_argument("--shots", type=int, nargs="+", default=[5, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--queries", type=int, default=4_000)
    args = parser.parse_args()
    if not all(2 <= n_classes <= len(CHARACTERS) for n_classes in args.classes):
        parser.error(f"--classes has {args.classes}; expected numbers from 2 to {len(CHARACTERS)}")
    torch.set_num_threads(1)
    for category in (PromptNotUsedWarning, ClassPromptWarning, HeadNotHelpfulWarning):
        warnings.simplefilter("ignore", category)
    network = reader()
    for n_classes in args.classes:
        for damage in args.damages:
            for shots in args.shots:
                differences = []
                for seed in args.seeds:
                    random = np.random.default_rng([seed, n_classes])
                    known = np.sort(random.permutation(len(CHARACTERS))[:n_classes])

                    def read(images, class_prompts, known=known):
                        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
                        return network(x).numpy()[:, known]

                    y, y_test = np.tile(known, shots), np.tile(known, max(4, 400 // n_classes))
                    X, X_test = (damaged(drawn(labels, random, 0.4), damage, random) for labels in (y, y_test))
                    found = {}
                    for budget in (len(y), args.queries):
                        clf = BlackVIPClassifier(
                            read, list(CHARACTERS[c] for c in known), max_queries=budget, random_state=seed, verbose=0
                        )
                        found[budget] = clf.fit(X, y).score(X_test, y_test)
                    differences.append(found[args.queries] - found[len(y)])
                    print(
                        f"{n_classes:3} classes, {damage:8} {shots:2} shots, seed {seed}: {found[args.queries]:.3f}, "
                        f"baseline {found[len(y)]:.3f}, {clf.n_queries_} images, {clf.termination_reason_}, "
                        f"{clf.prompter_!r:.40}",
                        flush=True,
                    )
                spread = f"{min(differences):+.3f} to {max(differences):+.3f}"
                print(
                    f"{n_classes:3} classes, {damage:8} {shots:2} shots: {np.mean(differences):+.4f} ({spread})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
