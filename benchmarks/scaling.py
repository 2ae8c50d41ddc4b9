"""How long a fit takes, by images, classes, latency and workers: predicted from measured constants, and measured.

First what it takes to ask a pool of workers. Then fits to services that do nothing but sleep: the time in which they
wait for answers, beside what the formula of docs/scaling.md says for it; and the same over HTTP. Then two workers of
dask and of Ray, if it is installed, against one. Last what blackvip itself takes, on one core, with a service that
takes no time: fits with two budgets give the processor time of a billed image (the slope) and of what is done once (the
rest).

    OMP_NUM_THREADS=1 python benchmarks/scaling.py [--repetitions 3] [--parts asking waiting http clusters own]

Times are the least of the repetitions: other work on the machine makes them longer, never shorter.
"""

import argparse
import math
import os
import pathlib
import sys
import time
import warnings
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from itertools import product

import joblib
import numpy as np
from distributed import Client, LocalCluster

from blackvip import BlackVIPClassifier
from blackvip.scorers import Ledger
from blackvip.scorers.parallel.scorer import spread

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
from servers.running import running
from servers.shared import scorer_of

SIDE, N_IMAGES, N_CLASSES, QUERIES = 48, 60, 3, 700
N_STEP = 32  # images of a step, with the default settings


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
    settings = {"prompter": "basis", "max_queries": queries, "random_state": 0, "verbose": 0, **parameters}
    return BlackVIPClassifier(score_fn, "stripe {}", **settings)


def seconds(clock, function, *arguments):
    begin = clock()
    function(*arguments)
    return clock() - begin


def least(repetitions, function, *arguments, clock=time.perf_counter):
    return min(seconds(clock, function, *arguments) for _ in range(repetitions))


def own_constants(repetitions, **data):
    """Seconds of a core that are spent once, and for each billed image, when the service takes none."""
    X, y = make_data(**data)
    few, many = (classifier(Sleeping(), queries) for queries in (QUERIES, 2 * QUERIES))
    short, long = (least(repetitions, clf.fit, X, y, clock=time.process_time) for clf in (few, many))
    per_image = (long - short) / (many.n_queries_ - few.n_queries_)
    return short - per_image * few.n_queries_, per_image


def asking_seconds(repetitions, side, score_fn=None):
    """Seconds that the workers of the context take to be asked for images that cost nothing: at first, and later."""
    images = np.zeros((N_STEP, side, side, 3), np.uint8)
    scorer = spread(score_fn or Sleeping(), None, None)
    first = seconds(time.perf_counter, scorer, images, ["a", "b"])
    return first, least(10 * repetitions, scorer, images, ["a", "b"])


def scoring_seconds(repetitions, latency, n_images):
    """Seconds to have so many images scored that are asked for at once, as by a step of a fit, or a prediction."""
    images = np.zeros((n_images, SIDE, SIDE, 3), np.uint8)
    ledger = Ledger(spread(Sleeping(latency), None, None), ["a", "b"])
    return least(repetitions, ledger.log_scores, images)


def predicted_waiting(plan, asking, latency, n_workers=1, at_a_time=None):
    """The formula of docs/scaling.md, with the images of each of the plan's questions.

    `latency` is of an image, one after another in each of so many workers; or of a request of one image, of which so
    many are sent at a time.
    """

    def question(n_images):
        return math.ceil(n_images / (at_a_time or n_workers)) * latency + asking

    n_steps = plan.steps.images // N_STEP
    return question(plan.baselines.images) + n_steps * question(N_STEP) + question(plan.final.images)


def measured_waiting(clf, X, y):
    clf.fit(X, y)
    return clf.seconds_per_image_ * clf.n_queries_


