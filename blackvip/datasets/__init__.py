"""Data sets of the paper: loaders for the fourteen public ones, and generators for the two synthetic ones.

data = blackvip.datasets.load("eurosat", "/data", shots=16, seed=1)
BlackVIPClassifier(score_fn, data.class_prompts).fit(data.X_train, data.y_train)
"""

from . import definitions as definitions  # fills the registry, in the order of the paper's tables
from .digits import COLOURS, DigitsDataSet, make_biased, make_loc, read_digits
from .registry import DataSet, FolderDataSet, list_datasets, load, register

__all__ = [
    "COLOURS",
    "DataSet",
    "DigitsDataSet",
    "FolderDataSet",
    "list_datasets",
    "load",
    "make_biased",
    "make_loc",
    "read_digits",
    "register",
]
