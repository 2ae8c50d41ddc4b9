"""Gradient features, on images whose gradients are known."""

import numpy as np
import pytest
import torch
from conftest import ToyService, make_stripes

import blackvip
from blackvip import BlackVIPClassifier, Coordinator, GradientEncoder, PCAEncoder
from blackvip.encoders import make_encoder
from blackvip.encoders.histograms import _descriptors
from blackvip.encoders.orientation_pairs import orientation_pairs

HISTOGRAMS, COLOUR, PAIRS = GradientEncoder().block_sizes_
COARSE = 80  # of the histograms
FINE = HISTOGRAMS - COARSE
CELLS = HISTOGRAMS + COLOUR


def gratings(angles, side=48, wavelength=12):
    """Images (n, 3, side, side) whose brightness changes along these directions."""
    at = torch.arange(side, dtype=torch.float64)
    waves = [
        torch.sin(2 * torch.pi * (np.cos(angle) * at + np.sin(angle) * at[:, None]) / wavelength) for angle in angles
    ]
    return torch.stack(waves)[:, None].expand(-1, 3, -1, -1) / 4 + 0.5


def whole_image(pixels):
    """Histograms (n, 8) of whole images, at the first scale."""
    return _descriptors(pixels)[:, :COARSE].reshape(len(pixels), 2, 8, 5)[:, 0, :, 0].square()


def textures(n=12, height=20, width=20, seed=0):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("octant", range(8))
def test_histograms_peak_where_brightness_rises_and_falls(octant):
    [histograms] = whole_image(gratings([octant * np.pi / 4]))
    assert set(histograms.argsort()[-2:].tolist()) == {octant, (octant + 4) % 8}
    assert histograms.topk(2).values.sum() > 0.9 * histograms.sum()


def test_a_direction_between_two_orientations_is_shared_by_both():
    [histograms] = whole_image(gratings([np.pi / 8]))
    assert set(histograms.argsort()[-4:].tolist()) == {0, 1, 4, 5}
    assert histograms[0] == pytest.approx(histograms[1].item(), rel=0.1)


def test_gradients_ignore_brightness_and_almost_ignore_contrast():
    images = gratings(np.arange(5))
    whole = COARSE + FINE
    same, weak, faint = (_descriptors(pixels) for pixels in (images + 0.1, images / 2 + 0.25, images / 1000))
    given = _descriptors(images)
    torch.testing.assert_close(same[:, :whole], given[:, :whole], atol=1e-3, rtol=0)
    torch.testing.assert_close(weak[:, :whole], given[:, :whole], atol=0.2, rtol=0)
    assert weak[:, :COARSE].max() > 0.8 * given[:, :COARSE].max()
    assert faint[:, :whole].max() < 0.2 * given[:, :whole].max()  # noise on an even ground
    torch.testing.assert_close(same[:, whole:CELLS], given[:, whole:CELLS] + 0.1, atol=1e-3, rtol=0)
    same, weak, faint, given = (features[:, CELLS:] for features in (same, weak, faint, given))
    torch.testing.assert_close(same, given, atol=1e-2, rtol=0)
    torch.testing.assert_close(weak, given, atol=0.2, rtol=0)
    assert faint.max() < 0.2 * given.max()


def test_cells_are_where_they_are_in_the_image():
    pixels = torch.full((1, 3, 32, 32), 0.5, dtype=torch.float64)
    pixels[..., 24:, :8] = gratings([0.0], side=8, wavelength=8)[0, 0]
    pixels[:, 1, :16, 16:] = 1.0  # the upper right quarter is green
    encoder = GradientEncoder()
    encoder.mean_, encoder.scale_ = 0.0, 1.0
    features = encoder.features(pixels)[0].numpy()
    _, fine, colour, _ = np.split(features, [COARSE, COARSE + FINE, CELLS])
    cells = np.square(fine.reshape(2, 8, 16 + 49)[0, 0, :16].reshape(4, 4))
    assert cells[3, 0] == cells[2:, :2].max()
    green = colour.reshape(-1)[3:15].reshape(3, 2, 2)[1]
    assert np.argmax(green) == 1


