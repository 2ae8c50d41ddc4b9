"""No example of the gallery runs longer than five minutes: on two idle cores it takes one, on busy ones several."""

import signal

SECONDS = 300


def limit(gallery_conf, path, when):
    """Sphinx-gallery's hook: a clock that is set before an example, and stopped after it."""

    def stop(signum, frame):
        raise TimeoutError(
            f"{path} ran for more than {SECONDS} seconds; an example may take a minute on two idle cores."
        )

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS if when == "before" else 0)
