"""Training images with a candidate's prompt, drawn and scored as a prediction would be."""

from __future__ import annotations

import numpy as np
import torch

from ..prompters.base import Prompter
from ..scorers.ledger import Ledger
from ..scorers.scoring import score_columns_of
from .features import TrainingFeatures

__all__ = ["PromptedImages"]


class PromptedImages:
    """The training images with the prompts of any parameter vector.

    Parameters
    ----------
    features : TrainingFeatures
        Features and canvases of the fitted prompter.
    ledger : Ledger
        Sends and counts the images.
    prompt_scale : float
        Factor of the prompt, in units of the pixel range.
    """

    def __init__(self, features: TrainingFeatures, ledger: Ledger, prompt_scale: float):
        self.features = features
        self.ledger = ledger
        self.prompt_scale = prompt_scale

    def freeze(self, w: np.ndarray, prompt_scale: float | None = None) -> Prompter:
        """Freeze the prompter at the parameter vector `w`, with the batch statistics of the training images."""
        prompter = self.features.prompter
        statistics = prompter.batch_statistics(torch.as_tensor(w, dtype=torch.float64), self.features.batches)
        return prompter.freeze(w, statistics, self.prompt_scale if prompt_scale is None else prompt_scale)

    def score_columns(self, w: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Score images with the prompts of `w`: (len(rows), n_columns); bills len(rows) images."""
        return score_columns_of(self.ledger, _Drawn(self.features, self.freeze(w)), rows)


class _Drawn:
    """The training images with the prompts of a frozen prompter, read like images."""

    def __init__(self, features: TrainingFeatures, frozen: Prompter):
        self.features = features
        self.frozen = frozen
        self.size = features.images.size

    def pixels(self, rows: np.ndarray) -> torch.Tensor:
        """Draw prompts onto images: (len(rows), 3, height, width)."""
        return self.features.drawn(self.frozen, rows)
