"""Order of the gallery, and the time limit of an example: a quarter of an hour."""

import pathlib
import signal

SECONDS = 900

#: From first steps to special cases. Other examples follow.
ORDER = (
    "dark_photos",
    "form_digits",
    "own_score_function",
    "paths_pipeline",
    "grid_search",
    "save_and_share",
    "remote_service",
    "chat_on_vllm",
    "zero_shot_clip",
    "compare_methods",
    "biased_and_loc",
)


class ReadingOrder:
    """Sort key of sphinx-gallery."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, filename):
        name = pathlib.Path(filename).stem
        return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def limit(gallery_conf, path, when):
    """Sphinx-gallery hook that sets an alarm before an example and cancels it afterwards."""

    def stop(signum, frame):
        raise TimeoutError(f"{path} ran for more than {SECONDS} seconds; expected about a minute on two idle cores.")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS if when == "before" else 0)
