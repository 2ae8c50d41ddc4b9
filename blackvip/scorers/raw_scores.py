"""Conversion of what a score function returned to one of two forms: an array, or scores with names."""

from __future__ import annotations

import enum
import inspect
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..exceptions import ScoreError
from .raw_numbers import NotNumbersError, as_number, as_numbers, has_all, shown

__all__ = ["NamedScores", "read_scores"]

# Scores of one image for all classes sum to 1 with this error.
_SUM_ERROR = 0.01


@dataclass(frozen=True)
class NamedScores:
    """Scores with names, in the order in which the names came.

    Parameters
    ----------
    names : list of str
        Names of the columns, each once.
    values : ndarray of shape (n_images, n_names), float64
        NaN where an image has no score of that name.
    """

    names: list[str]
    values: np.ndarray

    def dicts(self) -> list[dict[str, float]]:
        """Return a dict from name to score for each image, without missing scores."""
        return [{name: score for name, score in zip(self.names, row) if score == score} for row in self.values.tolist()]

    def only(self, names: Iterable[str]) -> NamedScores:
        """Return the scores of these names, without all others."""
        wanted = {_normal(name) for name in names}
        kept = [column for column, name in enumerate(self.names) if _normal(name) in wanted]
        return NamedScores([self.names[column] for column in kept], self.values[:, kept])

    def matched(self, class_prompts: Sequence[str]) -> np.ndarray:
        """Match scores to class prompts by name, compared in Unicode NFC.

        Parameters
        ----------
        class_prompts : sequence of str
            The class prompts.

        Returns
        -------
        scores : ndarray of shape (n_images, n_prompts)
            Scores in the order of the class prompts; NaN for those without a score.

        Raises
        ------
        ScoreError
            If a name is not a class prompt, or two names are the same.
        """
        place = {_normal(prompt): column for column, prompt in enumerate(class_prompts)}
        unknown = [column for column, name in enumerate(self.names) if _normal(name) not in place]
        if unknown:
            remedy = "Leave out all others."
            if 2 * len(unknown) > len(self.names):
                remedy = "If these are labels of the service's own, wrap it in LabelMappedScorer."
            given = ~np.isnan(self.values[:, unknown[0]])
            raise ScoreError(
                f"The score function returned a score for {shown(self.names[unknown[0]])} for image {given.argmax()}, "
                f"which is not a class prompt; expected only those that it was given, such as "
                f"{shown(class_prompts[0])}. {remedy}"
            )
        columns: dict[str, int] = {}
        for column, name in enumerate(self.names):
            if columns.setdefault(_normal(name), column) != column:
                raise _twice(name)
        scores = np.full((len(self.values), len(class_prompts)), np.nan)
        for column, prompt in enumerate(class_prompts):
            if _normal(prompt) in columns:
                scores[:, column] = self.values[:, columns[_normal(prompt)]]
        return scores


def read_scores(scores: Any, n_images: int, class_prompts: Sequence[str] = ()) -> np.ndarray | NamedScores:
    """Return what a score function returned as an array of any shape, or as named scores.

    Parameters
    ----------
    scores : object
        Return value of the score function.
    n_images : int
        Number of images it was given.
    class_prompts : sequence of str, default=()
        Class prompts, by which an answer is recognised whose rows are classes; empty for other labels.

    Returns
    -------
    scores : ndarray of float64, or NamedScores
        A copy. Missing scores are NaN.

    Raises
    ------
    NotNumbersError
        If the scores are not numbers.
    ScoreError
        If a name comes twice, or rows of several kinds are mixed.
    """
    if isinstance(scores, NamedScores):
        return NamedScores(list(scores.names), scores.values.copy())
    # The usual forms first, which take a tenth of the time of looking for the others.
    if isinstance(scores, (list, tuple)) and len(scores) and not hasattr(scores, "_fields"):
        return _from_list(scores, n_images, class_prompts)
    if isinstance(scores, np.ndarray) and scores.dtype.kind in "biuf":
        return as_numbers(scores)
    _refuse_unfinished(scores)
    table = _columns(scores, class_prompts)
    if table is not None:
        return _from_columns(table, n_images)
    # A column of pyarrow, whose rows may be structs.
    if has_all(scores, "to_pylist"):
        return read_scores(scores.to_pylist(), n_images, class_prompts)
    if isinstance(scores, Mapping):
        is_row = _pairs_in([scores]) is not None or _names_and_scores(scores) is not None
        return (
            _from_list([scores], n_images, class_prompts) if is_row else _from_columns(list(scores.items()), n_images)
        )
    named = _index_names(scores)
    if named is not None and n_images == 1:
        return _from_rows([_row(scores)])
    if named is not None and set(map(_normal, named)) <= set(map(_normal, class_prompts)):
        raise ScoreError(
            f"The score function returned one Series of {len(named)} scores for {n_images} images; expected a list of "
            "Series, one for each image, or a frame with a row for each image."
        )
    if _is_series(scores) or (isinstance(scores, np.ndarray) and scores.dtype == object and scores.ndim == 1):
        items = list(scores)
        if any(not np.isscalar(item) and item is not None for item in items):
            return _from_list(items, n_images, class_prompts)
    return as_numbers(scores)


