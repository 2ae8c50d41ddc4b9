"""Draws docs/displays.png: the four displays of one fit, digits in form boxes read by PP-OCRv6.

    python benchmarks/displays.py [--queries 4000] [--seed 0] [--report fit.html]

The pictures are of development images, none of which is a test image of the published figures.
"""

from __future__ import annotations

import argparse
import pathlib

import matplotlib.pyplot as plt
import numpy as np
import services

from blackvip import BlackVIPClassifier, ConfusionChangeDisplay, GainDisplay, PromptDisplay, QueryCurveDisplay, report

PICTURE = pathlib.Path(__file__).parents[1] / "docs" / "displays.png"


def draw(clf, X, y):
    """A figure of all four."""
    figure = plt.figure(figsize=(9.2, 10.2), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.12, w_pad=0.12)
    (prompts, confusion), (curves, gains) = figure.subplots(2, 2)
    proba = clf.score_fn(X, clf.class_prompts_)
    wrong, right = (np.flatnonzero((clf.classes_[proba.argmax(axis=1)] == y) == known) for known in (False, True))
    shown = np.concatenate([wrong[:2], right[:1]])
    PromptDisplay.from_estimator(clf, X[shown], y[shown], ax=prompts)
    ConfusionChangeDisplay.from_estimator(clf, X, y, ax=confusion)
    QueryCurveDisplay.from_estimator(clf, ax=curves)
    GainDisplay.from_estimator(clf, ax=gains)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=4000, help="images that training may bill (default: 4000)")
    parser.add_argument("--seed", type=int, default=0, help="of the shots and the training (default: 0)")
    parser.add_argument("--report", help="a file for the report of the same fit, besides the picture")
    args = parser.parse_args()

    task = services.tasks()["ocr6-box"]()
    X, y, X_test, y_test = task.load(args.seed, "development")
    clf = BlackVIPClassifier(
        task.score_fn, task.class_prompts, prompter="basis", max_queries=args.queries, random_state=args.seed
    )
    clf.fit(X, y)
    draw(clf, X_test, y_test).savefig(PICTURE, dpi=110)
    print(f"Picture: {PICTURE}")
    if args.report:
        print(f"Report: {args.report}", report(clf, args.report, X_test, y_test))


if __name__ == "__main__":
    main()
