"""Sources of images: X in any form, as an array or as single images that are read when they are needed.

An image may be

- the path of an image file, in which `~` is expanded;
- the content of an image file: `bytes`, a one-dimensional array of bytes, base64 text, a data URL or an open file;
- a PIL image of any mode;
- an array or torch tensor of shape (height, width), (height, width, 3), (height, width, 1), (3, height, width) or
  (1, height, width); as uint8 also (height, width, 4), RGBA;
- an item of Hugging Face's `datasets`: a row with one image among its values, or an image that is not decoded,
  ``{"bytes": ..., "path": ...}``;
- an item of torchvision's data sets: a tuple whose first value is the image.

Images come in a list, a tuple, an object array, a column of a pandas, polars or pyarrow table, or any container that
has a length and is indexed by row, such as a column of a Hugging Face data set or a torch data set. Such a container is
kept, and only the requested rows are read from it.

Files and PIL images become RGB, uint8. EXIF orientation is applied, transparency is laid on white, 16-bit grey is
scaled to 8 bits, and the first of several frames is used. PIL images in mode "I" or "F" are read like arrays, whose
range is that of all training images, see `blackvip.inputs.images`. No content of a file is executed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from numbers import Number
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
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
    path_in_folder,
    path_of,
    reason_of,
)
from .encoded import is_buffer, is_file, is_row_of_bytes, shortened

__all__ = [
    "ItemSource",
    "OpenedImages",
    "holds_flattened_rows",
    "open_images",
    "open_source",
    "refuse_single",
    "row_shape",
    "select",
]

_KEPT_BYTES = 128 * 2**20  # of pixels that are not read twice
_SHORTEST_ROW = 33  # rows with fewer numbers may be a table of other things than pixels

_EXPECTED = (
    "expected an array of shape (n, height, width, 3), (n, height, width) or (n, 3, height, width), rows of flattened "
    "pixels (n, n_features), or a sequence of PIL images, file paths, encoded images or arrays"
)


class ItemSource:
    """Images that are read one at a time, when they are needed.

    Those that are read first are kept, up to 128 MiB of pixels, and not read again.

    Parameters
    ----------
    items : object with a length, indexed by row
        Each row is an image in one of the forms that this module lists.
    """

    def __init__(self, items: Any):
        self._items = items
        self._kept: dict[int, np.ndarray] = {}
        self._bytes_left = _KEPT_BYTES

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
        if row in self._kept:
            return self._kept[row]
        try:
            item = self._items[row]
            pixels = decoded(item)
        except Exception as error:
            # Pillow and its plugins raise nearly any exception for a damaged file.
            path = path_of(item) or path_in_folder(self._items, row)
            name = f"{row} ({shortened(path)})" if path else str(row)
            raise ImageError(f"Image {name} cannot be read: {reason_of(error)}.") from error
        if pixels.nbytes <= self._bytes_left:
            # A view would keep all that it is a part of.
            self._kept[row] = pixels.copy()
            self._bytes_left -= pixels.nbytes
        return pixels

    def name(self, row: int) -> str:
        """Return the path of an image in a list or column of paths, else the number of its row."""
        # An item of another container may have to be computed.
        held = isinstance(self._items, (list, tuple, np.ndarray)) or _is_column(self._items)
        return str((path_of(self._items[row]) if held else None) or row)


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
        (height, width) or (height, width, channels) of rows of flattened pixels. None: see `row_shape`.

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
    if isinstance(X, np.ndarray) and np.ma.is_masked(X):
        raise ImageError("X is an array with masked pixels, which have no value; fill them first, as in X.filled(0).")
    if _holds_files(X):
        return ItemSource(list(X))
    refuse_single(X, image_shape)
    if isinstance(X, Mapping):
        keys = shortened(list(X)[:5])
        raise ImageError(f"X is a {type(X).__name__} with the keys {keys}; pass the value of one key, X[key].")
    items = _items(X, is_table)
    if not isinstance(items, np.ndarray):
        return ItemSource(items)
    if items.dtype.kind not in "uifb":
        raise ImageError(f"X is an array of {shortened(items.dtype)}; {_EXPECTED}.")
    refuse_single(items, image_shape)
    if items.ndim == 2:
        shape = row_shape(items.shape[1]) if image_shape is None else tuple(image_shape)
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


def row_shape(n_numbers: int) -> tuple[int, int]:
    """Return the shape of images whose flattened pixels are the rows of a table, if no shape is declared.

    Rows whose length is a square are square grey images. Rows of at most 32 numbers are read as images that are one
    pixel high, since they are too short for a picture.

    Parameters
    ----------
    n_numbers : int
        Length of a row.

    Returns
    -------
    height, width : int
        Size of the images, in pixels.

    Raises
    ------
    ImageError
        If the rows are longer than 32 numbers, and their length is not a square.
    """
    side = math.isqrt(n_numbers)
    if side * side == n_numbers:
        return side, side
    if n_numbers < _SHORTEST_ROW:
        return 1, n_numbers
    raise ImageError(
        f"X has rows of {n_numbers} numbers, which would be images 1 pixel high and {n_numbers} wide. Set image_shape "
        "to (height, width) or (height, width, channels), or pass an array (n, height, width, channels). If X is a "
        "single grey image, pass X[None]."
    )


def refuse_single(X: Any, image_shape: tuple[int, ...] | None = None, n_labels: int | None = None) -> None:
    """Raise an `ImageError` if X is a single image, or a folder, rather than a set of images.

    Parameters
    ----------
    X : object
        Value that the user passed as X, or the array that it holds.
    image_shape : tuple of int or None
        The declared shape of each image, which no array of a single image has.
    n_labels : int or None
        Number of labels, if it is known.
    """
    path = path_of(X) if isinstance(X, (str, os.PathLike)) else None
    if path is not None and os.path.isdir(os.path.expanduser(path)):
        raise ImageError(
            f"X is the folder {shortened(path)!r}; expected the paths of its files, such as "
            "X = sorted(pathlib.Path(folder).glob('*/*.png')). If each class has a folder of its own, the labels are "
            "y = [path.parent.name for path in X]."
        )
    if isinstance(X, SINGLE) or is_file(X) or is_buffer(X):
        raise ImageError(f"X is a single {type(X).__name__}, not a set of images. Put it into a list: [X].")
    if is_row_of_bytes(X):
        raise ImageError("X is a single image file, as an array of bytes. Put it into a list: [X].")
    item_and_label = isinstance(X, tuple) and len(X) == 2 and is_image(X[0]) and _is_label(X[1])
    is_row = isinstance(X, Mapping) and (is_image(X) or any(isinstance(value, Image.Image) for value in X.values()))
    if item_and_label or is_row:
        raise ImageError(f"X is a single row of a data set, as a {type(X).__name__}. Put it into a list: [X].")
    shape = tuple(getattr(X, "shape", None) or ())
    if not shape and getattr(X, "ndim", None) == 0:
        raise ImageError("X is an array without dimensions. Put what it holds into a list: [X.item()].")
    if len(shape) != 3 or not hasattr(X, "dtype") or (image_shape is not None and tuple(image_shape[:2]) == shape[1:]):
        return
    channels_last = shape[2] in (1, 3) or (shape[2] == 4 and str(X.dtype).endswith("uint8") and shape[0] > 4)
    if channels_last or (n_labels == 1 and shape[0] == 3):
        raise ImageError(f"X has the shape {shape}, that of a single image. Pass X[None], a set of one image.")


def _holds_files(X: Any) -> bool:
    """Return whether X is an array whose rows are image files, as bytes."""
    return isinstance(X, np.ndarray) and X.ndim in (2, 3) and len(X) > 0 and is_row_of_bytes(X[0])


def _is_label(value: Any) -> bool:
    return isinstance(value, Number) or getattr(value, "shape", None) == ()


def holds_flattened_rows(X: Any) -> bool:
    """Return whether X is a table of numbers with a row per image, as scikit-learn's tools pass it."""
    # scikit-learn's own check refuses sparse matrices later; some of them are dicts.
    if issparse(X):
        return True
    if isinstance(X, (*SINGLE, Mapping)) or is_file(X) or is_row_of_bytes(X) or is_buffer(X) or _holds_files(X):
        return False
    if _is_table(X):
        return not any(_holds_items(column) for column in _columns(X))
    if _is_column(X):
        return not _holds_items(X)
    if isinstance(X, np.ndarray) and X.dtype.kind in "OUST":
        single_column = X.ndim == 1 or (X.ndim == 2 and X.shape[1] == 1)
        return 1 <= X.ndim <= 2 and not (single_column and _holds_items(X.ravel()))
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
    """Select rows of X; a data set still reads its images only when they are needed.

    Parameters
    ----------
    X : images, in any form, or OpenedImages
        The images.
    rows : ndarray of int
        Rows to select.

    Returns
    -------
    X : images
        The selected rows, opened if X was.
    """
    if isinstance(X, OpenedImages):
        return OpenedImages(_rows_of(X, rows), X.is_table)
    return _rows_of(open_images(X), rows)


