"""The service of app.py as a process of its own."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

TESTS = pathlib.Path(__file__).parents[1]
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class TestService:
    __test__ = False  # pytest: it is no test

    def __init__(self, port: int):
        self.url = f"http://127.0.0.1:{port}"

    def control(self, **settings) -> None:
        """Set what it does, and forget its counts."""
        DIRECT.open(self.url + "/control", data=json.dumps(settings).encode()).close()

    def counts(self) -> dict:
        with DIRECT.open(self.url + "/counts") as answer:
            return {"images": 0, "requests": 0, **json.load(answer)}


@contextmanager
def running():
    """A service; it ends with the block."""
    command = [sys.executable, "-m", "servers.app"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=TESTS)
    try:
        port = process.stdout.readline()
        assert port, f"The service did not start, it ended with {process.wait(10)}."
        yield TestService(int(port))
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()
