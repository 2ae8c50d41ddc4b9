"""Everything that may hold an image gives the right pixels, and everything else an error that names it."""

import gc
import io
import os
import pathlib
import struct
import weakref
import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, PngImagePlugin
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision import transforms
from torchvision.datasets import FakeData, ImageFolder

from blackvip import BlackVIPClassifier
from blackvip.exceptions import ImageError
from blackvip.inputs import sources
from blackvip.inputs.images import ImageFormat, to_uint8
from blackvip.inputs.sources import ItemSource, holds_flattened_rows, open_source, select

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture
def arrays():
    return np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)


@pytest.fixture
def images(arrays):
    return [Image.fromarray(array) for array in arrays]


@pytest.fixture
def files(images, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(len(images))]
    for path, image in zip(paths, images):
        image.save(path)
    return paths


def encoded(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def read(*items):
    source = ItemSource(list(items))
    return np.stack([source[row] for row in range(len(source))])


def assert_images(X, expected):
    """X is a set of images that are read when needed, and reads as expected."""
    assert not holds_flattened_rows(X)
    source = open_source(X)
    assert isinstance(source, ItemSource)
    assert len(source) == len(expected)
    for row, pixels in enumerate(expected):
        np.testing.assert_array_equal(source[row], pixels)
    _, images = ImageFormat.learn(X)
    np.testing.assert_array_equal(images[:], expected)
    np.testing.assert_array_equal(images[[2, 0]], expected[[2, 0]])


# What may hold images


def test_sequences_of_all_kinds_of_images(arrays, images, files):
    data = [encoded(image) for image in images]
    undecoded = [{"bytes": item, "path": None} for item in data]
    for items in (
        images,
        files,
        [str(path) for path in files],
        data,
        [bytearray(item) for item in data],
        undecoded,
        [{"bytes": None, "path": str(path)} for path in files],
        [{"image": image, "label": 1, "caption": "a"} for image in images],
        [{"image": item, "label": 1} for item in undecoded],
        [(image, 3) for image in images],
        [(str(path), 3) for path in files],
        [images[0], files[1], data[2], arrays[3]],
        [images[0], torch.from_numpy(arrays[1]).movedim(2, 0), arrays[2].tolist(), arrays[3]],
    ):
        column = np.empty(len(items), dtype=object)
        column[:] = items
        for X in (items, tuple(items), column, column[:, None], pd.Series(items, index=list("dcba"))):
            if not isinstance(items[2], list) or isinstance(X, (list, np.ndarray)):
                assert_images(X, arrays)


def test_pandas_columns(arrays, images, files):
    paths = [str(path) for path in files]
    for column in (paths, files, images, pd.array(paths, dtype="string"), pd.Categorical(paths)):
        table = pd.DataFrame({"image": column, "label": [1, 2, 3, 4]}, index=[9, 8, 7, 6])
        assert_images(table["image"], arrays)
        assert_images(table[["image"]], arrays)
        assert_images(table[["image"]].iloc[[3, 2, 1, 0]], arrays[::-1])
        assert not holds_flattened_rows(table)
        with pytest.raises(
            ImageError, match=r"table of 2 columns; pass the column of the images, such as X\['image'\]"
        ):
            open_source(table)


def test_polars_columns(arrays, images, files):
    pl = pytest.importorskip("polars")
    paths = [str(path) for path in files]
    data = [encoded(image) for image in images]
    for column in (
        pl.Series("image", paths),
        pl.Series("image", paths, dtype=pl.Categorical),
        pl.Series("image", data),
        pl.Series("image", [{"bytes": item, "path": None} for item in data]),
        pl.Series("image", images, dtype=pl.Object),
    ):
        table = pl.DataFrame([column, pl.Series("label", [1, 2, 3, 4])])
        assert_images(column, arrays)
        assert_images(table.select("image"), arrays)
        with pytest.raises(ImageError, match=r"table of 2 columns; .* X\['image'\]"):
            open_source(table)
    with pytest.raises(ImageError, match="X is a LazyFrame"):
        open_source(table.lazy())
    numbers = pl.DataFrame({"a": [1.0, 2.0], "b": [0.5, 4.0]})
    assert holds_flattened_rows(numbers)
    assert holds_flattened_rows(numbers["a"])
    np.testing.assert_array_equal(open_source(numbers)[:, 0, :, 0], numbers.to_numpy())


@pytest.fixture
def hf_dataset(images):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    return datasets.Dataset.from_dict({"image": images, "label": [0, 1, 0, 1]}, features=features)


def test_hugging_face_datasets(arrays, hf_dataset):
    datasets = pytest.importorskip("datasets")
    undecoded = hf_dataset.cast_column("image", datasets.Image(decode=False))
    for data in (hf_dataset, undecoded, hf_dataset.with_format("numpy"), hf_dataset.with_format("torch")):
        assert_images(data, arrays)
        assert_images(data["image"], arrays)
        assert_images(data.select([3, 2, 1, 0])["image"], arrays[::-1])
    assert_images(hf_dataset["image"][:], arrays)  # a list, as older releases give
    with pytest.raises(ImageError, match=r"X is a dict with the keys \['image', 'label'\]"):
        open_source(hf_dataset[:2])
    with pytest.raises(ImageError, match="X is a DatasetDict"):
        open_source(datasets.DatasetDict({"train": hf_dataset}))
    with pytest.raises(ImageError, match="X is a IterableDataset"):
        open_source(hf_dataset.to_iterable_dataset())
    with pytest.raises(ImageError, match=r"Image 0 .* the row has 0 images \(label: int\); expected one"):
        ItemSource(hf_dataset.select_columns("label"))[0]
    both = hf_dataset.add_column("mask", undecoded["image"][:], feature=datasets.Image())
    with pytest.raises(ImageError, match=r"the row has 2 images .*pass the column of the images"):
        ItemSource(both)[0]


def test_hugging_face_rows_of_numbers_are_flattened_rows():
    datasets = pytest.importorskip("datasets")
    rows = [[0.0, 0.5], [1.0, 0.25]]
    column = datasets.Dataset.from_dict({"pixels": rows})["pixels"]
    assert holds_flattened_rows(column)
    np.testing.assert_array_equal(open_source(column)[:, 0, :, 0], rows)


def test_damaged_hugging_face_rows_are_named(hf_dataset, images):
    datasets = pytest.importorskip("datasets")
    rows = [{"bytes": encoded(image), "path": None} for image in images]
    rows[2]["bytes"] = rows[2]["bytes"][:60]
    rows[3] = None
    column = datasets.Dataset.from_dict({"image": rows}, features=datasets.Features({"image": datasets.Image()}))
    with pytest.raises(ImageError, match="2 of 4 images .*Image 2 cannot be read: .* Image 3 .*missing"):
        ImageFormat.learn(column["image"])


def test_torchvision_data_sets(arrays, images, tmp_path):
    for i, image in enumerate(images):
        (tmp_path / f"class{i % 2}").mkdir(exist_ok=True)
        image.save(tmp_path / f"class{i % 2}" / f"{i}.png")
    order = [0, 2, 1, 3]  # the folders' order
    folder = ImageFolder(tmp_path)
    assert_images(folder, arrays[order])
    assert_images(Subset(folder, [3, 1, 0, 2]), arrays[[3, 2, 0, 1]])
    assert_images(folder.imgs, arrays[order])
    tensors, _ = ImageFormat.learn(ImageFolder(tmp_path, transforms.ToTensor()))
    assert (tensors.low, tensors.high) == (0, 1)
    (tmp_path / "class1" / "1.png").write_text("no image")
    for X, row in ((folder, 2), (Subset(folder, [0, 2]), 1)):
        with pytest.raises(ImageError, match=rf"Image {row} \(.*class1.1\.png\) cannot be read: its content is no"):
            ImageFormat.learn(X)

    fake = FakeData(5, (3, 8, 9))
    source = open_source(fake)
    np.testing.assert_array_equal(source[3], np.asarray(fake[3][0]))
    assert_images(TensorDataset(torch.from_numpy(arrays).movedim(3, 1), torch.arange(4)), arrays)
    with pytest.raises(ImageError, match=r"X is a DataLoader.* Pass its data set, X\.dataset"):
        open_source(DataLoader(fake))


def test_equal_arrays_are_stacked(arrays):
    for X in (
        list(arrays),
        tuple(arrays),
        [torch.from_numpy(array) for array in arrays],
        list(arrays.transpose(0, 3, 1, 2)),
        pd.Series(list(arrays)),
        arrays.tolist(),
    ):
        source = open_source(X)
        assert isinstance(source, np.ndarray)
        np.testing.assert_array_equal(source, arrays)
    halves = torch.from_numpy(arrays / 256).to(torch.bfloat16)
    np.testing.assert_array_equal(open_source(halves), halves.float().numpy())
    weights = torch.from_numpy(arrays / 256).requires_grad_()
    np.testing.assert_array_equal(open_source(list(weights)), weights.detach().numpy())


def test_images_in_other_numbers_share_their_range(arrays):
    X = [arrays[0] / 100.0 - 1, arrays[1, :4] / 100.0 - 1]
    with pytest.warns(UserWarning, match="2 sizes"):
        image_format, _ = ImageFormat.learn(X)
    assert image_format.low == min(image.min() for image in X)
    assert image_format.high == max(image.max() for image in X)


def test_only_what_is_asked_for_is_read(monkeypatch):
    monkeypatch.setattr(sources, "_KEPT_BYTES", 0)

    class Pixels(np.ndarray):
        """An array that can be counted."""

    class Data:
        def __init__(self):
            self.alive, self.most, self.read = weakref.WeakSet(), 0, []

        def __len__(self):
            return 50

        def __getitem__(self, row):
            self.read.append(row)
            image = np.full((8 + row % 2, 8, 3), row, np.uint8).view(Pixels)
            Pixels.__hash__ = object.__hash__
            self.alive.add(image)
            self.most = max(self.most, len(self.alive))
            return image, row

    data = Data()
    _, images = ImageFormat.learn(data, image_shape=(8, 8))
    assert data.read[-50:] == list(range(50))
    assert len(data.read) <= 51  # one more, to tell images from rows of numbers
    data.read.clear()
    assert images[[7, 40]].shape == (2, 8, 8, 3)
    assert data.read == [7, 40]
    gc.collect()
    assert data.most <= 2
    some = select(data, np.array([5, 45]))
    data.read.clear()
    assert ItemSource(some)[1].max() == 45
    assert data.read == [45]


def test_selected_rows_keep_the_kind_of_container(arrays, files, hf_dataset):
    rows = np.array([3, 1])
    table = pd.DataFrame({"path": files})
    for X in (files, arrays, pd.Series(files), table, hf_dataset, hf_dataset["image"], torch.from_numpy(arrays)):
        some = select(X, rows)
        assert len(some) == 2
        np.testing.assert_array_equal(ImageFormat.learn(some)[1][:], arrays[rows])
    assert isinstance(select(table, rows), pd.DataFrame)
    assert not isinstance(select(hf_dataset["image"], rows), list)


# Modes and formats


def test_transparency_is_laid_on_white():
    rgba = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]] * 2, np.uint8)
    expected = np.array([[[200, 100, 0], [255, 255, 255], [244, 224, 204]]] * 2)
    image = Image.fromarray(rgba)
    for item in (image, encoded(image), encoded(image, "webp", lossless=True, exact=True), rgba):
        np.testing.assert_array_equal(read(item)[0], expected)
    np.testing.assert_array_equal(open_source(rgba[None])[0], expected)
    np.testing.assert_allclose(read(image.convert("RGBa"))[0], expected, atol=3)
    grey = Image.merge("LA", [Image.new("L", (2, 1), 40), Image.frombytes("L", (2, 1), b"\xff\x00")])
    palette = grey.convert("L").convert("P")
    palette.putalpha(grey.getchannel("A"))
    assert palette.mode == "PA"
    for item in (grey, grey.convert("La"), palette, encoded(grey)):
        np.testing.assert_array_equal(read(item)[0, 0, :, 0], [40, 255])


