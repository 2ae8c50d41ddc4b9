"""Every accepted X becomes the same pixels, and what is not accepted is named."""

import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchvision import transforms

from blackvip import PCAEncoder
from blackvip.exceptions import ImageError, ImagesAssumedWarning, ImagesResizedWarning, ImagesSkippedWarning
from blackvip.inputs import sources
from blackvip.inputs.images import ImageFormat, to_uint8
from blackvip.inputs.sources import holds_flattened_rows


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


@pytest.mark.parametrize("side", [1, 2, 3, 8, 28])
def test_rows_without_a_shape_are_square_grey_images(side):
    grey = np.random.default_rng(0).integers(0, 256, (3, side, side)).astype(float)
    torch.testing.assert_close(pixels(grey.reshape(3, -1)), pixels(grey[..., None]))


@pytest.mark.parametrize("n_numbers", [2, 10, 32])
def test_short_rows_that_are_no_square_are_one_pixel_high_and_this_is_told(n_numbers):
    with pytest.warns(ImagesAssumedWarning, match=f"rows of {n_numbers} .* 1 pixel high .* set image_shape to"):
        assert pixels(np.ones((2, n_numbers))).shape == (2, 3, 1, n_numbers)


@pytest.mark.parametrize("n_numbers", [33, 8 * 8 * 3, 28 * 28 * 3, 6 * 5 * 3, 20 * 30])
@pytest.mark.parametrize("form", [np.asarray, np.ndarray.tolist, pd.DataFrame, torch.from_numpy])
def test_other_rows_need_their_shape(n_numbers, form):
    X = form(np.random.default_rng(0).uniform(size=(2, n_numbers)))
    with pytest.raises(ImageError, match=f"1 pixel high and {n_numbers} wide. Set image_shape to .* pass X.None."):
        PCAEncoder(2).fit(X)


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
        with pytest.raises(ImageError, match=r"single .* Put it into a list: \[X\]"):
            ImageFormat.learn(X)


def test_unequal_sizes_are_resized_and_told(arrays, files):
    Image.fromarray(arrays[0, :3]).save(files[2])
    for X in (files, [arrays[0], arrays[1], arrays[0, :3]], [torch.from_numpy(arrays[0]), arrays[0, :3] / 255 * 255]):
        with pytest.warns(ImagesResizedWarning, match="2 sizes, from 3 x 5 to 6 x 5 .* resized to 224 x 224 .*crop"):
            image_format, images = ImageFormat.learn(X)
        assert image_format.resized
        assert images.size == (224, 224)
        assert images[:].shape == (len(X), 224, 224, 3)
        assert image_format.open(arrays[:, :4])[[0]].shape == (1, 224, 224, 3)  # later ones are resized alike
    with pytest.warns(ImagesResizedWarning) as warnings:
        PCAEncoder(2).fit(files)
    assert warnings[0].filename == __file__  # it points to the caller, however deep the reading is


@pytest.fixture
def photo():
    """A photo's statistics: smooth, with edges, and bright and dark enough to overshoot."""
    y, x = np.mgrid[:60, :90] / 60
    waves = np.stack([np.sin(5 * x + k) * np.cos(4 * y) for k in range(3)], axis=2)
    waves[20:30, 40:60] = 1
    return np.round(127.5 + 127.5 * waves).astype(np.uint8)


