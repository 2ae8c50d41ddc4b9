"""The progress bar of a fit: images billed of the budget, figures, time left."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from tqdm.auto import tqdm

__all__ = ["ProgressBar", "progress_bar"]

_SHOWN_STEPS = 20  # over which figures are averaged: a step has few images


def progress_bar(n_images: int, title: str, verbose: int, initial: int = 0) -> Any:
    """A tqdm bar of images: never (0), where the standard error is a terminal (1), or always (2)."""
    disable = {0: True, 1: None, 2: False}[int(verbose)]
    return tqdm(total=n_images, initial=initial, unit="img", desc=title, disable=disable, dynamic_ncols=True)


class ProgressBar:
    """A tqdm bar that counts billed images.

    Parameters
    ----------
    max_queries : int
    verbose : int
        0: no bar. 1: a bar where the standard error is a terminal. 2: always a bar.
    """

    def __init__(self, max_queries: int, verbose: int):
        self._figures: dict[str, str] = {}
        self._last: deque[tuple[float, float]] = deque(maxlen=_SHOWN_STEPS)
        self._bar = progress_bar(max_queries, "BlackVIP", verbose)

    def on_queries(self, n_images: int) -> None:
        self._bar.update(n_images)

    def on_step(self, row: dict[str, Any]) -> None:
        """Show the loss and accuracy of the last steps, and the last held-out accuracy."""
        self._last.append((row["loss"], row["accuracy"]))
        loss, accuracy = np.mean(self._last, axis=0)
        self._figures.update(loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}")
        if "validation_accuracy" in row:
            self._figures["held_out"] = f"{row['validation_accuracy']:.3f}"
        self._bar.set_postfix(self._figures, refresh=False)

    def write(self, text: str) -> None:
        """Write lines of text above the bar, if there is one."""
        if not self._bar.disable:
            self._bar.write(text, file=self._bar.fp)

    def close(self) -> None:
        self._bar.close()
