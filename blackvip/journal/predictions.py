"""Predictions in a CSV file, which grows batch by batch and is continued where it was stopped."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..exceptions import BlackVIPError
from .lines import LinesFile

__all__ = ["PredictionsFile"]

_NO_TABLE = "is not a table of predictions for these classes; name another file"


class PredictionsFile:
    """A CSV file with a row per image: its name, the label, the probability of each class, and the model.

    A row that was written in part is cut off. Those before it are kept.

    Parameters
    ----------
    path : str or path-like
        The file, which is made if it does not exist.
    names : sequence of str
        Names of all images, in order.
    classes : sequence
        Class labels.
    model : str
        Fingerprint of the fitted estimator.

    Attributes
    ----------
    n_done : int
        Number of images that have a row: the first ones.

    Raises
    ------
    BlackVIPError
        If the file is another table, has rows of other images or of another model, or is in use.
    """

    def __init__(self, path: str | os.PathLike[str], names: Sequence[str], classes: Sequence[Any], model: str):
        self.path = Path(path)
        self._names, self._classes, self._model = names, [str(label) for label in classes], model
        self._lines = LinesFile(self.path, self._error)
        try:
            self.n_done = self._read()
        except BaseException:
            self._lines.close()
            raise

    def __enter__(self) -> PredictionsFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._lines.close()

    def add(self, proba: np.ndarray) -> None:
        """Write the rows of the next images, whose probabilities are `proba`. They are on disk afterwards."""
        rows = []
        for name, probabilities in zip(self._names[self.n_done :], proba.tolist()):
            label = self._classes[int(np.argmax(probabilities))]
            rows.append([name, label, *(f"{p:.6g}" for p in probabilities), self._model])
        self._lines.append(_csv(rows))
        self.n_done += len(rows)

    def _read(self) -> int:
        """The number of rows that are there, after a torn one is cut off and the others are checked."""
        header = ["image", "label", *(f"proba_{label}" for label in self._classes), "model"]
        end, n_rows, record = 0, -1, b""
        for line in self._lines.file:
            record += line
            # A name may hold a line break, within quotation marks.
            if record.count(b'"') % 2 or not record.endswith(b"\n"):
                continue
            fields = next(csv.reader(io.StringIO(record.decode(errors="replace"), newline="")), [])
            if n_rows >= 0:
                self._check(n_rows, fields, len(header))
            elif fields != header:
                raise self._error(_NO_TABLE)
            end, n_rows, record = end + len(record), n_rows + 1, b""
        if n_rows < 0 and not _csv([header]).encode().startswith(record):
            raise self._error(_NO_TABLE)
        self._lines.file.truncate(end)
        if n_rows < 0:
            self._lines.append(_csv([header]))
        return max(0, n_rows)

    def _check(self, row: int, fields: list[str], n_columns: int) -> None:
        expected = self._names[row] if row < len(self._names) else None
        if len(fields) != n_columns or fields[0] != expected:
            found = f"is of {fields[0]!r}, expected {expected!r}" if fields else "is empty"
            raise self._error(f"has row {row}, which {found}; give the same images in the same order")
        if fields[-1] != self._model:
            raise self._error(
                f"has row {row}, which was predicted by another model ({fields[-1]}, this one is {self._model}); name "
                "another file"
            )

    def _error(self, what: str) -> BlackVIPError:
        return BlackVIPError(f"The file of predictions {os.fspath(self.path)!r} {what}.")


def _csv(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
