"""Each transfer set is read from a tiny folder in its public layout, whose images are grey by their class."""

import json
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from blackvip import datasets
from blackvip.exceptions import DatasetError, DatasetIncompleteWarning

pytestmark = pytest.mark.filterwarnings("ignore::blackvip.exceptions.DatasetIncompleteWarning")


def grey(path, level):
    """An image of one grey; PNG whatever its name, so that the level is exact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2), (level,) * 3).save(path, format="PNG")


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def class_folders(folder, n=10, **levels):
    for name, level in levels.items():
        for number in range(n):
            grey(folder / name / f"{name}_{number}.jpg", level)


# Each writes a data set below a root: `folder` is CoOp's place or another. They return the names that the papers have
# for the classes, with the level of their images, in the order of the labels, and how many images there are.


def caltech101(root, folder="caltech-101"):
    class_folders(
        root / folder / "101_ObjectCategories", airplanes=10, ant=20, Faces=30, Faces_easy=99, BACKGROUND_Google=99
    )
    return {"face": 30, "airplane": 10, "ant": 20}, 30


def oxford_pets(root, folder="oxford_pets"):
    lines = {"trainval": ["# Image CLASS-ID SPECIES BREED ID"], "test": []}
    for label, (breed, level) in enumerate({"Abyssinian": 10, "american_bulldog": 20}.items(), start=1):
        for number in range(10):
            grey(root / folder / "images" / f"{breed}_{number}.jpg", level)
            lines["trainval" if number < 6 else "test"].append(f"{breed}_{number} {label} 1 1")
    for part, listed in lines.items():
        write(root / folder / "annotations" / f"{part}.txt", *listed)
    return {"abyssinian": 10, "american bulldog": 20}, 20


def stanford_cars(root, folder="stanford_cars"):
    models = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
    fields = [("fname", object), ("class", object)]
    for images, file in (("cars_train", "devkit/cars_train_annos"), ("cars_test", "cars_test_annos_withlabels")):
        rows = []
        for number in range(10):
            grey(root / folder / images / f"{number:05d}.jpg", 10 * (number % 2 + 1))
            rows.append((f"{number:05d}.jpg", number % 2 + 1))
        (root / folder / "devkit").mkdir(exist_ok=True)
        savemat(root / folder / f"{file}.mat", {"annotations": np.array(rows, dtype=fields)})
    names = np.empty((1, 2), dtype=object)
    names[0] = models
    savemat(root / folder / "devkit" / "cars_meta.mat", {"class_names": names})
    return {"2000 AM General Hummer SUV": 10, "2012 Acura RL Sedan": 20}, 20


def oxford_flowers(root, folder="oxford_flowers"):
    labels = [2, 1] * 10
    for number, label in enumerate(labels, start=1):
        grey(root / folder / "jpg" / f"image_{number:05d}.jpg", 10 * label)
    savemat(root / folder / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    write(root / folder / "cat_to_name.json", json.dumps({"1": "pink primrose", "2": "colt's foot"}))
    return {"pink primrose": 10, "colt's foot": 20}, 20


def food101(root, folder="food-101"):
    class_folders(root / folder / "images", apple_pie=10, sushi=20)
    return {"apple pie": 10, "sushi": 20}, 20


def fgvc_aircraft(root, folder="fgvc_aircraft"):
    variants = {"737-700": 10, "F-16A/B": 20, "Model B200": 30}
    write(root / folder / "variants.txt", *variants)
    for number, part in enumerate(("train", "val", "test")):
        lines = []
        for place, (variant, level) in enumerate(variants.items()):
            for copy in range(5):
                name = f"{number}{place}{copy:05d}"
                grey(root / folder / "images" / f"{name}.jpg", level)
                lines.append(f"{name} {variant}")
        write(root / folder / f"images_variant_{part}.txt", *lines)
    return variants, 45


def sun397(root, folder="sun397"):
    lines = {"Training": [], "Testing": []}
    for scene, level in {"/a/abbey": 10, "/a/apartment_building/outdoor": 20}.items():
        for number in range(10):
            path = f"{scene}/sun_{level}{number}.jpg"
            grey(root / folder / "SUN397" / path[1:], level)
            lines["Training" if number < 5 else "Testing"].append(path)
    for part, listed in lines.items():
        write(root / folder / f"{part}_01.txt", *listed)
    return {"abbey": 10, "outdoor apartment building": 20}, 20


def dtd(root, folder="dtd"):
    class_folders(root / folder / "images", banded=10, dotted=20)
    return {"banded": 10, "dotted": 20}, 20


def svhn(root, folder="svhn"):
    (root / folder).mkdir(parents=True)
    for part, n in (("train", 20), ("test", 10)):
        digits = np.array([10, 1] * (n // 2), dtype=np.uint8)  # where the file has 10 for a zero
        images = np.broadcast_to((digits % 10 * 10 + 10).astype(np.uint8), (32, 32, 3, n))
        savemat(root / folder / f"{part}_32x32.mat", {"X": images, "y": digits[:, None]})
    return {"0": 10, "1": 20}, 30


def svhn_files(root, folder="svhn"):
    for part in ("train", "test"):
        class_folders(root / folder / part, **{"0": 10, "1": 20})
    return {"0": 10, "1": 20}, 40


def eurosat(root, folder="eurosat"):
    class_folders(root / folder / "2750", AnnualCrop=10, Forest=20, SeaLake=30)
    return {"Annual Crop Land": 10, "Forest": 20, "Sea or Lake": 30}, 30


def resisc45(root, folder="resisc45"):
    class_folders(root / folder / "NWPU-RESISC45", airport=10, tennis_court=20)
    return {"airport": 10, "tennis court": 20}, 20


def clevr(root, folder="CLEVR_v1.0"):
    for part in ("train", "val"):
        scenes = []
        for number in range(10):
            count = (3, 10)[number % 2]
            name = f"CLEVR_{part}_{number:06d}.png"
            grey(root / folder / "images" / part / name, count)
            scenes.append({"image_filename": name, "split": part, "objects": [{"shape": "cube"}] * count})
        write(root / folder / "scenes" / f"CLEVR_{part}_scenes.json", json.dumps({"info": {}, "scenes": scenes}))
    return {"10": 10, "3": 3}, 20


def ucf101(root, folder="ucf101"):
    for action, level in {"Apply_Eye_Makeup": 10, "Archery": 20}.items():
        for group in range(1, 16):
            name = f"v_{action.replace('_', '')}_g{group:02d}_c01.jpg"
            grey(root / folder / "UCF-101-midframes" / action / name, level)
    return {"Apply Eye Makeup": 10, "Archery": 20}, 30


def imagenet(root, folder="imagenet/images"):
    for part in ("train", "val"):
        class_folders(root / folder / part, n01440764=10, n01443537=20)
    home = (root / folder).parent if "/" in folder else root / folder
    write(home / "classnames.txt", "n01440764 tench", "n01443537 goldfish", "n99999999 elsewhere")
    return {"tench": 10, "goldfish": 20}, 40


LAYOUTS = {
    f"{make.__name__} {folder}": (make.__name__.removesuffix("_files"), make, folder)
    for make, *folders in [
        (caltech101, "caltech-101", "caltech101"),  # CoOp's place, then torchvision's where it has another
        (oxford_pets, "oxford_pets", "oxford-iiit-pet"),
        (stanford_cars, "stanford_cars"),
        (oxford_flowers, "oxford_flowers", "flowers-102"),
        (food101, "food-101"),
        (fgvc_aircraft, "fgvc_aircraft", "fgvc-aircraft-2013b/data"),
        (sun397, "sun397", "."),
        (dtd, "dtd", "dtd/dtd"),
        (svhn, "svhn"),
        (svhn_files, "svhn"),
        (eurosat, "eurosat"),
        (resisc45, "resisc45"),
        (clevr, "CLEVR_v1.0", "clevr/CLEVR_v1.0"),
        (ucf101, "ucf101"),
        (imagenet, "imagenet/images", "imagenet"),
    ]
    for folder in folders
}


def levels(images):
    """The grey level of each image, whether it is a path or an array."""
    return [int(np.asarray(Image.open(image) if isinstance(image, str) else image).mean()) for image in images]


@pytest.mark.parametrize(("name", "make", "folder"), LAYOUTS.values(), ids=LAYOUTS)
def test_layout(tmp_path, name, make, folder):
    classes, n = make(tmp_path, folder)
    data = datasets.load(name, tmp_path, shots=None)
    assert data.class_names == list(classes)
    for part in ("train", "val", "test"):
        expected = [classes[data.class_names[label]] for label in data[f"y_{part}"]]
        assert levels(data[f"X_{part}"]) == expected
    assert set(data.y_train) == set(data.y_test) == set(range(len(classes)))
    parts = [data.X_train, data.X_val, data.X_test]
    assert sum(map(len, parts)) == n
    if isinstance(data.X_train, list):
        assert len({path for part in parts for path in part}) == n  # no image in two parts
    itself = tmp_path / folder.split("/")[0] if folder != "." else tmp_path
    assert list(datasets.load(name, itself, shots=None).y_test) == list(data.y_test)


def test_every_transfer_set_has_a_layout():
    assert {name for name, _, _ in LAYOUTS.values()} == set(datasets.list_datasets("transfer"))
    assert len(datasets.list_datasets("transfer")) == 14


def test_makers_say_who_tests(tmp_path):
    for make in (oxford_pets, sun397, clevr, ucf101):
        make(tmp_path)
    pets = datasets.load("oxford_pets", tmp_path, shots=None)
    assert {int(path.rpartition("_")[2][:-4]) >= 6 for path in pets.X_test} == {True}
    assert (len(pets.X_train), len(pets.X_val)) == (10, 2)  # of six images a class, a fifth to validate
    sun = datasets.load("sun397", tmp_path, shots=None)
    assert {int(path[-5]) >= 5 for path in sun.X_test} == {True}
    assert {path.split("/")[-2] for path in datasets.load("clevr", tmp_path, shots=None).X_test} == {"val"}
    ucf = datasets.load("ucf101", tmp_path, shots=None)
    groups = {part: {path.split("_g")[1][:2] for path in ucf[f"X_{part}"]} for part in ("train", "val", "test")}
    assert groups["test"] == {f"{group:02d}" for group in range(1, 8)}
    assert not groups["test"] & (groups["train"] | groups["val"])


def test_sun_without_partitions_is_split_by_a_seed(tmp_path):
    sun397(tmp_path)
    for part in ("Training", "Testing"):
        (tmp_path / "sun397" / f"{part}_01.txt").unlink()
    data = datasets.load("sun397", tmp_path, shots=None)
    assert [len(data.X_train), len(data.X_val), len(data.X_test)] == [10, 4, 6]
    assert data.class_names == ["abbey", "outdoor apartment building"]


def test_imagenet_names_of_open_clip(tmp_path):
    """All thousand classes need no list: CLIP's names are in the order of the WordNet ids."""
    for part in ("train", "val"):
        for number in range(1000):
            (tmp_path / "imagenet" / part / f"n{number:08d}").mkdir(parents=True)
        for number in (0, 1, 999):
            grey(tmp_path / "imagenet" / part / f"n{number:08d}" / "a.JPEG", 10)
    data = datasets.load("imagenet", tmp_path)
    assert data.class_names == ["tench", "goldfish", "toilet paper"]


