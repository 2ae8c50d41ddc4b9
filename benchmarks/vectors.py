"""Compare the default without and with a service's vectors, and scikit-learn's regression on the vectors alone.

    python benchmarks/vectors.py [--tasks fashion clipart] [--seeds 0 1 2] [--split test]

The service is EfficientNet-Lite0, see `services`. Its vector has the log probabilities of its thousand labels. Each
method bills at least an image for each training image, and the regression no more. Needs what `services` needs.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable

import numpy as np
from services import CONDITIONS, Task, tasks
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from blackvip import BlackVIPClassifier
from blackvip.demo import label_reader

N_LABELS = 1000


class WithVectors:
    """A score function whose scores are followed by its vectors."""

    vector_size = N_LABELS

    def __init__(self, score_fn: Callable, vectors_of: Callable):
        self.score_fn = score_fn
        self.vectors_of = vectors_of

    def __call__(self, images: np.ndarray, class_prompts: list[str]) -> np.ndarray:
        return np.hstack([self.score_fn(images, class_prompts), self.vectors_of(images, class_prompts)])


def accuracies(task: Task, seed: int, split: str) -> dict[str, tuple[float, int]]:
    """The test accuracy of each method, and the images that it has billed."""
    X, y, X_test, y_test = task.load(seed, split)
    vectors_of = label_reader([[label] for label in range(N_LABELS)])
    found = {}
    for name, score_fn in {"default": task.score_fn, "with vectors": WithVectors(task.score_fn, vectors_of)}.items():
        clf = BlackVIPClassifier(score_fn, task.class_prompts, random_state=seed, verbose=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[name] = clf.fit(X, y).score(X_test, y_test), clf.n_queries_
    alone = make_pipeline(StandardScaler(), LogisticRegressionCV(Cs=np.logspace(-4, 1, 6), l1_ratios=(0,), cv=5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone.fit(vectors_of(X, []), y)
    found["regression on vectors"] = alone.score(vectors_of(X_test, []), y_test), len(X)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["fashion", *CONDITIONS], choices=["fashion", *CONDITIONS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", default="test", choices=["test", "development"])
    options = parser.parse_args()
    print("task           method                 accuracy (least-most)    billed")
    for name in options.tasks:
        task = tasks()[name]()
        rows = [accuracies(task, seed, options.split) for seed in options.seeds]
        for method in rows[0]:
            values, billed = zip(*(row[method] for row in rows))
            spread = f"{np.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"
            print(f"{name:14} {method:22} {spread:24} {np.mean(billed):.0f}", flush=True)


if __name__ == "__main__":
    main()
