"""Enlarged images: networks read objects best at the size at which they have learned them."""

from __future__ import annotations

from numbers import Real

import numpy as np
import torch
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from ..inputs.images import from_uint8, to_uint8
from ..inputs.resizing import resized
from .without_parameters import WithoutParameters

__all__ = ["Enlarged"]


class Enlarged(WithoutParameters, name="enlarged"):
    """Prompter that enlarges images and draws nothing; the service must take images of another size.

    There is nothing to train, so a fit bills two images per training image: unmodified and enlarged. It can be
    combined, as in ``Stacked("autocontrast", Enlarged(2))``.

    Parameters
    ----------
    factor : float, default=1.5
        Factor by which height and width grow, at least 1. Pixels are interpolated as in `ImageFormat`.

    Attributes
    ----------
    n_parameters_ : int
        Number of parameters, 0.

    Examples
    --------
    >>> import numpy as np
    >>> from blackvip import Enlarged
    >>> X = np.zeros((1, 32, 48, 3), dtype=np.uint8)
    >>> Enlarged(1.5).fit(X).transform(X).shape
    (1, 48, 72, 3)
    """

    _parameter_constraints = {"factor": [Interval(Real, 1, None, closed="left")]}

    def __init__(self, factor: float = 1.5):
        self.factor = factor

    @property
    def title(self) -> str:
        return f"images enlarged by {self.factor:g}"

    def fit_pixels(self, pixels: torch.Tensor) -> Enlarged:
        self._validate_params()
        return self

    def drawn_size(self, size: tuple[int, int]) -> tuple[int, int]:
        height, width = (round(side * self.factor) for side in size)
        return height, width

    def canvas(self, pixels: torch.Tensor) -> torch.Tensor:
        size = self.drawn_size((pixels.shape[-2], pixels.shape[-1]))
        # One by one, so that an image does not depend on the others.
        images = [resized(image, size, "stretch", 0, 255) for image in to_uint8(pixels)]
        stacked = np.stack(images) if images else np.empty((0, *size, 3), np.uint8)
        return from_uint8(stacked, pixels.dtype)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return prompts of zeros, which need no memory.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width)
            RGB in [0, 1].

        Returns
        -------
        prompts : tensor of shape (n, 3, enlarged height, enlarged width)
            Zeros.
        """
        size = self.drawn_size((pixels.shape[-2], pixels.shape[-1]))
        return torch.zeros(1).expand(len(pixels), 3, *size)

    def draw(self, pixels: torch.Tensor) -> torch.Tensor:
        check_is_fitted(self, "parameters_")
        return pixels if self.prompt_scale_ == 0 else self.canvas(pixels.float())

    @property
    def frozen_state(self) -> list[object]:
        return [*super().frozen_state, self.factor]
