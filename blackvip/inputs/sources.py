"""Sources of images: X in any form, as an array or as single images that are read when they are needed.

An image may be

- the path of an image file, or the content of one as `bytes`;
- a PIL image of any mode;
- an array or torch tensor of shape (height, width), (height, width, 3), (height, width, 1), (3, height, width) or
  (1, height, width); as uint8 also (height, width, 4), RGBA;
- an item of Hugging Face's `datasets`: a row with one image among its values, or an image that is not decoded,
  ``{"bytes": ..., "path": ...}``;
- an item of torchvision's data sets: a tuple whose first value is the image.

Images come in a list, a tuple, an object array, a column of a pandas or polars table, or any container that has a
length and is indexed by row, such as a column of a Hugging Face data set or a torch data set. Such a container is kept,
and only the requested rows are read from it.

Files and PIL images become RGB, uint8. EXIF orientation is applied, transparency is laid on white, 16-bit grey is
scaled to 8 bits, and the first of several frames is used. No content of a file is executed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import _safe_indexing

from ..exceptions import ImageError
from .decoding import (
    SINGLE,
    as_array,
    channels_last,
    decoded,
    is_image,
    is_missing,
    is_row_of_numbers,
    is_tensor,
    path_of,
    reason_of,
)

__all__ = ["ItemSource", "OpenedImages", "holds_flattened_rows", "open_images", "open_source", "select"]

_EXPECTED = (
    "expected an array of shape (n, height, width, 3), (n, height, width) or (n, 3, height, width), rows of flattened "
    "pixels (n, n_features), or a sequence of PIL images, file paths, encoded images or arrays"
)


class ItemSource:
    """Images that are read one at a time, when they are needed.

    Parameters
    ----------
    items : object with a length, indexed by row
        Each row is an image in one of the forms that this module lists.
    """

    def __init__(self, items: Any):
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, row: int) -> np.ndarray:
        """Read the pixels (height, width, 3) of one image; they are uint8 unless it is an array of another type.

        Raises
        ------
        ImageError
            If the image cannot be read. The error names the row, and the path if it is known.
        """
        row, item = int(row), None
        if not 0 <= row < len(self):
            raise IndexError(f"There is no image {row} among {len(self)}.")
        try:
            item = self._items[row]
            return decoded(item)
        except Exception as error:
            # Pillow and its plugins raise nearly any exception for a damaged file.
            path = path_of(item) or _path_in_folder(self._items, row)
            name = f"{row} ({path})" if path else str(row)
            raise ImageError(f"Image {name} cannot be read: {reason_of(error)}.") from error

    def name(self, row: int) -> str:
        """Return the path of an image in a list or column of paths, else the number of its row."""
        held = self._items if isinstance(self._items, (list, tuple, np.ndarray)) else ()
        return str(path_of(held[row]) or row) if len(held) else str(row)


class _Rows:
    """Rows of a container that is indexed by row; nothing is read from it yet."""

    def __init__(self, items: Any, rows: np.ndarray):
        # torch's Subset has the same attributes.
        self.dataset, self.indices = items, rows

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, row: int) -> Any:
        return self.dataset[int(self.indices[row])]


class OpenedImages(NamedTuple):
    """X as the user passed it, with the decision whether it is a table of numbers: a row of pixels per image."""

    X: Any
    is_table: bool


def open_images(X: Any) -> OpenedImages:
    """Decide whether X is a table of numbers; opened images are returned unchanged."""
    return X if isinstance(X, OpenedImages) else OpenedImages(X, holds_flattened_rows(X))


def open_source(X: Any, image_shape: tuple[int, ...] | None = None) -> np.ndarray | ItemSource:
    """Open images as an array of raw pixels, or as single images that are read when needed.

    Parameters
    ----------
    X : images, in any form that this module lists, or OpenedImages
        The images.
    image_shape : tuple of int or None
        (height, width) or (height, width, channels) of rows of flattened pixels. None: each row is a grey image that is
        one pixel high.

    Returns
    -------
    source : ndarray of shape (n, height, width, 1) or (n, height, width, 3), or ItemSource
        Arrays of equal shape and dtype in a list are stacked. NaN is not looked for.

    Raises
    ------
    ImageError
        If X is not a set of images.
    """
    X, is_table = open_images(X)
    if isinstance(X, (str, os.PathLike)) and os.path.isdir(X):
        raise ImageError(
            f"X is the folder {os.fspath(X)!r}; expected the paths of its files, such as "
            "X = sorted(pathlib.Path(folder).glob('*/*.png')). If each class has a folder of its own, the labels are "
            "y = [path.parent.name for path in X]."
        )
    if isinstance(X, SINGLE):
        raise ImageError(f"X is a single {type(X).__name__}; {_EXPECTED}. Put it into a list.")
    if isinstance(X, Mapping):
        raise ImageError(f"X is a {type(X).__name__} with the keys {list(X)[:5]}; pass the value of one key, X[key].")
    items = _items(X, is_table)
    if not isinstance(items, np.ndarray):
        return ItemSource(items)
    if items.dtype.kind not in "uifb":
        raise ImageError(f"X is an array of {items.dtype}; {_EXPECTED}.")
    if items.ndim == 2:
        shape = (1, items.shape[1]) if image_shape is None else tuple(image_shape)
        if math.prod(shape) != items.shape[1]:
            raise ImageError(
                f"X has {items.shape[1]} numbers a row, but image_shape={shape} needs {math.prod(shape)}; set "
                "image_shape to (height, width) or (height, width, channels)."
            )
        items = items.reshape(len(items), *shape)
    try:
        return channels_last(items)
    except ValueError as error:
        raise ImageError(f"X has the shape {items.shape}; {_EXPECTED}.") from error


def holds_flattened_rows(X: Any) -> bool:
    """Whether X is a table of numbers with a row per image, as scikit-learn's tools pass it."""
    # scikit-learn's own check refuses sparse matrices later; some of them are dicts.
    if issparse(X):
        return True
    if isinstance(X, (*SINGLE, Mapping)):
        return False
    if _is_table(X):
        return not any(_holds_items(column) for column in _columns(X))
    if hasattr(X, "iloc") or (_is_polars(X) and hasattr(X, "to_list")):
        return not _holds_items(X)
    if isinstance(X, np.ndarray) and X.dtype.kind in "OUS":
        single_column = X.ndim == 1 or (X.ndim == 2 and X.shape[1] == 1)
        return X.ndim <= 2 and not (single_column and _holds_items(X.ravel()))
    if getattr(X, "ndim", None) is not None:
        return X.ndim not in (3, 4)
    if not (hasattr(X, "__len__") and hasattr(X, "__getitem__")):
        return hasattr(X, "__array__")
    if isinstance(X, (list, tuple)):
        return len(X) > 0 and not _holds_items(X)
    try:
        return len(X) > 0 and is_row_of_numbers(X[0])
    except Exception:
        # The first image is damaged; the error names it when it is read.
        return False


