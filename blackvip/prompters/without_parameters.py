"""The base class of prompters that have nothing to train: their features are the prompts."""

from __future__ import annotations

import numpy as np
import torch

from ..persistence.fields import NONE
from .base import Prompter

__all__ = ["WithoutParameters"]


class WithoutParameters(Prompter):
    """Base class of prompters without parameters. A subclass needs `fit_pixels`, and `features` that are prompts.

    Attributes
    ----------
    n_parameters_ : int
        Number of parameters, 0.
    """

    n_parameters_ = 0

    saved_attributes = {"statistics_": NONE}

    def initial_parameters(self, rng: np.random.Generator) -> np.ndarray:
        return np.zeros(0)

    def prompts(
        self, candidates: torch.Tensor, features: torch.Tensor, statistics: torch.Tensor | None = None
    ) -> torch.Tensor:
        return features[:, None].to(candidates.dtype).expand(-1, candidates.shape[1], -1, -1, -1, -1)
