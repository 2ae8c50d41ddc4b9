"""The frames of VP and BAR: their equations and sizes, and that they are trained and saved as prompters are."""

import numpy as np
import pytest
import torch
from PIL import Image

import blackvip
from blackvip import BlackVIPClassifier, PaddingFrame, ReprogrammingFrame
from blackvip.exceptions import PersistenceError
from blackvip.inputs.images import to_uint8
from blackvip.prompters import prompted

FRAMES = [PaddingFrame(), ReprogrammingFrame()]


def some_pixels(n=4, height=56, width=56, seed=0):
    """Smooth pictures, whose bicubic copies overshoot little."""
    small = torch.rand(n, 3, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.interpolate(small, (height, width), mode="bilinear")


def frozen(frame, pixels, seed=0, prompt_scale=1.0):
    frame.fit_pixels(pixels)
    w = np.random.default_rng(seed).normal(size=frame.n_parameters_)
    return frame.freeze(w, prompt_scale=prompt_scale), w


@pytest.mark.parametrize(
    ("frame", "size", "hole", "n_parameters"),
    [
        (PaddingFrame(), (224, 224), (slice(30, 194), slice(30, 194)), 69_840),
        (PaddingFrame(), (448, 448), (slice(60, 388), slice(60, 388)), 3 * (448**2 - 328**2)),
        (PaddingFrame(), (56, 112), (slice(8, 48), slice(8, 104)), 3 * (56 * 112 - 40 * 96)),  # 7.5 px, to even
        (PaddingFrame(width=15), (224, 224), (slice(15, 209), slice(15, 209)), 3 * (224**2 - 194**2)),
        (PaddingFrame(), (4, 4), (slice(1, 3), slice(1, 3)), 36),
        (PaddingFrame(), (1, 9), (slice(1, 1), slice(1, 8)), 27),  # nothing is left free
        (PaddingFrame(width=200), (224, 224), (slice(200, 200), slice(200, 200)), 3 * 224**2),
        (ReprogrammingFrame(), (224, 224), (slice(80, 144), slice(80, 144)), 138_240),
        (ReprogrammingFrame(), (112, 56), (slice(40, 72), slice(20, 36)), 3 * (112 * 56 - 32 * 16)),
        (ReprogrammingFrame(inner=194), (224, 224), (slice(15, 209), slice(15, 209)), 3 * (224**2 - 194**2)),
        (ReprogrammingFrame(inner=224), (8, 8), (slice(0, 8), slice(0, 8)), 0),
        (ReprogrammingFrame(), (1, 7), (slice(0, 1), slice(2, 4)), 15),
    ],
)
def test_where_a_frame_is(frame, size, hole, n_parameters):
    pixels = torch.zeros(2, 3, *size)
    frame.fit_pixels(pixels)
    assert frame.n_parameters_ == n_parameters
    ones = torch.full((1, n_parameters), 50.0)  # whose sigmoid is one
    prompt = frame.prompts(ones[None], frame.features(pixels)[None])[0, 0, 0]
    expected = torch.ones(3, *size)
    expected[:, hole[0], hole[1]] = 0
    torch.testing.assert_close(prompt > 0, expected > 0)


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame_is_the_same_for_every_image_and_each_parameter_is_one_pixel(frame):
    pixels = some_pixels(height=12, width=9)
    frame.fit_pixels(pixels)
    features = frame.features(pixels)
    assert features.shape[0] == 4
    rng = np.random.default_rng(0)
    candidates = torch.tensor(rng.normal(size=(3, frame.n_parameters_)))
    prompts = frame.prompts(candidates[None], features[None])[0]
    assert prompts.shape == (3, 4, 3, 12, 9)
    assert (prompts == prompts[:, :1]).all()
    for candidate, of_one in zip(candidates, prompts):
        torch.testing.assert_close(frame.prompts(candidate[None, None], features[None])[0, 0], of_one)
    for index in rng.choice(frame.n_parameters_, 10, replace=False):
        moved = candidates[:1].clone()
        moved[0, index] += 1
        assert (frame.prompts(moved[None], features[None])[0] != prompts[:1])[0, 0].sum() == 1


def test_vp_adds_its_frame_and_leaves_the_middle():
    pixels = some_pixels()
    frame, w = frozen(PaddingFrame(), pixels, prompt_scale=0.27)
    sent = frame.draw(pixels)
    torch.testing.assert_close(sent[..., 8:48, 8:48], pixels[..., 8:48, 8:48])
    top = torch.from_numpy(w[: 8 * 56].reshape(8, 56))  # the first rows of red, all of which are frame
    torch.testing.assert_close(sent[:, 0, :8], (pixels[:, 0, :8] + 0.27 * top).clamp(0, 1))


def test_bar_sends_a_small_copy_in_the_sigmoid_of_its_parameters():
    pixels = some_pixels()
    frame, w = frozen(ReprogrammingFrame(), pixels)
    sent = frame.draw(pixels)
    assert sent.shape == pixels.shape
    top = 1 / (1 + np.exp(-w[: 20 * 56].reshape(20, 56)))
    torch.testing.assert_close(sent[:, 0, :20], torch.from_numpy(top).expand(4, -1, -1))
    for image, whole in zip(sent, pixels):
        for channel in range(3):  # Pillow's bicubic is another's, of floats too
            copy = np.asarray(
                Image.fromarray(whole[channel].numpy().astype(np.float32)).resize((16, 16), Image.Resampling.BICUBIC)
            )
            np.testing.assert_allclose(image[channel, 20:36, 20:36], np.clip(copy, 0, 1), atol=2e-3)


def test_a_copy_stays_within_the_pixel_range():
    stripes = torch.zeros(1, 3, 56, 56)
    stripes[..., ::8] = stripes[..., 1::8] = 1.0
    frame = ReprogrammingFrame(inner=200).fit_pixels(stripes)
    canvas = frame.canvas(stripes)
    assert canvas.min() == 0
    assert canvas.max() == 1


@pytest.mark.parametrize("frame", FRAMES)
def test_what_is_trained_is_what_is_predicted_and_no_scale_is_no_frame(frame):
    pixels = some_pixels()
    frame, w = frozen(frame, pixels, prompt_scale=0.5)
    candidates = torch.tensor(w)[None]
    trained = prompted(frame.canvas(pixels), frame.prompts(candidates[None], frame.features(pixels)[None])[0], 0.5)[0]
    torch.testing.assert_close(frame.draw(pixels), trained)
    alone = torch.cat([frame.draw(image[None]) for image in pixels])
    torch.testing.assert_close(alone, trained, atol=1e-9, rtol=0)
    frame.freeze(w, prompt_scale=0.0)
    torch.testing.assert_close(frame.draw(pixels), pixels)  # as the guard asks: nothing, and no small copy either


def test_starts():
    pixels = some_pixels()
    rng = np.random.default_rng(0)
    assert not PaddingFrame().fit_pixels(pixels).initial_parameters(rng).any()
    assert not ReprogrammingFrame().fit_pixels(pixels).initial_parameters(rng).any()
    random = PaddingFrame(start="random").fit_pixels(pixels).initial_parameters(rng)
    assert random.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (PaddingFrame(width=0), "The 'width' parameter of PaddingFrame must be a float in the range .0.0, inf."),
        (PaddingFrame(start="one"), "The 'start' parameter of PaddingFrame must be a str among"),
        (
            ReprogrammingFrame(inner=0),
            "The 'inner' parameter of ReprogrammingFrame must be a float in the range .0.0, 224.0.",
        ),
        (ReprogrammingFrame(inner=300), "The 'inner' parameter .* Got 300 instead"),
        (ReprogrammingFrame(start="none"), "The 'start' parameter of ReprogrammingFrame must be a str among"),
    ],
)
def test_what_a_frame_cannot_be(frame, message):
    with pytest.raises(ValueError, match=message):
        frame.fit_pixels(some_pixels())


