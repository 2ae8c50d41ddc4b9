"""Principal components of the training images: the encoder of BlackVIP-SE."""

from __future__ import annotations

from numbers import Integral

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.utils._param_validation import Interval

from ..persistence.arrays import Array
from ..persistence.fields import number
from ..persistence.format import expect
from .base import Encoder
from .cells import CELLS, fit_to_image, n_stages_for

__all__ = ["PCAEncoder"]


class PCAEncoder(Encoder, name="pca"):
    """Principal components of the training images: the statistical encoder of BlackVIP-SE, rotated to local features.

    A decoder acts on each of its 7 x 7 cells alone, and reads each run of 49 features as one map of the cells. The
    components are therefore rotated within the subspace that they span, which loses nothing. After the rotation each
    feature is as near as possible to the mean brightness of its cell, or of a strip of that cell.

    Parameters
    ----------
    n_components : int, default=98
        Number of components to keep. There are fewer if there are fewer images or pixels. Fewer than 49 components are
        not rotated.

    Attributes
    ----------
    axes_ : ndarray of shape (n_features_out_, 3 * height * width)
        Orthonormal axes, one per feature.
    scale_ : float
        Factor of the features.
    n_features_out_ : int
        Number of features.

    Notes
    -----
    The mean image is not subtracted, so the features include what all images have in common. The features have a root
    mean square of 1 over the training images.
    """

    is_of_one_size = True
    _parameter_constraints = {"n_components": [Interval(Integral, 1, None, closed="left")]}
    saved_attributes = {"axes_": Array(("n_axes", "n_numbers")), "scale_": number()}

    def __init__(self, n_components: int = 98):
        self.n_components = n_components

    def _finish_loading(self) -> None:
        super()._finish_loading()
        expect(self.n_features_out_ == len(self.axes_), "n_features_out_ is not the number of axes_")

    def check_image_size(self, height: int, width: int) -> None:
        expect(self.axes_.shape[1] == 3 * height * width, f"axes_ do not fit images of {height} x {width} pixels")

    def fit_pixels(self, pixels: torch.Tensor) -> PCAEncoder:
        self._validate_params()
        rows = pixels.flatten(1).double().numpy()
        n_components = min(self.n_components, *rows.shape)
        # The full solver is exact and draws no random numbers.
        self.axes_ = np.ascontiguousarray(PCA(n_components, svd_solver="full").fit(rows).components_)
        n_rotated = n_components - n_components % CELLS**2
        if n_rotated:
            # (B4): the rotation nearest to the templates (orthogonal Procrustes).
            templates = _cell_templates(n_rotated, *pixels.shape[-2:])
            left, _, right = np.linalg.svd(templates @ self.axes_.T)
            self.axes_ = np.concatenate([left @ right[:n_rotated], right[n_rotated:]]) @ self.axes_
        self.scale_ = 1 / max(torch.from_numpy(rows @ self.axes_.T).square().mean().sqrt().item(), 1e-12)
        self.n_features_out_ = n_components
        return self

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flatten(1) @ torch.from_numpy(self.axes_).to(pixels.dtype).T * self.scale_


def _cell_templates(n_templates: int, height: int, width: int) -> np.ndarray:
    """Make unit vectors, each constant over a horizontal strip of one cell of the decoder's picture."""
    side = CELLS * 2 ** n_stages_for(height, width)
    n_strips = n_templates // CELLS**2
    strip_of = np.arange(side) * CELLS * n_strips // side
    rows, columns = np.divmod(np.arange(CELLS**2), CELLS)
    templates = []
    for strip in range(n_strips):
        in_rows = strip_of == (rows * n_strips + strip)[:, None]
        in_columns = np.arange(side) * CELLS // side == columns[:, None]
        templates.append(in_rows[:, :, None] & in_columns[:, None, :])
    picture = torch.from_numpy(np.concatenate(templates).astype(np.float64))[:, None]
    cut = fit_to_image(picture, height, width).expand(-1, 3, -1, -1).flatten(1).numpy()
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)
