"""A small open_clip model that reads digits: an image and a text tower, trained on the spot on plain digits.

    python benchmarks/small_clip.py    # trains it and prints how it reads

It is trained as CLIP is used, as a classifier over class prompts ("This is a photo of 7"), on white digits on black,
of several sizes and in any place; never on coloured grounds, nor with a second digit. What it is trained on are half of
the training digits of `datasets.read_digits` (`split_digits`): the shots of the benchmarks come from the other half.
"""

from __future__ import annotations

import json
import pathlib
import tempfile
import time

import numpy as np
import open_clip
import timm
import torch
import torch.nn.functional as F
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch
from torch import nn

from blackvip import datasets
from blackvip.scorers.open_clip import OpenCLIPScorer

NAME = "blackvip-digit-clip"
SIDE = 56  # pixels of the model's images
TEMPLATE = "This is a photo of {}"
_SIZES = (7, 7, 10, 14, 20, 28, 40, 56)  # pixels of the digits that it is trained on; each batch has all
_N_STEPS, _BATCH_SIZE, _LEARNING_RATE = 1_000, 64, 6e-3
_CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"timm_model_name": "blackvip_digit_tower", "timm_pool": "", "timm_proj": "", "image_size": SIDE},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


class DigitTower(nn.Module):
    """Three convolutions; a ViT of this cost does not learn to read in a minute."""

    def __init__(self, num_classes: int):
        super().__init__()
        block = lambda i, o, *size: nn.Sequential(nn.Conv2d(i, o, *size, bias=False), nn.BatchNorm2d(o), nn.ReLU())
        self.patches = block(3, 32, 6, 4, 1)
        self.near, self.far = block(32, 64, 3, 2, 1), block(64, 64, 3, 1, 1)
        self.head = nn.Linear(128, num_classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        near = self.near(self.patches(pixels))
        return self.head(torch.cat([near.amax((2, 3)), self.far(near).amax((2, 3))], dim=1))


@timm.models.register_model
def blackvip_digit_tower(pretrained=False, num_classes=32, **unused):
    return DigitTower(num_classes)


def split_digits() -> Bunch:
    """Images and labels of digits: ``reader`` for the model, ``pool`` for shots and development, ``test``."""
    digits = datasets.read_digits()
    reader, pool, y_reader, y_pool = train_test_split(
        digits.X_train, digits.y_train, test_size=0.5, stratify=digits.y_train, random_state=0
    )
    return Bunch(reader=(reader, y_reader), pool=(pool, y_pool), test=(digits.X_test, digits.y_test))


def draw_plain(images: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """White digits (n, 8, 8), uint8, of given sizes in any place on black: (n, 3, SIDE, SIDE) in [0, 1]."""
    pages = torch.zeros(len(images), 1, SIDE, SIDE)
    for size in np.unique(sizes):
        (rows,) = np.nonzero(sizes == size)
        digits = torch.from_numpy(images[rows])[:, None].float() / 255
        corners = rng.integers(0, SIDE - size + 1, (len(rows), 2))
        for row, digit, (top, left) in zip(rows, F.interpolate(digits, (int(size),) * 2, mode="bilinear"), corners):
            pages[row, :, top : top + size, left : left + size] = digit
    return pages.expand(-1, 3, -1, -1)


def train(weights: pathlib.Path) -> None:
    """Train the model, and save its weights: 20 s of one core."""
    images, labels = split_digits().reader
    rng, y = np.random.default_rng(0), torch.from_numpy(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.create_model(NAME).train()
        texts = open_clip.get_tokenizer(NAME)([TEMPLATE.format(digit) for digit in range(10)])
        model.token_embedding.requires_grad_(False)  # of which a few hundred numbers of 1.6 million are used
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.visual.image_mean, model.visual.image_std))
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], _LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=_N_STEPS)
        sizes = np.resize(_SIZES, _BATCH_SIZE)
        for _ in range(_N_STEPS):
            rows = rng.permutation(len(y))[:_BATCH_SIZE]
            pictures, words, scale = model((draw_plain(images[rows], sizes, rng) - mean) / std, texts)[:3]
            loss = F.cross_entropy(scale * pictures @ words.T, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    weights.parent.mkdir(parents=True, exist_ok=True)
    part = weights.with_suffix(".part")
    torch.save(model.state_dict(), part)
    part.replace(weights)


def digit_clip(weights: pathlib.Path) -> OpenCLIPScorer:
    """The model as a score function; it is trained where its weights are not on disk yet."""
    if NAME not in open_clip.list_models():
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / f"{NAME}.json").write_text(json.dumps(_CONFIG))
            open_clip.add_model_config(folder)
    if not weights.exists():
        train(weights)
    return OpenCLIPScorer(NAME, weights, device="cpu")


def main():
    torch.set_num_threads(1)
    prompts = [TEMPLATE.format(digit) for digit in range(10)]
    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        scorer = digit_clip(pathlib.Path(folder) / "digit_clip.pt")
        print(f"Trained in {time.process_time() - begin:.0f} s of CPU time. Accuracy on digits that it has not seen:")
        images, labels = split_digits().pool

        def accuracy(pixels):
            return (scorer(pixels, prompts).argmax(axis=1) == labels).mean()

        for size in sorted(set(_SIZES)):
            sizes = np.full(len(labels), size)
            print(f"  plain, {size} px: {accuracy(draw_plain(images, sizes, np.random.default_rng(1))):.3f}")


if __name__ == "__main__":
    main()
