"""
Digits in form boxes
====================

A real text reader, PP-OCRv6 from the package rapidocr, reads handwritten digits well, but not in form boxes. From its
scores for 16 images of each digit, we train a prompt that is drawn onto every image before it is sent.

``make demo`` also runs it with the paper's Coordinator. ``--help`` lists the options.
"""

import argparse
import json
import time
import warnings

import matplotlib.pyplot as plt
import numpy as np

from blackvip import BlackVIPClassifier, PromptNotUsedWarning
from blackvip.demo import SURFACES, load_forms, text_reader

BUDGETS = {"coordinator": 16_000, "basis": 4_000}
parser = argparse.ArgumentParser(description="Adapt a text reader to digits on forms, from its scores alone.")
parser.add_argument("--prompter", nargs="+", choices=BUDGETS, default=["basis"], help="default: basis")
parser.add_argument("--surface", choices=SURFACES, default="box", help="surface behind the digits (default: box)")
parser.add_argument("--queries", type=int, help="images that training may bill (default: 16000 and 4000)")
parser.add_argument("--seed", type=int, default=0, help="seed of the shots, their places and the training (default: 0)")
parser.add_argument("--json", action="store_true", help="finally print each result as a JSON object on its own line")
parser.add_argument("--picture", help="file for the picture")
args = parser.parse_args()

# %%
# A service is any function of images and class prompts. This one runs the reader on this machine.

read = text_reader()
X, y, X_test, y_test = load_forms(args.surface, seed=args.seed)

# %%
# Train each prompter within a budget of billed images. ``score_baselines`` scores the baselines without a prompt.

results = []
for prompter in args.prompter:
    budget = args.queries or BUDGETS[prompter]
    clf = BlackVIPClassifier(read, list("0123456789"), prompter=prompter, max_queries=budget, random_state=args.seed)
    clf.set_params(verbose=2)
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptNotUsedWarning)
        clf.fit(X, y)
    prompted = clf.coordinator_.transform(X_test)
    row = {"surface": args.surface, "prompter": prompter, "seed": args.seed, "billed_images": clf.n_queries_}
    row |= clf.score_baselines(X_test, y_test)
    row["blackvip_prompt"] = float((read(prompted, clf.class_prompts_).argmax(axis=1) == y_test).mean())
    row["blackvip"] = clf.score(X_test, y_test)
    results.append((row, clf, time.perf_counter() - begin))

# %%
# The baselines, what the prompts gain, and what they cost.

print(f"\nDigits on the surface {args.surface!r}, 16 shots, {len(X_test)} test images, seed {args.seed}")
print(f"{'':50s}accuracy   billed images")
for key in ("zero_shot", "local_probe", "calibrated_zero_shot", "fused_zero_shot"):
    billed = len(X) if key.startswith(("calibrated", "fused")) else 0
    print(f"  {key.replace('_', ' '):48s}{results[0][0][key]:8.3f}{billed:>16,d}")
for row, clf, seconds in results:
    name = row["prompter"] + " prompt" + ("" if clf.prompt_used_ else ", not used by the guard")
    print(f"  {name:48s}{row['blackvip_prompt']:8.3f}{clf.n_queries_:>16,d}")
    print(f"  {row['prompter'] + ' with its head':48s}{row['blackvip']:8.3f}{clf.n_queries_:>16,d}   ({seconds:.0f} s)")
print("Each prediction bills one more image, except with the local probe, which bills none.")

# %%
# Four images that the reader gets wrong and two that it gets right: originals, prompts, and prompted images.

plain = read(X_test, clf.class_prompts_).argmax(axis=1)
chosen = np.concatenate([np.flatnonzero(plain != y_test)[:4], np.flatnonzero(plain == y_test)[:2]])
rows = [("original", X_test[chosen], plain[chosen])]
for row, clf, _ in results:
    prompted = clf.coordinator_.transform(X_test[chosen])
    prompt = np.clip(128 + (prompted.astype(int) - X_test[chosen]) / 2, 0, 255).astype(np.uint8)  # grey: no change
    answers = read(prompted, clf.class_prompts_).argmax(axis=1)
    rows += [(f"{row['prompter']}: prompt", prompt, None), (f"{row['prompter']}: prompted", prompted, answers)]
figure, grid = plt.subplots(len(rows), len(chosen), figsize=(9, 1.7 * len(rows)), layout="constrained")
for axes, (name, images, answers) in zip(grid, rows):
    for column, (ax, image) in enumerate(zip(axes, images)):
        ax.imshow(image)
        ax.set(xticks=[], yticks=[])
        if answers is not None:
            right = answers[column] == y_test[chosen[column]]
            ax.set_xlabel(f"read as {answers[column]}" + ("" if right else ", wrong"), color="C2" if right else "C3")
    axes[0].set_ylabel(name.replace(": ", ":\n"))
for ax, label in zip(grid[0], y_test[chosen]):
    ax.set_title(f"a {label}")
if args.picture:
    figure.savefig(args.picture, dpi=110)
    print(f"Picture: {args.picture}")
else:
    plt.show()
if args.json:
    print("\n".join(json.dumps(row) for row, _, _ in results))