@contextmanager
def dask(n_workers):
    local = dict(host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs="ERROR")
    with (
        LocalCluster(n_workers=n_workers, threads_per_worker=1, **local) as cluster,
        Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        spread(Sleeping(), None, None)(np.zeros((8, SIDE, SIDE, 3), np.uint8), ["a", "b"])  # the workers' imports
        yield


@contextmanager
def ray(n_workers):
    os.environ["RAY_AUTH_MODE"] = "disabled"  # it is on this machine alone, and read by the import
    import ray
    from ray.util.joblib import register_ray

    paths = os.pathsep.join(path for path in sys.path if path)  # Ray's workers do not know those of this process
    environment = {"env_vars": {"PYTHONPATH": paths}}
    ray.init(num_cpus=n_workers, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    register_ray()
    try:
        with joblib.parallel_config("ray", n_jobs=n_workers):
            yield
    finally:
        ray.shutdown()


@contextmanager
def joblib_workers(backend, n_workers):  # its context begins when it is made, and not when it is entered
    with joblib.parallel_config(backend, n_jobs=n_workers):
        yield


threads, processes = partial(joblib_workers, "threading"), partial(joblib_workers, "loky")


def ray_if_installed(n_workers):
    return {f"{n_workers} Ray workers": ray(n_workers)} if find_spec("ray") else {}


def show_asking(repetitions):
    print("asking two workers for 32 images     48 px    224 px   at first", flush=True)
    pools = {"threads": threads(2), "loky": processes(2), "dask": dask(2), **ray_if_installed(2)}
    for name, pool in pools.items():
        with pool:
            (first, small), (_, large) = (asking_seconds(repetitions, side) for side in (48, 224))
        print(f"{name:33s}{1000 * small:7.1f} ms{1000 * large:7.1f} ms{first:9.2f} s", flush=True)


def compare(title, repetitions, score_fn, **how):
    """Print the time in which a fit waits in this context, beside the formula, and return it."""
    X, y = make_data()
    clf = classifier(score_fn, head=None)
    predicted = predicted_waiting(clf.plan(X, y), **how)
    measured = min(measured_waiting(clf, X, y) for _ in range(repetitions))
    print(f"{title:33s}{predicted:7.2f} s{measured:9.2f} s{measured / predicted:8.2f}", flush=True)
    return measured


def show_waiting(repetitions):
    print(f"\nwaiting in a fit of {QUERIES} images    predicted   measured   ratio", flush=True)
    for latency, n_workers in ((0.005, 2), (0.02, 4), (0.02, 8), (0.1, 8)):
        with threads(n_workers):
            how = dict(asking=asking_seconds(repetitions, SIDE)[1], latency=latency, n_workers=n_workers)
            compare(f"{1000 * latency:.0f} ms, {n_workers} threads", repetitions, Sleeping(latency), **how)


def show_http(repetitions):
    print("\nasking over HTTP for 32 images      48 px", flush=True)
    with running() as service:
        scorers = {at_a_time: scorer_of(service, n_concurrent=at_a_time) for at_a_time in (8, 32)}
        asking = {at_a_time: asking_seconds(repetitions, SIDE, scorer)[1] for at_a_time, scorer in scorers.items()}
        for at_a_time, seconds_of_round in asking.items():
            print(f"{f'{at_a_time} at a time':33s}{1000 * seconds_of_round:7.1f} ms", flush=True)
        print(f"\nwaiting in a fit of {QUERIES} images    predicted   measured   ratio", flush=True)
        for latency, (at_a_time, scorer) in product((0.05, 0.1), scorers.items()):
            service.control(latency=latency)
            how = dict(asking=asking[at_a_time], latency=latency, at_a_time=at_a_time)
            compare(f"{1000 * latency:.0f} ms over HTTP, {at_a_time} at a time", repetitions, scorer, **how)


def show_clusters(repetitions, latency=0.02):
    """Two workers against one: the time in which a fit waits, and the scores of a step and of a prediction."""
    print(f"\nwaiting in a fit of {QUERIES} images    predicted   measured   ratio", flush=True)
    seconds = {}
    pools = {"alone": nullcontext(), "1 dask worker": dask(1), "2 dask workers": dask(2), **ray_if_installed(2)}
    for name, pool in pools.items():
        with pool:
            how = dict(asking=asking_seconds(repetitions, SIDE)[1], latency=latency, n_workers=1 + name.startswith("2"))
            fit = compare(f"{1000 * latency:.0f} ms, {name}", repetitions, Sleeping(latency), **how)
            seconds[name] = [fit, *(scoring_seconds(5 * repetitions, latency, n) for n in (N_STEP, 10 * N_STEP))]
    print(f"\n{1000 * latency:.0f} ms an image, times as fast       a fit  32 images  320 images", flush=True)
    for name, one in (("2 dask workers", "1 dask worker"), ("2 dask workers", "alone"), ("2 Ray workers", "alone")):
        if name in seconds:
            fit, few, many = np.divide(seconds[one], seconds[name])
            print(f"{f'{name} against {one}':33s}{fit:8.2f}{few:11.2f}{many:12.2f}", flush=True)


def show_own(repetitions):
    print("\nblackvip alone, on one core            once  for a billed image", flush=True)
    for n_images, n_classes, side in ((60, 3, 48), (60, 10, 48), (150, 50, 48), (60, 3, 112), (60, 3, 224)):
        once, per_image = own_constants(repetitions, n_images=n_images, n_classes=n_classes, side=side)
        title = f"{n_images} images of {side} px, {n_classes} classes"
        print(f"{title:33s}{once:8.2f} s{1000 * per_image:17.2f} ms", flush=True)


PARTS = {"asking": show_asking, "waiting": show_waiting, "http": show_http, "clusters": show_clusters, "own": show_own}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    args = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    for part in args.parts:
        PARTS[part](args.repetitions)


if __name__ == "__main__":
    main()