def test_pairs_are_mean_products_of_magnitudes_at_an_offset():
    maps = torch.rand(2, 8, 11, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    offsets = [(r * down, r * right) for r in (1, 2, 4) for down, right in ((0, 1), (1, 0), (1, 1), (1, -1))]
    lengths = torch.linspace(1, 2, 8, dtype=torch.float64)[:, None]
    expected = np.zeros((2, len(offsets) * 64))
    for i, image in enumerate((maps * lengths[..., None]).numpy()):
        of_pairs = np.zeros((8, len(offsets), 8))
        for number, (down, right) in enumerate(offsets):
            for y, x in np.ndindex(11, 9):
                if y + down < 11 and 0 <= x + right < 9:
                    of_pairs[:, number] += np.outer(image[:, y, x], image[:, y + down, x + right])
        expected[i] = of_pairs.ravel() / of_pairs.mean()
    np.testing.assert_allclose(orientation_pairs(maps, lengths), expected, rtol=0.01)
    assert not orientation_pairs(torch.zeros(1, 8, 5, 5), lengths).any()


def test_pairs_do_not_depend_on_the_place():
    digit = gratings([0.4], side=16, wavelength=8)
    pages = torch.full((3, 3, 64, 64), 0.5, dtype=torch.float64)
    for page, (top, left) in zip(pages, [(8, 8), (32, 28), (31, 26)]):
        page[:, top : top + 16, left : left + 16] = digit[0]
    first, moved, by_odd_steps = _descriptors(pages)
    torch.testing.assert_close(moved[CELLS:], first[CELLS:], atol=1e-6, rtol=0)
    assert (
        np.corrcoef(by_odd_steps[CELLS:], first[CELLS:])[0, 1] > 0.9 > np.corrcoef(moved[:CELLS], first[:CELLS])[0, 1]
    )


def test_blocks_of_training_images_are_standardised_to_norm_one():
    pixels = textures(40)
    encoder = GradientEncoder().fit_pixels(pixels)
    features = encoder.features(pixels)
    assert features.shape == (40, encoder.n_features_out_) == (40, CELLS + PAIRS)
    np.testing.assert_allclose(features.mean(dim=0), 0, atol=1e-12)
    for part in features.split([COARSE, FINE, COLOUR, PAIRS], dim=1):
        np.testing.assert_allclose(part.norm(dim=1).square().mean(), 1, atol=0.1)


@pytest.mark.parametrize("pixels", [torch.full((6, 3, 9, 9), 0.3), textures(6, 9, 9)[:1]])
def test_constant_features_do_not_explode(pixels):
    encoder = GradientEncoder().fit_pixels(pixels)
    np.testing.assert_allclose(encoder.features(pixels), 0, atol=1e-9)
    assert encoder.features(textures(6, 9, 9, seed=1)).norm(dim=1).max() < 200  # a feature is 0.01 of its units


def test_a_feature_that_was_constant_by_chance_weighs_as_much_as_others():
    pixels = textures(30, 28, 28)
    pixels[..., :14, :] = 0.5
    encoder = GradientEncoder().fit_pixels(pixels)
    assert encoder.features(textures(5, 28, 28, seed=1)).norm(dim=1).max() < 20


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (5, 3), (64, 64), (65, 200), (300, 130)])
def test_features_depend_on_the_image_alone_whatever_its_size(size):
    pixels = textures(19, *size)
    encoder = GradientEncoder().fit_pixels(pixels)
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        together = encoder.features(pixels)
        torch.set_num_threads(1)
        assert together.dtype == torch.float64
        assert together.isfinite().all()
        for n in (1, 7, 19):
            assert torch.equal(torch.cat([encoder.features(part) for part in pixels.split(n)]), together)
    finally:
        torch.set_num_threads(n_threads)


def test_fitting_computes_the_features_of_its_images():
    pixels = textures(5)
    encoder = GradientEncoder()
    known = encoder.fit_features(pixels)
    np.testing.assert_array_equal(known, encoder.encode_batches(pixels.split(2)))


def test_a_fit_computes_local_features_once():
    class Counted(GradientEncoder):
        def fit_features(self, pixels):
            seen.append(len(pixels))
            return super().fit_features(pixels)

        def features(self, pixels):
            seen.append(len(pixels))
            return super().features(pixels)

    seen = []
    X, y = make_stripes(40)
    clf = BlackVIPClassifier(
        ToyService(), ["left", "right"], max_queries=200, local_encoder=Counted(), random_state=0, verbose=0
    )
    clf.fit(X, y)
    assert seen == [len(X)]
    plain = BlackVIPClassifier(ToyService(), ["left", "right"], max_queries=200, random_state=0, verbose=0).fit(X, y)
    np.testing.assert_array_equal(clf.predict_proba(X), plain.predict_proba(X))


def test_large_images_are_seen_at_64_pixels():
    small = gratings([0.3, 1.2], side=64, wavelength=16)
    large = gratings([0.3, 1.2], side=256, wavelength=64)
    torch.testing.assert_close(_descriptors(large), _descriptors(small), atol=0.15, rtol=0)
    torch.testing.assert_close(_descriptors(large)[:, :COARSE], _descriptors(small)[:, :COARSE], atol=0.05, rtol=0)


def test_what_else_an_encoder_has(tmp_path):
    assert isinstance(make_encoder("gradients"), GradientEncoder)
    assert PCAEncoder(3).fit_pixels(textures()).block_sizes_ == (3,)
    images = (255 * textures().movedim(1, -1).numpy()).astype(np.uint8)
    prompter = Coordinator("gradients", last_layer="random").fit(images)
    sent = prompter.transform(images)
    assert sent.shape == images.shape
    prompter.save(tmp_path / "prompter")
    np.testing.assert_array_equal(blackvip.load(tmp_path / "prompter").transform(images), sent)
