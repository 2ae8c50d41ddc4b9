"""Servers that tests start end with the process that started them, even if that one is killed."""

import pathlib
import signal
import subprocess
import sys
import time

import pytest

WITH_PARENT = pathlib.Path(__file__).parent / "servers" / "with_parent.py"
# A server with a process of its own, which would both run for a minute. It tells their numbers.
SERVER = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(60)
"""
STARTER = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, {str(WITH_PARENT)!r}, sys.executable, "-c", {SERVER!r}], stdin=subprocess.PIPE,
                 start_new_session=True)
time.sleep(60)
"""


def is_running(number):
    try:
        status = pathlib.Path(f"/proc/{number}/stat").read_text()
    except FileNotFoundError:
        return False
    # An entry is left of those that have ended, until they are waited for.
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_for_end(numbers):
    end = time.monotonic() + 20
    while any(map(is_running, numbers)):
        assert time.monotonic() < end, "They live on."
        time.sleep(0.02)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked up in /proc")
def test_a_server_ends_when_its_starter_is_killed():
    with subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True) as starter:
        numbers = list(map(int, starter.stdout.readline().split()))
        assert all(map(is_running, numbers))
        starter.send_signal(signal.SIGKILL)
        wait_for_end(numbers)


def test_the_status_of_a_server_that_ends_by_itself_is_passed_on():
    command = [sys.executable, WITH_PARENT, sys.executable, "-c", "raise SystemExit(7)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.wait(20) == 7
