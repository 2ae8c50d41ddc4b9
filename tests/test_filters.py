"""Filters against SciPy's, which sum pixel by pixel."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from blackvip.encoders.filters import filtered, gaussian


@pytest.mark.parametrize("size", [(9, 14), (3, 40), (1, 1)])  # also smaller than the filter
@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_gaussian_blur_is_scipys(size, sigma):
    images = torch.rand(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = gaussian(sigma)
    expected = images.numpy()
    for axis in (2, 3):
        expected = ndimage.gaussian_filter1d(expected, sigma, axis, mode="nearest", radius=len(weights) // 2)
    np.testing.assert_allclose(filtered(images, weights, weights).numpy(), expected, atol=1e-14)


def test_rows_act_from_top_to_bottom_and_columns_from_left_to_right():
    rng = np.random.default_rng(0)
    image, rows, columns = rng.random((7, 8)), rng.random(3), rng.random(5)
    expected = ndimage.correlate1d(ndimage.correlate1d(image, rows, 0, mode="nearest"), columns, 1, mode="nearest")
    found = filtered(torch.from_numpy(image), torch.from_numpy(rows), torch.from_numpy(columns))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-14)