def resized(image, image_shape, resize, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what is asked for needs no warning
        image_format, images = ImageFormat.learn([image], image_shape, resize, **options)
    return image_format, images[:][0]


@pytest.mark.parametrize("shape", [(32, 32), (20, 50), (100, 40), (7, 224), (224, 224)])
def test_crop_is_clips_own_preprocessing(photo, shape):
    _, result = resized(Image.fromarray(photo), shape, "crop")
    scale = max(shape[0] / 60, shape[1] / 90)
    covering = (max(shape[0], int(60 * scale + 1e-9)), max(shape[1], int(90 * scale + 1e-9)))
    whole = transforms.Resize(covering, transforms.InterpolationMode.BICUBIC)(torch.from_numpy(photo).movedim(2, 0))
    expected = transforms.CenterCrop(shape)(whole).movedim(0, 2).numpy()
    np.testing.assert_allclose(result.astype(int), expected, atol=1)


def test_pad_shows_the_whole_image_on_black(photo):
    _, result = resized(photo + np.uint8(0), (30, 30), "pad")
    assert result.dtype == np.uint8
    assert not result[:5].any()
    assert not result[25:].any()
    expected = Image.fromarray(photo).resize((30, 20), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(result[5:25].astype(int), np.asarray(expected), atol=6)  # Pillow's 8 bits round twice


def test_stretch_scales_both_sides(photo):
    _, result = resized(Image.fromarray(photo), (40, 20), "stretch")
    expected = Image.fromarray(photo).resize((20, 40), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(result.astype(int), np.asarray(expected), atol=6)


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_files_and_arrays_are_resized_alike(photo, resize, tmp_path):
    Image.fromarray(photo).save(tmp_path / "photo.png")
    image_format, expected = resized(tmp_path / "photo.png", (24, 30), resize)
    expected = image_format.pixels(expected[None])
    for X in (photo[None], photo.transpose(2, 0, 1)[None], photo[None] / 255, photo[None].astype(float), [photo / 255]):
        image_format, images = ImageFormat.learn(X, (24, 30), resize)
        torch.testing.assert_close(image_format.pixels(images[:]), expected, atol=1.01 / 255, rtol=0)


def test_other_ranges_are_padded_with_their_black_and_clipped_to_it(photo):
    X = photo[None, :, :, 0] / 100 - 3.0
    image_format, images = ImageFormat.learn(X, (30, 30), "pad")
    assert images[:].min() == X.min()
    assert images[:].max() <= X.max()
    assert image_format.pixels(images[:])[0, :, :5].max() == 0


@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1)])
@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_very_long_images_need_little_memory(shape, resize):
    tracemalloc.start()
    _, result = resized(Image.fromarray(np.full((*shape, 3), 200, np.uint8)), (224, 224), resize)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.max() == 200
    assert peak < 20e6  # covering the square takes 9 GB


def test_image_shape_leaves_images_of_that_size_alone(arrays, files):
    for X in (arrays, files, arrays.reshape(4, -1)):
        image_format, images = ImageFormat.learn(X, (6, 5, 3))
        np.testing.assert_array_equal(images[:], arrays)
        assert image_format.open(arrays[:, :3])[:].shape == arrays.shape
        np.testing.assert_array_equal(image_format.open(arrays.reshape(4, -1))[1:3], arrays[1:3])


@pytest.mark.parametrize("image_shape", [(6,), (0, 5), (6, 5, 3, 1), (6.5, 5), (3, 6, 5), (True, 5)])
def test_impossible_image_shapes_are_refused(arrays, image_shape):
    with pytest.raises(ImageError, match=r"expected \(height, width\)"):
        ImageFormat.learn(arrays, image_shape)
    with pytest.raises(ImageError, match="expected at most 16,777,216 pixels"):
        ImageFormat.learn(arrays, (10**6, 10**6))
    with pytest.raises(ImageError, match="too far apart"):
        ImageFormat.learn(np.array([[[-1e308, 1e308]]]))


def test_unknown_options_are_refused(arrays):
    with pytest.raises(ValueError, match="resize='zoom' and on_error='raise'"):
        ImageFormat.learn(arrays, resize="zoom")
    with pytest.raises(ValueError, match="on_error='ignore'"):
        ImageFormat.learn(arrays, on_error="ignore")


def test_unreadable_images_are_skipped_and_counted(arrays, files):
    files[1].write_text("no image")
    files[3].unlink()
    with pytest.warns(ImagesSkippedWarning, match=r"2 of 4 images .* Image 1 \(.*1\.png\) .* Image 3 \(.*no such file"):
        image_format, images = ImageFormat.learn(files, on_error="skip")
    np.testing.assert_array_equal(images.kept, [0, 2])
    np.testing.assert_array_equal(images[:], arrays[[0, 2]])
    np.testing.assert_array_equal(images[[1]], arrays[[2]])
    assert not image_format.resized


def test_arrays_with_nan_are_skipped(arrays):
    X = arrays / 255
    X[2, 0, 0, 0] = np.nan
    for some in (X, list(X)):
        with pytest.warns(ImagesSkippedWarning, match="1 of 4 images .* Image 2 contains NaN"):
            _, images = ImageFormat.learn(some, on_error="skip")
        np.testing.assert_array_equal(images.kept, [0, 1, 3])
        np.testing.assert_array_equal(images[:], X[[0, 1, 3]])


def test_no_readable_image_is_an_error(tmp_path):
    X = [tmp_path / f"{i}.png" for i in range(5)]
    for on_error in ("skip", "raise"):
        with pytest.raises(
            ImageError, match=r"5 of 5 images cannot be read: Image 0 .*Image 2 \(.*2\.png\)[^I]*\.\.\."
        ):
            ImageFormat.learn(X, on_error=on_error)


