"""Biased and Loc, of scikit-learn's digits and of MNIST's files."""

import gzip
import struct

import numpy as np
import pytest
from sklearn.datasets import load_digits

from blackvip import datasets
from blackvip.datasets import COLOURS, make_biased, make_loc, read_digits
from blackvip.exceptions import DatasetError


def squares(n, side=8):
    """Bright squares on black, the labels in turn; a digit's brightness tells which one it is."""
    images = np.zeros((n, side, side), np.uint8)
    labels = np.arange(n) % 10
    images[:, 2:6, 2:6] = (100 + np.arange(n) % 150)[:, None, None]
    return images, labels


@pytest.mark.parametrize(("split", "share"), [("train", 0.8), ("test", 0.2)])
def test_biased_shares(split, share):
    """Own colours at rho, in training, and 1 - rho at test; the other nine in equal parts."""
    images, labels = squares(20_000)
    biased, colours = make_biased(images, labels, 0.8, split=split, random_state=0)
    own = colours == labels
    assert abs(own.mean() - share) < 4 * np.sqrt(0.16 / 20_000)
    assert np.abs(np.bincount(labels, own) / 2000 - share).max() < 5 * np.sqrt(0.16 / 2000)  # in each class
    step = (colours - labels)[~own] % 10
    counts = np.bincount(step, minlength=10)
    assert counts[0] == 0
    assert np.abs(counts[1:] / counts.sum() - 1 / 9).max() < 5 * np.sqrt(8 / 81 / counts.sum())
    assert (biased[:, 0, 0] == COLOURS[colours]).all()


def test_biased_pixels():
    """A pixel of brightness v is v white and 1 - v ground; above a threshold, it is white."""
    images = np.array([[[0, 51], [204, 255]]], np.uint8)
    biased, _ = make_biased(images, [6], 1.0)
    assert COLOURS[6].tolist() == [255, 128, 0]
    expected = [[[255, 128, 0], [255, 153, 51]], [[255, 230, 204], [255, 255, 255]]]  # 128 + 127 / 5 is 153.4
    assert biased[0].tolist() == expected
    binary, _ = make_biased(images, [6], 1.0, threshold=51)
    assert binary[0].tolist() == [[[255, 128, 0]] * 2, [[255] * 3] * 2]


def test_colours_are_ten():
    assert len({tuple(colour) for colour in COLOURS.tolist()}) == 10


@pytest.mark.parametrize("ratio", [1, 4])
def test_loc_places(ratio):
    """The digit of the label touches the edge, anywhere on it; one of another class is at the centre."""
    levels = np.array([60, 120, 180])
    labels = np.arange(3000) % 3
    images = np.broadcast_to(levels[labels][:, None, None].astype(np.uint8), (3000, 8, 8))
    canvases, fakes = make_loc(images, labels, ratio, size=64, random_state=0)
    assert canvases.shape == (3000, 64, 64, 3)
    assert (canvases == canvases[..., :1]).all()
    assert (fakes != labels).all()
    side = 8 * ratio
    low = (64 - side) // 2
    tops, lefts = [], []
    for canvas, label, fake in zip(canvases[..., 0], labels, fakes):
        centre = canvas[low : low + side, low : low + side]
        assert (centre == levels[fake]).all()
        rest = canvas.copy()
        rest[low : low + side, low : low + side] = 0
        rows, columns = np.nonzero(rest)
        top, left = rows.min(), columns.min()
        assert (rest[top : top + 8, left : left + 8] == levels[label]).all()
        assert len(rows) == 64  # a square of 8 by 8, and nothing else
        assert {top, left} & {0, 56}
        tops.append(top)
        lefts.append(left)
    assert set(tops) == set(lefts) == set(range(57))
    assert {(0, 0), (0, 56), (56, 0), (56, 56)} <= set(zip(tops, lefts))
    sides = [np.mean(np.equal(values, end)) for values in (tops, lefts) for end in (0, 56)]
    assert np.allclose(sides, 0.25 + 0.5 / 57, atol=0.04)  # each side as often, corners belonging to two
    assert np.allclose(np.bincount(fakes[labels == 0]) / 1000, [0, 0.5, 0.5], atol=0.08)


def test_loc_sizes_of_the_paper():
    images, labels = squares(10, side=28)
    canvases, _ = make_loc(images, labels, 4, random_state=0)
    assert canvases.shape == (10, 224, 224, 3)
    rows, columns = np.nonzero(canvases[0, 56:168, 56:168, 0])
    assert (rows.max() - rows.min() + 1) == pytest.approx(16, abs=8)  # 4 of 28 pixels, four times as large


@pytest.mark.parametrize("make", [lambda *data, **k: make_biased(*data, 0.8, **k), make_loc])
def test_seeds(make):
    images, labels = squares(30)
    first, second, other = (make(images, labels, random_state=seed) for seed in (1, 1, 2))
    assert all((one == two).all() for one, two in zip(first, second))
    assert (first[0] != other[0]).any()
    before = np.random.get_state()[1].copy()
    make(images, labels, random_state=0)
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((10, 8, 8))}, "images is float64 of shape .10, 8, 8. .* expected grey images, uint8"),
        ({"images": np.zeros((10, 8, 8, 3), np.uint8)}, "shape .10, 8, 8, 3."),
        ({"labels": np.arange(9)}, "labels has the shape .9,."),
        ({"labels": np.arange(10) + 1}, "labels are .* expected whole numbers from 0 to 9"),
        ({"labels": np.arange(10) / 2}, "expected whole numbers"),
        ({"rho": 1.2}, "rho=1.2; expected a probability"),
        ({"split": "val"}, "split='val'; expected 'train' or 'test'"),
    ],
)
def test_wrong_arguments(change, message):
    images, labels = squares(10)
    with pytest.raises(DatasetError, match=message):
        make_biased(**({"images": images, "labels": labels, "rho": 0.8} | change))