def _rows_of(opened: OpenedImages, rows: np.ndarray) -> Any:
    X, is_table = opened
    if _is_from(X, "pyarrow"):
        return X.take(rows)
    in_memory = isinstance(X, (list, tuple, np.ndarray)) or hasattr(X, "iloc") or _is_polars(X) or is_tensor(X)
    if _is_column(X) and not in_memory:
        return X[rows]
    if in_memory or is_table or not hasattr(X, "__getitem__"):
        return _safe_indexing(X, rows)
    return _Rows(X, np.asarray(rows))


def _items(X: Any, is_table: bool) -> Any:
    """Return X as an array of numbers, or as a container that is indexed by row."""
    if _is_table(X):
        columns = _columns(X)
        names = getattr(X, "column_names", None) or X.columns
        held = [str(name) for name, column in zip(names, columns) if _holds_items(column)]
        if len(columns) > 1 and held:
            raise ImageError(
                f"X is a table of {len(columns)} columns; pass the column of the images, such as "
                f"X[{shortened(held[0])!r}]."
            )
        X = columns[0] if held else _numbers_of(X)
    if hasattr(X, "iloc") or _is_pandas_index(X):
        # The array is indexed by position, whatever the index is.
        X = X.array
    if _is_from(X, "pyarrow") and hasattr(X, "to_pylist"):
        X = X.combine_chunks() if hasattr(X, "combine_chunks") else X
        X = X.to_numpy_ndarray() if hasattr(X, "to_numpy_ndarray") else X.to_pylist()
    if _is_polars(X) and getattr(getattr(X, "dtype", None), "shape", None):
        X = X.to_numpy()
    if is_tensor(X):
        return as_array(X)
    if isinstance(X, np.ndarray):
        if X.dtype.kind == "S":
            raise ImageError(
                f"X is an array of {X.dtype}, which drops trailing zero bytes; use a list, or dtype=object."
            )
        if X.dtype.kind not in "OUT" or not (X.ndim == 1 or (X.ndim == 2 and X.shape[1] == 1)):
            return X
        X = list(X.ravel()) if X.dtype.kind == "O" else X.ravel().tolist()
    if isinstance(X, (list, tuple)) or hasattr(X, "to_numpy"):
        stacked = _stacked(X)
        return X if stacked is None else stacked
    if hasattr(X, "__len__") and hasattr(X, "__getitem__"):
        return as_array(X) if is_table or getattr(X, "ndim", None) == 2 else X
    if hasattr(X, "__array__"):
        return as_array(X)
    hint = " Pass its data set, X.dataset." if hasattr(X, "dataset") else " Put its images into a list."
    raise ImageError(f"X is a {type(X).__name__}, which has no length or cannot be indexed by row; {_EXPECTED}.{hint}")


