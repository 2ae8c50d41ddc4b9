"""The demo's images and its reader."""

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


def test_errors_name_what_there_is():
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
