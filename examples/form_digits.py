"""Adapt a real text-reading service to handwritten digits in form boxes, from its scores alone.

The service is PP-OCRv6's text reader, which the package rapidocr ships, run by onnxruntime behind a plain score
function. The user has 16 labelled images of each digit. Run it with ``make demo``, or see ``--help``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import pathlib
import time
import warnings

import numpy as np
import onnxruntime
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate

from blackvip import BlackVIPClassifier, PromptNotUsedWarning

SIDE = 48  # pixels
SHOTS = 16
BUDGETS = {"coordinator": 16_000, "basis": 4_000}
SURFACES = ("plain", "box", "strike", "ruled")
ROWS = {
    "zero_shot": "zero-shot",
    "local_probe": "local probe, no service",
    "calibrated_zero_shot": "calibrated zero-shot",
    "fused_zero_shot": "fused zero-shot",
}


def make_reader():
    """The service: a score function for digits, from a text reader's character probabilities."""
    package = pathlib.Path(importlib.util.find_spec("rapidocr").origin).parent
    model = package / "models" / "PP-OCRv6_rec_small.onnx"
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    characters = session.get_modelmeta().custom_metadata_map["character"].split("\n")

    def read(images, class_prompts):
        columns = [characters.index(digit) + 1 for digit in class_prompts]  # 0 is the blank
        pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32) / 127.5 - 1
        probabilities = session.run(None, {"x": pixels})[0]  # (n, positions, characters)
        return np.log(probabilities[:, :, columns].max(axis=1) + 1e-6)

    return read


def draw_forms(digits, surface, seed):
    """Handwritten digits, white on black, at a random place and in a random size on a surface: (n, 48, 48, 3)."""
    generator = torch.Generator().manual_seed(seed)
    page = torch.zeros(len(digits), SIDE, SIDE)
    for image, digit in zip(page, digits):
        size = torch.randint(26, 38, (1,), generator=generator).item()
        left = torch.randint(4, SIDE - 3 - size, (1,), generator=generator).item()
        top = torch.randint(4, SIDE - 3 - size, (1,), generator=generator).item()
        enlarged = interpolate(digit[None, None], size=(size, size), mode="bicubic")
        image[top : top + size, left : left + size] = enlarged[0, 0].clamp(0, 1)
    if surface == "box":
        for edge in (slice(1, 4), slice(SIDE - 4, SIDE - 1)):
            page[:, edge, 1:-1] = 1
            page[:, 1:-1, edge] = 1
    elif surface == "strike":
        page[:, 22:26] = 1
    elif surface == "ruled":
        page[:, ::8] = page[:, ::8].clamp(min=0.8)
    return (page * 255).round().to(torch.uint8)[..., None].expand(-1, -1, -1, 3).numpy()


