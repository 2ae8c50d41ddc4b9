"""The example of a remote service, as its user runs it."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_remote_service():
    pytest.importorskip("rapidocr")
    command = [sys.executable, str(ROOT / "examples" / "remote_service.py"), "--queries", "1000"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr
    zero_shot, adapted = map(float, re.search(r"zero-shot (\S+), adapted (\S+)", run.stdout).groups())
    assert adapted > zero_shot + 0.05
    billed, requests, again = map(
        int, re.search(r"billed (\d+) .* (\d+) requests in all, (\d+) again", run.stdout).groups()
    )
    assert billed <= 1000
    assert requests >= (billed + 2 * 500) / 16
    assert again == 0