def select(X: Any, rows: np.ndarray) -> Any:
    """Select rows of X; opened images stay opened, and a data set still reads its images when they are needed."""
    if isinstance(X, OpenedImages):
        return OpenedImages(_rows_of(X, rows), X.is_table)
    return _rows_of(open_images(X), rows)


def _rows_of(opened: OpenedImages, rows: np.ndarray) -> Any:
    X, is_table = opened
    in_memory = isinstance(X, (list, tuple, np.ndarray)) or hasattr(X, "iloc") or _is_polars(X) or is_tensor(X)
    if in_memory or is_table or not hasattr(X, "__getitem__"):
        return _safe_indexing(X, rows)
    return _Rows(X, np.asarray(rows))


def _items(X: Any, is_table: bool) -> Any:
    """Return X as an array of numbers, or as a container that is indexed by row."""
    if _is_table(X):
        columns = _columns(X)
        held = [str(name) for name, column in zip(X.columns, columns) if _holds_items(column)]
        if len(columns) > 1 and held:
            raise ImageError(
                f"X is a table of {len(columns)} columns; pass the column of the images, such as X[{held[0]!r}]."
            )
        X = columns[0] if held else X.to_numpy()
    if hasattr(X, "iloc"):
        # The array is indexed by position, whatever the index is.
        X = X.array
    if is_tensor(X):
        return as_array(X)
    if isinstance(X, np.ndarray):
        if X.dtype.kind == "S":
            raise ImageError(
                f"X is an array of {X.dtype}, which drops trailing zero bytes; use a list, or dtype=object."
            )
        if X.dtype.kind not in "OU" or not (X.ndim == 1 or (X.ndim == 2 and X.shape[1] == 1)):
            return X
        X = X.ravel().tolist() if X.dtype.kind == "U" else list(X.ravel())
    if isinstance(X, (list, tuple)) or hasattr(X, "to_numpy"):
        stacked = _stacked(X)
        return X if stacked is None else stacked
    if hasattr(X, "__len__") and hasattr(X, "__getitem__"):
        return np.asarray(X) if is_table or getattr(X, "ndim", None) == 2 else X
    if hasattr(X, "__array__"):
        return np.asarray(X)
    hint = " Pass its data set, X.dataset." if hasattr(X, "dataset") else " Put its images into a list."
    raise ImageError(f"X is a {type(X).__name__}, which has no length or cannot be indexed by row; {_EXPECTED}.{hint}")


def _stacked(items: Any) -> np.ndarray | None:
    """Stack arrays of equal shape and dtype, or nested lists of numbers; return None for other items."""
    arrays: list[np.ndarray] = []
    if not len(items) or isinstance(items[0], SINGLE):
        return None
    if all(isinstance(item, (list, tuple)) and not is_image(item) for item in items):
        try:
            stacked = np.asarray(items)
        except ValueError:
            # The items have different shapes.
            return None
        return stacked if stacked.dtype.kind in "uifb" else None
    for item in items:
        if not hasattr(item, "ndim") or item.ndim == 0:
            return None
        array = as_array(item)
        if arrays and (array.shape, array.dtype) != (arrays[0].shape, arrays[0].dtype):
            return None
        arrays.append(array)
    return np.stack(arrays)


def _is_polars(X: Any) -> bool:
    return type(X).__module__.split(".")[0] == "polars"


def _is_table(X: Any) -> bool:
    return (hasattr(X, "iloc") or hasattr(X, "get_columns")) and hasattr(X, "columns")


def _columns(table: Any) -> list[Any]:
    return [table.iloc[:, i] for i in range(table.shape[1])] if hasattr(table, "iloc") else table.get_columns()


def _holds_items(column: Any) -> bool:
    """Whether a column, list or object array holds images, and not numbers or rows of numbers."""
    dtype = getattr(column, "dtype", None)
    if getattr(dtype, "kind", "O") in "uifbc" or (_is_polars(dtype) and dtype.is_numeric()):  # type: ignore[union-attr]
        return False
    items: Iterable[Any] = column
    return not is_row_of_numbers(next((item for item in items if not is_missing(item)), None))


def _path_in_folder(items: Any, row: int) -> str | None:
    """Return the path of a row of torchvision's ImageFolder, or of a subset of it, if an item cannot be read."""
    try:
        while hasattr(items, "indices") and hasattr(items, "dataset"):
            items, row = items.dataset, int(items.indices[row])
        return path_of(items.samples[row])
    except Exception:
        # Other data sets do not tell their paths.
        return None
