"""Toy services and data: real computations that take microseconds."""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small fits: threads that wait for one another cost more than they save
os.environ["SCIPY_ARRAY_API"] = "1"  # or scikit-learn skips its check of array API input; read when SciPy is imported

import numpy as np
import pytest
import torch
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.backend.context import get_start_method, set_start_method
from programs import Programs, preload_forks
from servers.running import running

if sys.platform != "win32":
    # joblib's processes are forks of one that has imported blackvip, which would take each of them seconds.
    set_start_method("forkserver")
    preload_forks()

#: Files whose slow tests share nothing, so that each can go to another process. Tests of all others stay together,
#: since they share servers, readers and fitted classifiers.
INDEPENDENT = ("test_examples.py", "test_form_digits.py", "test_code_blocks.py", "test_resuming.py", "test_paper.py")


def pytest_collection_modifyitems(items):
    """Files with slow tests go first: the last to begin should be short, so that no process waits for another."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Files are spread over the processes, and of the independent ones the tests."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::", 1)[0]
            return nodeid if file.endswith(INDEPENDENT) else file

    return Scheduling(config, log)


@pytest.fixture(scope="module")
def remote():
    """The service of servers/app.py, for the tests of services over HTTP; they reset it by its `control`."""
    with running() as service:
        yield service


@pytest.fixture(scope="session")
def programs():
    """Programs in processes of their own, which need not import blackvip."""
    started = Programs()
    yield started
    started.close()


@pytest.fixture
def new_processes():
    """joblib's processes as its users have them: each imports blackvip by itself."""
    before = get_start_method()
    get_reusable_executor().shutdown()
    set_start_method("loky", force=True)
    yield
    get_reusable_executor().shutdown()
    set_start_method(before, force=True)


class ToyService:
    """A service that recognises bright stripes, and with `glare` takes all bright images for the first class.

    An image's score for class j is the brightness of its j-th vertical stripe. It counts the images that it is
    sent, keeps what it saw, and can be told to fail.
    """

    score_type = "logits"

    def __init__(self, gain=6.0, glare=0.0):
        self.gain = gain
        self.glare = glare
        self.n_images = 0
        self.calls = []
        self.fail_at = None  # the call at which `failure` is raised
        self.failure = RuntimeError("the service is down")

    def __call__(self, images, class_prompts):
        self.calls.append((images, class_prompts))
        self.n_images += len(images)
        if self.fail_at is not None and len(self.calls) >= self.fail_at:
            raise self.failure
        grey = images.mean(axis=3) / 255
        stripes = np.array_split(grey, len(class_prompts), axis=2)
        scores = np.stack([stripe.mean(axis=(1, 2)) for stripe in stripes], axis=1)
        scores[:, 0] += self.glare * grey.mean(axis=(1, 2))
        return self.gain * scores


class Undecided(ToyService):
    """A service for which all classes are equally likely, more so in bright images."""

    def __call__(self, images, class_prompts):
        return super().__call__(images, class_prompts).mean(axis=1, keepdims=True) + np.zeros(len(class_prompts))


class RowReader:
    """A service that tells any number of classes apart by sums of an image's columns; it allows gradients."""

    def __repr__(self):  # part of the names of tests, which have to be the same in all processes
        return "RowReader()"

    def __call__(self, images, class_prompts):
        columns = images.mean(axis=(1, 3)) / 255
        return 10 * columns @ self._weights(columns.shape[1], len(class_prompts))

    def differentiable(self, class_prompts):
        def logits(pixels):
            columns = pixels.mean(dim=(1, 2))
            weights = torch.from_numpy(self._weights(columns.shape[1], len(class_prompts)))
            return 10 * columns @ weights.to(pixels.dtype)

        return logits

    def _weights(self, n_columns, n_classes):
        return np.cos(np.outer(np.arange(n_columns) + 1, np.arange(n_classes) + 1))


def make_stripes(n=40, n_classes=2, side=8, background=0.45, seed=0):
    """Images (n, side, side, 3), uint8, with one brighter stripe; labels."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    X = np.full((n, side, side), background) + rng.uniform(-0.05, 0.05, (n, side, side))
    for image, label in zip(X, y):
        np.array_split(image, n_classes, axis=1)[label][:] += 0.4
    X = np.round(np.clip(X, 0, 1) * 255).astype(np.uint8)
    return np.repeat(X[..., None], 3, axis=3), y


@pytest.fixture
def service():
    return ToyService()


@pytest.fixture
def stripes():
    return make_stripes()
