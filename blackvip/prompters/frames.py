"""Frames: prompts that are the same for every image, as in VP and BAR.

BlackVIP's paper compares itself with both. Their sizes are those of the papers for images of 224 x 224 pixels, and are
scaled for other images.
"""

from __future__ import annotations

from abc import abstractmethod
from numbers import Real

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.utils._param_validation import Interval, StrOptions

from ..persistence.format import expect
from .base import Prompter

__all__ = ["PaddingFrame", "ReprogrammingFrame"]

_SIDE = 224  # px: side of the images for which the papers give sizes
_START = StrOptions({"zero", "random"})


class Frame(Prompter):
    """Base class of prompters whose parameters are the pixels of a frame around a free rectangle in the middle."""

    start: str
    size_: tuple[int, int]

    derived_attributes = ("size_", "n_parameters_")

    def _finish_loading(self) -> None:
        super()._finish_loading()
        expect(self.statistics_ is None, "statistics_ of a frame is not null")
        self.fit_pixels(torch.empty(0, 3, self.image_format_.height, self.image_format_.width, dtype=torch.float32))
        found, expected = len(self.parameters_), self.n_parameters_
        expect(found == expected, f"parameters_ has {found} numbers; expected {expected}")

    @abstractmethod
    def _hole(self) -> tuple[slice, slice]:
        """Return the rows and columns of the free rectangle, for images of `size_`."""

    def fit_pixels(self, pixels: torch.Tensor) -> Frame:
        self._validate_params()
        self.size_ = (pixels.shape[-2], pixels.shape[-1])
        self.n_parameters_ = int(self._frame().sum())
        return self

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return empty features, since the prompt is the same for every image.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width)
            RGB in [0, 1].

        Returns
        -------
        features : tensor of shape (n, 0)
            One empty row per image.
        """
        return pixels.new_empty(len(pixels), 0)

    def initial_parameters(self, rng: np.random.Generator) -> np.ndarray:
        return np.zeros(self.n_parameters_) if self.start == "zero" else rng.normal(size=self.n_parameters_)

    def prompts(
        self, candidates: torch.Tensor, features: torch.Tensor, statistics: torch.Tensor | None = None
    ) -> torch.Tensor:
        frame = self._frame()
        prompts = candidates.new_zeros(*candidates.shape[:2], *frame.shape)
        prompts[:, :, frame] = self._values(candidates)
        return prompts[:, :, None].expand(-1, -1, features.shape[1], -1, -1, -1)

    def _values(self, candidates: torch.Tensor) -> torch.Tensor:
        """Compute the pixels of the frame (g, p, n_parameters_) from candidates."""
        return candidates

    def _frame(self) -> torch.Tensor:
        """Return the mask of the frame (3, height, width)."""
        frame = torch.ones(3, *self.size_, dtype=torch.bool)
        frame[:, *self._hole()] = False
        return frame


class PaddingFrame(Frame):
    """Frame of visual prompting (VP), added to the border of the image (Bahng et al., arXiv 2203.17274).

    Parameters
    ----------
    width : float, default=30
        Width of the frame, in pixels of a 224-px image. In other images it is the same share of the shorter side, and
        at least one pixel.
    start : {"zero", "random"}, default="zero"
        Initial parameters. "zero": training starts from the zero-shot service. "random": normal random numbers, as in
        the paper.

    Attributes
    ----------
    size_ : tuple of int
        (height, width) of the images.
    n_parameters_ : int
        Number of pixels in the frame, over three channels; 69,840 for 224 x 224 pixels.
    """

    _parameter_constraints = {
        "width": [Interval(Real, 0, None, closed="neither")],
        "start": [_START],
    }

    def __init__(self, width: float = 30, start: str = "zero"):
        self.width = width
        self.start = start

    def _hole(self) -> tuple[slice, slice]:
        width = max(1, round(self.width * min(self.size_) / _SIDE))
        rows, columns = (slice(width, max(width, side - width)) for side in self.size_)
        return rows, columns


class ReprogrammingFrame(Frame):
    r"""Frame of BAR: a trained picture with a small copy of the image in its middle.

    An image x becomes :math:`\mathrm{pad}(\mathrm{resize}(x)) + M \odot \sigma(W)`. W are the parameters. M is one in
    the frame and zero inside (Tsai et al., ICML 2020, arXiv 2007.08714, eq. 1, with the sigmoid of BlackVIP's
    experiments). :math:`\mathrm{pad}(\mathrm{resize}(x))` is the `canvas` of this prompter. A `prompt_scale` of 1 gives
    the frame the whole pixel range.

    Parameters
    ----------
    inner : float, default=64
        Side of the copy, in pixels of a 224-px image, at most 224. In other images it is the same share of each side,
        and at least one pixel.
    start : {"zero", "random"}, default="zero"
        Initial W. "zero": the frame is grey at first. "random": normal random numbers, as in BAR.

    Attributes
    ----------
    size_ : tuple of int
        (height, width) of the images.
    n_parameters_ : int
        Number of pixels in the frame, over three channels; 138,240 for 224 x 224 pixels.
    """

    _parameter_constraints = {
        "inner": [Interval(Real, 0, _SIDE, closed="right")],
        "start": [_START],
    }

    def __init__(self, inner: float = 64, start: str = "zero"):
        self.inner = inner
        self.start = start

    def canvas(self, pixels: torch.Tensor) -> torch.Tensor:
        """Draw small copies of images on black pictures.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width)
            RGB in [0, 1].

        Returns
        -------
        canvas : tensor of shape (n, 3, height, width)
            RGB in [0, 1]. Overshoots of the bicubic interpolation are clipped.
        """
        rows, columns = self._hole()
        canvas = torch.zeros_like(pixels)
        inner = (rows.stop - rows.start, columns.stop - columns.start)
        canvas[..., rows, columns] = F.interpolate(pixels, inner, mode="bicubic", antialias=True).clamp(0, 1)
        return canvas

    def _values(self, candidates: torch.Tensor) -> torch.Tensor:
        return candidates.sigmoid()

    def _hole(self) -> tuple[slice, slice]:
        inner = [max(1, round(self.inner * side / _SIDE)) for side in self.size_]
        rows, columns = (slice((side - n) // 2, (side - n) // 2 + n) for side, n in zip(self.size_, inner))
        return rows, columns