def _refuse_unfinished(scores: Any) -> None:
    """Raise a `NotNumbersError` if scores are still to be made: by a coroutine or a generator."""
    if inspect.iscoroutine(scores):
        # Or Python warns that it was never awaited.
        scores.close()
    if any(hasattr(type(scores), name) for name in ("__await__", "__anext__")):
        raise NotNumbersError(
            "the answer of an async function has to be awaited, as in lambda images, class_prompts: "
            "asyncio.run(service(images, class_prompts))"
        )
    if hasattr(type(scores), "__next__"):
        raise NotNumbersError("its scores have to be returned all at once, as a list")


def _from_list(items: Sequence[Any], n_images: int, class_prompts: Sequence[str]) -> np.ndarray | NamedScores:
    """Read a list of rows, or of one image's labels with scores."""
    pairs = _pairs_in(items)
    if pairs is not None and n_images != 1:
        labels = [_normal(label) for label, _ in pairs]
        values = [as_number(score) for _, score in pairs]
        for_one = len(set(labels)) == len(labels) and set(labels) == set(map(_normal, class_prompts))
        if len(pairs) != n_images or for_one and abs(np.nansum(values) - 1) < _SUM_ERROR:
            raise ScoreError(
                f"The score function returned a list of {len(pairs)} labels with scores for {n_images} images, as of "
                "one image; expected such a list for each image."
            )
    rows: list[dict[str, Any] | None]
    if pairs is None:
        rows = [_row(item) for item in items]
    else:
        rows = [_unique(pairs)] if n_images == 1 else [dict([pair]) for pair in pairs]
    if all(row is None for row in rows) and not all(isinstance(item, (list, tuple)) and not item for item in items):
        return as_numbers(items)
    filled = []
    for number, (row, item) in enumerate(zip(rows, items)):
        if row is None and item is not None and not (isinstance(item, (list, tuple)) and not item):
            raise ScoreError(
                f"The score function returned a {type(item).__name__} for image {number} in a list of dicts; expected "
                "a dict from class prompt to score for each image, empty if the service gives no score."
            )
        filled.append(row or {})
    return _from_rows(filled)


def _from_rows(rows: Sequence[Mapping[str, Any] | None]) -> NamedScores:
    place: dict[str, int] = {}
    for row in rows:
        for name in row or ():
            place.setdefault(name, len(place))
    values = np.full((len(rows), len(place)), np.nan)
    for number, row in enumerate(rows):
        for name, score in (row or {}).items():
            values[number, place[name]] = score if type(score) is float else as_number(_named_numbers(name, score))
    return NamedScores(list(place), values)