def test_flowers_without_their_names(tmp_path, monkeypatch):
    import torchvision

    oxford_flowers(tmp_path)
    (tmp_path / "oxford_flowers" / "cat_to_name.json").unlink()
    monkeypatch.setattr(torchvision.datasets.Flowers102, "classes", ["of", "torchvision"], raising=False)
    assert datasets.load("flowers102", tmp_path).class_names == ["of", "torchvision"]
    monkeypatch.delattr(torchvision.datasets.Flowers102, "classes")
    with pytest.raises(DatasetError, match="no cat_to_name.json .* Put CoOp's file there"):
        datasets.load("flowers102", tmp_path)


# Messages: what is missing, and what to put where


@pytest.mark.parametrize("name", datasets.list_datasets("transfer"))
def test_missing_folder(tmp_path, name):
    with pytest.raises(DatasetError, match=rf"is not in {tmp_path}, where there is no .*/\. (Unpack|Put) ") as caught:
        datasets.load(name, tmp_path)
    assert ("Or pass download=True" in str(caught.value)) == (
        name not in ("stanford_cars", "resisc45", "ucf101", "imagenet")
    )
    with pytest.raises(DatasetError, match="needs root"):
        datasets.load(name)


@pytest.mark.parametrize(
    ("make", "lost", "message"),
    [
        (oxford_pets, "oxford_pets/annotations", "lacks annotations/trainval.txt, annotations/test.txt. Unpack images"),
        (stanford_cars, "stanford_cars/cars_test", "lacks cars_test. Unpack"),
        (stanford_cars, "stanford_cars/cars_test_annos_withlabels.mat", "lacks cars_test_annos_withlabels.mat"),
        (fgvc_aircraft, "fgvc_aircraft/images_variant_val.txt", "lacks images_variant_val.txt"),
        (svhn, "svhn/test_32x32.mat", "lacks test_32x32.mat or test. Put train_32x32.mat"),
        (clevr, "CLEVR_v1.0/scenes", "lacks scenes/CLEVR_train_scenes.json"),
        (imagenet, "imagenet/images/val", "lacks val. Put the folders train/ and val/"),
        (imagenet, "imagenet/classnames.txt", "no class name, such as .* Put classnames.txt"),
        (
            oxford_pets,
            "oxford_pets/images/american_bulldog_3.jpg",
            "1 of the 20 images .* such as .*bulldog_3.jpg. Unpack",
        ),
    ],
)
def test_incomplete_folder(tmp_path, make, lost, message):
    make(tmp_path)
    path = tmp_path / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DatasetError, match=message):
        datasets.load(make.__name__, tmp_path)