def test_prediction_always_raises(arrays, files):
    image_format, _ = ImageFormat.learn(files, on_error="skip")
    files[0].unlink()
    files[2].write_bytes(b"")
    with pytest.raises(ImageError, match=r"2 of 4 images .* Image 0 \(.*no such file.* Image 2 \(.*it is empty"):
        image_format.open(files)


def test_pixels_are_kept_up_to_a_limit(arrays, files, monkeypatch):
    monkeypatch.setattr(sources, "_KEPT_BYTES", 2 * arrays[0].nbytes)
    image_format, _ = ImageFormat.learn(files)
    images = image_format.open(files)
    for file in files[:3]:
        file.unlink()
    np.testing.assert_array_equal(images[[0, 1, 3]], arrays[[0, 1, 3]])
    with pytest.raises(ImageError, match="Image 2 .* cannot be read"):
        images[2:3]


def test_files_that_fail_later_are_named(arrays, files, monkeypatch):
    monkeypatch.setattr(sources, "_KEPT_BYTES", 0)
    _, images = ImageFormat.learn(files)
    files[2].unlink()
    with pytest.raises(ImageError, match=r"Image 2 \(.*2\.png\) cannot be read: there is no such file"):
        images[1:4]
    Image.fromarray(arrays[0, :3]).save(files[2])
    with pytest.raises(ImageError, match="Image 2 is now 3 x 5 pixels"):
        images[1:4]


def test_uint8_is_always_zero_to_255(arrays, files):
    """An estimator that was fitted to floats reads files as the images that they are."""
    for X in (arrays / 255, arrays / 255 * 2 - 1):
        image_format, _ = ImageFormat.learn(X)
        expected = image_format.pixels(image_format.open(X)[:])
        for later in (files, arrays, list(arrays), [files[0], *X[1:]]):
            read = image_format.pixels(image_format.open(later)[:])
            torch.testing.assert_close(read, expected, atol=0.01, rtol=0)


def test_mixed_ranges_are_refused(arrays, files):
    with pytest.raises(ImageError, match="Some images have 8 bits, and others have numbers between 0.* and 1"):
        ImageFormat.learn([files[0], *(arrays[1:] / 255)])
    _, images = ImageFormat.learn([files[0], *arrays[1:].astype(float)])
    np.testing.assert_array_equal(images[:], arrays)


def test_no_images_is_an_error(arrays):
    image_format, _ = ImageFormat.learn(arrays)
    for read in (ImageFormat.learn, image_format.open):
        for X in ([], arrays[:0]):
            with pytest.raises(ImageError, match="Found no images"):
                read(X)
    with pytest.raises(ImageError, match="have no pixels"):
        ImageFormat.learn(arrays[:, :0])


def test_fifty_of_three_hundred_files_take_the_memory_of_fifty(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    monkeypatch.setattr(sources, "_KEPT_BYTES", 10 * pixels.nbytes)
    files = [tmp_path / f"{i}.jpg" for i in range(300)]
    for file in files:
        Image.fromarray(pixels).save(file)
    tracemalloc.start()
    _, images = ImageFormat.learn(files)
    assert tracemalloc.get_traced_memory()[1] < 15 * pixels.nbytes
    images[100:150]
    assert tracemalloc.get_traced_memory()[1] < 66 * pixels.nbytes
    tracemalloc.stop()


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


@pytest.mark.parametrize("X", [np.zeros((2, 4, 5, 4)), np.zeros((2, 3, 4, 5, 3)), np.array(["a", "b"]).reshape(1, 2)])
def test_other_arrays_are_refused(X):
    with pytest.raises(ImageError, match="expected an array of shape"):
        ImageFormat.learn(X)


def test_only_tables_of_numbers_are_flattened_rows(arrays, files):
    assert holds_flattened_rows(np.ones((2, 3)))
    assert holds_flattened_rows([[1.0, 2.0]])
    assert holds_flattened_rows(pd.DataFrame({"a": [1.0], "b": [2.0]}))
    for X in (arrays, list(arrays), files, pd.DataFrame({"path": files}), arrays[..., 0]):
        assert not holds_flattened_rows(X)


def test_files_in_fit_and_fractions_later_are_the_same(arrays, files):
    image_format, images = ImageFormat.learn(files)
    expected = image_format.pixels(images[:])
    for later in (arrays / 255, list(arrays / 255), arrays.astype(float), (arrays / 255).astype(np.float32)):
        torch.testing.assert_close(image_format.pixels(image_format.open(later)[:]), expected, atol=1e-6, rtol=0)
    ones = image_format.open(np.ones((1, 6, 5)))  # white, as 0 to 1
    assert image_format.pixels(ones[:]).min() == 1
