"""The training set: images, class indices and weights, read from X, y and sample weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..persistence.fields import LABEL, Maybe, Pairs, text
from .class_names import class_names
from .images import Images
from .labels import check_classes, class_indices, labels_of, training_weights
from .reading import ReadsImages
from .sources import open_images, select

__all__ = ["ReadsTrainingSets", "TrainingSet"]


@dataclass(frozen=True)
class TrainingSet:
    """Labelled images, ready for training.

    Attributes
    ----------
    images : Images
        Without those that could not be read.
    y : ndarray of shape (n_images,)
        Class indices.
    weights : ndarray of shape (n_images,)
        Positive weights of the images.
    classes : ndarray of shape (n_classes,)
        Sorted class labels.
    n_skipped : int
        Images that could not be read.
    names : dict from label to str
        Names of classes whose labels are numbers or booleans, if they are known.
    """

    images: Images
    y: np.ndarray
    weights: np.ndarray
    classes: np.ndarray
    n_skipped: int = 0
    names: dict[Any, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.y)


class ReadsTrainingSets(ReadsImages, saveable=False):
    """Mixin of classifiers whose X is images: reads the training set."""

    class_weight: Any
    _class_names: dict[Any, str]

    saved_attributes = {"_class_names": Maybe(Pairs(LABEL, text()))}

    def _read_training_set(
        self, X: Any, y: Any, sample_weight: Any, classes: Any = None, known: bool = False
    ) -> TrainingSet:
        """Read a training set; images of weight zero are left out.

        Parameters
        ----------
        X : images, in any form that `BlackVIPClassifier` takes
            The images.
        y : array-like of shape (n,)
            Labels.
        sample_weight : array-like of shape (n,) or None
            Weights of the images, at least 0.
        classes : array-like of shape (n_classes,) or None, default=None
            All class labels. None: those in y.
        known : bool, default=False
            Whether the images have the format that was learned before.

        Raises
        ------
        ValueError
            If images, labels and weights do not fit together, or there are fewer than two classes.
        """
        opened = open_images(X)
        given, y = y, labels_of(opened, y)
        names = class_names(X, given) or (getattr(self, "_class_names", {}) if known else {})
        X = opened
        weights = training_weights(sample_weight, self.class_weight, y)
        if not weights.all():
            used = np.flatnonzero(weights)
            X, y, weights = select(X, used), y[used], weights[used]
        images, y = (self._open_images(X), y) if known else self._learn_images(X, y)
        n_skipped = len(y) - len(images.kept)
        y, weights = y[images.kept], weights[images.kept]
        classes = check_classes(y if classes is None else classes)
        if len(classes) < 2:
            raise ValueError(f"y has 1 class, {classes.tolist()[0]!r}; expected at least two classes.")
        # Later batches may not tell the names.
        self._class_names = names = {label: names[label] for label in classes.tolist() if label in names}
        return TrainingSet(images, class_indices(y, classes), weights, classes, n_skipped, names)
