"""The gallery's order, and an example's time: a quarter of an hour, for what takes a minute on idle cores."""

import pathlib
import signal

SECONDS = 900

#: From the first steps to the special cases; an example that is not named comes after them.
ORDER = (
    "form_digits",
    "own_score_function",
    "paths_pipeline",
    "grid_search",
    "save_and_share",
    "remote_service",
    "zero_shot_clip",
    "compare_methods",
    "biased_and_loc",
)


class ReadingOrder:
    """Sphinx-gallery's sort key."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, filename):
        name = pathlib.Path(filename).stem
        return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def limit(gallery_conf, path, when):
    """Sphinx-gallery's hook: a clock that is set before an example, and stopped after it."""

    def stop(signum, frame):
        raise TimeoutError(f"{path} ran for more than {SECONDS} seconds; on two idle cores it should take a minute.")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS if when == "before" else 0)