def _stacked(items: Any) -> np.ndarray | None:
    """Stack arrays of equal shape and dtype, or nested lists of numbers; return None for other items."""
    arrays: list[np.ndarray] = []
    if not len(items) or isinstance(items[0], SINGLE) or is_row_of_bytes(items[0]):
        return None
    if all(isinstance(item, (list, tuple)) and not is_image(item) for item in items):
        try:
            stacked = as_array(items)
        except ValueError:
            # The items have different shapes.
            return None
        return stacked if stacked.dtype.kind in "uifb" else None
    for item in items:
        # Items that are not arrays, or that the error about their row should name.
        if not hasattr(item, "ndim") or item.ndim == 0 or np.ma.is_masked(item):
            return None
        array = as_array(item)
        if arrays and (array.shape, array.dtype) != (arrays[0].shape, arrays[0].dtype):
            return None
        arrays.append(array)
    return np.stack(arrays)


def _is_from(X: Any, library: str) -> bool:
    return type(X).__module__.split(".")[0] == library


def _is_polars(X: Any) -> bool:
    return _is_from(X, "polars")


def _is_pandas_index(X: Any) -> bool:
    return _is_from(X, "pandas") and hasattr(X, "array") and not hasattr(X, "iloc")


def _is_column(X: Any) -> bool:
    """Return whether X is a single column of pandas, polars or pyarrow, and not a table."""
    if _is_from(X, "pandas") or _is_polars(X) or _is_from(X, "pyarrow"):
        return hasattr(X, "__getitem__") and not _is_table(X) and (hasattr(X, "dtype") or hasattr(X, "to_pylist"))
    return hasattr(X, "iloc") and not _is_table(X)


def _is_table(X: Any) -> bool:
    arrow = _is_from(X, "pyarrow") and hasattr(X, "column_names")
    return arrow or ((hasattr(X, "iloc") or hasattr(X, "get_columns")) and hasattr(X, "columns"))


def _columns(table: Any) -> list[Any]:
    if _is_from(table, "pyarrow"):
        return list(table.columns)
    return [table.iloc[:, i] for i in range(table.shape[1])] if hasattr(table, "iloc") else table.get_columns()


def _numbers_of(table: Any) -> Any:
    return np.asarray(table) if _is_from(table, "pyarrow") else table.to_numpy()


def _holds_items(column: Any) -> bool:
    """Return whether a column, list or object array holds images, and not numbers or rows of numbers."""
    dtype = getattr(column, "dtype", None)
    if getattr(dtype, "kind", "O") in "uifbc" or (_is_polars(dtype) and dtype.is_numeric()):  # type: ignore[union-attr]
        return False
    items: Iterable[Any] = (item.as_py() for item in column) if _is_from(column, "pyarrow") else column
    return not is_row_of_numbers(next((item for item in items if not is_missing(item)), None))