@pytest.mark.parametrize("frame", FRAMES)
def test_a_fit_sends_the_frame_and_a_file_keeps_it(frame, service, stripes, tmp_path):
    X, y = stripes
    clf = BlackVIPClassifier(
        service, prompter=frame, max_queries=1500, loss="focal", guard=False, random_state=0, verbose=0
    ).fit(X, y)
    sent = clf.coordinator_.transform(X)
    assert (sent != X).any()
    np.testing.assert_array_equal(sent, to_uint8(clf.coordinator_.draw(clf.image_format_.pixels(X))))
    clf.predict(X)
    np.testing.assert_array_equal(service.calls[-1][0], sent)
    clf.save(tmp_path / "clf")
    same = blackvip.load(tmp_path / "clf", service)
    np.testing.assert_array_equal(same.predict_proba(X), clf.predict_proba(X))
    assert repr(same) == repr(clf)
    assert same.coordinator_.n_parameters_ == clf.coordinator_.n_parameters_
    clf.coordinator_.save(tmp_path / "frame")
    np.testing.assert_array_equal(blackvip.load(tmp_path / "frame").transform(X), sent)


def test_a_frame_of_another_size_is_no_file(stripes, tmp_path):
    frame = PaddingFrame().fit(stripes[0])
    frame.parameters_ = frame.parameters_[:-1]
    with pytest.raises(PersistenceError, match="parameters_ has 83 numbers; expected 84"):
        frame.save(tmp_path / "frame")
