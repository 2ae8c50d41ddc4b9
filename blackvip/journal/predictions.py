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
from ..inputs.encoded import shortened
from ..inputs.images import Images
from .lines import LinesFile

__all__ = ["PredictionsFile"]

_STARTS = (b"image,label,proba_", b'image,label,"proba_')
_REMEDY = "name another file, or set overwrite=True to start this one anew"
_NO_TABLE = "is not a table of predictions for these classes; name another file"


class PredictionsFile:
    """A CSV file with a row per image: its name, the label, the probability of each class, its pixels, and the model.

    A row that was written in part is cut off. Those before it are kept. Rows are matched to images by their pixels, so
    files may have been moved.

    Parameters
    ----------
    path : str or path-like
        The file, which is made if it does not exist.
    images : Images
        All images, in order.
    classes : sequence
        Class labels.
    model : str
        Fingerprint of the fitted estimator.
    overwrite : bool, default=False
        Whether to replace an existing table, even one of other images, classes or another model.

    Attributes
    ----------
    n_done : int
        Number of images that have a row: the first ones.

    Raises
    ------
    BlackVIPError
        If the file is another table, has rows of other images or of another model, or is in use.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        images: Images,
        classes: Sequence[Any],
        model: str,
        overwrite: bool = False,
    ):
        self.path = Path(path).expanduser()
        self._images, self._overwrite = images, overwrite
        self._classes, self._model = [str(label) for label in classes], model
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
        """Write the rows of the next images; they are on disk when it returns.

        Parameters
        ----------
        proba : ndarray of shape (n_images, n_classes)
            Class probabilities of the images.

        Raises
        ------
        BlackVIPError
            If the rows cannot be written.
        """
        rows = []
        for position, probabilities in enumerate(proba.tolist(), self.n_done):
            name, digest = self._images.name(position), self._images.digest(position)
            label = self._classes[int(np.argmax(probabilities))]
            rows.append([name, label, *(f"{p:.6g}" for p in probabilities), digest, self._model])
        self._lines.append(_csv(rows))
        self.n_done += len(rows)

    def _read(self) -> int:
        """Check the rows that the file has, cut off an incomplete one, and return their number."""
        header = ["image", "label", *(f"proba_{label}" for label in self._classes), "pixels", "model"]
        end, n_rows, record = 0, -1, b""
        is_predictions = self._lines.file.readline().startswith(_STARTS)
        if self._overwrite and is_predictions:
            self._lines.file.truncate(0)
        self._lines.file.seek(0)
        for line in self._lines.file:
            record += line
            # A name may hold a line break, within quotation marks.
            if record.count(b'"') % 2 or not record.endswith(b"\n"):
                continue
            fields = next(csv.reader(io.StringIO(record.decode(errors="replace"), newline="")), [])
            if n_rows >= 0:
                self._check(n_rows, fields, len(header))
            elif fields != header:
                raise self._error(f"has other classes; {_REMEDY}" if is_predictions else _NO_TABLE)
            end, n_rows, record = end + len(record), n_rows + 1, b""
        if n_rows < 0 and not _csv([header]).encode().startswith(record):
            raise self._error(_NO_TABLE)
        # A row that was written in part is the last one.
        if f",{self._model}\n".encode() in record:
            raise self._error(f"has row {n_rows}, whose quotation marks do not match; {_REMEDY}")
        self._lines.file.truncate(end)
        if n_rows < 0:
            self._lines.append(_csv([header]))
        return max(0, n_rows)

    def _check(self, row: int, fields: list[str], n_columns: int) -> None:
        if len(fields) != n_columns:
            raise self._error(f"has row {row}, which has {len(fields)} columns, expected {n_columns}; {_REMEDY}")
        if row >= len(self._images):
            raise self._error(
                f"has row {row}, but X has only {len(self._images)} images; pass the same images in the same order, "
                f"{_REMEDY}"
            )
        if fields[-2] != self._images.digest(row):
            name = shortened(self._images.name(row))
            raise self._error(
                f"has row {row} ({shortened(fields[0])}), whose pixels are not those of image {row} ({name}); pass the "
                f"same images in the same order, {_REMEDY}"
            )
        if fields[-1] != self._model:
            raise self._error(
                f"has row {row}, which was predicted by another model ({shortened(fields[-1])}, this one is "
                f"{self._model}); {_REMEDY}"
            )

    def _error(self, what: str) -> BlackVIPError:
        return BlackVIPError(f"The file of predictions {shortened(self.path)!r} {what}.")


def _csv(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