def test_palettes_with_and_without_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    np.testing.assert_array_equal(read(image)[0, 0], [[255, 0, 0], [0, 0, 255]])
    for kind in ("png", "gif"):
        np.testing.assert_array_equal(read(encoded(image, kind, transparency=1))[0, 0], [[255, 0, 0], [255, 255, 255]])


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "P", "I", "F"])
def test_all_modes_show_black_grey_and_white(mode):
    grey = Image.fromarray(np.repeat(np.array([[0, 128, 255]], np.uint8), 2, axis=0))
    if mode == "LAB":
        image = Image.fromarray(np.array([[[0, 0, 0], [137, 0, 0], [255, 0, 0]]] * 2, np.uint8), "LAB")
    else:
        source = grey if mode in ("1", "I", "F") else grey.convert("RGB")
        image = source.convert(mode, palette=Image.Palette.ADAPTIVE)
    image_format, images = ImageFormat.learn([image])
    result = to_uint8(image_format.pixels(images[:]))[0]
    assert result.shape == (2, 3, 3)
    assert read(image)[0].dtype == np.uint8 or mode in ("I", "F")
    columns = [0, 2] if mode == "1" else [0, 1, 2]
    np.testing.assert_allclose(result[0, columns, 0], np.array([0, 128, 255])[columns], atol=3)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 32_896, 65_535]], np.uint16)
    expected = [0, 1, 128, 255]
    image = Image.fromarray(values)
    assert image.mode == "I;16"
    items = [image, encoded(image), encoded(image, "tiff")]
    items.append(b"P5 4 1 65535\n" + values.astype(">u2").tobytes())
    items += [
        Image.frombytes(mode, (4, 1), values.astype(f"{mode[4].replace('B', '>').replace('L', '<')}u2").tobytes())
        for mode in ("I;16B", "I;16L")
    ]
    for item in items:
        np.testing.assert_array_equal(read(item)[0, 0, :, 1], expected)
    dark = Image.fromarray(np.full((1, 4), 200, np.uint16))
    assert read(dark, encoded(dark), b"P5 4 1 65535\n" + b"\x00\xc8" * 4).max() == 1  # 16 bits, however dark
    # The range of mode "I" is that of the set.
    for wide, expected_pixels in ((values.astype(np.int32), expected), (np.full((1, 4), 200, np.int32), [200] * 4)):
        image_format, images = ImageFormat.learn([Image.fromarray(wide)])
        np.testing.assert_array_equal(to_uint8(image_format.pixels(images[:]))[0, 0, :, 0], expected_pixels)


