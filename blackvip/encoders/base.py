"""What an encoder is: images to the features that prompts and local probes are made from.

A frozen encoder is fitted once to the training images and then only transforms, so each image's features are computed
once. A trainable one (`ScratchEncoder`) has parameters of its own. For scikit-learn both are transformers of images in
any form; the training loop uses the methods that take pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np
import torch

from ..inputs.reading import ImageTransformer, ReadsImages, pixel_batches
from ..persistence.fields import Maybe, OneOf, integer, text
from ..persistence.objects import Object

__all__ = ["ENCODER", "MODEL_NAME", "Encoder", "TrainableEncoder"]

MODEL_NAME = text(r"\w[\w.-]*")  #: Name of an encoder or a timm model in a file: never one of a folder or a hub.


class Encoder(ImageTransformer, ABC):
    """What a Coordinator needs of an encoder: `fit_pixels` and `encode`. `fit` and `transform` come with them.

    Attributes
    ----------
    n_features_out_ : int
        Numbers that the decoder gets for an image.
    """

    n_features_out_: int
    named: ClassVar[dict[str, type[Encoder]]] = {}  #: Encoders that have a short name, as in ``encoder="pca"``.

    saved_attributes = {
        # A part of another estimator is fitted to pixels, and reads no images itself.
        **{name: Maybe(field) for name, field in ReadsImages.saved_attributes.items()},
        "n_features_out_": integer(1),
    }

    def _finish_loading(self) -> None:
        if hasattr(self, "image_format_"):
            super()._finish_loading()

    def check_image_size(self, height: int, width: int) -> None:
        """Check that an encoder that was loaded takes images of this size; by default it takes any.

        Parameters
        ----------
        height, width : int
            Size of the images, in pixels.

        Raises
        ------
        PersistenceError
            If it was fitted to images of another size.
        """

    @property
    def n_parameters(self) -> int:
        """Parameters that are trained with the decoder; 0 for a frozen encoder."""
        return 0

    @property
    def n_statistics(self) -> int:
        """Length of the vector of batch statistics; 0 for a frozen encoder."""
        return 0

    @abstractmethod
    def fit_pixels(self, pixels: torch.Tensor) -> Encoder:
        """Learn from training images (n, 3, height, width) in [0, 1]; set `n_features_out_`."""

    @abstractmethod
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Per-image features of shape (n, ...), which do not depend on trainable parameters."""

    @property
    def block_sizes_(self) -> tuple[int, ...]:
        """Features of each block of features that a probe of its own may be given: by default one block of all."""
        return (self.n_features_out_,)

    def fit(self, X: Any, y: Any = None) -> Encoder:
        """Learn from training images.

        Parameters
        ----------
        X : images, in any form that `BlackVIPClassifier` takes
            The training images.
        y : None
            Ignored.

        Returns
        -------
        self : Encoder
            The fitted encoder.
        """
        return self.fit_pixels(self._pixels(X))

    def transform(self, X: Any) -> np.ndarray:
        """Features of images.

        Parameters
        ----------
        X : images, in any form that `BlackVIPClassifier` takes
            Of the size that `fit` was given.

        Returns
        -------
        features : ndarray of shape (n_images, n_features), float64
            A row per image.
        """
        return self.encode_batches(pixel_batches(self.image_format_, self._open_images(X)))

    def encode_batches(self, batches: Iterable[torch.Tensor]) -> np.ndarray:
        """Features of batches of pixels, a row per image.

        Parameters
        ----------
        batches : iterable of tensor of shape (n, 3, height, width)
            RGB in [0, 1].

        Returns
        -------
        features : ndarray of shape (n_images, n_features), float64
            Of all batches.
        """
        return np.concatenate([self.encode(pixels).flatten(1).double().numpy() for pixels in batches])

    @property
    def _n_features_out(self) -> int:
        return self.n_features_out_


class TrainableEncoder(Encoder):
    """An encoder whose parameters are trained: they stand in front of the decoder's in every candidate."""

    @abstractmethod
    def initial_parameters(self, rng: np.random.Generator) -> np.ndarray:
        """Parameters of shape (n_parameters,) that training starts from."""

    @abstractmethod
    def cells(
        self, parameters: torch.Tensor, features: torch.Tensor, statistics: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The decoder's input (p, n, channels, 49) of each parameter vector (p, n_parameters)."""

    @abstractmethod
    def batch_statistics(self, parameters: torch.Tensor, batches: Callable[[], Iterable[torch.Tensor]]) -> torch.Tensor:
        """What `cells` needs so that an image's cells do not depend on the others, as one vector."""


#: An encoder among the parameters of an object in a file.
ENCODER = OneOf(MODEL_NAME, Object(Encoder, fitted="no"))
