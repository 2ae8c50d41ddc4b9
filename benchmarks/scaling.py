"""How long a fit takes, by images, classes, latency and workers: predicted from measured constants, and measured.

First a service that takes no time, for what blackvip itself takes: fits with two budgets give the time of a billed
image (the slope) and of what is done once (the rest). Then what it takes to ask a pool of workers. Then fits to services that
do nothing but sleep, beside what the formula of docs/scaling.md says for them; and the same fit with one worker of dask
and with two.

    python benchmarks/scaling.py [--repetitions 3]

Times are the least of the repetitions; other work on the machine makes them longer, never shorter.
"""

import argparse
import math
import os
import pathlib
import sys
import time
import warnings
from contextlib import contextmanager, nullcontext

os.environ.setdefault("OMP_NUM_THREADS", "1")

import joblib
import numpy as np
from distributed import Client, LocalCluster

from blackvip import BlackVIPClassifier, PromptNotUsedWarning
from blackvip.scorers.parallel import spread

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
from servers.running import running
from servers.shared import scorer_of

SIDE, N_IMAGES, N_CLASSES, QUERIES = 48, 60, 3, 700


class Sleeping:
    """A service that takes so many seconds for an image, one after another."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds

    def __call__(self, images, class_prompts):
        if self.seconds:
            time.sleep(self.seconds * len(images))
        stripes = np.array_split(images[:, ::4, ::4, 0], len(class_prompts), axis=2)
        return np.stack([stripe.mean(axis=(1, 2)) / 40 for stripe in stripes], axis=1)


def make_data(n_images=N_IMAGES, n_classes=N_CLASSES, side=SIDE):
    rng = np.random.default_rng(0)
    y = np.arange(n_images) % n_classes
    X = rng.integers(0, 120, (n_images, side, side, 3), dtype=np.uint8)
    for image, label in zip(X, y):
        np.array_split(image, n_classes, axis=1)[label][:] += 60
    return X, y


def classifier(score_fn, queries=QUERIES, **parameters):
    return BlackVIPClassifier(score_fn, "stripe {}", max_queries=queries, random_state=0, verbose=0, **parameters)


def fit_seconds(clf, X, y):
    begin = time.perf_counter()
    clf.fit(X, y)
    return time.perf_counter() - begin


def least(repetitions, function, *arguments):
    return min(function(*arguments) for _ in range(repetitions))


def own_constants(repetitions, **data):
    """Seconds that are spent once, and for each billed image, when the service takes none."""
    X, y = make_data(**data)
    few, many = (classifier(Sleeping(), queries) for queries in (QUERIES, 2 * QUERIES))
    seconds = [least(repetitions, fit_seconds, clf, X, y) for clf in (few, many)]
    per_image = (seconds[1] - seconds[0]) / (many.n_queries_ - few.n_queries_)
    return seconds[0] - per_image * few.n_queries_, per_image


def asking_seconds(repetitions, side, n_images=32):
    """Seconds that a pool of two takes to be asked for images that cost nothing."""
    images = np.zeros((n_images, side, side, 3), np.uint8)
    scorer = spread(Sleeping(), 2, None)

    def ask():
        begin = time.perf_counter()
        scorer(images, ["a", "b"])
        return time.perf_counter() - begin

    return least(5 * repetitions, ask)


def predicted_seconds(plan, once, per_image, asking, latency, n_workers=1, at_a_time=1):
    """The formula of docs/scaling.md, with the images of each of the plan's questions."""

    def question(n_images):
        waves = math.ceil(n_images / n_workers) if at_a_time == 1 else math.ceil(n_images / at_a_time)
        return waves * latency + asking

    n_steps, step = plan.steps.images // 32, 32
    questions = question(plan.controls.images) + n_steps * question(step) + question(plan.final.images)
    return once + per_image * plan.fit.images + questions


@contextmanager
def dask(n_workers):
    local = dict(host="127.0.0.1", dashboard_address=None, silence_logs="ERROR")
    with (
        LocalCluster(n_workers=n_workers, threads_per_worker=1, **local) as cluster,
        Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        fit_seconds(classifier(Sleeping()), *make_data())  # the workers' imports
        yield


def threads(n_workers):
    return joblib.parallel_config("threading", n_jobs=n_workers)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    repetitions = parser.parse_args().repetitions
    warnings.simplefilter("ignore", PromptNotUsedWarning)
    X, y = make_data()
    fit_seconds(classifier(Sleeping()), X, y)  # warms up

    print("blackvip alone                          once  for a billed image", flush=True)
    for n_classes, n_images in ((3, 60), (10, 60), (50, 150)):
        for side in (48, 112, 224) if n_classes == 3 else (48,):
            once, per_image = own_constants(repetitions, n_images=n_images, n_classes=n_classes, side=side)
            title = f"{n_images} images of {side} px, {n_classes} classes"
            print(f"{title:33s}{once:9.2f} s{1000 * per_image:17.2f} ms", flush=True)
            if (n_classes, side) == (N_CLASSES, SIDE):
                constants = once, per_image

    print("\nasking two workers for 32 images     48 px    224 px", flush=True)
    asking = {}
    for name, pool in (("threads", threads(2)), ("loky", joblib.parallel_config("loky", n_jobs=2)), ("dask", dask(2))):
        with pool:
            small, large = (asking_seconds(repetitions, side) for side in (48, 224))
        asking[name] = small
        print(f"{name:33s}{1000 * small:7.1f} ms{1000 * large:7.1f} ms", flush=True)

    print("\na fit of 700 images              predicted   measured   ratio", flush=True)

    def compare(title, score_fn, pool, **how):
        plan = classifier(score_fn).plan(X, y)
        predicted = predicted_seconds(plan, *constants, **how)
        with pool:
            measured = least(repetitions, fit_seconds, classifier(score_fn), X, y)
        print(f"{title:33s}{predicted:7.2f} s{measured:9.2f} s{measured / predicted:8.2f}", flush=True)
        return measured

    compare("5 ms, alone", Sleeping(0.005), nullcontext(), asking=0, latency=0.005)
    compare("20 ms, alone", Sleeping(0.02), nullcontext(), asking=0, latency=0.02)
    for latency, n_workers in ((0.005, 2), (0.02, 2), (0.02, 4), (0.02, 8), (0.1, 8)):
        how = dict(asking=asking["threads"], latency=latency, n_workers=n_workers)
        compare(f"{1000 * latency:.0f} ms, {n_workers} threads", Sleeping(latency), threads(n_workers), **how)
    seconds = {}
    for n_workers in (1, 2):
        with dask(n_workers):
            how = dict(asking=asking["dask"], latency=0.02, n_workers=n_workers)
            title = f"20 ms, {n_workers} worker{'s' * (n_workers > 1)} of dask"
            seconds[n_workers] = compare(title, Sleeping(0.02), nullcontext(), **how)
    with running() as service:
        for at_a_time in (4, 8, 32):
            service.control(latency=0.05)
            how = dict(asking=0, latency=0.05, at_a_time=at_a_time)
            scorer = scorer_of(service, n_concurrent=at_a_time)
            compare(f"50 ms over HTTP, {at_a_time} at a time", scorer, nullcontext(), **how)
    print(f"\ntwo workers of dask are {seconds[1] / seconds[2]:.2f} times as fast as one", flush=True)


if __name__ == "__main__":
    main()
