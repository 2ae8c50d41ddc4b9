"""A long fit over HTTP with faults, whose process is killed twice: is it the same, and what does it hold?

A service runs as another process on this machine. From a seeded generator it drops connections, truncates answers,
answers slowly or not at all, and answers 429 and 503. A fit with a checkpoint runs in a process of its own, which is
killed (SIGKILL) after a third and after two thirds of its images, and started again. Its resident memory, its open
sockets and its journal are measured every second. The table shows them from each process's first connection on, each
minute, and when the process ends. A fit without faults, latency and kills is what it is compared with. The service
counts the images that it answered: answers that a kill lost are billed again, at most those that were under way.

    OMP_NUM_THREADS=1 python benchmarks/long_run.py

It needs Linux, for /proc.
"""

import argparse
import multiprocessing
import os
import pathlib
import sys
import tempfile
import time
import warnings
from typing import NamedTuple

import numpy as np

from blackvip import BlackVIPClassifier, PromptNotUsedWarning

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
from servers.running import running
from servers.shared import scorer_of

CLASSES = ["left", "middle", "right"]
SIDE, N_IMAGES, N_CONCURRENT, TIMEOUT = 48, 60, 8, 2.0
#: Probability of each fault, for every request. A stall is longer than the timeout, and a slow answer is not.
FAULTS = {"reset": 0.003, "torn": 0.003, "429 0.2": 0.005, "503 0.2": 0.005, "slow 0.5": 0.005, "stall 3": 0.0005}


class Sample(NamedTuple):
    """Memory, sockets and journal of a process at a moment, and the images that the service had answered by then."""

    seconds: float
    images: int
    megabytes: float
    sockets: int
    journal_megabytes: float


def make_data():
    """Noise with a stripe that tells the class, darker than the service expects."""
    rng = np.random.default_rng(0)
    numbers = np.arange(N_IMAGES) % len(CLASSES)
    X = rng.integers(0, 120, (N_IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    for image, number in zip(X, numbers):
        np.array_split(image, len(CLASSES), axis=1)[number][:] += 20
    return X, np.array(CLASSES)[numbers]


def fit(service, n_queries, prompter, checkpoint, results):
    """Fit in this process, and save what the fit left."""
    warnings.simplefilter("ignore", PromptNotUsedWarning)
    scorer = scorer_of(service, n_concurrent=N_CONCURRENT, timeout=TIMEOUT)
    clf = BlackVIPClassifier(
        scorer,
        "the {} stripe is bright",
        score_type="logits",
        prompter=prompter,
        optimizer="spsa-gc",
        head="calibrated",
        max_queries=n_queries,
        checkpoint=checkpoint,
        random_state=0,
        verbose=0,
    )
    X, y = make_data()
    clf.fit(X, y)
    np.savez(
        results,
        parameters=clf.prompter_.parameters_,
        head=clf.head_.coef_,
        losses=[step["loss"] for step in clf.history_],
        n_queries=clf.n_queries_,
    )


def sample(process, journal, begin, images):
    """Measure a running process; None if it ended meanwhile."""
    folder = pathlib.Path("/proc", str(process.pid))
    try:
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        sockets = sum(os.readlink(link).startswith("socket:") for link in (folder / "fd").iterdir())
        resident = int(status["VmRSS"].split()[0]) / 1024
    except (FileNotFoundError, KeyError, ProcessLookupError):
        return None
    size = sum(file.stat().st_size for file in journal.parent.glob(journal.name + "*")) / 1e6
    return Sample(time.monotonic() - begin, images, resident, sockets, size)


def run_once(service, arguments, journal, begin, kill_at, interval):
    """Fit in a new process, which is killed as soon as the service has answered so many images; samples of it."""
    process = multiprocessing.get_context("spawn").Process(target=fit, args=arguments)
    process.start()
    samples = []
    while process.is_alive():
        images = service.counts()["images"]
        samples.append(sample(process, journal, begin, images))
        if images >= kill_at:
            process.kill()
        process.join(interval)
    assert process.exitcode == 0 or images >= kill_at, f"The fit ended with {process.exitcode}."
    return [one for one in samples if one is not None]


def long_run(n_queries, latency, folder, prompter="basis", seed=0, interval=1.0):
    """Samples of each process of the disturbed fit, its results, those of the undisturbed one, and the counts."""
    journal = folder / "run.journal"
    with running() as service:
        fit(service, n_queries, prompter, None, folder / "expected.npz")
        service.control(latency=latency, rates=FAULTS, seed=seed)
        begin = time.monotonic()
        disturbed = service, n_queries, prompter, journal, folder / "found.npz"
        kills = n_queries // 3, 2 * n_queries // 3, np.inf
        processes = [run_once(service, disturbed, journal, begin, kill_at, interval) for kill_at in kills]
        counts = service.counts()
    expected, found = (dict(np.load(folder / f"{name}.npz")) for name in ("expected", "found"))
    return processes, found, expected, counts


def print_samples(samples, step=60.0):
    """Print the sample at which a process first has a connection, one for each step, and its last."""
    wanted = next(one.seconds for one in samples if one.sockets)
    for one in samples:
        if one.seconds >= wanted or one is samples[-1]:
            wanted = one.seconds + step
            print(
                f"{one.seconds:7.0f} s{one.images:10d}{one.megabytes:12.1f} MB{one.sockets:10d}"
                f"{one.journal_megabytes:12.2f} MB",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000, help="images that the fit may bill (default: 50000)")
    parser.add_argument("--latency", type=float, default=0.13, help="seconds of each answer (default: 0.13)")
    parser.add_argument("--prompter", default="basis", help='"basis" or "coordinator" (default: basis)')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        processes, found, expected, counts = long_run(args.images, args.latency, pathlib.Path(folder), args.prompter)
    print(f"{'time':>9s}{'images':>10s}{'resident':>15s}{'sockets':>10s}{'journal':>15s}")
    for number, samples in enumerate(processes):
        print(f"process {number + 1}")
        print_samples(samples)
    samples = [one for process in processes for one in process]
    lost = counts["images"] - found["n_queries"]
    print(f"at most {max(one.sockets for one in samples)} sockets and {max(one.megabytes for one in samples):.1f} MB")
    print("faults:", ", ".join(f"{name}: {counts.get(name, 0)}" for name in FAULTS))
    print(f"{counts['requests']} requests on {counts['connections']} connections")
    print(f"{counts['images']} images answered, n_queries_ {found['n_queries']}, lost by kills {lost}")
    print("bit-identical:", all(np.array_equal(found[name], expected[name]) for name in expected))


if __name__ == "__main__":
    main()