def _from_columns(columns: Sequence[tuple[Any, Any]] | np.ndarray, n_images: int) -> np.ndarray | NamedScores:
    """Read columns with names, or columns without names, which are an array."""
    if isinstance(columns, np.ndarray):
        return columns
    named = _unique(columns)
    if not named:
        return NamedScores([], np.full((n_images, 0), np.nan))
    arrays = [_named_numbers(name, _ordered(column)) for name, column in named.items()]
    # Scalars are the scores of a single image.
    if all(array.ndim == 0 for array in arrays) and n_images == 1:
        arrays = [array[None] for array in arrays]
    for name, array in zip(named, arrays):
        if array.ndim != 1:
            raise NotNumbersError(f"the scores for {shown(name)} have the shape {array.shape}")
        if array.shape != arrays[0].shape:
            first = next(iter(named))
            raise NotNumbersError(
                f"it has {len(arrays[0])} scores for {shown(first)} and {len(array)} for another name"
            )
    return NamedScores(list(named), np.stack(arrays, axis=1))


def _columns(scores: Any, class_prompts: Sequence[str]) -> list[tuple[Any, Any]] | np.ndarray | None:
    """Return the names and columns of a frame, its values if its columns have no names, and None for anything else."""
    if isinstance(scores, np.ndarray) and scores.dtype.names:
        return [(name, scores[name]) for name in scores.dtype.names]
    if has_all(scores, "column_names", "to_pydict"):
        return [(name, scores.column(place)) for place, name in enumerate(scores.column_names)]
    if has_all(scores, "get_columns", "columns"):
        names, columns = list(scores.columns), list(scores.get_columns())
        # The names that polars gives.
        unnamed = names == [f"column_{place}" for place in range(len(names))] and not {*names} & {*class_prompts}
        return _side_by_side(columns, len(scores)) if unnamed else list(zip(names, columns))
    if has_all(scores, "iloc", "columns"):
        names, columns = list(scores.columns), [_ordered(scores.iloc[:, place]) for place in range(scores.shape[1])]
        prompts = set(map(_normal, class_prompts))
        in_rows, in_columns = (prompts & {_normal(_text(name)) for name in axis} for axis in (scores.index, names))
        if in_rows > in_columns:
            raise ScoreError(
                "The score function returned a frame whose rows are named like class prompts; expected a row for each "
                "image and a column for each class prompt. Return its transpose."
            )
        return _side_by_side(columns, len(scores)) if _is_numbered(names) else list(zip(names, columns))
    if has_all(scores, "dims", "coords") and getattr(scores, "ndim", 0) == 2:
        return _labelled_columns(scores, class_prompts)
    return None


def _labelled_columns(scores: Any, class_prompts: Sequence[str]) -> list[tuple[Any, Any]] | np.ndarray:
    """Return the names and columns of an xarray DataArray, along the dimension that names class prompts."""
    named = {}
    for axis, dim in enumerate(scores.dims):
        names = [_text(name) for name in np.asarray(scores.coords[dim]).tolist()] if dim in scores.coords else []
        if names and not _is_numbered(np.asarray(scores.coords[dim]).tolist()):
            named[axis] = names
    values = np.asarray(scores.values)
    known = [axis for axis, names in named.items() if set(names) & set(class_prompts)]
    axis = known[0] if known else 1
    if axis not in named:
        return as_numbers(values)
    return list(zip(named[axis], values if axis == 0 else values.T))


def _row(row: Any) -> dict[str, Any] | None:
    """Return the names and scores of one image; None if they have no names."""
    if isinstance(row, Mapping):
        pairs = _pairs_in([row])
        return _unique(pairs or _names_and_scores(row) or list(row.items()))
    if isinstance(row, np.void) and row.dtype.names:
        return _unique(list(zip(row.dtype.names, row.item())))
    if has_all(row, "_asdict", "_fields"):
        return _unique(list(row._asdict().items()))
    names = _index_names(row)
    if names is not None:
        return _unique(list(zip(names, row.values)))
    table = _columns(row, ())
    if table is not None and not isinstance(table, np.ndarray):
        # A frame with the scores of one image.
        found = _from_columns(table, 1)
        if isinstance(found, NamedScores) and len(found.values) == 1:
            return found.dicts()[0]
        raise NotNumbersError("it has frames of several rows")
    if not isinstance(row, (list, tuple)):
        return None
    pairs = _pairs_in(row)
    if pairs is not None:
        return _unique(pairs)
    # An image's labels in one list more, as of a pipeline that was given a list of one image.
    nested = len(row) == 1 and (isinstance(row[0], (list, tuple, Mapping)) or _index_names(row[0]) is not None)
    return _row(row[0]) if nested else None


