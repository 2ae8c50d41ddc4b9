"""Large runs: the memory of a process over time, and where the time goes.

    files  fits on some of many JPEG files, and predicts all of them
    fit    fits on many images of many classes, with a service that takes no time

    OMP_NUM_THREADS=1 python benchmarks/large_runs.py files [--files 100000] [--fit 1000] [--side 224] [--service-ms 2]
    OMP_NUM_THREADS=1 python benchmarks/large_runs.py fit [--classes 1000] [--shots 16] [--queries 20000]

Memory is the resident size in /proc, on Linux. Processor time is that of all threads of the process, without the
service's.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import pathlib
import tempfile
import threading
import time

import numpy as np
from PIL import Image

from blackvip import BlackVIPClassifier

N_STRIPES = 10
GRID = 3  # cells of a pattern, in a row and in a column
NOISE = 80.0  # standard deviation of the cells of an image around those of its class
SIDE = 48  # px, of the images of patterns


class Counted:
    """Base class of services: counts the images, and the time that it takes for them."""

    def __init__(self):
        self.reset()

    def reset(self):
        """Count from zero."""
        self.n_images, self.wall, self.cpu = 0, 0.0, 0.0

    def __call__(self, images, class_prompts):
        wall, cpu = time.perf_counter(), time.thread_time()
        scores = self.scores(images)
        self.wall += time.perf_counter() - wall
        self.cpu += time.thread_time() - cpu
        self.n_images += len(images)
        return scores


class StripeReader(Counted):
    """A service that finds the dark stripe of an image, and sees it badly in low contrast.

    It takes a fixed processor time for each image, in which other threads run, as a model's would.
    """

    def __init__(self, milliseconds):
        super().__init__()
        self.seconds = milliseconds / 1000

    def scores(self, images):
        end, buffer = time.thread_time() + self.seconds * len(images), bytes(200_000)
        stripes = np.array_split(images[:, ::4, ::4, 0], N_STRIPES, axis=2)
        means = np.stack([stripe.mean(axis=(1, 2)) for stripe in stripes], axis=1)
        while time.thread_time() < end:
            hashlib.sha256(buffer)
        return 5 * np.exp(-(((means - 40) / 40) ** 2)) + 0.5 * np.sin(1000 * means)


class PatternReader(Counted):
    """A service that compares the cells of an image, and of its negative, with patterns (n_classes, n_cells)."""

    def __init__(self, patterns):
        super().__init__()
        self.patterns = patterns

    def scores(self, images):
        cells = images.reshape(len(images), GRID, SIDE // GRID, GRID, SIDE // GRID, 3).mean(axis=(2, 4))
        cells = cells.reshape(len(images), -1)
        return np.maximum(self.similarity(cells), self.similarity(255 - cells))

    def similarity(self, cells):
        """Log likelihood (n_images, n_classes) of cells (n_images, n_cells), up to a constant."""
        squares = np.square(cells).sum(axis=1)[:, None] + np.square(self.patterns).sum(axis=1)
        return (2 * cells @ self.patterns.T - squares) / (2 * NOISE**2)


class Memory(threading.Thread):
    """Samples the resident memory every second, and the number of images that a service has had by then."""

    def __init__(self, service):
        super().__init__(daemon=True)
        self.service = service
        self.samples = []  # (images, MiB)
        self._end = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self._end.set()
        self.join()
        self.sample()

    def run(self):
        while not self._end.wait(1):
            self.sample()

    def sample(self):
        self.samples.append((self.service.n_images, status_mib("VmRSS")))

    def after(self, n_images):
        """Memory in MiB at the first sample with so many images."""
        return next(mib for n, mib in self.samples if n >= n_images)


def status_mib(name):
    """Return a figure of this process's memory: "VmRSS" is the current one, and "VmHWM" the largest one."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def write_files(folder, n_files, side):
    """Write JPEG files, all of them different: stripes in low contrast, one of them darker than the others."""
    rng = np.random.default_rng(0)
    waves = 10 * np.sin(np.arange(side)[:, None, None] / (side / 20) + np.arange(3))
    for number in range(n_files):
        page = rng.uniform(130, 200) + rng.uniform(0.5, 1) * waves + rng.uniform(-5, 5, (1, side, 1))
        np.array_split(page, N_STRIPES, axis=1)[number % N_STRIPES][:] -= rng.uniform(20, 40)
        Image.fromarray(page.round().astype(np.uint8)).save(folder / f"{number:06d}.jpg", quality=85)


