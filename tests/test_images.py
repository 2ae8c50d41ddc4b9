"""Every accepted X becomes the same pixels, and what is not accepted is named."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from blackvip import ImageError
from blackvip.images import ImageFormat, holds_flattened_rows, to_uint8


@pytest.fixture
def arrays():
    return np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)


@pytest.fixture
def files(arrays, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(len(arrays))]
    for path, array in zip(paths, arrays):
        Image.fromarray(array).save(path)
    return paths


def pixels(X, image_shape=None):
    image_format, images = ImageFormat.learn(X, image_shape)
    return image_format.pixels(images[np.arange(len(images))])


def test_all_forms_give_the_same_pixels(arrays, files):
    expected = torch.from_numpy(arrays.astype(np.float32) / 255).permute(0, 3, 1, 2)
    for X in (
        arrays,
        arrays.transpose(0, 3, 1, 2),
        arrays / 255,
        arrays.astype(float),
        list(arrays),
        torch.from_numpy(arrays),
        arrays.reshape(4, -1),
        [Image.fromarray(array) for array in arrays],
        files,
        [str(path) for path in files],
        np.array([str(path) for path in files]),
        pd.Series(files),
        pd.DataFrame({"path": [str(path) for path in files]}),
    ):
        shape = (6, 5, 3) if getattr(X, "ndim", 0) == 2 and not isinstance(X, pd.DataFrame) else None
        torch.testing.assert_close(pixels(X, shape), expected, atol=1e-6, rtol=0)


def test_grey_images_are_shown_in_three_channels():
    grey = np.random.default_rng(0).integers(0, 256, (3, 4, 7), dtype=np.uint8)
    for X in (grey, grey[..., None], grey[:, None], [Image.fromarray(image) for image in grey]):
        result = pixels(X)
        assert result.shape == (3, 3, 4, 7)
        np.testing.assert_allclose(result[:, 1].numpy(), grey / 255, atol=1e-6)


def test_rows_without_a_shape_are_one_pixel_high():
    assert pixels(np.ones((2, 9))).shape == (2, 3, 1, 9)


def test_round_trip_to_uint8(arrays):
    np.testing.assert_array_equal(to_uint8(pixels(arrays)), arrays)


@pytest.mark.parametrize(
    ("X", "low", "high"),
    [
        (np.array([[0.0, 1.0]]), 0, 1),
        (np.array([[0.2, 0.4]]), 0, 1),
        (np.array([[0.0, 200.0]]), 0, 255),
        (np.array([[0.0, 16.0]]), 0, 16),
        (np.array([[-3.0, 5.0]]), -3, 5),
        (np.array([[3, 5]], dtype=np.uint8), 0, 255),
    ],
)
def test_pixel_range_is_learned(X, low, high):
    image_format, _ = ImageFormat.learn(X)
    assert (image_format.low, image_format.high) == (low, high)


def test_later_images_are_read_with_the_learned_range():
    image_format, _ = ImageFormat.learn(np.array([[0.0, 16.0]]))
    later = image_format.pixels(image_format.open(np.array([[8.0, 32.0]]))[:])
    np.testing.assert_allclose(later[0, 0].numpy(), [[0.5, 1.0]])  # brighter than white is white


def test_exif_orientation_is_applied(tmp_path):
    array = np.zeros((4, 6, 3), np.uint8)
    array[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    Image.fromarray(array).save(tmp_path / "turned.png", exif=exif)
    _, images = ImageFormat.learn([tmp_path / "turned.png"])
    assert images.size == (6, 4)
    assert images[:][0, :, -1].min() == 255


def test_a_single_image_is_not_a_set(arrays, files):
    for X in (files[0], str(files[0]), Image.fromarray(arrays[0])):
        with pytest.raises(ImageError, match="single .* Put it into a list"):
            ImageFormat.learn(X)


def test_unequal_sizes_name_the_image(arrays, files):
    Image.fromarray(arrays[0, :3]).save(files[2])
    with pytest.raises(ImageError, match=r"Image 2 \(.*2\.png\) is 3 x 5 pixels .* first one is 6 x 5"):
        ImageFormat.learn(files)
    with pytest.raises(ImageError, match="different shapes"):
        ImageFormat.learn([arrays[0], arrays[1, :3]])


def test_unreadable_files_are_named(files):
    files[1].write_text("no image")
    with pytest.raises(ImageError, match=r"Image 1 \(.*1\.png\) cannot be read"):
        ImageFormat.learn(files)
    files[1].unlink()
    with pytest.raises(ImageError, match=r"Image 1 \(.*1\.png\) cannot be read: there is no such file"):
        ImageFormat.learn(files)


def test_truncated_file_is_named(files):
    data = files[3].read_bytes()
    files[3].write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"Image 3 \(.*3\.png\) cannot be read"):
        ImageFormat.learn(files)


def test_other_sizes_later_are_refused(arrays):
    image_format, _ = ImageFormat.learn(arrays)
    with pytest.raises(ImageError, match="fitted to 6 x 5"):
        image_format.open(arrays[:, :4])


def test_wrong_image_shape_says_what_it_needs():
    with pytest.raises(ImageError, match=r"X has 10 numbers a row, but image_shape=\(3, 4\) needs 12"):
        ImageFormat.learn(np.zeros((2, 10)), (3, 4))


def test_nan_names_the_image(arrays):
    X = arrays / 255
    X[2, 0, 0, 0] = np.nan
    with pytest.raises(ImageError, match="Image 2 contains NaN"):
        ImageFormat.learn(X)


@pytest.mark.parametrize("X", [np.zeros((2, 4, 4, 5)), np.zeros((2, 3, 4, 5, 3)), np.array(["a", "b"]).reshape(1, 2)])
def test_other_arrays_are_refused(X):
    with pytest.raises(ImageError, match="expected an array of shape"):
        ImageFormat.learn(X)


def test_only_tables_of_numbers_are_flattened_rows(arrays, files):
    assert holds_flattened_rows(np.ones((2, 3)))
    assert holds_flattened_rows([[1.0, 2.0]])
    assert holds_flattened_rows(pd.DataFrame({"a": [1.0], "b": [2.0]}))
    for X in (arrays, list(arrays), files, pd.DataFrame({"path": files}), arrays[..., 0]):
        assert not holds_flattened_rows(X)
