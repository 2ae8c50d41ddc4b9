"""Split files of the few-shot literature, the shots that are drawn from them, and seeded splits."""

import json
import os
import pickle
import random
import sys
import types

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from blackvip import datasets
from blackvip.exceptions import DatasetError

pytestmark = pytest.mark.filterwarnings("ignore::blackvip.exceptions.DatasetIncompleteWarning")

NAMES = ["Annual Crop Land", "Forest"]
FOLDERS = ["AnnualCrop", "Forest"]


@pytest.fixture
def eurosat(tmp_path):
    """A folder of EuroSAT, forty images a class, with the split file of the literature: its home and its content."""
    home = tmp_path / "eurosat"
    split = {"train": [], "val": [], "test": []}
    for label, (folder, name) in enumerate(zip(FOLDERS, NAMES)):
        (home / "2750" / folder).mkdir(parents=True)
        for number in range(40):
            path = f"{folder}/{folder}_{number}.jpg"
            Image.new("RGB", (2, 2)).save(home / "2750" / path)
            part = "train" if number < 20 else "val" if number < 28 else "test"
            split[part].insert(0, [path, label, name])  # the second class comes first, as files may have it
    (home / "split_zhou_EuroSAT.json").write_text(json.dumps(split))
    return home, split


def absolute(home, entries):
    return [str(home / "2750" / path) for path, _, _ in entries]


def test_split_file_is_followed(eurosat):
    home, split = eurosat
    data = datasets.load("eurosat", home.parent, shots=None)
    for part in split:
        assert data[f"X_{part}"] == absolute(home, split[part])
        assert data[f"y_{part}"].tolist() == [label for _, label, _ in split[part]]
    assert (data.class_names, data.split) == (NAMES, "split_zhou_EuroSAT.json")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_shots_are_those_of_the_literature(eurosat, seed):
    """Python's generator, class after class as they come in the file, the training images before the validation's."""
    home, split = eurosat
    rng = random.Random(seed)
    train = {name: [entry for entry in split["train"] if entry[2] == name] for name in reversed(NAMES)}
    val = {name: [entry for entry in split["val"] if entry[2] == name] for name in reversed(NAMES)}
    expected = sum((rng.sample(entries, 16) for entries in train.values()), [])
    expected_val = sum((rng.sample(entries, 4) for entries in val.values()), [])
    data = datasets.load("eurosat", home.parent, seed=seed)
    assert data.X_train == absolute(home, expected)
    assert data.X_val == absolute(home, expected_val)
    assert data.y_train.tolist() == [1] * 16 + [0] * 16
    assert data.X_test == absolute(home, split["test"])


def test_shots_that_were_drawn_by_the_reference():
    """What ``random.seed(1)`` and CoOp's code drew from twenty images; it may not change with Python."""
    from blackvip.datasets.splits import Item, draw_shots

    items = [Item(number, 0, "") for number in range(20)]
    assert [item.image for item in draw_shots(items, 4, random.Random(1))] == [4, 18, 2, 8]


def test_class_with_few_images_gives_all(eurosat):
    home, split = eurosat
    data = datasets.load("eurosat", home.parent, shots=30)
    assert np.bincount(data.y_train).tolist() == [20, 20]
    assert sorted(data.X_train) == sorted(absolute(home, split["train"]))


def test_seeded_split(eurosat):
    """Half, a fifth and the rest of each class; the seed of the shots changes the shots only."""
    home, _ = eurosat
    (home / "split_zhou_EuroSAT.json").unlink()
    first = datasets.load("eurosat", home.parent, seed=1)
    second = datasets.load("eurosat", home.parent, seed=2)
    everything = datasets.load("eurosat", home.parent, shots=None)
    sizes = [np.bincount(everything[f"y_{part}"]).tolist() for part in ("train", "val", "test")]
    assert sizes == [[20, 20], [8, 8], [12, 12]]
    assert first.X_test == second.X_test == everything.X_test
    assert first.X_train != second.X_train
    assert set(first.X_train) | set(second.X_train) <= set(everything.X_train)
    assert "seeded" in first.split


def test_split_file_without_test_images(tmp_path):
    """BlackVIP's for SVHN has training and validation images, by names that they have as files; we have arrays."""
    (tmp_path / "svhn").mkdir()
    digits = np.array([10, 1] * 10)
    images = np.zeros((32, 32, 3, 20), np.uint8) + np.arange(20, dtype=np.uint8)
    for part in ("train", "test"):
        savemat(tmp_path / "svhn" / f"{part}_32x32.mat", {"X": images, "y": digits[:, None]})
    split = {"train": [["0/00003.jpg", 0, "0"], ["1/00002.jpg", 1, "1"]], "val": [["1/00020.jpg", 1, "1"]]}
    (tmp_path / "svhn" / "split_mlai_SVHN.json").write_text(json.dumps(split))
    data = datasets.load("svhn", tmp_path)
    assert data.X_train[:, 0, 0, 0].tolist() == [2, 1]
    assert data.X_val[:, 0, 0, 0].tolist() == [19]
    assert data.X_test[:, 0, 0, 0].tolist() == list(range(20))
    assert data.X_test.shape == (20, 32, 32, 3)
    assert data.y_test.tolist() == [0, 1] * 10


