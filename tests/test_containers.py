"""The same picture is sent with the same brightness whatever holds it, and what does not fit is refused unsent."""

import array
import base64
import copy
import io
import itertools
import mmap
import os
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ToyService, make_stripes
from PIL import Image

from blackvip import BlackVIPClassifier, PCAEncoder
from blackvip.exceptions import BlackVIPError, ImageError, ImagesAssumedWarning
from blackvip.inputs.images import ImageFormat, to_uint8
from blackvip.inputs.sources import ItemSource, holds_flattened_rows, open_source, select


@pytest.fixture(scope="module")
def fitted():
    return BlackVIPClassifier(ToyService(), "{}", prompter="basis", max_queries=600, random_state=0, verbose=0).fit(
        *make_stripes()
    )


def encoded(image, kind="png"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def sent(X, image_format=None):
    """Images as a service receives them, without a prompt."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImagesAssumedWarning)
        image_format, images = ImageFormat.learn(X) if image_format is None else (image_format, image_format.open(X))
    return to_uint8(image_format.pixels(images[:]))


def containers(grey):
    """The same grey pictures (n, height, width), uint8, in everything that may hold them."""
    wide, fractions = grey.astype(np.uint16) * 257, (grey / 255).astype(np.float32)
    arrays = {
        "uint8": grey,
        "int64": grey.astype(int),
        "int16": grey.astype(np.int16),
        "8 bits in uint16": grey.astype(np.uint16),
        "uint16": wide,
        "16 bits in int32": wide.astype(np.int32),
        "float 0-255": grey.astype(float),
        "float 0-65535": wide.astype(float),
        "float 0-1": fractions,
        "float -1-1": grey / 127.5 - 1,
    }
    pictures = {
        "L": grey,
        "I;16": wide,
        "I": grey.astype(np.int32),
        "I with 16 bits": wide.astype(np.int32),
        "F": grey.astype(np.float32),
        "F 0-1": fractions,
    }
    for name, values in arrays.items():
        yield name, values
        yield f"tensor of {name}", torch.from_numpy(values)
        yield f"list of {name}", list(values)
    for name, values in pictures.items():
        images = [Image.fromarray(image) for image in values]
        yield f"PIL {name}", images
        yield f"TIFF {name}", [encoded(image, "tiff") for image in images]
        if name in ("L", "I;16"):
            yield f"PNG {name}", [encoded(image) for image in images]
    yield "rows", grey.reshape(len(grey), -1).astype(int)


@pytest.mark.parametrize("highest", [255, 90])
def test_the_same_picture_is_sent_with_the_same_brightness(highest):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, highest + 1, (4, 6, 6), dtype=np.uint8)
    # One image is much darker than the set.
    grey[2] //= 30
    grey[0, 0, 0], grey[0, 0, 1] = highest, 0
    for name, X in containers(grey):
        np.testing.assert_array_equal(sent(X)[..., 1], grey, err_msg=name)


def test_some_much_darker_numbers_are_told():
    """They may well have another range: files of 8 bits among others of 16, or fractions among others up to 255."""
    pictures = np.random.default_rng(0).integers(0, 256, (4, 8, 8)).astype(float)
    pictures[:, 0, 0] = 255
    odd, white = (np.arange(4) % 2)[:, None, None] == 1, np.full((1, 8, 8), 255)
    for bright, others, most in ((pictures, pictures / 255, 16), (pictures * 257, pictures, 255)):
        image_format, _ = ImageFormat.learn(bright)
        mixed = np.where(odd, bright, others)
        for read in (ImageFormat.learn, image_format.open):
            for X in (mixed, list(mixed)):
                with pytest.warns(
                    ImagesAssumedWarning, match=f"Image 0 and 1 others have no number above {most}, "
                ) as told:
                    read(X)
                assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image_format, _ = ImageFormat.learn(np.concatenate([white, white * 0, white * 0 + 1]))
        image_format.open(white * 0)
        ImageFormat.learn(white.astype(np.uint8))[0].open(white / 255)
    with pytest.warns(ImagesAssumedWarning, match="uint8, with no number above 1. They are almost black"):
        image_format.open((white > 9).astype(np.uint8))


def test_rounding_does_not_change_the_range():
    pictures = np.linspace(0, 1, 128).reshape(2, 8, 8)
    for X, black in ((pictures * (1 + 2e-7) - 1e-7, 0), ((2 * pictures - 1) * (1 + 2e-7), -1)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            image_format, _ = ImageFormat.learn(X)
        assert (image_format.low, image_format.high) == (black, 1)


@pytest.mark.parametrize("mask", [np.eye(6, dtype=bool)[None].repeat(2, 0)])
def test_masks_are_black_and_white(mask):
    pil = [Image.fromarray(image) for image in mask]
    for X in (mask, torch.from_numpy(mask), list(mask), mask.astype(int), mask.astype(np.float16), pil):
        np.testing.assert_array_equal(sent(X)[..., 0], mask * 255)
    fractions, _ = ImageFormat.learn(np.linspace(0, 1, 72).reshape(2, 6, 6))
    np.testing.assert_array_equal(sent(mask, fractions)[..., 0], mask * 255)


@pytest.mark.parametrize(
    ("X", "told"),
    [
        (np.array([[[0, 100]]]), "between 0 and 100, which are read with 0 as black and 255 as white"),
        (np.array([[[0, 16.0]]]), "between 0 and 16, which are read with 0 as black and 16 as white"),
        (np.array([[[0, 4000]]], np.uint16), "0 and 4000, which are read with 0 as black and 4000 as white"),
        (np.array([[[0, 9000]]], np.uint16), "0 and 9000, which are read with 0 as black and 65535 as white"),
        (np.array([[[-2.1, 2.6]]]), "between -2.1 and 2.6, which are read with -2.1 as black"),
        (np.array([[[0, 9]]], np.uint8), "uint8, with no number above 9. They are almost black"),
    ],
)
def test_a_doubtful_range_is_told_once(X, told):
    with pytest.warns(ImagesAssumedWarning, match=told) as told:
        ImageFormat.learn(X)
    assert len(told) == 1


#: Later images, of pictures p between 0 and 1, that fit what `fit` was given.
KINDS = {
    "uint8": lambda p: np.rint(p * 255).astype(np.uint8),
    "int": lambda p: np.rint(p * 255).astype(int),
    "0-255": lambda p: p * 255,
    "0-1": lambda p: p,
    "overshoot": lambda p: p * 1.08 - 0.04,
    "-1-1": lambda p: p * 2 - 1,
    "standardised": lambda p: (p - 0.45) / 0.22,
    "16 bits": lambda p: np.rint(p * 65535).astype(np.uint16),
    "digits": lambda p: p * 16,
    "0-100": lambda p: p * 100,
}
FITTING = {
    "uint8": {"int", "0-255", "0-1", "overshoot"},
    "int": {"0-255", "int"},
    "0-255": {"0-255", "int"},
    "0-1": {"0-1", "overshoot"},
    "-1-1": {"-1-1"},
    "standardised": {"standardised"},
    "16 bits": {"16 bits"},
    "digits": {"digits"},
}
#: In the range that was learned, so nothing tells that another is meant.
UNKNOWABLE = {("uint8", "digits"), ("int", "digits"), ("0-255", "digits"), ("standardised", "-1-1")}
UNKNOWABLE |= {(kind, "0-100") for kind in ("uint8", "int", "0-255")}


@pytest.mark.parametrize(("first", "later"), list(itertools.product(FITTING, KINDS)))
def test_later_images_fit_the_range_or_are_refused(first, later):
    pictures = np.linspace(0, 1, 2 * 8 * 8).reshape(2, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImagesAssumedWarning)
        image_format, _ = ImageFormat.learn(KINDS[first](pictures))
    X = KINDS[later](pictures)
    if later in FITTING[first] or later == "uint8":
        tolerance = 11 if later == "overshoot" else 1
        np.testing.assert_allclose(sent(X, image_format)[..., 0], pictures * 255, atol=tolerance)
        # A black image fits every range that begins at 0.
        if later in ("uint8", "0-1") or image_format.low == 0:
            assert not sent(X[:1] * 0, image_format).any()
    elif (first, later) not in UNKNOWABLE:
        with pytest.raises(ImageError, match="The images have numbers between .* but the estimator was fitted to"):
            image_format.open(X)


def test_misfits_are_not_sent(fitted, tmp_path):
    X, y = make_stripes(n=20, seed=1)
    service = ToyService()
    clf = copy.copy(fitted).set_params(score_fn=service)
    for later in (X.astype(np.uint16) * 257, X.astype(int) * 257, X / 127.5 - 1, X[0], X[0].tolist(), X[0, ..., 0]):
        for call in (clf.predict, clf.predict_proba, lambda X: clf.predict_to(tmp_path / "p.csv", X, verbose=0)):
            with pytest.raises(ImageError):
                call(later)
    assert service.n_images == 0
    for first, later in ((X / 255, X.astype(float)), (X.astype(float), X / 255)):
        other = BlackVIPClassifier(service, "{}", prompter="basis", max_queries=300, random_state=0, verbose=0)
        other.fit(first, y)
        before = service.n_images
        for call, further in ((other.predict, ()), (other.score_baselines, (y,))):
            with pytest.raises(ImageError, match="but the estimator was fitted to"):
                call(later, *further)
        assert service.n_images == before


# A single image


def test_a_single_image_has_a_remedy(fitted, tmp_path):
    X, _ = make_stripes(n=4)
    image = X[0]
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    rgba = np.dstack([image, image[..., :1]])
    data = path.read_bytes()
    grey, planes = image[..., 0], np.moveaxis(image, 2, 0)
    row = {"image": Image.fromarray(image), "label": 1}
    arrays = (image, image / 255, image[..., :1], rgba, grey, planes, image.tolist(), torch.from_numpy(planes))
    service = ToyService()
    clf = copy.copy(fitted).set_params(score_fn=service)
    for single in (*arrays, pd.DataFrame(grey)):
        with pytest.raises(ImageError, match=r"single .*image.* Pass X\[None\]"):
            clf.predict(single)
    files = (str(path), path, data, bytearray(data), memoryview(data), np.frombuffer(data, np.uint8), io.BytesIO(data))
    for single in (Image.fromarray(image), np.array(str(path)), row, (row["image"], 1), *files):
        with pytest.raises(ImageError, match=r"Put (it|what it holds) into a list: \[X"):
            clf.predict(single)
    for single in (image, planes, image / 255, rgba):
        with pytest.raises(ImageError, match=r"a single image. Pass X\[None\]"):
            clf.fit(single, [1])
    assert service.n_images == 0


class Lazy:
    """An array that only computes what is asked for, such as those of zarr and jax."""

    def __init__(self, values):
        self._values = values
        self.shape, self.ndim, self.dtype = values.shape, values.ndim, values.dtype

    def __len__(self):
        return len(self._values)

    def __getitem__(self, rows):
        return self._values[rows]


class Held:
    """An object that only becomes an array."""

    def __init__(self, values):
        self._values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self._values, dtype)


class Unreadable(Held):
    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion is not allowed")


def test_arrays_of_other_libraries(fitted):
    pa, pl = pytest.importorskip("pyarrow"), pytest.importorskip("polars")
    X, _ = make_stripes(n=4, side=6)
    nested = pa.FixedShapeTensorArray.from_numpy_ndarray(X)
    column = pl.Series(X.tolist(), dtype=pl.Array(pl.UInt8, X.shape[1:]))
    sparse = torch.from_numpy(X / 255).to_sparse()
    for held in (Lazy(X), Held(X), list(map(Held, X)), nested, pa.chunked_array([nested]), column, sparse):
        np.testing.assert_array_equal(sent(held), X)
    with pytest.raises(ImageError, match=r"a single image. Pass X\[None\]"):
        ImageFormat.learn(Lazy(X[0]))
    for held, reason in (
        (torch.empty(4, 6, 6, device="meta"), "a Tensor cannot be converted to an array of numbers: "),
        (Unreadable(X), "a Unreadable cannot be converted .* Implicit conversion is not allowed"),
        ([(X[0], 1), (1, X[0])], "Image 1 cannot be read: a tuple cannot be converted"),
    ):
        with pytest.raises(ImageError, match=reason):
            ImageFormat.learn(held)


def test_masked_pixels_are_refused(fitted):
    X, y = make_stripes()
    for masked, named in (
        (np.ma.masked_array(X, X > 200), "X is an array with masked pixels"),
        (np.ma.masked_array(X[..., 0], X[..., 0] > 200).reshape(len(X), -1), "masked pixels have no value"),
        (list(np.ma.masked_array(X, X > 200)), "Image 0 cannot be read: masked pixels have no value"),
    ):
        service = ToyService()
        with pytest.raises(ImageError, match=f"{named}.*filled"):
            BlackVIPClassifier(service, "{}", prompter="basis", max_queries=600, verbose=0).fit(masked, y)
        assert service.n_images == 0
    np.testing.assert_array_equal(sent(np.ma.masked_array(X)), X)


def test_three_grey_images_are_a_set(fitted):
    X, y = make_stripes()
    grey = X[..., 0]
    clf = BlackVIPClassifier(ToyService(), "{}", prompter="basis", max_queries=600, random_state=0, verbose=0).fit(
        grey, y
    )
    assert len(clf.predict(grey[:3])) == 3
    with pytest.raises(ImageError, match=r"one, or X\[..., None\] for three"):
        fitted.predict(grey[:3])
    assert len(fitted.predict(grey[:3, ..., None])) == 3
    assert ImageFormat.learn(np.zeros((5, 9, 3)) + 0.5, (9, 3))[1].size == (9, 3)


# Encoded files


def test_encoded_files_in_any_container(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    path = tmp_path / "a.png"
    image.save(path)
    data = path.read_bytes()
    text = base64.b64encode(data).decode()
    formats = [encoded(image, kind) for kind in ("bmp", "tiff", "ppm", "gif")]
    written = io.BytesIO()
    image.save(written, "png")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        items = [
            *(data, bytearray(data), memoryview(data), np.bytes_(data), array.array("B", data), list(data)),
            *(np.frombuffer(data, np.uint8), np.frombuffer(data, np.uint8).astype(int), torch.tensor(list(data))),
            *(text, text.encode(), base64.encodebytes(data).decode()),
            base64.urlsafe_b64encode(data).decode().rstrip("="),
            *(f"data:image/png;base64,{text}", f"data:image/png;base64,{text}".encode()),
            *(written, file, mapped, {"bytes": memoryview(data), "path": None}, memoryview(pixels)),
            *(np.frombuffer(item, np.uint8) for item in formats[:3]),
            *(base64.b64encode(item).decode() for item in formats[:2]),
            *(f" \ndata:image/png;base64,{text}", np.frombuffer(data, np.uint8)[:, None], torch.tensor([list(data)])),
        ]
        source = ItemSource(items)
        for row, item in enumerate(items):
            # Images are read when they are checked and when they are sent.
            for _ in range(2):
                np.testing.assert_array_equal(source[row], pixels, err_msg=str(type(item)))
            assert not holds_flattened_rows([item])
            assert isinstance(open_source([item, path]), (ItemSource, np.ndarray))
    assert source.name(9) == "9"
    for rows in (np.frombuffer(data * 2, np.uint8).reshape(2, -1), np.frombuffer(data * 2, np.uint8).reshape(2, -1, 1)):
        np.testing.assert_array_equal(sent(rows), [pixels] * 2)
    with pytest.raises(ImageError, match="Image 16 cannot be read: .*closed"):
        ItemSource(items)[16]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda text: f"data:image/png;base64,{text}!!", "its base64 text is damaged"),
        (lambda text: f"data:image/png;base64;{text}", "it is a data URL without a comma"),
        (lambda text: text[:300], "image file is truncated"),
        (lambda text: base64.b64decode(text)[:300], "image file is truncated"),
        (lambda text: np.frombuffer(base64.b64decode(text), np.uint8)[:300], "image file is truncated"),
        (lambda text: f"https://example.com/{text}", r"an address \(https\), not a path; download it first"),
        (lambda text: f"file:///tmp/{text}", r"an address \(file\), not a path; pass its path"),
        (lambda text: f"photo of {'x' * 300}", "File name too long"),
        (lambda text: "/".join(["photos"] * 99) + ".png", "there is no such file"),
        (lambda text: io.StringIO(text), "opened as text; open it with mode 'rb'"),
        (lambda text: {text: 1}, "the row has 0 images"),
        (lambda text: [text] * 3, "it is an array of <U"),
        (lambda text: np.zeros(2, [(text, int)]), "it is an array of"),
    ],
)
def test_no_error_repeats_much_of_its_input(make, reason):
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    item = make(base64.b64encode(encoded(Image.fromarray(noise))).decode())
    with pytest.raises(ImageError, match=rf"Image 0.* cannot be read: .*{reason}") as error:
        ImageFormat.learn([item, Image.fromarray(noise)])
    assert len(str(error.value)) < 350


@pytest.mark.parametrize(
    "X",
    [
        "x" * 500,
        {"x" * 500: [1]},
        np.linspace(0, 1, 900),
        np.array([["x" * 500, "y"]]),
        np.full((2, 400), 1j),
        pd.DataFrame({"x" * 500: ["a.png"], "b": [1]}),
    ],
)
def test_no_error_of_a_set_repeats_much_of_its_input(X):
    with pytest.raises(ValueError, match="X|Reshape your data|Complex data|to float|numeric") as error:
        PCAEncoder(2).fit(X)
    assert len(str(error.value)) < 350


# Paths


def columns_of(paths):
    """Columns of paths."""
    text = [str(path) for path in paths]
    pl, pa = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    yield from (text, tuple(paths), np.array(text), np.array(text, dtype=object)[:, None])
    if hasattr(np.dtypes, "StringDType"):
        yield np.array(text, dtype=np.dtypes.StringDType())
    for dtype in (object, "category", "string", "string[pyarrow]", pd.ArrowDtype(pa.string())):
        yield pd.Series(text, index=[3, 2, 1, 0], dtype=dtype)
        yield pd.DataFrame({"path": pd.Series(text, dtype=dtype)})
    yield from (pd.Series(paths), pd.Index(text), pd.array(text), pd.Categorical(text))
    for dtype in (pl.String, pl.Categorical, pl.Enum(text)):
        yield pl.Series(text, dtype=dtype)
        yield pl.DataFrame({"path": pl.Series(text, dtype=dtype)})
    yield pl.Series("path", paths, dtype=pl.Object)
    arrow = pa.array(text)
    yield from (arrow, arrow.dictionary_encode(), pa.chunked_array([arrow]), pa.table({"path": arrow}))


def test_columns_of_paths_are_paths(tmp_path):
    X, _ = make_stripes(n=4)
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for image, path in zip(X, paths):
        Image.fromarray(image).save(path)
    for column in columns_of(paths):
        assert not holds_flattened_rows(column)
        image_format, images = ImageFormat.learn(column)
        np.testing.assert_array_equal(images[:], X)
        assert [images.name(row) for row in range(4)] == [str(path) for path in paths]
        np.testing.assert_array_equal(image_format.open(select(column, np.array([2, 0])))[:], X[[2, 0]])


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    X, _ = make_stripes(n=2)
    Image.fromarray(X[0]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(ItemSource(["~/a.png"])[0], X[0])
    assert ItemSource(["~/a.png"]).name(0) == "~/a.png"
    with pytest.raises(ImageError, match="X is the folder '~'"):
        open_source("~")


# Tables of predictions


def test_rows_are_known_by_their_pixels(fitted, tmp_path):
    X, _ = make_stripes(n=10, seed=1)
    paths = [tmp_path / f"{i}.png" for i in range(10)]
    for image, path in zip(X, paths):
        Image.fromarray(image).save(path)
    service, table = ToyService(), tmp_path / "p.csv"
    clf = copy.copy(fitted).set_params(score_fn=service)
    clf.predict_to(table, paths[:6], verbose=0)
    assert service.n_images == 6
    # The same pictures, moved or in other containers.
    os.rename(paths[0], tmp_path / "moved.png")
    paths[0] = tmp_path / "moved.png"
    for same in (paths, X, X / 255, list(X.astype(int)), [Image.fromarray(image) for image in X]):
        clf.predict_to(table, same[:6], verbose=0)
    assert service.n_images == 6
    changed = X.copy()
    changed[3, 0, 0, 0] ^= 1
    kept = table.read_bytes()
    for others, found in (
        (X[::-1], r"row 0 .*0\.png.*, whose pixels"),
        (changed, "row 3"),
        (X[:4], "only 4 images"),
    ):
        with pytest.raises(BlackVIPError, match=rf"{found}.* same images in the same order, .*overwrite=True"):
            clf.predict_to(table, others, verbose=0)
    assert (service.n_images, table.read_bytes()) == (6, kept)
    clf.predict_to(table, X, verbose=0)
    assert service.n_images == 10
    clf.predict_to(table, X[::-1], overwrite=True, verbose=0)
    assert service.n_images == 10  # the estimator remembers its answers
    assert pd.read_csv(table)["label"].tolist() == clf.predict(X[::-1]).tolist()


def test_bad_arguments_change_no_table_and_send_nothing(fitted, tmp_path):
    X, _ = make_stripes(n=4)
    service, path = ToyService(), tmp_path / "p.csv"
    clf = copy.copy(fitted).set_params(score_fn=service)
    clf.predict_to(path, X, verbose=0)
    before, n_billed = path.read_text(), service.n_images
    for first, options, message in (
        (X, {}, "path is a ndarray; expected the path of a CSV file"),
        (None, {}, "path is a NoneType"),
        (path, {"overwrite": "no"}, "'overwrite' parameter of .*predict_to must be"),
        (path, {"verbose": 7}, "'verbose' parameter of .*predict_to must be"),
        (os.devnull, {}, "is not a regular file"),
        ("a\0b", {}, "cannot be opened: embedded null byte"),
    ):
        with pytest.raises((TypeError, ValueError, BlackVIPError), match=message):
            clf.predict_to(first, make_stripes(n=4, seed=3)[0], **{"verbose": 0} | options)
    # A quotation mark that was added by hand does not cut off the rows below it.
    path.write_text(before.replace("\n1,", '\n"1,'))
    with pytest.raises(BlackVIPError, match="has row 1, whose quotation marks do not match"):
        clf.predict_to(path, X, verbose=0)
    assert service.n_images == n_billed


def test_overwriting_starts_tables_anew_but_no_other_files(fitted, tmp_path):
    X, _ = make_stripes(n=4)
    table, notes = tmp_path / "p.csv", tmp_path / "notes.txt"
    service = ToyService()
    clf = copy.copy(fitted).set_params(score_fn=service)
    clf.predict_to(table, X, verbose=0)
    other = copy.copy(clf)
    other.classes_ = np.array(["a, b", "c"])
    for again in range(2):
        with pytest.raises(BlackVIPError, match="has other classes; .*overwrite=True"):
            (clf if again else other).predict_to(table, X, verbose=0)
        (clf if again else other).predict_to(table, X, overwrite=True, verbose=0)
        assert len(pd.read_csv(table)) == 4
    notes.write_text("image,label\n")
    before = service.n_images
    with pytest.raises(BlackVIPError, match="is not a table of predictions"):
        clf.predict_to(notes, X, overwrite=True, verbose=0)
    assert (notes.read_text(), service.n_images) == ("image,label\n", before)


def test_after_an_interrupted_fit_the_table_says_how_to_start_anew(fitted, tmp_path):
    X, y = make_stripes()
    table = tmp_path / "p.csv"
    new = 255 - X[:4]
    fitted.predict_to(table, new, verbose=0)
    resumed = BlackVIPClassifier(ToyService(), "{}", prompter="basis", max_queries=900, random_state=1, verbose=0).fit(
        X, y
    )
    before = resumed.score_fn.n_images
    with pytest.raises(BlackVIPError, match="predicted by another model .*; name another file, or set overwrite=True"):
        resumed.predict_to(table, new, verbose=0)
    assert resumed.score_fn.n_images == before
    resumed.predict_to(table, new, overwrite=True, verbose=0)
    assert resumed.score_fn.n_images == before + 4
