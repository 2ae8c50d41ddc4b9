"""Run a server that does not outlive the program that started it.

    python with_parent.py COMMAND ...

ends COMMAND, and all processes that it has started, as soon as the standard input ends. A pipe does so when its other
end is closed, or when the process that holds it dies, however it dies.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading

# Seconds that a server has to end by itself.
PATIENCE = 10


def stop(process):
    """End a process and its group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)


def main(command):
    # A group of its own, so that its processes can be ended together.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)

    def watch():
        while os.read(0, 1024):
            pass
        stop(process)

    threading.Thread(target=watch, daemon=True).start()
    status = process.wait()
    # Some of its processes may live on.
    stop(process)
    return status


if __name__ == "__main__":
    # Ctrl-C in a terminal reaches all processes; whoever started this one decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(main(sys.argv[1:]))