def test_numbers_of_no_known_range_are_refused():
    for values, found in (
        (
            np.full((2, 2), 70_000, np.int32),
            "mode is 'I', with values between 0 and 70000; expected between 0 and 65535",
        ),
        (np.full((2, 2), -1, np.int32), "between -1 and 0"),
        (
            np.full((2, 2), 256.5, np.float32),
            "mode is 'F', with values between 0 and 256.5; expected between 0 and 255",
        ),
        (np.full((2, 2), np.nan, np.float32), "it contains NaN or infinity"),
    ):
        for item in (Image.fromarray(values), encoded(Image.fromarray(values), "tiff")):
            with pytest.raises(ImageError, match=f"Image 0 cannot be read: its {found}|{found}"):
                read(item)
    for value, expected in ((99.6, 100), (0.5, 128)):
        image_format, images = ImageFormat.learn([Image.fromarray(np.full((2, 2), value, np.float32))])
        np.testing.assert_array_equal(to_uint8(image_format.pixels(images[:])), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
def test_exif_orientation(orientation, mode, tmp_path):
    upright = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    turned = {  # how a camera stores a picture with this orientation
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }[orientation]
    stored = Image.fromarray(turned.astype(np.uint16) * 257 if mode == "I;16" else turned)
    stored = stored if mode == stored.mode else stored.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, exif=exif)
    for item in (data, Image.open(io.BytesIO(data))):
        np.testing.assert_array_equal(read(item)[0, ..., 0], upright)


