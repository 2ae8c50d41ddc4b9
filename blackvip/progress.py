"""The progress bar of a fit: images billed of the budget, figures, time left."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm

__all__ = ["ProgressBar"]


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
        self._bar = tqdm(
            total=max_queries,
            unit="img",
            desc="BlackVIP",
            disable={0: True, 1: None, 2: False}[int(verbose)],
            dynamic_ncols=True,
        )

    def on_queries(self, n_images: int) -> None:
        self._bar.update(n_images)

    def on_step(self, row: dict[str, Any]) -> None:
        """Show the last step's loss and the last held-out accuracy."""
        self._figures["loss"] = f"{row['loss']:.3f}"
        if "validation_accuracy" in row:
            self._figures["accuracy"] = f"{row['validation_accuracy']:.3f}"
        self._bar.set_postfix(self._figures, refresh=False)

    def close(self) -> None:
        self._bar.close()
