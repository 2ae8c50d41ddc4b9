"""Mixins of estimators of images: they learn the format of the images in `fit`, and read later images with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import _check_feature_names, check_is_fitted, validate_data

from ..exceptions import ImageError
from ..persistence.arrays import Labels
from ..persistence.fields import Maybe, Record, choice, integer
from ..persistence.format import expect
from ..persistence.objects import Object
from ..persistence.saveable import Saveable
from .decoding import refuse_masked
from .images import ImageFormat, Images
from .labels import labels_of
from .sources import OpenedImages, open_images

__all__ = ["BATCH", "ImageTransformer", "ReadsImages", "as_output", "most_to_fit", "pixel_batches", "portions"]

BATCH = 64  #: The most images that are held as pixels at once.
# As float32. What is made of more pixels does not fit into a cache; and the C library returns memory of 32 MB to the
# system at once, which takes longer than the work on it.
_PORTION_BYTES = 4 * 2**20
_MOST_IMAGES, _MOST_BYTES = 2_000, 512 * 2**20  # images that an encoder or a prompter is fitted to, as float32


def most_to_fit(image_format: ImageFormat) -> int:
    """Return the largest number of images that an encoder or a prompter is fitted to.

    Parameters
    ----------
    image_format : ImageFormat
        Format of the images.

    Returns
    -------
    n_images : int
        At most 2,000, and as many as take 512 MiB as float32, but at least 1.
    """
    return min(_MOST_IMAGES, _MOST_BYTES // (image_format.height * image_format.width * 3 * 4) or 1)


# More than 60 characters of the input in an error of scikit-learn.
_REPEATED = re.compile(r"((?:array=|not supported\n|to float: ).{60}).*?(?=\.?\nReshape|$)", re.DOTALL)

#: What `set_output` sets.
OUTPUT_CONFIG = Maybe(Record({"transform": choice("default", "pandas", "polars")}))


class ReadsImages(Saveable, saveable=False):
    """Mixin of estimators whose X is images. It learns their format in `fit`, and reads later images with it.

    Attributes
    ----------
    image_format_ : ImageFormat
        Size and pixel range of the training images.
    n_features_in_ : int
        Number of columns if X is a table, else height * width * 3.
    feature_names_in_ : ndarray of str
        Names of the columns; only if X is a table whose columns have names.
    """

    image_shape: Any = None
    resize: str = "crop"
    on_error: str = "raise"
    image_format_: ImageFormat
    n_features_in_: int

    saved_attributes = {
        "image_format_": Object(ImageFormat),
        "n_features_in_": integer(1),
        "feature_names_in_": Maybe(Labels("O")),
    }

    def _finish_loading(self) -> None:
        super()._finish_loading()
        names, image_format = getattr(self, "feature_names_in_", None), self.image_format_
        pixels = image_format.height * image_format.width
        channels = (image_format.image_shape or ())[2:] or (1,)
        fits = self.n_features_in_ in (pixels, 3 * pixels, channels[0] * pixels) if names is None else True
        expect(fits, f"n_features_in_ is {self.n_features_in_}, which does not fit {image_format}")
        expect(names is None or len(names) == self.n_features_in_, "feature_names_in_ and n_features_in_ differ")

    def _learn_images(self, X: Any, y: Any = "no_validation") -> tuple[Images, Any]:
        """Open the images of X, and learn their format; scikit-learn checks tables of flattened pixels, and their y."""
        X, is_table = open_images(X)
        if is_table:
            checked = self._checked_table(X, y, reset=True)
            X, y = (checked, y) if isinstance(y, str) else checked
        else:
            _check_feature_names(self, X, reset=True)
        self.image_format_, images = ImageFormat.learn(
            OpenedImages(X, is_table), self.image_shape, self.resize, self.on_error
        )
        if not is_table:
            named = getattr(self, "feature_names_in_", None)
            height, width = self.image_format_.height, self.image_format_.width
            self.n_features_in_ = height * width * 3 if named is None else len(named)
        return images, y

    def _checked_table(self, X: Any, y: Any, reset: bool) -> Any:
        """Let scikit-learn check a table; its error does not repeat the table."""
        refuse_masked(X)
        try:
            return validate_data(self, X, y, reset=reset)
        except ValueError as error:
            if str(error).startswith("setting an array element"):
                raise ImageError("X has rows of different lengths; expected equally many numbers in each.") from error
            shorter = _REPEATED.sub(r"\1...", str(error))
            if shorter == str(error):
                raise
            raise ImageError(shorter) from error

    def _learn_labelled(self, X: Any, y: Any) -> tuple[Images, np.ndarray]:
        """Open training images, learn their format, and check their labels."""
        X = open_images(X)
        return self._learn_images(X, labels_of(X, y))

    def _open_images(self, X: Any, identify: bool = False) -> Images:
        """Open images with the format that `fit` has learned; with `identify`, their digests will be needed."""
        check_is_fitted(self)
        X, is_table = open_images(X)
        size = self.image_format_.height, self.image_format_.width
        if is_table and tuple(getattr(X, "shape", ())) == size and size[1] != self.n_features_in_:
            raise ImageError(f"X has the shape {size}, that of a single grey image. Pass X[None], a set of one image.")
        if is_table:
            X = self._checked_table(X, "no_validation", reset=False)
        elif hasattr(X, "columns"):
            _check_feature_names(self, X, reset=False)
        return self.image_format_.open(X, identify)

    def read_like(self, fitted: ReadsImages) -> None:
        """Take over the format of images from another fitted estimator.

        Parameters
        ----------
        fitted : ReadsImages
            The other estimator.
        """
        for name in ("image_format_", "n_features_in_", "feature_names_in_"):
            if hasattr(fitted, name):
                setattr(self, name, getattr(fitted, name))


def portions(n_images: int, size: tuple[int, int]) -> list[slice]:
    """Split images into portions that are held as pixels at once.

    Parameters
    ----------
    n_images : int
        Number of images.
    size : tuple of int
        Their (height, width), in pixels.

    Returns
    -------
    portions : list of slice
        Each has at most 64 images, and as many as take 4 MiB as float32, but at least one.
    """
    n = min(BATCH, _PORTION_BYTES // (size[0] * size[1] * 3 * 4) or 1)
    return [slice(first, first + n) for first in range(0, n_images, n)]


def pixel_batches(image_format: ImageFormat, images: Images) -> Iterator[torch.Tensor]:
    """Iterate over the pixels (n, 3, height, width) of all images in batches."""
    return (image_format.pixels(images[rows]) for rows in portions(len(images), images.size))


class ImageTransformer(ReadsImages, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, saveable=False):
    """Base class of scikit-learn transformers of images in any form; subclasses work on pixels."""

    saved_attributes = {"_sklearn_output_config": OUTPUT_CONFIG}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # Features are float64 and images uint8, whatever X was.
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _pixels(self, X: Any) -> torch.Tensor:
        """Read all training images X as pixels, and learn their format."""
        images, _ = self._learn_images(X)
        return self.image_format_.pixels(images[:])


def as_output(transformer: BaseEstimator, X: Any, images: np.ndarray) -> np.ndarray:
    """Give transformed images the form of X: rows of pixels if X is a table.

    Parameters
    ----------
    transformer : estimator
        The transformer, whose `set_output` may ask for a table.
    X : images, in any form, or OpenedImages
        The input of the transformer.
    images : ndarray of shape (n, height, width, 3)
        The transformed images.

    Returns
    -------
    images : ndarray of shape (n, height, width, 3), or (n, height * width * 3) if X is a table
        The images.

    Raises
    ------
    ImageError
        If `set_output` asks for a table, but X is none.
    """
    if open_images(X).is_table:
        return images.reshape(len(images), -1)
    own = getattr(transformer, "_sklearn_output_config", {}).get("transform")
    container = own or get_config()["transform_output"]
    if container != "default":
        raise ImageError(
            f"set_output asks for a {container} table, but images of shape {images.shape[1:]} do not fit its columns. "
            "Pass X as rows of flattened pixels, or leave set_output at 'default'."
        )
    return images
