"""A fit and a search on a cluster: two dask workers on this machine, and a slow service.

Run it with ``python examples/cluster.py``, after ``pip install "blackvip[distributed]"``. On your own cluster, change
only the client's address: ``Client("tcp://scheduler:8786")``. See docs/clusters.md.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings

import joblib
import numpy as np
from distributed import Client, LocalCluster
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV

from blackvip import BlackVIPClassifier, PromptNotUsedWarning


class SlowService(BaseEstimator):
    """A toy service that believes that bright means day, and needs some milliseconds per image.

    Each worker loads what it needs at the first call instead of unpickling it: here, the number of its process.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds

    def __call__(self, images, class_prompts):
        if not hasattr(self, "_process"):
            self._process = os.getpid()
            print(f"  loaded in process {self._process}", flush=True)
        time.sleep(self.seconds * len(images))
        day = images.mean(axis=(1, 2, 3)) / 255
        return 20 * np.stack([day - 0.5, 0.5 - day], axis=1)

    def __getstate__(self):
        return {"seconds": self.seconds}


def timed(title, function):
    begin = time.perf_counter()
    result = function()
    print(f"{title:22s}{time.perf_counter() - begin:7.1f} s", flush=True)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--milliseconds", type=float, default=20, help="milliseconds per image (default: 20)")
    parser.add_argument("--queries", type=int, default=500, help="images that each fit may bill (default: 500)")
    args = parser.parse_args()
    warnings.simplefilter("ignore", PromptNotUsedWarning)

    rng = np.random.default_rng(0)
    y = np.repeat(["night", "day"], 20)  # every photo is underexposed
    X = rng.uniform(0, 0.3, (40, 16, 16)) + np.where(y == "day", 0.15, 0)[:, None, None]
    service = SlowService(args.milliseconds / 1000)
    clf = BlackVIPClassifier(
        service,
        "a photo taken at {}",
        prompter="basis",
        head="calibrated",
        max_queries=args.queries,
        random_state=0,
        verbose=0,
    )
    search = GridSearchCV(clf, {"c": [0.05, 0.1]}, cv=2)

    alone = timed("a fit, alone", lambda: clf.fit(X, y).coordinator_.parameters_)
    expected = timed("a search, alone", lambda: search.fit(X, y).cv_results_["mean_test_score"])

    workers = LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs="ERROR"
    )
    with workers as cluster, Client(cluster), joblib.parallel_config(backend="dask"):
        timed("the workers' imports", lambda: clf.fit(X, y))
        together = timed("a fit, two workers", lambda: clf.fit(X, y).coordinator_.parameters_)
        found = timed("a search, two workers", lambda: search.fit(X, y).cv_results_["mean_test_score"])
    print(f"the same prompt: {np.array_equal(together, alone)}; the same search: {np.array_equal(found, expected)}")


if __name__ == "__main__":
    main()