def test_wrong_arguments_of_loc():
    images, labels = squares(10)
    for ratio in (0, 7):
        with pytest.raises(DatasetError, match=f"ratio={ratio}; expected a positive number of at most 6"):
            make_loc(images, labels, ratio)
    with pytest.raises(DatasetError, match="only one class"):
        make_loc(images, np.zeros(10, int))


def test_digits_of_scikit_learn():
    digits, source = read_digits(), load_digits()
    assert len(digits.X_train) + len(digits.X_test) == len(source.images)
    assert digits.X_train.max() == 255
    counts = np.bincount(source.target)
    assert np.abs(np.bincount(digits.y_test) - counts / 2).max() <= 1
    known = {image.tobytes(): label for image, label in zip(np.rint(source.images * 255 / 16), source.target)}
    for X, y in ((digits.X_train, digits.y_train), (digits.X_test, digits.y_test)):
        assert all(known[image.astype(float).tobytes()] == label for image, label in zip(X, y))
    trained = {image.tobytes() for image in digits.X_train}
    assert not any(image.tobytes() in trained for image in digits.X_test)


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder, zipped, n=60):
    folder.mkdir(parents=True)
    written = {}
    for part, seed in (("train", 0), ("t10k", 1)):
        images = np.random.default_rng(seed).integers(0, 256, (n, 28, 28), dtype=np.uint8)
        images[:, 0] = 0  # as all real ones have it somewhere
        labels = np.arange(n, dtype=np.uint8) % 10
        written[part] = images, labels
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (folder / name).write_bytes(idx(array))
    return written


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", [".", "MNIST/raw", "FashionMNIST/raw"])
def test_mnist_files(tmp_path, place, zipped):
    written = write_mnist(tmp_path / "root" / place, zipped)
    digits = read_digits(tmp_path / "root")
    for part, name in (("train", "train"), ("t10k", "test")):
        assert (digits[f"X_{name}"] == written[part][0]).all()
        assert (digits[f"y_{name}"] == written[part][1]).all()
    assert digits.class_names[0] == ("t-shirt" if "Fashion" in place else "0")


def test_mnist_files_that_torchvision_reads(tmp_path):
    from torchvision.datasets import MNIST

    write_mnist(tmp_path / "MNIST" / "raw", zipped=False)
    theirs, ours = MNIST(str(tmp_path), train=False), read_digits(tmp_path)
    assert (theirs.data.numpy() == ours.X_test).all()
    assert (theirs.targets.numpy() == ours.y_test).all()


def test_damaged_mnist_files(tmp_path):
    write_mnist(tmp_path / "MNIST/raw", zipped=True)
    path = tmp_path / "MNIST/raw/t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:-1]))
    with pytest.raises(DatasetError, match="t10k-images-idx3-ubyte.gz is not a complete IDX file"):
        read_digits(tmp_path)
    path.write_bytes(whole[:200])
    with pytest.raises(DatasetError, match="t10k-images-idx3-ubyte.gz is damaged"):
        read_digits(tmp_path)
    path.write_bytes(gzip.compress(idx(np.zeros((3, 28, 28), np.uint8))))
    with pytest.raises(DatasetError, match="do not belong together"):
        read_digits(tmp_path)
    path.unlink()
    with pytest.raises(DatasetError, match="lacks t10k-images-idx3-ubyte .* Put the four files of MNIST"):
        read_digits(tmp_path)


@pytest.mark.parametrize("name", datasets.list_datasets("synthetic"))
def test_load(name):
    one, two = datasets.load(name, seed=1, shots=4), datasets.load(name, seed=2, shots=4)
    assert len(datasets.list_datasets("synthetic")) == 4
    assert one.X_train.shape[0] == 40
    assert np.bincount(one.y_train).tolist() == [4] * 10
    assert one.X_train.dtype == np.uint8
    assert one.class_prompts[7] == "This is a photo of 7"
    assert (one.X_test == two.X_test).all()
    assert (one.X_train != two.X_train).any()
    assert (one.y_test == read_digits().y_test).all()


def test_load_biased_of_mnist(tmp_path):
    """Of MNIST's files, every pixel that is not black is white, as in Biased-MNIST."""
    written = write_mnist(tmp_path / "MNIST" / "raw", zipped=True, n=600)
    data = datasets.load("biased_0.9", tmp_path, shots=16)
    assert data.X_test.shape == (600, 28, 28, 3)
    assert (data.X_test[written["t10k"][0] > 0] == 255).all()
    grounds = [image[digit == 0][0] for image, digit in zip(data.X_test, written["t10k"][0])]
    share = np.mean([(ground == COLOURS[label]).all() for ground, label in zip(grounds, data.y_test)])
    assert abs(share - 0.1) < 0.05
    grounds = data.X_train[:, 0, 0]  # the first row is black before
    assert abs((grounds == COLOURS[data.y_train]).all(axis=1).mean() - 0.9) < 0.1


def test_download_of_mnist(tmp_path, monkeypatch):
    import torchvision

    monkeypatch.setattr(
        torchvision.datasets, "MNIST", lambda root, download: write_mnist(tmp_path / "MNIST" / "raw", False, n=200)
    )
    assert datasets.load("loc_1:1", tmp_path, shots=2, download=True).X_train.shape == (20, 224, 224, 3)
    with pytest.raises(DatasetError, match="download=True needs root"):
        datasets.load("loc_1:1", download=True)
