"""The base class of encoders, which turn images into features for prompters and local probes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np
import torch

from ..inputs.reading import ImageTransformer, ReadsImages, pixel_batches
from ..persistence.fields import Maybe, OneOf, integer, text
from ..persistence.objects import Object

__all__ = ["ENCODER", "MODEL_NAME", "Encoder"]

MODEL_NAME = text(r"\w[\w.-]*")  #: Name of an encoder or a timm model in a file: never one of a folder or a hub.


class Encoder(ImageTransformer, ABC):
    """Base class of encoders. A subclass needs two methods: `fit_pixels` and `encode`.

    A frozen encoder is fitted once to the training images, and each image's features are computed once. A trained
    encoder (`ScratchEncoder`) sets `is_frozen` to False. It has parameters of its own, which precede the decoder's
    parameters in every candidate.

    A class statement with a name, such as ``class PCAEncoder(Encoder, name="pca")``, registers that name.

    Attributes
    ----------
    n_features_out_ : int
        Number of features that the decoder gets for each image; `fit_pixels` sets it.
    is_frozen : bool
        Whether the features are independent of the parameters that are trained with the prompt.
    is_of_one_size : bool
        Whether `encode` takes only images of the size that the encoder was fitted to.
    """

    named: ClassVar[dict[str, type[Encoder]]] = {}  #: Encoders that have a short name, as in ``encoder="pca"``.
    is_frozen: bool = True
    is_of_one_size: bool = False
    n_features_out_: int

    saved_attributes = {
        # A part of another estimator is fitted to pixels, and reads no images itself.
        **{name: Maybe(field) for name, field in ReadsImages.saved_attributes.items()},
        "n_features_out_": integer(1),
    }

    def _finish_loading(self) -> None:
        if hasattr(self, "image_format_"):
            super()._finish_loading()

    def check_image_size(self, height: int, width: int) -> None:
        """Check that a loaded encoder takes images of this size; by default it takes any.

        Parameters
        ----------
        height, width : int
            Size of the images, in pixels.

        Raises
        ------
        PersistenceError
            If the encoder was fitted to images of another size.
        """

    @abstractmethod
    def fit_pixels(self, pixels: torch.Tensor) -> Encoder:
        """Learn from training images, and set `n_features_out_`.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width)
            A sample of the training images, RGB in [0, 1].

        Returns
        -------
        self : Encoder
            The fitted encoder.
        """

    def fit_features(self, pixels: torch.Tensor) -> np.ndarray | None:
        """Learn from training images, and return their features if that needs them anyway.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width)
            A sample of the training images, RGB in [0, 1].

        Returns
        -------
        features : ndarray of shape (n, n_features), float64, or None
            What `encode_batches` returns for these images. None: they have not been computed.
        """
        self.fit_pixels(pixels)
        return None

    @abstractmethod
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute the features of images by operations of torch that gradients can pass.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width), float32 or float64
            RGB in [0, 1].

        Returns
        -------
        features : tensor of shape (n, ...)
            One entry per image; those of a frozen encoder have the type of the pixels.
        """

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute the features of images without a graph for gradients; no image changes those of another.

        By default `encode` computes them in double precision.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width)
            RGB in [0, 1].

        Returns
        -------
        features : tensor of shape (n, ...)
            Features that do not depend on trained parameters.
        """
        with torch.no_grad():
            return self.encode(pixels.double())

    @property
    def block_sizes_(self) -> tuple[int, ...]:
        """Number of features in each block of features; a local probe is fitted to each block."""
        return (self.n_features_out_,)

    @property
    def n_parameters(self) -> int:
        """Number of parameters that are trained with the decoder's; 0 for a frozen encoder."""
        return 0

    @property
    def n_statistics(self) -> int:
        """Length of the vector of batch statistics; 0 for a frozen encoder."""
        return 0

    def initial_parameters(self, rng: np.random.Generator) -> np.ndarray:
        """Draw the parameters that training starts from.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of random numbers.

        Returns
        -------
        parameters : ndarray of shape (n_parameters,)
            Empty for a frozen encoder.
        """
        return np.empty(0)

    def latents(
        self, parameters: torch.Tensor, features: torch.Tensor, statistics: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute the decoder's input z of each parameter vector, for each image of its group.

        Parameters
        ----------
        parameters : tensor of shape (g, p, n_parameters)
            Parameter vectors, p in each of the g groups.
        features : tensor of shape (g, n, ...)
            Features of the images of each group.
        statistics : tensor of shape (n_statistics,) or None, default=None
            Result of `batch_statistics`. None: statistics of the batch.

        Returns
        -------
        z : tensor of shape (g, p, n, n_features_out_)
            The decoder's input, in the precision of the parameters.
        """
        z = features.flatten(2).to(parameters.dtype)
        return z[:, None].expand(-1, parameters.shape[1], -1, -1)

    def batch_statistics(self, parameters: torch.Tensor, batches: Callable[[], Iterable[torch.Tensor]]) -> torch.Tensor:
        """Compute statistics with which the z of an image does not depend on the other images of its batch.

        Parameters
        ----------
        parameters : tensor of shape (n_parameters,)
            The parameters at which the encoder will be frozen.
        batches : callable
            Returns an iterator over the features of all training images.

        Returns
        -------
        statistics : tensor of shape (n_statistics,)
            The statistics; empty for a frozen encoder.
        """
        return parameters.new_empty(0)

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
        """Compute the features of images.

        Parameters
        ----------
        X : images, in any form that `BlackVIPClassifier` takes
            Images of the size that `fit` was given.

        Returns
        -------
        features : ndarray of shape (n_images, n_features), float64
            One row per image.
        """
        return self.encode_batches(pixel_batches(self.image_format_, self._open_images(X)))

    def encode_batches(self, batches: Iterable[torch.Tensor]) -> np.ndarray:
        """Compute the features of batches of pixels.

        Parameters
        ----------
        batches : iterable of tensor of shape (n, 3, height, width)
            RGB in [0, 1].

        Returns
        -------
        features : ndarray of shape (n_images, n_features), float64
            One row per image, over all batches.
        """
        return np.concatenate([self.features(pixels).flatten(1).double().numpy() for pixels in batches])

    @property
    def _n_features_out(self) -> int:
        return self.n_features_out_


#: An encoder among the parameters of an object in a file.
ENCODER = OneOf(MODEL_NAME, Object(Encoder, fitted="no"))