def _pairs_in(items: Sequence[Any]) -> list[tuple[str, Any]] | None:
    """Return labels with scores, as pipelines return them; None if not all items are such pairs."""
    pairs = []
    for item in items:
        if isinstance(item, Mapping):
            label, score = item.get("label"), item.get("score")
            fits = "label" in item and "score" in item
        elif isinstance(item, (list, tuple)) and len(item) == 2 and not hasattr(item, "_fields"):
            label, score = item
            fits = True
        else:
            label, score = getattr(item, "label", None), getattr(item, "score", None)
            fits = True
        if not fits or not isinstance(label, (str, enum.Enum)) or isinstance(score, (str, list, tuple, Mapping)):
            return None
        pairs.append((_text(label), score))
    return pairs or None


def _names_and_scores(row: Mapping[Any, Any]) -> list[tuple[str, Any]] | None:
    """Return the pairs of a dict with one list of labels and one of scores, as zero-shot pipelines return it."""
    labels, scores = row.get("labels"), row.get("scores")
    if not isinstance(labels, (list, tuple)) or not all(isinstance(label, str) for label in labels):
        return None
    try:
        return list(zip(labels, scores, strict=True))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _unique(pairs: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    """Return pairs of a name and a score as a dict."""
    named: dict[str, Any] = {}
    for name, score in pairs:
        text = _text(name)
        if text in named:
            raise _twice(text)
        named[text] = score
    return named


def _twice(name: str) -> ScoreError:
    return ScoreError(
        f"The score function returned two scores for {shown(name)} for the same image; expected each class prompt at "
        "most once."
    )


def _text(name: Any) -> str:
    """Return a name as a text."""
    while isinstance(name, enum.Enum):
        name = name.value
    return str(name)


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _is_numbered(names: Sequence[Any]) -> bool:
    """Return whether names are just the numbers of their places."""
    return all(isinstance(name, (int, np.integer)) for name in names) and list(names) == list(range(len(names)))


def _is_series(value: Any) -> bool:
    """Return whether a value is a Series of pandas or polars."""
    return getattr(value, "ndim", 1) == 1 and has_all(value, "to_numpy", "dtype")


def _index_names(value: Any) -> list[str] | None:
    """Return the names in the index of a pandas Series or a DataArray of one dimension; None if it has none."""
    if has_all(value, "iloc", "index") and getattr(value, "ndim", 0) == 1:
        names = list(value.index)
    elif has_all(value, "dims", "coords") and getattr(value, "ndim", 0) == 1:
        names = np.asarray(value.coords[value.dims[0]]).tolist() if value.dims[0] in value.coords else []
    else:
        return None
    return [_text(name) for name in names] if names and not all(map(_is_place, names)) else None


def _is_place(name: Any) -> bool:
    return isinstance(name, (int, np.integer)) and not isinstance(name, bool)


def _ordered(column: Any) -> Any:
    """Return a column of scores; an index of row numbers in another order is an error, since the order is unclear."""
    if has_all(column, "iloc", "index"):
        places = list(column.index)
        if all(map(_is_place, places)) and not _is_numbered(places) and sorted(places) == list(range(len(places))):
            raise ScoreError(
                f"The score function returned rows with the index {shown(places)}; expected a row for each image, in "
                "their order. Sort them by their index, or drop it with reset_index(drop=True)."
            )
    return column


def _side_by_side(columns: Sequence[Any], n_rows: int) -> np.ndarray:
    return np.stack([as_numbers(column) for column in columns], axis=1) if columns else np.empty((n_rows, 0))


def _named_numbers(name: str, value: Any) -> np.ndarray:
    try:
        return as_numbers(value)
    except NotNumbersError as error:
        raise NotNumbersError(f"for {shown(name)}, {error}") from error
