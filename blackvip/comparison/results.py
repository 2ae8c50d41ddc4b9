"""The results file of a comparison: JSON lines, from which a comparison that was stopped is continued."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..exceptions import BlackVIPError, ImageError
from ..inputs.decoding import as_array
from ..inputs.sources import open_images, open_source
from ..journal.identity import describe, differences
from ..journal.lines import LinesFile
from ..scorers.identity import service_identity

__all__ = ["ResultsFile", "data_identity", "read_rows"]

Row = dict[str, Any]
#: Keys that identify a row: method, seed, budget.
Key = tuple[str, int | None, int | None]


class ResultsFile:
    """File of finished runs, each of which is on disk before `add` returns."""

    def __init__(self, path: str | os.PathLike[str] | None, identity: Any):
        self._path = None if path is None else Path(path).expanduser()
        self._identity = identity
        self._runs: dict[Key, tuple[Any, Row]] = {}
        self._lines: LinesFile | None = None

    def __enter__(self) -> ResultsFile:
        if self._path is not None:
            self._lines = LinesFile(self._path, self._error)
            try:
                self._read(self._lines)
            except BaseException:
                self._lines.close()
                raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._lines is not None:
            self._lines.close()

    def find(self, keys: list[Row], method: Any) -> list[Row] | None:
        """Return the rows of a run.

        Parameters
        ----------
        keys : list of dict
            Entries that identify the rows.
        method : object in JSON
            Identity of the method.

        Returns
        -------
        rows : list of dict, or None
            None if a row is missing.

        Raises
        ------
        BlackVIPError
            If the run was made with other parameters.
        """
        known = [self._runs.get(_key(row)) for row in keys]
        for entry in known:
            found = [] if entry is None else differences(entry[0], _through_json(method))
            if found:
                raise self._error(
                    f"has the method {keys[0]['method']!r} with other parameters: {'; '.join(found)}. Give the "
                    "method another name, or the results another file"
                )
        return None if None in known else [entry[1] for entry in known if entry is not None]

    def add(self, rows: list[Row], method: Any) -> None:
        """Write the rows of a run; they are on disk when it returns."""
        if self._lines is not None:
            self._lines.append(_line({"method": method, "rows": rows}))

    def _read(self, lines: LinesFile) -> None:
        data, header = lines.file.read(), _line({"blackvip": "comparison", "data": self._identity})
        # A kill may have torn the last line.
        whole = data[: data.rfind(b"\n") + 1]
        entries = [_parsed(line) for line in whole.splitlines()]
        if not _is_comparison(entries) and not header.encode().startswith(data):
            raise self._error(
                "is not a results file of a comparison, and was not changed. Give the path of another one"
            )
        found = differences(entries[0]["data"], _through_json(self._identity)) if entries else []
        if found:
            raise self._error(f"has runs on other data: {'; '.join(found)}. Give the path of another file")
        lines.file.truncate(len(whole))
        if not entries:
            lines.append(header)
        for entry in entries[1:]:
            self._runs |= {_key(row): (entry["method"], row) for row in entry["rows"]}

    def _error(self, what: str) -> BlackVIPError:
        return BlackVIPError(f"The results {os.fspath(self._path or '')!r}: the file {what}.")


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """Read the rows of all runs in a results file; an incomplete last line is left out.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    rows : list of dict
        One entry per run and method.

    Raises
    ------
    BlackVIPError
        If it is not a results file.
    """
    lines = Path(path).expanduser().read_bytes().splitlines()
    entries = [entry for entry in map(_parsed, lines) if entry is not None]
    if not _is_comparison(entries):
        raise BlackVIPError(
            f"The file {os.fspath(path)!r} is not a results file of a comparison; expected one that `compare` wrote."
        )
    return list({_key(row): row for entry in entries[1:] for row in entry["rows"]}.values())


def data_identity(score_fn: Any, class_prompts: Any, X: Any, y: np.ndarray, X_test: Any, y_test: np.ndarray) -> Any:
    """Describe the data of a comparison; comparisons of the same data may share their runs.

    Parameters
    ----------
    score_fn : callable
        The service.
    class_prompts : str, dict or sequence
        Class prompts, as in `BlackVIPClassifier`.
    X, X_test : images
        Training and test images.
    y, y_test : ndarray
        Their labels.

    Returns
    -------
    identity : dict
        A description in JSON.
    """
    return {
        "version": __version__,
        "score_fn": service_identity(score_fn),
        "class_prompts": describe(dict(class_prompts.items()) if hasattr(class_prompts, "iloc") else class_prompts),
        "training images": _images_identity(X),
        "training labels": describe(y),
        "test images": _images_identity(X_test),
        "test labels": describe(y_test),
    }


def _images_identity(X: Any) -> dict[str, Any]:
    """Return the number of images and a digest of their pixels, which are read one image at a time."""
    opened = open_images(X)
    source = as_array(X) if opened.is_table else open_source(opened)
    digest = hashlib.sha256()
    if isinstance(source, np.ndarray):
        digest.update(f"{source.dtype} {source.shape}".encode() + np.ascontiguousarray(source).tobytes())
    else:
        for row in range(len(source)):
            try:
                pixels = np.ascontiguousarray(source[row])
                digest.update(f"{pixels.dtype} {pixels.shape}".encode() + pixels.tobytes())
            except ImageError:
                # The estimators decide whether that matters.
                digest.update(b"unreadable")
    return {"number": len(source), "sha256": digest.hexdigest()}


def _key(row: Row) -> Key:
    return row["method"], row["seed"], row["max_queries"]


def _is_comparison(entries: list[Any]) -> bool:
    """Return whether the lines are those of a results file, all of them whole."""
    if not entries or None in entries or not isinstance(entries[0], dict):
        return False
    return entries[0].get("blackvip") == "comparison"


def _line(entry: Row) -> str:
    return json.dumps(entry) + "\n"


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))
