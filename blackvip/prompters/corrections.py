"""Image corrections: prompts T(x) - x without parameters, from a table of well-known filters T."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted

from ..inputs.images import from_uint8, to_uint8
from ..persistence.arrays import PLAIN
from ..persistence.fields import Scalar
from ..persistence.format import expect
from . import image_filters as filters
from .base import at_once
from .without_parameters import WithoutParameters

__all__ = ["AS_IT_IS", "CORRECTIONS", "Correction", "Learned"]

AS_IT_IS = "none"  #: The correction that changes nothing.


class Learned(NamedTuple):
    """Correction that learns from the training images; any function with an attribute `learn` is one.

    Attributes
    ----------
    learn : callable
        Takes training images of shape (n, height, width, 3), uint8, and returns what it has learned: a plain value that
        a file can hold, such as a number or a float32 array.
    correct : callable
        Takes images of shape (n, height, width, 3), uint8, and the learned value, and returns corrected images of the
        same shape and type.
    """

    learn: Callable[[np.ndarray], Any]
    correct: Callable[[np.ndarray, Any], np.ndarray]

    def __call__(self, images: np.ndarray, learned: Any) -> np.ndarray:
        """Correct images (n, height, width, 3), uint8, with what `learn` has returned."""
        return self.correct(images, learned)


#: All corrections by name: functions from images to images, uint8 of shape (n, height, width, 3), or `Learned`. Add
#: your own under a new name, in a module that every process imports.
CORRECTIONS: dict[str, filters.Correct | Learned] = {
    AS_IT_IS: lambda images: images,
    "autocontrast": filters.autocontrast,
    "standardize": filters.standardized,
    "equalize": filters.equalized,
    "clahe": filters.clahe,
    "gamma-0.5": filters.gamma(0.5),
    "gamma-2": filters.gamma(2),
    "invert": lambda images: 255 - images,
    "greyscale": filters.greyscale,
    "white-balance": filters.grey_world,
    "flatten": filters.flattened,
    "flat-field": filters.flat_field,
    "median": filters.median,
    "bilateral": filters.bilateral(),
    "non-local-means": filters.non_local_means(),
    "blur": filters.blur,
    "sharpen": filters.sharpen,
    "minimum": filters.smallest,
    "maximum": filters.largest,
    "opening": filters.in_turn(filters.smallest, filters.largest),
    "closing": filters.in_turn(filters.largest, filters.smallest),
    "otsu": filters.otsu,
    "adaptive-threshold": filters.adaptive,
    "less-background": Learned(filters.median_image, filters.less_background),
    "median-autocontrast": filters.in_turn(filters.median, filters.autocontrast),
    "flatten-autocontrast": filters.in_turn(filters.flattened, filters.autocontrast),
    "white-top-hat": filters.in_turn(filters.white_top_hat, filters.autocontrast),
    "black-top-hat": filters.in_turn(filters.black_top_hat, filters.autocontrast),
}


class Correction(WithoutParameters):
    """Prompt without parameters: the change T(x) - x that a well-known image correction T makes.

    There is nothing to train, so a fit bills two images per training image: without and with the correction.

    Parameters
    ----------
    correction : str, default="autocontrast"
        A name in `CORRECTIONS`:

        - contrast and tone: "autocontrast" (each channel, without the lightest and darkest 1 % of its pixels),
          "standardize", "equalize", "clahe", "gamma-0.5", "gamma-2", "invert",
        - light and colour: "white-balance" (grey world), "flatten" and "flat-field" (the illumination is
          subtracted, or divided out), "greyscale",
        - noise and strokes: "median" (3 x 3), "bilateral", "non-local-means", "blur", "sharpen", and the 3 x 3
          "minimum", "maximum", "opening" and "closing",
        - black and white: "otsu", "adaptive-threshold",
        - "less-background": the median of the training images is subtracted,
        - "none": no change,
        - "median-autocontrast", "flatten-autocontrast": the first, then the second,
        - "white-top-hat" and "black-top-hat": light strokes on black, dark strokes on white, without the uneven
          surroundings; then autocontrast.

        Names that you have added work too.

    Attributes
    ----------
    learned_ : object
        What the correction has learned from the training images; None for most.
    n_parameters_ : int
        Number of parameters, 0.

    Examples
    --------
    >>> import numpy as np
    >>> from blackvip import Correction
    >>> from blackvip.prompters import CORRECTIONS
    >>> fog = np.array([[[200, 210], [220, 230]]], dtype=np.uint8)  # one grey image
    >>> Correction("autocontrast").fit(fog).transform(fog)[..., 0]
    array([[[  0,  85],
            [170, 255]]], dtype=uint8)
    >>> CORRECTIONS["darken"] = lambda images: images // 2  # one of your own, on uint8 of shape (n, h, w, 3)
    >>> Correction("darken").fit(fog).transform(fog)[..., 0]
    array([[[100, 105],
            [110, 115]]], dtype=uint8)
    >>> del CORRECTIONS["darken"]
    """

    _parameter_constraints = {"correction": [StrOptions(CORRECTIONS.keys())]}

    saved_parameters = {
        "correction": Scalar(lambda name: name in CORRECTIONS, "a correction that is known here; import it first")
    }
    saved_attributes = {"learned_": PLAIN}

    def __init__(self, correction: str = "autocontrast"):
        self.correction = correction

    @property
    def title(self) -> str:
        return f"correction {self.correction!r}"

    def _finish_loading(self) -> None:
        super()._finish_loading()
        learns = hasattr(CORRECTIONS[self.correction], "learn")
        expect(learns or self.learned_ is None, f"learned_ of the correction {self.correction!r} is not null")
        if learns:
            size = self.image_format_.height, self.image_format_.width
            try:
                self._corrected(np.zeros((1, *size, 3), np.uint8))
            except Exception as error:
                expect(False, f"learned_ does not fit the correction {self.correction!r}: {error}")

    def fit_pixels(self, pixels: torch.Tensor) -> Correction:
        self._validate_params()
        learn = getattr(CORRECTIONS[self.correction], "learn", None)
        self.learned_ = None if learn is None else learn(to_uint8(pixels))
        return self

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute the prompts, which need no further features.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width)
            RGB in [0, 1].

        Returns
        -------
        prompts : tensor of shape (n, 3, height, width)
            T(x) - x, where T(x) is computed from x rounded to 8 bits.
        """
        return from_uint8(self._corrected(to_uint8(pixels)), pixels.dtype).sub_(pixels)

    @property
    def frozen_state(self) -> list[Any]:
        return [*super().frozen_state, self.correction, self.learned_]

    def draw(self, pixels: torch.Tensor) -> torch.Tensor:
        check_is_fitted(self, "parameters_")
        if self.prompt_scale_ != 1:
            return super().draw(pixels)
        # x + T(x) - x is T(x).
        return torch.cat([from_uint8(self._corrected(to_uint8(part))) for part in pixels.split(at_once(pixels))])

    def _corrected(self, images: np.ndarray) -> np.ndarray:
        """Correct images (n, height, width, 3), uint8, and check the result."""
        correction = CORRECTIONS[self.correction]
        learned = (self.learned_,) if hasattr(correction, "learn") else ()
        corrected = correction(images, *learned)
        found = [getattr(corrected, name, None) for name in ("dtype", "shape")]
        if found != [np.uint8, images.shape]:
            described = type(corrected).__name__ if found[0] is None else f"{found[0]} of shape {found[1]}"
            raise ValueError(
                f"The correction {self.correction!r} returned {described}; expected uint8 of shape {images.shape}."
            )
        return corrected
