"""vLLM, in an environment of its own, with one of the tiny models of in_vllm/tiny_models.py."""

from __future__ import annotations

import os
import pathlib
import re
import socket
import subprocess
import sys
import time
import urllib.error
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from blackvip import BlackVIPClassifier
from blackvip.scorers.http import HTTPScorer
from servers.running import DIRECT
from servers.shared import make_images

HERE = pathlib.Path(__file__).parent
IN_VLLM = HERE / "in_vllm"
PYTHON = HERE.parents[1] / ".venv" / "vllm" / "bin" / "python"
# Seconds until a server is ready. It takes about 40 on two idle cores, and 150 on busy ones.
PATIENCE = 400
#: Marks of all tests with vLLM.
MARKS = [
    pytest.mark.slow,
    pytest.mark.vllm,
    pytest.mark.skipif(not PYTHON.exists(), reason="vLLM is not installed; `make test-vllm` does it"),
]
OPTIONS = {
    "llava": ["--max-model-len", "512", "--skip-mm-profiling"],
    "lfm2": ["--max-model-len", "512", "--skip-mm-profiling"],
    "clip": ["--runner", "pooling"],
}
ENVIRONMENT = {
    "PYTHONPATH": str(IN_VLLM),
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    # Nothing is compiled at the first request.
    "TORCHDYNAMO_DISABLE": "1",
}


class VLLM:
    """A server that runs.

    Attributes
    ----------
    url : str
        Without the ``/v1``.
    model : pathlib.Path
        Folder of its model, as transformers reads it. Its name at the server is "tiny".
    """

    def __init__(self, url: str, model: pathlib.Path):
        self.url = url
        self.model = model

    def counts(self, metric: str) -> dict[str, float]:
        """Return a metric of the server, by its labels as they are written."""
        with DIRECT.open(f"{self.url}/metrics") as answer:
            lines = re.findall(rf"^{metric}{{(.*)}} (\S+)$", answer.read().decode(), re.MULTILINE)
        return {labels: float(number) for labels, number in lines}

    def n_answered(self) -> int:
        """Return how many requests the model has answered, as the server counts them."""
        return int(sum(self.counts("vllm:request_success_total").values()))

    def n_requests(self) -> int:
        """Return how many requests the server has received below its ``/v1``, whatever became of them."""
        return int(sum(n for labels, n in self.counts("http_requests_total").items() if 'handler="/v1/' in labels))


def build(model: str, folder: pathlib.Path) -> None:
    """Write a model into a folder."""
    command = [PYTHON, IN_VLLM / "tiny_models.py", model, folder]
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@contextmanager
def vllm_with(model: str, folder: pathlib.Path) -> Iterator[VLLM]:
    """Build a model, and serve it; the server ends with the block, or with this process.

    Parameters
    ----------
    model : {"llava", "lfm2", "clip"}
    folder : pathlib.Path
        For the model and the server's log.
    """
    build(model, folder / model)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", folder / model, "--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager"]
    command += ["--max-num-seqs", "4", *OPTIONS[model]]
    url, log = f"http://127.0.0.1:{port}", folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, HERE / "with_parent.py", *command],
            env=os.environ | ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until_ready(url, process, log)
        yield VLLM(url, folder / model)
    finally:
        process.stdin.close()
        process.wait(60)


def wait_until_ready(url: str, process: subprocess.Popen, log: pathlib.Path) -> None:
    """Wait until the server is healthy."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert process.poll() is None, f"vLLM ended with {process.returncode}: {log.read_text()[-8000:]}"
        try:
            DIRECT.open(f"{url}/health", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"vLLM was not ready after {PATIENCE} s: {log.read_text()[-8000:]}")


def check_fit(
    scorer: HTTPScorer, n_answered: Callable[[], int], side: int, per_image: int = 1, n_texts: int = 0
) -> BlackVIPClassifier:
    """Fit and predict, and compare what is billed with the server's own count of answers.

    Parameters
    ----------
    scorer : HTTPScorer
    n_answered : callable
        Returns the server's count.
    side : int
        Height and width of the images.
    per_image : int, default=1
        Answers that the server counts for an image.
    n_texts : int, default=0
        Class prompts that are sent by themselves, once.
    """
    X, y = make_images(18, side=side), np.arange(18) % 3
    n_before = n_answered()
    clf = BlackVIPClassifier(scorer, ["one", "two", "three"], prompter="basis", max_queries=80, random_state=0)
    with warnings.catch_warnings():
        # Random weights see nothing, so that no prompt helps.
        warnings.simplefilter("ignore", UserWarning)
        clf.fit(X[:12], y[:12])
    n_fitted = n_answered()
    assert n_fitted - n_before == per_image * clf.n_queries_ + n_texts
    assert 12 < clf.n_queries_ <= 80
    np.testing.assert_allclose(clf.predict_proba(X[12:]).sum(axis=1), 1)
    assert n_answered() - n_fitted == per_image * clf.n_queries_predict_ > 0
    return clf