def test_the_first_frame_of_several():
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "lime", "blue")]
    for kind in ("gif", "tiff", "webp", "png"):
        options = {"lossless": True} if kind == "webp" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(read(data)[0, 0, 0], [255, 0, 0])


# What cannot be read


def png(*chunks):
    body = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def header(width, height):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


def damaged_files():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    whole = encoded(noise)
    middle = bytearray(whole)
    middle[6000:6100] = bytes(100)
    compressed = zlib.compress(bytes(3 * 64 * 65))
    return {
        "empty": b"",
        "text": b"no image",
        "header only": b"\x89PNG\r\n\x1a\n",
        "half a png": whole[: len(whole) // 2],
        "half a jpeg": encoded(noise, "jpeg")[:2000],
        "half a gif": encoded(noise.convert("P"), "gif")[:1500],
        "half a webp": encoded(noise, "webp")[:1000],
        "half a tiff": encoded(noise, "tiff")[:3000],
        "half a bmp": encoded(noise, "bmp")[:3000],
        "half an icon": encoded(noise, "ico")[:60],
        "damaged in the middle": bytes(middle),
        "no zlib stream": png(header(64, 64), (b"IDAT", b"\x00" * 99), (b"IEND", b"")),
        "short zlib stream": png(header(64, 64), (b"IDAT", compressed[:9]), (b"IEND", b"")),
        "no pixels": png(header(0, 64), (b"IDAT", compressed), (b"IEND", b"")),
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    }


@pytest.mark.parametrize("kind", damaged_files())
@pytest.mark.parametrize("form", ["path", "bytes"])
def test_damaged_files_are_named(kind, form, tmp_path):
    path = tmp_path / "damaged.png"
    path.write_bytes(damaged_files()[kind])
    item = path if form == "path" else {"bytes": path.read_bytes(), "path": "inside/damaged.png"}
    with pytest.raises(ImageError, match=r"^Image 1 \(.*damaged\.png\) cannot be read: .+\.$"):
        read(Image.new("RGB", (2, 2)), item)
    with pytest.raises(ImageError, match="^Image 0 cannot be read: "):
        read(path.read_bytes())


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_any_damage_is_an_image_error(monkeypatch):
    """Whatever bytes are damaged, Pillow either decodes the file or the error is ours."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # a damaged size may be large, and slow to decode
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    n_errors = 0
    for kind in ("png", "jpeg", "gif", "tiff", "webp", "bmp", "ico", "ppm", "tga", "pcx", "sgi", "dds", "jpeg2000"):
        whole = encoded(image, kind, **({"exif": exif} if kind in ("png", "jpeg", "tiff", "webp") else {}))
        for _ in range(60):
            data = bytearray(whole)
            for position in rng.integers(0, min(len(data), 200), 4):
                data[position] = rng.integers(256)
            try:
                assert read(data).dtype == np.uint8
            except ImageError as error:
                assert str(error).startswith("Image 0 cannot be read: ")  # noqa: PT017
                n_errors += 1
    assert n_errors > 100


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [11_000, 60_000])  # Pillow only warns of the first
def test_decompression_bombs(side, tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(header(side, side), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")))
    with pytest.raises(ImageError, match=r"Image 0 \(.*bomb\.png\) .* raise the limit PIL.Image.MAX_IMAGE_PIXELS"):
        read(path)
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "a" * 70_000_000, zip=True)
    with pytest.raises(ImageError, match="Image 0 cannot be read"):
        read(encoded(Image.new("RGB", (2, 2)), pnginfo=text))


def test_the_bomb_limit_can_be_raised(monkeypatch, files, arrays):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(ImageError, match="6 x 5 pixels .* more than 20"):
        read(files[0])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    np.testing.assert_array_equal(read(files[0])[0], arrays[0])


def test_paths_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path, reason in (
        (tmp_path, "it is a directory"),
        (tmp_path / "pipe.png", "it is not a regular file"),
        (tmp_path / "nowhere.png", "there is no such file"),
        (f"{tmp_path}/\0.png", "embedded null"),
        ("x" * 5000, "File name too long"),
        ("https://example.com/a.png", r"it is an address \(https\), not a path; download it first"),
        ("s3://bucket/a.png", "download it first"),
        (pathlib.Path("https://example.com/a.png"), "download it first"),
    ):
        with pytest.raises(ImageError, match=f"cannot be read: .*{reason}"):
            read(path)


@pytest.mark.parametrize("missing", [None, np.nan, float("nan"), pd.NA, pd.NaT, {"bytes": None, "path": None}])
def test_missing_images_are_named(missing, files):
    for X in ([files[0], missing], [missing, files[0]], pd.Series([missing, files[0]], dtype=object)):
        assert not holds_flattened_rows(X)
        with pytest.raises(ImageError, match=r"Image [01] cannot be read: it is missing \("):
            ImageFormat.learn(X)


@pytest.mark.parametrize(
    ("item", "found"),
    [
        (3, "it is a int; expected a PIL image"),
        (object(), "it is a object"),
        ({1, 2}, "it is a set"),
        ((1, 2), r"it is an array of shape \(2,\)"),
        (["a", "b"], "it is an array of <U1"),
        ({"label": 1, "path": "a.png"}, r"the row has 0 images \(label: int, path: str\); expected one"),
        (np.zeros((4, 4, 5)), r"it is an array of shape \(4, 4, 5\); expected"),
        (np.zeros((4, 4, 4)), r"it is an array of shape \(4, 4, 4\) \(RGBA must be uint8\)"),
        (np.zeros((1, 2, 4, 3)), r"it is an array of shape \(1, 2, 4, 3\)"),
        (np.zeros(7), r"it is an array of shape \(7,\)"),
        (np.zeros((0, 5, 3)), r"it has no pixels \(its shape is \(0, 5, 3\)\)"),
        (np.zeros((4, 4), complex), "it is an array of complex128"),
        (np.full((4, 4), np.inf), "it contains NaN or infinity"),
        (io.BytesIO(b""), "it is empty"),
        (io.StringIO("text"), "it is a file opened as text; open it with mode 'rb'"),
    ],
)
def test_other_items_are_named(item, found, files):
    with pytest.raises(ImageError, match=f"Image 1 cannot be read: {found}"):
        ImageFormat.learn([files[0], item])


def test_errors_of_a_data_set_are_named():
    class Data:
        def __len__(self):
            return 3

        def __getitem__(self, row):
            raise KeyError("no such key")

    assert not holds_flattened_rows(Data())
    with pytest.raises(ImageError, match="3 of 3 images .*Image 0 cannot be read: KeyError: 'no such key'"):
        ImageFormat.learn(Data())
    with pytest.raises(IndexError):
        ItemSource([1])[1]


def test_interrupts_pass_through():
    class Data(list):
        def __getitem__(self, row):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ItemSource(Data([1]))[0]


@pytest.mark.parametrize(
    ("X", "found"),
    [
        (b"\x89PNG", "X is a single bytes"),
        ({"image": []}, r"X is a dict with the keys \['image'\]; pass the value of one key"),
        ((path for path in ["a.png"]), "X is a generator, which has no length .* Put its images into a list"),
        ({"a.png"}, "X is a set"),
        (None, "X is a NoneType"),
        (np.array([b"ab"]), "X is an array of .S2, which drops trailing zero bytes"),
        (np.zeros((2, 4, 4, 4)), r"X has the shape \(2, 4, 4, 4\)"),
    ],
)
def test_other_sets_are_refused(X, found):
    assert not holds_flattened_rows(X)
    with pytest.raises(ImageError, match=found):
        open_source(X)


def test_a_folder_is_told_how_to_pass_its_files(tmp_path):
    for folder in (tmp_path, str(tmp_path)):
        with pytest.raises(ImageError, match=r"X is the folder '.*'; expected the paths of its files"):
            open_source(folder)


@pytest.mark.parametrize("X", ["photo.png", pathlib.Path("photo.png"), b"\x89PNG", (path for path in ["a.png"])])
def test_fit_says_what_is_no_set_of_images_rather_than_how_long_it_is(X, service):
    with pytest.raises(ImageError, match="^X is a "):
        BlackVIPClassifier(service, "{}").fit(X, ["a", "b", "a"])
    assert service.n_images == 0


def test_tables_of_numbers_are_flattened_rows():
    rows = np.array([[1.0, 2.0], [3.0, 4.0]])
    for X in (
        rows,
        rows.astype(object),
        rows[:, :1].astype(object),
        rows.tolist(),
        [(1, 2), (3, 4)],
        list(rows),
        pd.DataFrame(rows),
        pd.DataFrame(rows[:, :1]),
        pd.DataFrame(rows).astype(object),
        pd.DataFrame(rows).astype("Int64"),
        torch.from_numpy(rows),
        rows[0],
        [1.0, 2.0],
        np.array([["a", "b"]]),
    ):
        assert holds_flattened_rows(X)
