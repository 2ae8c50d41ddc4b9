"""The fourteen transfer data sets, in the order of the paper's table.

Folders and split files have the names of CoOp's instructions (github.com/KaiyangZhou/CoOp, DATASETS.md), or of
BlackVIP's for the three data sets that it adds: SVHN, RESISC45 and CLEVR. Templates are the same as in both.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any

from . import readers
from .registry import FolderDataSet, register

__all__: list[str] = []

_CALTECH_NAMES = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}
_EUROSAT_NAMES = {
    "AnnualCrop": "Annual Crop Land",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "SeaLake": "Sea or Lake",
}


def _torchvision(name: str, folder: str = ".", **options: Any) -> Callable[[pathlib.Path], None]:
    """Make a function that downloads a data set of torchvision below a root."""

    def download(root: pathlib.Path) -> None:
        from torchvision import datasets  # type: ignore[import-untyped, unused-ignore]

        getattr(datasets, name)(str(root / folder), download=True, **options)

    return download


def _both_parts(name: str, folder: str) -> Callable[[pathlib.Path], None]:
    def download(root: pathlib.Path) -> None:
        for split in ("train", "test"):
            _torchvision(name, folder, split=split)(root)

    return download


for _data_set in (
    FolderDataSet(
        "caltech101",
        "Caltech101",
        "a photo of a {}.",
        n_classes=100,
        folders=("caltech-101", "caltech101"),
        images="101_ObjectCategories",
        needs=("101_ObjectCategories",),
        split_files=("split_zhou_Caltech101.json",),
        read=partial(readers.read_class_folders, names=_CALTECH_NAMES, left_out=("BACKGROUND_Google", "Faces_easy")),
        obtain="Unpack 101_ObjectCategories.tar.gz, out of caltech-101.zip (data.caltech.edu/records/mzrjq-6wc02), "
        "into caltech-101/.",
        download=_torchvision("Caltech101"),
    ),
    FolderDataSet(
        "oxford_pets",
        "OxfordPets",
        "a photo of a {}, a type of pet.",
        n_classes=37,
        folders=("oxford_pets", "oxford-iiit-pet"),
        images="images",
        needs=("images",),
        labels=("annotations/trainval.txt", "annotations/test.txt"),
        split_files=("split_zhou_OxfordPets.json",),
        read=readers.read_pets,
        obtain="Unpack images.tar.gz and annotations.tar.gz (www.robots.ox.ac.uk/~vgg/data/pets) into oxford_pets/.",
        download=_torchvision("OxfordIIITPet"),
    ),
    FolderDataSet(
        "stanford_cars",
        "StanfordCars",
        "a photo of a {}.",
        n_classes=196,
        folders=("stanford_cars",),
        images=".",
        needs=("cars_train", "cars_test"),
        labels=("devkit/cars_train_annos.mat", "devkit/cars_meta.mat", "cars_test_annos_withlabels.mat"),
        split_files=("split_zhou_StanfordCars.json",),
        read=readers.read_cars,
        obtain="Unpack cars_train.tgz, cars_test.tgz and car_devkit.tgz into stanford_cars/ and put "
        "cars_test_annos_withlabels.mat beside them; the makers' address, ai.stanford.edu/~jkrause/cars, is gone, but "
        "there are copies.",
    ),
    FolderDataSet(
        "oxford_flowers",
        "Flowers102",
        "a photo of a {}, a type of flower.",
        n_classes=102,
        folders=("oxford_flowers", "flowers-102"),
        images="jpg",
        needs=("jpg",),
        labels=("imagelabels.mat",),
        split_files=("split_zhou_OxfordFlowers.json",),
        read=readers.read_flowers,
        obtain="Unpack 102flowers.tgz (www.robots.ox.ac.uk/~vgg/data/flowers/102) into oxford_flowers/, and put "
        "imagelabels.mat from there and CoOp's cat_to_name.json beside jpg/.",
        download=_torchvision("Flowers102"),
    ),
    FolderDataSet(
        "food101",
        "Food101",
        "a photo of {}, a type of food.",
        n_classes=101,
        folders=("food-101",),
        images="images",
        needs=("images",),
        split_files=("split_zhou_Food101.json",),
        read=readers.read_class_folders,
        obtain="Unpack food-101.tar.gz (data.vision.ee.ethz.ch/cvl/datasets_extra/food-101); it makes food-101/.",
        download=_torchvision("Food101"),
    ),
    FolderDataSet(
        "fgvc_aircraft",
        "FGVCAircraft",
        "a photo of a {}, a type of aircraft.",
        n_classes=100,
        folders=("fgvc_aircraft", "fgvc-aircraft-2013b/data"),
        images="images",
        needs=("images", "variants.txt", *(f"images_variant_{part}.txt" for part in ("train", "val", "test"))),
        read=readers.read_aircraft,
        obtain="Unpack fgvc-aircraft-2013b.tar.gz (www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft) and rename its data/ "
        "to fgvc_aircraft/.",
        download=_torchvision("FGVCAircraft"),
    ),
    FolderDataSet(
        "sun397",
        "SUN397",
        "a photo of a {}.",
        n_classes=397,
        folders=("sun397", "."),
        images="SUN397",
        needs=("SUN397",),
        split_files=("split_zhou_SUN397.json",),
        read=readers.read_sun,
        obtain="Unpack SUN397.tar.gz and, for the makers' partitions, Partitions.zip "
        "(vision.princeton.edu/projects/2010/SUN) into sun397/.",
        download=_torchvision("SUN397", "sun397"),
    ),
    FolderDataSet(
        "dtd",
        "DTD",
        "{} texture.",
        n_classes=47,
        folders=("dtd", "dtd/dtd"),
        images="images",
        needs=("images",),
        split_files=("split_zhou_DescribableTextures.json",),
        read=readers.read_class_folders,
        obtain="Unpack dtd-r1.0.1.tar.gz (www.robots.ox.ac.uk/~vgg/data/dtd); it makes dtd/.",
        download=_torchvision("DTD"),
    ),
    FolderDataSet(
        "svhn",
        "SVHN",
        "This is a photo of a {}",
        n_classes=10,
        folders=("svhn",),
        images="train",
        needs=("train_32x32.mat|train", "test_32x32.mat|test"),
        split_files=("split_mlai_SVHN.json", "split_SVHN.json"),
        read=readers.read_svhn,
        obtain="Put train_32x32.mat and test_32x32.mat (ufldl.stanford.edu/housenumbers) into svhn/, or the folders "
        "train/ and test/ that BlackVIP's svhn_dl.py makes of them.",
        download=_both_parts("SVHN", "svhn"),
    ),
    FolderDataSet(
        "eurosat",
        "EuroSAT",
        "a centered satellite photo of {}.",
        n_classes=10,
        folders=("eurosat",),
        images="2750",
        needs=("2750",),
        split_files=("split_zhou_EuroSAT.json",),
        read=partial(readers.read_class_folders, names=_EUROSAT_NAMES),
        obtain="Unpack EuroSAT.zip (huggingface.co/datasets/torchgeo/eurosat) into eurosat/; it makes 2750/ with one "
        "folder for each class.",
        download=_torchvision("EuroSAT"),
    ),
    FolderDataSet(
        "resisc45",
        "RESISC45",
        "This is a photo of a {}",
        n_classes=45,
        folders=("resisc45",),
        images="NWPU-RESISC45",
        needs=("NWPU-RESISC45",),
        split_files=("split_mlai_Resisc45.json",),
        read=readers.read_class_folders,
        obtain="Unpack NWPU-RESISC45.rar (gcheng-nwpu.github.io) into resisc45/.",
    ),
    FolderDataSet(
        "clevr",
        "CLEVR",
        "This is a photo of {} objects",
        n_classes=8,
        folders=("CLEVR_v1.0", "clevr/CLEVR_v1.0"),
        images="images",
        needs=("images/train", "images/val"),
        labels=("scenes/CLEVR_train_scenes.json", "scenes/CLEVR_val_scenes.json"),
        split_files=("split_mlai_CLEVR.json",),
        read=readers.read_clevr,
        obtain="Unpack CLEVR_v1.0.zip (cs.stanford.edu/people/jcjohns/clevr); it makes CLEVR_v1.0/.",
        download=_torchvision("CLEVRClassification"),
    ),
    FolderDataSet(
        "ucf101",
        "UCF101",
        "a photo of a person doing {}.",
        n_classes=101,
        folders=("ucf101",),
        images="UCF-101-midframes",
        needs=("UCF-101-midframes",),
        split_files=("split_zhou_UCF101.json",),
        read=readers.read_ucf,
        obtain="Unpack CoOp's UCF-101-midframes.zip (github.com/KaiyangZhou/CoOp, DATASETS.md) into ucf101/.",
    ),
    FolderDataSet(
        "imagenet",
        "ImageNet",
        "a photo of a {}.",
        n_classes=1000,
        folders=("imagenet/images", "imagenet"),
        images=".",
        needs=("train", "val"),
        read=readers.read_imagenet,
        obtain="Put the folders train/ and val/ of ILSVRC2012 (image-net.org), with one folder for each WordNet id in "
        "both, into imagenet/images/, and CoOp's classnames.txt into imagenet/.",
    ),
):
    register(_data_set)
