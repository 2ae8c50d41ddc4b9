"""Service: a score function with its class prompts, to score images outside of a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..inputs.images import Images
from ..inputs.prompt_groups import PromptGroups
from ..scorers import Ledger, ScoreFormat, ScoreReader
from ..scorers.labels.mapping import LabelMapping
from ..scorers.scoring import Encoding, score_images

__all__ = ["Service", "ServiceAnswer"]


class ServiceAnswer(NamedTuple):
    """Scores of some images, and the format that was recognised in them.

    Attributes
    ----------
    columns : ndarray of shape (n_images, n_columns)
        Score columns, see `ScoreReader.score_columns`.
    features : ndarray of shape (n_images, n_features) or None
        Features of the images, if they were encoded on the way.
    n_queries : int
        Billed images.
    score_format : ScoreFormat
        The format of the scores.
    """

    columns: np.ndarray
    features: Any
    n_queries: int
    score_format: ScoreFormat


@dataclass(frozen=True)
class Service:
    """A score function, and all that is needed to read its scores.

    Parameters
    ----------
    score_fn : callable
        Score function, see `BlackVIPClassifier`.
    class_prompts : list of str
        Prompts that are sent with the images: class prompts, or labels of the service.
    score_type : {"auto", "logits", "probabilities", "percent", "levels"}, default="auto"
        Type of the scores.
    images_per_call : int or None, default=None
        The most images in one call.
    score_format : ScoreFormat or None, default=None
        The format of the scores. None: recognised in the first images' scores.
    label_mapping : LabelMapping or None, default=None
        Maps scores for labels to scores for classes.
    groups : PromptGroups or None, default=None
        The prompts of each class, if one of them has several.
    """

    score_fn: Any
    class_prompts: list[str]
    score_type: str = "auto"
    images_per_call: int | None = None
    score_format: ScoreFormat | None = None
    label_mapping: LabelMapping | None = None
    groups: PromptGroups | None = None

    def score(self, images: Images, encode: Encoding | None = None, y: np.ndarray | None = None) -> ServiceAnswer:
        """Score images without prompts; bills one image each.

        Parameters
        ----------
        images : Images
            Images to send, at least one.
        encode : callable or None, default=None
            Computes features (n, n_features) of pixels (n, 3, height, width), so that each image is read only once.
        y : ndarray of shape (n_images,) or None, default=None
            Class indices of the images. They help to recognise the format of the scores.

        Returns
        -------
        answer : ServiceAnswer
            Score columns, features and cost.
        """
        known = {"score_format": self.score_format, "label_mapping": self.label_mapping, "groups": self.groups}
        reader = ScoreReader.of(self.score_fn, self.score_type, **known)
        ledger = Ledger(
            self.score_fn,
            self.class_prompts,
            max_queries=len(images),
            images_per_call=self.images_per_call,
            reader=reader,
        )
        with ledger:
            rows = np.arange(len(images))
            _, scores, features = zip(*score_images(ledger, images, rows, encode=encode, score=ledger.scores))
        return ServiceAnswer(
            reader.score_columns(np.concatenate(scores), y),
            None if encode is None else np.concatenate(features),
            ledger.n_queries,
            # If the service returned no score at all, its format is unknown and does not matter.
            ledger.score_format or ScoreFormat("logits"),
        )
