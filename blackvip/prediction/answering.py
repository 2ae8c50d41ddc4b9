"""The path of an image to class probabilities, for which no, one or two images are sent."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, ClassVar

import numpy as np
import torch

from ..encoders.base import Encoder
from ..heads.base import Head
from ..heads.decision import Decision, WithoutPrompt
from ..heads.scored import ScoredImages
from ..heads.stages import Stages, choose_stages
from ..inputs.images import Images
from ..inputs.reading import BATCH, portions
from ..persistence.fields import Field
from ..persistence.objects import Object
from ..prompters.base import Prompter
from ..scorers.connection import ReachesService
from ..scorers.ledger import Ledger
from ..scorers.scoring import Drawing, score_columns_of

__all__ = ["AnswersImages"]

_PORTION = 4 * BATCH  # images that go through the stages together


class AnswersImages(ReachesService):
    """Mixin of the classifier: the path of an image through the stages of a prediction."""

    cascade: bool
    max_views: int
    classes_: np.ndarray
    head_: Head
    prompter_: Prompter
    probe_encoder_: Encoder
    _stages: Stages

    saved_attributes: ClassVar[dict[str, Field]] = {"_stages": Object(Stages)}

    @property
    def cost_curve_(self) -> list[dict[str, Any]]:
        """Accuracy against images per prediction, cross-validated on the training images.

        A list of dicts with "images_per_prediction", "accuracy", "log_loss", and "used", which is true for the point
        at which this estimator predicts.
        """
        names = ("images_per_prediction", "accuracy", "log_loss")
        rows = enumerate(self._stages.curve.tolist())
        return [{**dict(zip(names, row)), "used": number == self._stages.used} for number, row in rows]

    def _choose_stages(self, decision: Decision, without: WithoutPrompt, scored: ScoredImages) -> Stages:
        """Choose the stages at the end of a fit, from answers that are paid for."""
        local = without.baselines.get("local_probe")
        second = without.chosen if self.max_views > 1 and decision.prompt_used else None
        return choose_stages(decision.result, local, second, scored.y, self.cascade)

    def _encode(self, pixels: torch.Tensor) -> np.ndarray:
        """Compute the features of the local encoder; no service is called."""
        return self.probe_encoder_.encode_batches([pixels])

    def _log_probas(self, images: Images, rows: np.ndarray) -> Generator[np.ndarray, None, None]:
        """Yield log probabilities (n, n_classes) of images, batch by batch."""
        if self._stages.local is None and self._stages.second is None:
            encode = self._encode if self.head_.needs_features else None
            for _, columns, features in self._score_in_batches(images, rows, self.prompter_.draw, encode):
                yield self.head_.predict_log_proba_of(columns, features, len(self.classes_))
            return
        with self._prediction_ledger(self._stages.most_images * len(rows)) as ledger:
            for first in range(0, len(rows), _PORTION):
                yield self._answered(ledger, images, rows[first : first + _PORTION])

    def _log_proba_from(self, prompted: np.ndarray, plain: np.ndarray, features: np.ndarray | None) -> np.ndarray:
        """Compute log probabilities (n, n_classes) of images that have been scored with and without their prompts."""

        def by(head: Head, columns: np.ndarray, rows: Any = slice(None)) -> np.ndarray:
            chosen = None if features is None else features[rows]
            return head.predict_log_proba_of(columns[rows], chosen, len(self.classes_))

        return self._stages.log_proba(
            len(plain),
            lambda head: by(head, plain),
            lambda rows: by(self.head_, prompted, rows),
            lambda head, rows: by(head, plain, rows),
        )

    def _answered(self, ledger: Ledger, images: Images, rows: np.ndarray) -> np.ndarray:
        """Compute log probabilities (len(rows), n_classes) of images, stage by stage."""
        n_classes = len(self.classes_)
        parts = (rows[part] for part in portions(len(rows), images.size))
        features = np.concatenate([self._encode(images.pixels(part)) for part in parts])

        def sent(head: Head, chosen: np.ndarray, draw: Drawing | None = None) -> np.ndarray:
            columns = score_columns_of(ledger, images, rows[chosen], draw)
            return head.predict_log_proba_of(columns, features[chosen], n_classes)

        return self._stages.log_proba(
            len(rows),
            lambda head: head.predict_log_proba_of(np.empty((len(rows), n_classes)), features, n_classes),
            lambda chosen: sent(self.head_, chosen, self.prompter_.draw),
            sent,
        )