def test_split_file_stands_in_for_annotations(tmp_path):
    images = tmp_path / "oxford_pets" / "images"
    images.mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (2, 2)).save(images / f"Abyssinian_{number}.jpg")
    split = {part: [[f"Abyssinian_{n}.jpg", 0, "abyssinian"]] for n, part in enumerate(("train", "test"))} | {"val": []}
    (tmp_path / "oxford_pets" / "split_zhou_OxfordPets.json").write_text(json.dumps(split))
    data = datasets.load("oxford_pets", tmp_path)
    assert data.X_train == [str(images / "Abyssinian_0.jpg")]
    assert data.X_val == []


def test_split_file_in_the_outer_folder(tmp_path):
    """torchvision puts DTD into dtd/dtd; a split file in dtd/ is found."""
    folder = tmp_path / "dtd" / "dtd" / "images" / "banded"
    folder.mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (2, 2)).save(folder / f"banded_{number}.jpg")
    split = {"train": [["banded/banded_1.jpg", 0, "banded"]], "val": [], "test": [["banded/banded_0.jpg", 0, "banded"]]}
    (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").write_text(json.dumps(split))
    assert datasets.load("dtd", tmp_path).X_train == [str(folder / "banded_1.jpg")]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("not JSON", "Expecting value"),
        ("[1, 2]", "no training images"),
        ('{"train": [["a.jpg", 0]]}', "missing"),
        ('{"train": [["a.jpg", "zero", "a"]]}', "invalid literal"),
        ('{"test": []}', "no training images"),
    ],
)
def test_damaged_split_file(eurosat, content, found):
    home, _ = eurosat
    (home / "split_zhou_EuroSAT.json").write_text(content)
    with pytest.raises(DatasetError, match=f"EuroSAT.json is not a split file .*{found}.* Download it again"):
        datasets.load("eurosat", home.parent)


def test_images_that_the_split_file_names_are_missing(eurosat):
    home, _ = eurosat
    for number in range(30, 35):
        (home / "2750" / "Forest" / f"Forest_{number}.jpg").unlink()
    with pytest.raises(DatasetError, match=r"5 of the 64 images .*split_zhou_EuroSAT.json\) are not there, such as /"):
        datasets.load("eurosat", home.parent)


# Shots that CoOp's code has left


def write_shots(home, split, as_pickle, elsewhere="/home/them/data/eurosat/2750"):
    chosen = {"train": split["train"][3:9], "val": split["val"][:2]}
    (home / "split_fewshot").mkdir()
    path = home / "split_fewshot" / "shot_2-seed_3.json"
    if as_pickle:
        module = types.ModuleType("dassl.data.datasets.base_dataset")

        class Datum:
            def __init__(self, impath, label, classname):
                self._impath, self._label, self._domain, self._classname = f"{elsewhere}/{impath}", label, 0, classname

        Datum.__module__, Datum.__qualname__ = module.__name__, "Datum"
        module.Datum = Datum
        parents = ["dassl", "dassl.data", "dassl.data.datasets"]
        try:
            sys.modules |= {name: types.ModuleType(name) for name in parents} | {module.__name__: module}
            content = {part: [Datum(*entry) for entry in entries] for part, entries in chosen.items()}
            path.with_suffix(".pkl").write_bytes(pickle.dumps(content, protocol=pickle.HIGHEST_PROTOCOL))
        finally:
            for name in [*parents, module.__name__]:
                del sys.modules[name]
    else:
        path.write_text(json.dumps(chosen))
    return chosen


@pytest.mark.parametrize("as_pickle", [True, False])
def test_left_shots_are_taken(eurosat, as_pickle):
    home, split = eurosat
    chosen = write_shots(home, split, as_pickle)
    data = datasets.load("eurosat", home.parent, shots=2, seed=3)
    assert data.X_train == absolute(home, chosen["train"])
    assert data.X_val == absolute(home, chosen["val"])
    assert data.y_train.tolist() == [label for _, label, _ in chosen["train"]]
    assert "split_fewshot" in data.split
    other = datasets.load("eurosat", home.parent, shots=2, seed=1)
    assert len(other.X_train) == 4  # of another seed: drawn
    assert "split_fewshot" not in other.split


def test_left_shots_of_another_split_are_refused(eurosat):
    """Without the split file the test images are others, and some of them are among the shots."""
    home, split = eurosat
    write_shots(home, split, as_pickle=True)
    (home / "split_zhou_EuroSAT.json").unlink()
    with pytest.raises(DatasetError, match="training or validation images that are among the test images .seeded"):
        datasets.load("eurosat", home.parent, shots=2, seed=3)


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_in_a_pickle_is_executed(eurosat, tmp_path):
    home, _ = eurosat
    (home / "split_fewshot").mkdir()
    mark = str(tmp_path / "harm")
    path = home / "split_fewshot" / "shot_16-seed_1.pkl"
    path.write_bytes(pickle.dumps({"train": [Harm(mark)], "val": []}))
    with pytest.raises(DatasetError, match=r"does not contain shots .* \(it wants posix.mkdir\). Remove it"):
        datasets.load("eurosat", home.parent)
    assert not os.path.exists(mark)
    for content in (b"", b"junk", pickle.dumps([1]), pickle.dumps({"train": [1]}), pickle.dumps({})):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match="does not contain shots"):
            datasets.load("eurosat", home.parent)