def pattern_images(n_classes, shots, rng):
    """Images (n, SIDE, SIDE, 3) of noisy patterns in fog, their classes (n,), and the patterns (n_classes, n_cells).

    Half of the images are negatives, so that a local probe finds the patterns hard.
    """
    patterns = np.random.default_rng(0).uniform(0, 1, (n_classes, GRID * GRID, 3))
    # All patterns have the whole range in each channel, which autocontrast restores.
    patterns = 255 * (patterns - patterns.min(axis=1, keepdims=True)) / np.ptp(patterns, axis=1, keepdims=True)
    patterns = patterns.reshape(n_classes, -1)
    y = np.tile(np.arange(n_classes), shots)
    cells = patterns[y] + rng.normal(0, NOISE, (len(y), GRID * GRID * 3))
    cells = np.where(rng.random((len(y), 1)) < 0.5, cells, 255 - cells).clip(0, 255)
    fog = rng.uniform(0.2, 0.6, (len(y), 1))
    cells = (cells * (1 - fog) + 255 * fog).round().astype(np.uint8).reshape(-1, GRID, GRID, 3)
    return cells.repeat(SIDE // GRID, axis=1).repeat(SIDE // GRID, axis=2), y, patterns


def files(args):
    service = StripeReader(args.service_ms)
    with tempfile.TemporaryDirectory() as folder:
        write_files(pathlib.Path(folder), args.files, args.side)
        paths = sorted(map(str, pathlib.Path(folder).iterdir()))
        names = [f"stripe {number}" for number in range(N_STRIPES)]
        labels = np.array(names)[np.arange(len(paths)) % N_STRIPES]
        before = status_mib("VmRSS")
        # Used whether it helps or not: predictions draw prompts and compute local features.
        clf = BlackVIPClassifier(service, prompter="autocontrast", guard=False, random_state=0, verbose=0)
        clf.fit(paths[: args.fit], labels[: args.fit])
        adds = status_mib("VmHWM") - before
        print(f"fit on {args.fit:,} files of {args.side} px: {adds:,.0f} MiB at most\n{clf.leaderboard_}", flush=True)
        service.reset()
        wall, cpu = time.perf_counter(), time.process_time()
        with Memory(service) as memory:
            y = clf.predict(paths)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    tenth = memory.after(len(paths) // 10)
    print(f"prediction of {len(paths):,} files, accuracy {(y == labels).mean():.3f}")
    for n in range(1, 11):
        print(f"  {10 * n:3d} %  {memory.after(n * service.n_images // 10):7,.0f} MiB")
    print(f"from 10 % to the end {memory.samples[-1][1] - tenth:+,.0f} MiB, at most {status_mib('VmHWM'):,.0f} MiB")
    print(
        f"{len(paths) / wall:.0f} images a second; {1 - service.wall / wall:.1%} of the wall time outside the service; "
        f"per image {1000 * wall / len(paths):.2f} ms, processor {1000 * (cpu - service.cpu) / len(paths):.2f} ms and "
        f"{1000 * service.cpu / len(paths):.2f} ms of the service"
    )


class Phases(logging.Handler):
    """Prints the time and the memory at each message of a fit's log."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.begin = self.clocks()
        logging.getLogger("blackvip").addHandler(self)
        logging.getLogger("blackvip").setLevel(logging.INFO)

    def clocks(self):
        return np.array([time.perf_counter(), time.process_time()])

    def emit(self, record):
        wall, cpu = self.clocks() - self.begin
        self.begin = self.clocks()
        text = record.getMessage().partition("\n")[0]
        print(f"{wall:8.1f} s {cpu:8.1f} s of a core {status_mib('VmHWM'):7,.0f} MiB  {text}", flush=True)


def fit(args):
    images, y, patterns = pattern_images(args.classes, args.shots, np.random.default_rng(1))
    tests, y_test, _ = pattern_images(args.classes, max(1, 2_000 // args.classes), np.random.default_rng(2))
    service = PatternReader(patterns)
    clf = BlackVIPClassifier(service, max_queries=args.queries, random_state=args.seed, verbose=0)
    names = np.array([f"pattern {number:04d}" for number in range(args.classes)])
    y, y_test = names[y], names[y_test]
    before, wall, cpu = status_mib("VmRSS"), time.perf_counter(), time.process_time()
    Phases()
    clf.fit(images, y)
    wall, cpu, peak = time.perf_counter() - wall, time.process_time() - cpu, status_mib("VmHWM") - before
    print(f"{len(y):,} images of {args.classes:,} classes, {clf.n_queries_:,} billed, {clf.termination_reason_}")
    print(f"fit {wall:.1f} s, {cpu - service.cpu:.1f} s of a core; {peak:,.0f} MiB besides the images")
    print(clf.leaderboard_)
    print({name: round(value, 3) for name, value in clf.score_baselines(tests, y_test).items()})
    print(f"test {clf.score(tests, y_test):.3f}, {clf.head_!r:.60}, {clf.prompter_!r:.60}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("files")
    part.set_defaults(run=files)
    part.add_argument("--files", type=int, default=100_000, help="files to predict")
    part.add_argument("--fit", type=int, default=1_000, help="files to fit on")
    part.add_argument("--side", type=int, default=224, help="pixels")
    part.add_argument("--service-ms", type=float, default=2.0, help="processor time of the service for an image")
    part = parts.add_parser("fit")
    part.set_defaults(run=fit)
    part.add_argument("--classes", type=int, default=1_000)
    part.add_argument("--shots", type=int, default=16, help="training images of each class")
    part.add_argument("--queries", type=int, default=20_000, help="the most images that the fit may bill")
    part.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
