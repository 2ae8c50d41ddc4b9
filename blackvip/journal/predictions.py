"""Predictions in a file: a table to which rows are added as answers come, and which goes on where it was stopped."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..exceptions import BlackVIPError
from .locks import try_lock

__all__ = ["PredictionsFile"]


class PredictionsFile:
    """A CSV file with a row per image: its name, the label, the probability of each class, and what predicted it.

    What is on disk is kept: a row that was written in part is cut off, and those before it are not made again.

    Parameters
    ----------
    path : str or path-like
    names : sequence of str
        Of all images, in order.
    classes : sequence
        Class labels.
    model : str
        What tells one fitted estimator from another.

    Attributes
    ----------
    n_done : int
        Images that have a row, the first ones.

    Raises
    ------
    BlackVIPError
        If the file is another table, or has rows of other images or of another model, or another process writes it.
    """

    def __init__(self, path: str | os.PathLike[str], names: Sequence[str], classes: Sequence[Any], model: str):
        self.path = Path(path)
        self._names, self._classes, self._model = names, [str(label) for label in classes], model
        self._file = open(self.path, "a+b")  # noqa: SIM115  # closed by __exit__
        try:
            if not try_lock(self._file.fileno()):
                raise BlackVIPError(f"Another process writes predictions to {self.path}; wait for it, or name another.")
            self.n_done = self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> PredictionsFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, proba: np.ndarray) -> None:
        """Write the rows of the next images, of which `proba` has the probabilities; they are on disk afterwards."""
        rows = []
        for name, probabilities in zip(self._names[self.n_done :], proba.tolist()):
            label = self._classes[int(np.argmax(probabilities))]
            rows.append([name, label, *(f"{p:.6g}" for p in probabilities), self._model])
        self._write(rows)
        self.n_done += len(rows)

    def _write(self, rows: Iterable[Sequence[str]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        self._file.write(text.getvalue().encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self) -> int:
        """Rows that are there, after what was written in part is cut off and all of them are checked."""
        header = ["image", "label", *(f"proba_{label}" for label in self._classes), "model"]
        self._file.seek(0)
        end, n_rows, quoted, fields = 0, -1, b"", ["", "", ""]
        for line in self._file:
            quoted += line
            if quoted.count(b'"') % 2 or not quoted.endswith(b"\n"):  # a name may hold a line break
                continue
            fields = next(csv.reader(io.StringIO(quoted.decode(errors="replace"), newline="")), [])
            if n_rows < 0 and fields != header:
                raise BlackVIPError(f"{self.path} is not a table of predictions for these classes; name another file.")
            if n_rows >= 0:
                self._check(n_rows, fields, len(header))
            end, n_rows, quoted = end + len(quoted), n_rows + 1, b""
        self._file.truncate(end)
        if n_rows < 0:
            self._write([header])
        return max(0, n_rows)

    def _check(self, row: int, fields: list[str], n_columns: int) -> None:
        expected = self._names[row] if row < len(self._names) else None
        if len(fields) != n_columns or fields[0] != expected:
            found = f"is of {fields[0]!r}, expected {expected!r}" if fields else "is empty"
            raise BlackVIPError(f"Row {row} of {self.path} {found}; give the same images in the same order.")
        if fields[-1] != self._model:
            raise BlackVIPError(
                f"Row {row} of {self.path} was predicted by another model ({fields[-1]}, this one is {self._model}); "
                "name another file."
            )
