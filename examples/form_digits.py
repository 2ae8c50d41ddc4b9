"""
Digits in form boxes
====================

A real text reader, PP-OCRv6 from the package rapidocr, reads handwritten digits well, but not in form boxes. With 16
labelled images of each digit and some 500 billed images, the default finds out what helps the reader to see them.

``make demo`` runs this program, and ``make demo-paper`` adds the paper's Coordinator. ``--help`` lists the options.
"""

import argparse
import json
import time
import warnings

import matplotlib.pyplot as plt

from blackvip import BlackVIPClassifier, PromptNotUsedWarning
from blackvip.demo import SURFACES, draw_sent, load_forms, results_table, text_reader

BUDGETS = {"auto": 700, "basis": 4_000, "coordinator": 16_000}
NEXT = """
What next:
  your own photos     the twenty lines in README.md, and docs/own_service.md
  other pictures      make demo-photos
  the other surfaces  make demo ARGS="--surface strike"
  a trained prompt    make demo ARGS="--prompter auto basis"
  the paper's method  make demo-paper
"""
parser = argparse.ArgumentParser(description="Adapt a text reader to digits on forms, from its scores alone.")
parser.add_argument("--prompter", nargs="+", choices=BUDGETS, default=["auto"], help="default: auto")
parser.add_argument("--surface", choices=SURFACES, default="box", help="surface behind the digits (default: box)")
parser.add_argument("--queries", type=int, help="images that training may bill (default: 700, 4000 and 16000)")
parser.add_argument("--seed", type=int, default=0, help="seed of the shots, their places and the training (default: 0)")
parser.add_argument("--json", action="store_true", help="finally print each result as a JSON object on its own line")
parser.add_argument("--picture", help="file for the picture")
args = parser.parse_args()

# %%
# A service is any function of images and class prompts. This one runs the reader on this machine.

read = text_reader()
X, y, X_test, y_test = load_forms(args.surface, seed=args.seed)

# %%
# Fit within a budget of billed images. The default, ``prompter="auto"``, climbs a ladder: it scores the unmodified
# training images, compares standard image corrections, and trains a prompt where much is left to gain.

fits, rows = {}, []
for prompter in args.prompter:
    budget = args.queries or BUDGETS[prompter]
    clf = BlackVIPClassifier(read, list("0123456789"), prompter=prompter, max_queries=budget, random_state=args.seed)
    clf.set_params(verbose=2)
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptNotUsedWarning)
        clf.fit(X, y)
    print(f"\n{prompter}: {clf.n_queries_:,} images were billed in {time.perf_counter() - begin:.0f} s")
    prompted = clf.prompter_.transform(X_test)
    row = {"surface": args.surface, "prompter": prompter, "seed": args.seed, "billed_images": clf.n_queries_}
    row |= clf.score_baselines(X_test, y_test)
    row["blackvip_prompt"] = float((read(prompted, clf.class_prompts_).argmax(axis=1) == y_test).mean())
    row["blackvip"] = clf.score(X_test, y_test)
    fits[prompter] = clf
    rows.append(row)

# %%
# The leaderboard on test images, and some of these images without and with blackvip.

print(f"\nDigits on the surface {args.surface!r}, {len(X)} labelled images, {len(X_test)} to test, seed {args.seed}")
print(results_table(fits, rows))
row, first = rows[0], fits[args.prompter[0]]
figure = draw_sent(first, X_test[:60], y_test[:60], (row["zero_shot"], row["blackvip"]))
if args.picture:
    figure.savefig(args.picture, dpi=150)
    print(f"Picture: {args.picture}")
else:
    plt.show()
print(NEXT)
if args.json:
    print("\n".join(map(json.dumps, rows)))
