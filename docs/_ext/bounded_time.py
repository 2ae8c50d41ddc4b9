"""No example of the gallery runs longer than a minute and a half: it is a minute's work on two idle cores."""

import signal

SECONDS = 90


def limit(gallery_conf, path, when):
    """Sphinx-gallery's hook: a clock that is set before an example, and stopped after it."""

    def stop(signum, frame):
        raise TimeoutError(f"{path} ran for more than {SECONDS} seconds; an example may take a minute.")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS if when == "before" else 0)
