"""Reading X: what every estimator whose X is images does with it, in `fit` and afterwards."""

from __future__ import annotations

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
from .images import ImageFormat, Images
from .sources import holds_flattened_rows

__all__ = ["BATCH", "ImageTransformer", "ReadsImages", "as_output", "most_to_fit", "pixel_batches"]

BATCH = 64  #: Images that are held as pixels, and asked for, at once.
_MOST_IMAGES, _MOST_BYTES = 2_000, 512 * 2**20  # that an encoder or a prompter is fitted to, as float32


def most_to_fit(image_format: ImageFormat) -> int:
    """Images that an encoder or a prompter is fitted to, at most: what memory bears, and what is enough."""
    return min(_MOST_IMAGES, _MOST_BYTES // (image_format.height * image_format.width * 3 * 4) or 1)


#: What `set_output` sets.
OUTPUT_CONFIG = Maybe(Record({"transform": choice("default", "pandas", "polars")}))


class ReadsImages(Saveable, saveable=False):
    """Mixin of estimators whose X is images: learns their format in `fit`, and reads later ones by it.

    Attributes
    ----------
    image_format_ : ImageFormat
    n_features_in_ : int
        The columns of X where X is a table, else height * width * 3.
    feature_names_in_ : ndarray of str
        Only where X is a table whose columns have names.
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
        """The images of X, whose format is learned, and y; rows of flattened pixels pass scikit-learn's checks."""
        flattened = holds_flattened_rows(X)
        if flattened:
            checked = validate_data(self, X, y)
            X, y = (checked, y) if isinstance(y, str) else checked
        else:
            _check_feature_names(self, X, reset=True)
        self.image_format_, images = ImageFormat.learn(X, self.image_shape, self.resize, self.on_error)
        if not flattened:
            named = getattr(self, "feature_names_in_", None)
            height, width = self.image_format_.height, self.image_format_.width
            self.n_features_in_ = height * width * 3 if named is None else len(named)
        return images, y

    def _open_images(self, X: Any) -> Images:
        """The images of X, read as `fit` has learned to."""
        check_is_fitted(self)
        if holds_flattened_rows(X):
            X = validate_data(self, X, reset=False)
        elif hasattr(X, "columns"):
            _check_feature_names(self, X, reset=False)
        return self.image_format_.open(X)

    def _adopt_reading(self, fitted: ReadsImages) -> None:
        """Read images as another fitted estimator does."""
        for name in ("image_format_", "n_features_in_", "feature_names_in_"):
            if hasattr(fitted, name):
                setattr(self, name, getattr(fitted, name))


def pixel_batches(image_format: ImageFormat, images: Images) -> Iterator[torch.Tensor]:
    """Pixels (n, 3, height, width) of all images, a bounded number at once."""
    for first in range(0, len(images), BATCH):
        yield image_format.pixels(images[first : first + BATCH])


class ImageTransformer(ReadsImages, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, saveable=False):
    """A scikit-learn transformer of images in any form, over methods of its subclass that take pixels."""

    saved_attributes = {"_sklearn_output_config": OUTPUT_CONFIG}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # features are float64 and images uint8, whatever X was
        return tags

    def _pixels(self, X: Any) -> torch.Tensor:
        """All pixels of the training images X; their format is learned."""
        images, _ = self._learn_images(X)
        return self.image_format_.pixels(images[:])


def as_output(transformer: BaseEstimator, X: Any, images: np.ndarray) -> np.ndarray:
    """Transformed images (n, height, width, 3) in the form of X: rows of pixels where X is a table of them.

    Raises
    ------
    ImageError
        If `set_output` asks for a table and X is none.
    """
    if holds_flattened_rows(X):
        return images.reshape(len(images), -1)
    own = getattr(transformer, "_sklearn_output_config", {}).get("transform")
    container = own or get_config()["transform_output"]
    if container != "default":
        raise ImageError(
            f"set_output asks for a {container} table, but images of shape {images.shape[1:]} do not fit its columns. "
            "Pass X as rows of flattened pixels, or leave set_output at 'default'."
        )
    return images