def test_unexpected_content(tmp_path):
    ucf101(tmp_path)
    grey(tmp_path / "ucf101" / "UCF-101-midframes" / "Archery" / "frame.jpg", 20)
    with pytest.raises(DatasetError, match="frame.jpg has no group"):
        datasets.load("ucf101", tmp_path)
    fgvc_aircraft(tmp_path)
    write(tmp_path / "fgvc_aircraft" / "variants.txt", "737-700")
    with pytest.raises(DatasetError, match=r"FGVCAircraft .* not laid out as expected \(ValueError: .*F-16A/B"):
        datasets.load("fgvc_aircraft", tmp_path)
    imagenet(tmp_path)
    shutil.rmtree(tmp_path / "imagenet/images/val/n01440764")
    shutil.rmtree(tmp_path / "imagenet/images/val/n01443537")
    with pytest.raises(DatasetError, match="there are no test images. Put the folders"):  # as the archive unpacks
        datasets.load("imagenet", tmp_path)


def test_folder_of_another_data_set_is_not_taken(tmp_path):
    """Pets and textures both have a folder of images: the root itself counts by its name only."""
    oxford_pets(tmp_path)
    with pytest.raises(DatasetError, match="DTD is not in"):
        datasets.load("dtd", tmp_path / "oxford_pets")


