"""The objective: candidates -> prompted images -> scores -> losses (eq. 1 and 2)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import numpy as np
import torch

from ..inputs.training_set import TrainingSet
from ..losses import Temperature
from ..scorers.ledger import Ledger, Sent
from ..scorers.memory import AnswerMemory
from .features import TrainingFeatures
from .step_images import StepImages, StepReader

__all__ = ["LastAnswers", "Objective"]

_CHUNK_BYTES = 64 * 2**20  # prompts that are measured at once
# Answers of the last steps that a head is trained on, and their scores in all: 16 MB.
_ANSWERS_PER_IMAGE, _MOST_ANSWERS, _MOST_SCORES = 10, 4_000, 2_000_000
_RMS_PIXELS = 16 * 48 * 48  # on which the size of a change of the prompts is measured, as far as 8 to 64 images go


class LastAnswers:
    """The scores that training has paid for last, a few for each image: their prompts are near the final one.

    Parameters
    ----------
    n_images : int
        Training images.
    """

    def __init__(self, n_images: int):
        self._most = min(_ANSWERS_PER_IMAGE * n_images, _MOST_ANSWERS)
        self._n_kept = 0
        self._steps: deque[tuple[np.ndarray, np.ndarray]] = deque()

    def add(self, rows: np.ndarray, columns: np.ndarray) -> None:
        """Keep a step's rows (n,) and score columns (n, n_columns), and drop the oldest steps that do not fit."""
        self._steps.append((rows, columns))
        self._n_kept += len(rows)
        while self._n_kept > min(self._most, _MOST_SCORES // columns.shape[1]):
            self._n_kept -= len(self._steps.popleft()[0])

    def get(self, n_columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (n,) and score columns (n, n_columns) of the last steps."""
        if not self._steps:
            return np.empty(0, dtype=int), np.empty((0, n_columns))
        rows, columns = zip(*self._steps)
        return np.concatenate(rows), np.concatenate(columns)


class Objective:
    """The losses of candidates on training images: everything between an optimizer and a service.

    Parameters
    ----------
    features : TrainingFeatures
        Features and canvases of the fitted prompter.
    data : TrainingSet
        The training set, whose weights are scaled to a mean of 1.
    ledger : Ledger
        Sends and counts the images.
    memory : AnswerMemory
        The memory of the ledger.
    prompt_scale : float
        Factor of the prompt, in units of the pixel range.
    temperature : Temperature
        Temperature of the service, at which losses are computed.
    augment : callable or None, default=None
        Makes other views of the pixels of a step, the same for all candidates that are compared on them.

    Attributes
    ----------
    last_accuracy : float
        Share of the last candidates' images that the service got right.
    last_answers : LastAnswers
        Scores that training has paid for last.
    """

    last_accuracy: float

    def __init__(
        self,
        features: TrainingFeatures,
        data: TrainingSet,
        ledger: Ledger,
        memory: AnswerMemory,
        prompt_scale: float,
        temperature: Temperature,
        augment: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):
        self.features = features
        self.y = data.y
        self.weights = data.weights / data.weights.mean()
        self.ledger = ledger
        self.memory = memory
        self.prompt_scale = prompt_scale
        self.temperature = temperature
        self.reader = StepReader(features, augment, ledger.device)
        self.last_answers = LastAnswers(len(data))
        self._rms_features: torch.Tensor | None = None

    def candidate_losses(
        self, candidates: np.ndarray, rows: np.ndarray, next_rows: np.ndarray | None = None
    ) -> np.ndarray:
        """Measure the mean loss (p,) of each candidate on its training images; bills each image for each candidate.

        Parameters
        ----------
        candidates : ndarray of shape (p, d)
            Parameter vectors.
        rows : ndarray of shape (n,) or (p, n)
            Training images of all candidates, or of each of them.
        next_rows : ndarray of shape (p, n) or None, default=None
            The rows of the next call, if they are known: its images are read while the service answers.

        Returns
        -------
        losses : ndarray of shape (p,)
            Mean loss of each candidate.
        """
        rows = np.broadcast_to(rows, (len(candidates), rows.shape[-1]))
        # eq. 1: prompted images of all candidates, one candidate after the other, (p * n, h, w, 3)
        sent = self._drawn(candidates, self.reader.read(rows))
        # While the service answers.
        self.reader.prefetch(next_rows)
        updated = self.reader.background.submit(self.temperature.update)
        try:
            with self.memory.paused():
                columns = self.ledger.score_columns(sent)
        finally:
            updated.result()
        log_scores = columns[:, : self.ledger.n_classes]

        # eq. 2: the loss of the scores at the service's temperature
        y = self.y[rows].reshape(-1)
        losses = self.temperature.losses(log_scores, y).reshape(rows.shape)
        self.last_answers.add(rows.reshape(-1), columns)
        self.last_accuracy = float((log_scores.argmax(axis=1) == y).mean())
        return (losses * self.weights[rows]).mean(axis=1)

    def _drawn(self, candidates: np.ndarray, images: StepImages) -> Sent:
        """Draw the images of all candidates in the form that the service gets, one candidate after the other."""
        parts, positions = [], []
        w = torch.as_tensor(candidates, dtype=torch.float32, device=self.ledger.device)
        for some, of_some in images.drawn(self.features.prompter, w, self.prompt_scale):
            parts.append(self.ledger.as_sent(of_some.flatten(0, 1)))
            positions.append(some)
        order = np.argsort(np.concatenate(positions))
        sent = self.ledger.joined(parts)
        if (np.diff(order) < 0).any():
            sent = sent.reshape(len(order), -1, *sent.shape[1:])[order].reshape(sent.shape)
        return sent

    def prompt_rms(self, w: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Measure the root mean square (p,) by which `directions` (p, d) each move the prompts, in pixel ranges.

        It bills nothing, and is measured on a few images.
        """
        images = self.features.images
        n_images = int(np.clip(_RMS_PIXELS // math.prod(images.size), 8, 64))
        if self._rms_features is None:
            self._rms_features = self.features.of(np.arange(min(len(images), n_images))).double()[None]
        prompter, start = self.features.prompter, torch.as_tensor(w, dtype=torch.float64)
        before = prompter.prompts(start[None, None], self._rms_features)[0]
        moved = []
        for part in torch.as_tensor(directions).split(max(1, _CHUNK_BYTES // (before.numel() * 8))):
            moves = prompter.prompts((start + part)[None], self._rms_features)[0] - before
            moved.append(moves.square_().mean(dim=(1, 2, 3, 4)).sqrt_())
        return self.prompt_scale * torch.cat(moved).numpy()
