"""A file of finished runs, a JSON object a line, from which a comparison goes on."""

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
from ..journal.locks import try_lock
from ..scorers.wrappers import service_identity

__all__ = ["ResultsFile", "data_identity", "read_rows"]

Row = dict[str, Any]
Key = tuple[str, int | None, int | None]  #: Of a row: method, seed, budget.


class ResultsFile:
    """Runs that were made, by their keys; those that are added are on disk before `add` returns.

    The first line tells of the data. Each other line is a run: its rows, and the identity of its method.

    Parameters
    ----------
    path : str, path-like or None
        None: nothing is kept.
    identity : object in JSON
        Of the data.

    Raises
    ------
    BlackVIPError
        If the file is none of this kind, belongs to other data, or is in use.
    """

    def __init__(self, path: str | os.PathLike[str] | None, identity: Any):
        self._path = None if path is None else Path(path).expanduser()
        self._identity = identity
        self._runs: dict[Key, tuple[Any, Row]] = {}
        self._file: Any = None

    def __enter__(self) -> ResultsFile:
        if self._path is None:
            return self
        try:
            self._file = self._path.open("a+b")
        except OSError as error:
            raise self._error(f"cannot be opened: {error.strerror or error}") from error
        try:
            if not try_lock(self._file.fileno()):
                raise self._error("is in use by another comparison; give it another file, or wait")
            self._read()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def find(self, keys: list[Row], method: Any) -> list[Row] | None:
        """The rows of a run; None where one of them is not there.

        Raises
        ------
        BlackVIPError
            If it was made with other parameters.
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
        """Keep the rows of a run."""
        if self._file is not None:
            self._write({"method": method, "rows": rows})

    def _read(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):  # a kill while a line was being written
            self._file.truncate(len(whole))
        lines = [_parsed(line) for line in whole.splitlines()]
        if not lines:
            self._write({"blackvip": "comparison", "data": self._identity})
            return
        if None in lines or not isinstance(lines[0], dict) or lines[0].get("blackvip") != "comparison":
            raise self._error("is no file of a comparison, and stays as it is. Give the path of another one")
        found = differences(lines[0]["data"], _through_json(self._identity))
        if found:
            raise self._error(f"has runs on other data: {'; '.join(found)}. Give the path of another file")
        for line in lines[1:]:
            self._runs |= {_key(row): (line["method"], row) for row in line["rows"]}

    def _write(self, line: Row) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _error(self, what: str) -> BlackVIPError:
        return BlackVIPError(f"The results {os.fspath(self._path or '')!r}: the file {what}.")


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of all runs in a file of results; a last line that is torn is left out."""
    lines = [_parsed(line) for line in Path(path).expanduser().read_bytes().splitlines()]
    if not lines or not isinstance(lines[0], dict) or lines[0].get("blackvip") != "comparison":
        raise BlackVIPError(
            f"The file {os.fspath(path)!r} is no file of a comparison; expected one that `compare` wrote."
        )
    return list({_key(row): row for line in lines[1:] if line is not None for row in line["rows"]}.values())


def data_identity(score_fn: Any, class_prompts: Any, X: Any, y: np.ndarray, X_test: Any, y_test: np.ndarray) -> Any:
    """What a comparison is about, as JSON: two that have the same may share their runs."""
    return {
        "version": __version__,
        "score_fn": service_identity(score_fn),
        "class_prompts": describe(class_prompts),
        "training images": _images_identity(X),
        "training labels": describe(y),
        "test images": _images_identity(X_test),
        "test labels": describe(y_test),
    }


def _images_identity(X: Any) -> dict[str, Any]:
    """The number and the digest of the pixels of images, of which one at a time is read."""
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
            except ImageError:  # whether that matters is for the estimators to say
                digest.update(b"unreadable")
    return {"number": len(source), "sha256": digest.hexdigest()}


def _key(row: Row) -> Key:
    return row["method"], row["seed"], row["max_queries"]


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))
