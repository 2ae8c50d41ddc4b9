"""How the demos show what a fit gained: a leaderboard on test images, and the images that are sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..documentation import aligned

__all__ = ["draw_sent", "results_table"]


def results_table(fits: Mapping[str, Any], figures: Sequence[Mapping[str, Any]]) -> str:
    """Compare fits and their baselines on test images in a few lines.

    Parameters
    ----------
    fits : mapping of str to BlackVIPClassifier
        Fitted classifiers by name, fitted to the same images.
    figures : sequence of mapping of str to float
        For each fit, its accuracy on test images, "blackvip", and those of its baselines, as `score_baselines` returns
        them.

    Returns
    -------
    table : str
        A line for each, the best first, with the images that it bills.
    """
    n_train = len(next(iter(fits.values())).scored_images_.y)
    first = figures[0]
    rows = [
        ("sent as today", first["zero_shot"], 0, 1),
        ("local probe, no service", first["local_probe"], 0, 0),
        ("calibrated head", first["calibrated_zero_shot"], n_train, 1),
        ("fused head", first["fused_zero_shot"], n_train, 1),
    ]
    for (name, clf), of_fit in zip(fits.items(), figures):
        tried = [rung["prompter"] for rung in clf.rungs_ if rung["helps"] and rung["prompter"] != "no prompt"]
        prompt = " + ".join(dict.fromkeys(tried or ["prompt"])) if clf.prompt_used_ else "no prompt"
        rows.append((f"blackvip {name}: {prompt}, {clf.head_.title}", of_fit["blackvip"], clf.n_queries_, 1))
    rows.sort(key=lambda row: -row[1])
    head = ["", "accuracy", "images billed by fit", "by a prediction"]
    return aligned([head, *([name, f"{share:.3f}", f"{fit:,d}", str(each)] for name, share, fit, each in rows)])


def draw_sent(
    clf: Any, X: np.ndarray, y: np.ndarray, accuracies: tuple[float, float], n_wrong: int = 3, n_right: int = 1
) -> Any:
    """Draw images without and with the prompt of a classifier, with the answers below.

    The images are the first ones that the service alone gets wrong, and the first ones that it gets right.

    Parameters
    ----------
    clf : BlackVIPClassifier
        A fitted classifier. It sends X without and with prompts.
    X : ndarray of shape (n, height, width, 3), uint8
        Test images; a few dozen are enough.
    y : ndarray of shape (n,)
        Their labels.
    accuracies : tuple of float
        For the headline: accuracy on all test images, of the service alone and of the classifier.
    n_wrong, n_right : int
        Number of images that the service alone gets wrong and right.

    Returns
    -------
    figure : matplotlib Figure
        Two rows of images under a headline with both accuracies and the billed images.
    """
    import matplotlib.pyplot as plt

    found = clf.compare_prompt(X, y, heads=True)
    today, adapted = found.labels["zero_shot"], found.labels["classifier"]
    chosen = np.concatenate([np.flatnonzero(today != y)[:n_wrong], np.flatnonzero(today == y)[:n_right]])
    rows = [
        ("sent today", X[chosen], today[chosen]),
        ("sent by\nblackvip", clf.prompter_.transform(X[chosen]), adapted[chosen]),
    ]
    figure, grid = plt.subplots(2, len(chosen), figsize=(1.6 * len(chosen), 4.6), layout="constrained", squeeze=False)
    for axes, (name, images, answers) in zip(grid, rows):
        axes[0].set_ylabel(name, fontsize=15)
        for ax, image, answer, label in zip(axes, images, answers, y[chosen]):
            ax.imshow(image)
            ax.set(xticks=[], yticks=[])
            # Signs and colours that colour-blind readers tell apart.
            sign, colour = ("✓", "#005B8F") if answer == label else ("✗", "#A84300")
            ax.set_xlabel(f"{sign} {answer}", color=colour, fontsize=15)
    before, after = accuracies
    figure.suptitle(f"accuracy {before:.2f} → {after:.2f} for {clf.n_queries_:,} images", fontsize=18)
    return figure