def test_missing_classes_are_warned_about(tmp_path):
    eurosat(tmp_path)
    with pytest.warns(DatasetIncompleteWarning, match="has 3 of its 10 classes") as caught:
        datasets.load("eurosat", tmp_path)
    assert caught[0].filename == __file__
    class_folders(tmp_path / "eurosat" / "2750", **{f"Class{number}": 10 for number in range(7)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        datasets.load("eurosat", tmp_path)


def test_names(tmp_path):
    eurosat(tmp_path)
    for name in ("EuroSAT", "euro_sat", "Euro SAT"):
        assert datasets.load(name, tmp_path).name == "eurosat"
    assert datasets.load("loc_1_4", shots=1).title == "Loc MNIST 1:4"  # as presets have it
    with pytest.raises(DatasetError, match="no data set 'eurosatt'. Did you mean 'eurosat'"):
        datasets.load("eurosatt", tmp_path)
    with pytest.raises(DatasetError, match="shots=0; expected"):
        datasets.load("eurosat", tmp_path, shots=0)


# torchvision downloads


@pytest.mark.parametrize(
    ("make", "loader", "place"),
    [
        (caltech101, "Caltech101", "caltech101"),
        (oxford_pets, "OxfordIIITPet", "oxford-iiit-pet"),
        (food101, "Food101", "food-101"),
        (fgvc_aircraft, "FGVCAircraft", "fgvc-aircraft-2013b/data"),
        (sun397, "SUN397", "."),
        (dtd, "DTD", "dtd/dtd"),
        (eurosat, "EuroSAT", "eurosat"),
        (clevr, "CLEVRClassification", "clevr/CLEVR_v1.0"),
        (svhn, "SVHN", "."),
    ],
)
def test_download(tmp_path, monkeypatch, make, loader, place):
    """torchvision is asked once for what is missing; what it leaves, at its own place, is read."""
    import torchvision

    assert hasattr(torchvision.datasets, loader)
    calls = []

    def downloads(root, download, split="train"):
        assert download
        if not calls:
            make_in = tmp_path / "made"
            make(make_in, place if place != "." else "inner")
            source = make_in if place != "." else make_in / "inner"
            shutil.copytree(source, root, dirs_exist_ok=True)
        calls.append(split)

    monkeypatch.setattr(torchvision.datasets, loader, downloads)
    name, root = make.__name__, tmp_path / "data"
    data = datasets.load(name, root, download=True)
    assert calls == (["train", "test"] if name == "svhn" else ["train"])
    assert len(data.class_names) >= 2
    datasets.load(name, root, download=True)  # all there: nothing is asked for
    assert len(calls) == (2 if name == "svhn" else 1)


def test_download_fails(tmp_path, monkeypatch):
    import torchvision

    def broken(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "EuroSAT", broken)
    with pytest.raises(DatasetError, match=r"could not download EuroSAT \(no route to host\). Unpack EuroSAT.zip"):
        datasets.load("eurosat", tmp_path, download=True)
    with pytest.raises(DatasetError, match="RESISC45 cannot be downloaded by torchvision. Unpack"):
        datasets.load("resisc45", tmp_path, download=True)


# One way to define a data set


def test_own_data_set(tmp_path, monkeypatch):
    from blackvip.datasets import readers, registry

    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    class_folders(tmp_path / "parts" / "images", broken=10, whole=20)
    datasets.register(
        datasets.FolderDataSet(
            "parts",
            "Parts",
            "a {} part.",
            n_classes=2,
            folders=("parts",),
            images="images",
            needs=("images",),
            read=readers.read_class_folders,
            obtain="Ask the factory.",
        )
    )
    data = datasets.load("parts", tmp_path, shots=2)
    assert data.class_prompts == ["a broken part.", "a whole part."]
    assert levels(data.X_train) == [10, 10, 20, 20]


def test_paths_are_what_the_classifier_reads(tmp_path, service):
    from blackvip import BlackVIPClassifier

    for name, half in (("AnnualCrop", slice(0, 4)), ("Forest", slice(4, 8))):
        for number in range(20):
            pixels = np.full((8, 8, 3), 100 + number, np.uint8)
            pixels[:, half] += 60
            path = tmp_path / "eurosat" / "2750" / name / f"{name}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    data = datasets.load("eurosat", tmp_path, shots=6)
    model = BlackVIPClassifier(
        service, data.class_prompts, prompter="basis", max_queries=200, random_state=0, verbose=0
    )
    assert model.fit(data.X_train, data.y_train).score(data.X_test, data.y_test) == 1
    assert service.calls[-1][1] == data.class_prompts