def load_forms(surface, seed):
    """16 training images of each digit, which depend on the seed, and 500 test images, which do not."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0)).numpy()
    digits = torch.tensor(data.images[order] / 16, dtype=torch.float32)
    labels = data.target[order]
    random = np.random.RandomState(seed)
    shots = [random.permutation(np.flatnonzero(labels[:1000] == digit))[:SHOTS] for digit in range(10)]
    train = np.concatenate(shots)
    X, y = draw_forms(digits[train], surface, 1 + seed), labels[train]
    X_test, y_test = draw_forms(digits[1000:1500], surface, 5), labels[1000:1500]
    return X, y, X_test, y_test


def run(prompter, args, read, forms):
    """Fit one prompter; its figures, and the classifier."""
    X, y, X_test, y_test = forms
    begin = time.perf_counter()
    clf = BlackVIPClassifier(
        read,
        "{}",
        prompter=prompter,
        max_queries=args.queries or BUDGETS[prompter],
        random_state=args.seed,
        verbose=2,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptNotUsedWarning)  # the table tells
        clf.fit(X, y)
    prompted_scores = read(clf.coordinator_.transform(X_test), clf.class_prompts_)
    figures = {
        "surface": args.surface,
        "prompter": prompter,
        "seed": args.seed,
        "billed_images": clf.n_queries_,
        **clf.score_controls(X_test, y_test),
        "blackvip_prompt": float((prompted_scores.argmax(axis=1) == y_test).mean()),
        "blackvip": clf.score(X_test, y_test),
    }
    return figures, clf, time.perf_counter() - begin


def print_table(results, args):
    some = results[0][0]
    print(f"\nDigits on the surface {args.surface!r}, {SHOTS} shots, 500 test images, seed {args.seed}")
    print(f"{'':50s}accuracy   billed images")
    for key, name in ROWS.items():
        price = 10 * SHOTS if key in ("calibrated_zero_shot", "fused_zero_shot") else 0
        print(f"  {name:48s}{some[key]:8.3f}{price:>16d}")
    for figures, clf, seconds in results:
        note = "" if clf.prompt_used_ else ", which the guard does not use"
        print(f"  {figures['prompter'] + ' prompt' + note:48s}{figures['blackvip_prompt']:8.3f}"
              f"{figures['billed_images']:>16,d}")  # fmt: skip
        print(f"  {figures['prompter'] + ' with its head':48s}{figures['blackvip']:8.3f}"
              f"{figures['billed_images']:>16,d}   ({seconds:.0f} s)")  # fmt: skip
    print("Every image that is predicted later bills one image more, the local probe's none.")


def draw_picture(results, read, forms, path, n_images=6, zoom=3):
    """A few originals, prompts and prompted images, with the reader's answer under each."""
    X, y = forms[2], forms[3]
    prompts = results[0][1].class_prompts_
    plain = read(X, prompts).argmax(axis=1)
    wrong, right = np.flatnonzero(plain != y), np.flatnonzero(plain == y)
    chosen = np.concatenate([wrong[: n_images - 2], right[:2]])
    rows = [("as it is", X[chosen], plain[chosen])]
    for figures, clf, _ in results:
        prompted = clf.coordinator_.transform(X[chosen])
        difference = prompted.astype(int) - X[chosen]
        neutral = np.clip(128 + difference / 2, 0, 255).astype(np.uint8)  # grey: no change
        rows.append((f"{figures['prompter']}: prompt", neutral, None))
        rows.append((f"{figures['prompter']}: prompted", prompted, read(prompted, prompts).argmax(axis=1)))
    font = ImageFont.load_default(14)
    margin, cell, line = 170, SIDE * zoom + 12, SIDE * zoom + 26
    canvas = Image.new("RGB", (margin + cell * len(chosen), 24 + line * len(rows)), "white")
    pen = ImageDraw.Draw(canvas)
    for column, row in enumerate(chosen):
        pen.text((margin + cell * column, 4), f"a {y[row]}", "black", font)
    for index, (name, images, answers) in enumerate(rows):
        top = 24 + line * index
        pen.text((8, top + SIDE * zoom // 2 - 8), name, "black", font)
        for column, image in enumerate(images):
            left = margin + cell * column
            large = Image.fromarray(image).resize((SIDE * zoom, SIDE * zoom), Image.Resampling.NEAREST)
            canvas.paste(large, (left, top))
            if answers is not None:
                correct = answers[column] == y[chosen[column]]
                text = f"read as {answers[column]}" + ("" if correct else "  (wrong)")
                pen.text((left, top + SIDE * zoom + 3), text, "darkgreen" if correct else "firebrick", font)
    canvas.save(path)
    print(f"Picture: {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompter", choices=tuple(BUDGETS), help="one prompter only (default: both)")
    parser.add_argument("--surface", choices=SURFACES, default="box", help="what the digits stand on (default: box)")
    parser.add_argument("--queries", type=int, help="images that training may bill (default: 16000 and 4000)")
    parser.add_argument("--seed", type=int, default=0, help="of the shots, their places and the training (default: 0)")
    parser.add_argument(
        "--json", action="store_true", help="print each result as a JSON object, one a line, at the end"
    )
    parser.add_argument("--picture", default="form_digits.png", help="where to write the picture")
    args = parser.parse_args()

    read, forms = make_reader(), load_forms(args.surface, args.seed)
    prompters = [args.prompter] if args.prompter else list(BUDGETS)
    results = [run(prompter, args, read, forms) for prompter in prompters]
    print_table(results, args)
    draw_picture(results, read, forms, args.picture)
    if args.json:
        for figures, _, _ in results:
            print(json.dumps(figures))


if __name__ == "__main__":
    main()
