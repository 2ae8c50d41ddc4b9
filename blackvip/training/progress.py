"""Progress bars: what is done of how much, at which stage, with which figures and for how much money."""

from __future__ import annotations

import sys
import threading
from collections import deque
from contextlib import suppress
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from tqdm.notebook import tqdm_notebook

__all__ = ["FitProgress", "ProgressBar"]

_SHOWN_STEPS = 20  # over which figures are averaged: a step has few images
# From a stream that is closed or broken, or lacks a method.
_UNWRITABLE = (OSError, ValueError, AttributeError)
_SECONDS = 2.0  # between redraws, also while a call or a fit of a head takes long


class _Bar(tqdm):  # type: ignore[type-arg, misc, unused-ignore]
    """tqdm's bar for this place, without tqdm's own thread, which outlives the bar."""

    monitor_interval = 0


class _SafeStream:
    """A stream that drops what cannot be written: a bar must not end a fit that costs money."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(*_UNWRITABLE):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(*_UNWRITABLE):
            self._stream.flush()

    def isatty(self) -> bool:
        with suppress(*_UNWRITABLE):
            return bool(self._stream.isatty())
        return False


class ProgressBar:
    """A tqdm bar that is redrawn every few seconds even if nothing advances; a context manager closes it.

    Parameters
    ----------
    total : int
        Number of items.
    title : str
        Text in front of the bar.
    verbose : int
        0: no bar. 1: a bar where the standard error is a terminal. 2: always a bar. There is none if the process has no
        standard error.
    initial : int, default=0
        Items that were done before.
    unit : str, default="img"
        Unit of the items.
    """

    def __init__(self, total: int, title: str, verbose: int, initial: int = 0, unit: str = "img"):
        disable = {0: True, 1: None, 2: False}[int(verbose)] if sys.stderr is not None else True
        # A notebook's bar is no text; it takes the place of the standard error only if it is given no stream.
        stream = {} if issubclass(tqdm, tqdm_notebook) or disable else {"file": _SafeStream(sys.stderr)}
        self._bar = _Bar(
            total=total, initial=initial, unit=unit, desc=title, disable=disable, dynamic_ncols=True, **stream
        )
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        if not self._bar.disable:
            self._thread = threading.Thread(target=self._redraw, name="blackvip-progress", daemon=True)
            self._thread.start()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def update(self, n: int = 1) -> None:
        """Count `n` more."""
        self._bar.update(n)

    def show_title(self, title: str) -> None:
        """Change the title at once."""
        self._bar.set_description(title)

    def show(self, text: str) -> None:
        """Show a text behind the bar when it is drawn next."""
        self._bar.set_postfix_str(text, refresh=False)

    def write(self, text: str) -> None:
        """Write lines of text above the bar, if there is one."""
        if not self._bar.disable:
            self._bar.write(text, file=self._bar.fp)

    def complete(self) -> None:
        """End at 100 %, if fewer were needed than expected."""
        self._bar.total = self._bar.n
        self._bar.refresh()

    def close(self) -> None:
        """Draw the bar for the last time. A second time does nothing."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        self._bar.close()

    def _redraw(self) -> None:
        while not self._closed.wait(_SECONDS):
            self._bar.refresh()


class FitProgress:
    """The bar of a fit: stage, billed images of the budget, figures, and the money spent if a price is known.

    Parameters
    ----------
    ledger : Ledger
        Its ``on_queries`` is set. Of it, the bar needs what remains of the budget and the price of an image.
    verbose : int
        See `ProgressBar`.
    """

    def __init__(self, ledger: Any, verbose: int):
        self._ledger = ledger
        self._figures: dict[str, str] = {}
        self._last: deque[tuple[float, float]] = deque(maxlen=_SHOWN_STEPS)
        self._bar = ProgressBar(int(ledger.remaining), "BlackVIP", verbose)
        ledger.on_queries = self._on_queries

    def on_stage(self, stage: str) -> None:
        """Show what the fit does now."""
        self._bar.show_title(f"BlackVIP, {stage}")

    def on_step(self, row: dict[str, Any]) -> None:
        """Show the loss and accuracy of the last steps, and the last held-out accuracy."""
        self._last.append((row["loss"], row["accuracy"]))
        loss, accuracy = np.mean(self._last, axis=0)
        self._figures.update(loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}")
        if "validation_accuracy" in row:
            self._figures["held_out"] = f"{row['validation_accuracy']:.3f}"
        self._show()

    def write(self, text: str) -> None:
        """Write lines of text above the bar, if there is one."""
        self._bar.write(text)

    def close(self, complete: bool) -> None:
        """Draw the bar for the last time, at 100 % if the fit is complete."""
        self._show()
        if complete:
            self._bar.complete()
        self._bar.close()
        # Each holds the other, and the ledger the workers, which would otherwise wait for the garbage collector.
        self._ledger.on_queries = None

    def _on_queries(self, n_images: int) -> None:
        self._show()
        self._bar.update(n_images)

    def _show(self) -> None:
        price = self._ledger.price_per_image
        spent = {} if price is None else {"spent": _money(price * self._ledger.n_queries)}
        figures = {**spent, **self._figures}
        self._bar.show(", ".join(f"{name}={figure}" for name, figure in figures.items()))


def _money(amount: float) -> str:
    """Format an amount with cents; four digits of a small one."""
    return f"{amount:,.2f}" if amount >= 10 else f"{amount:.4g}"
