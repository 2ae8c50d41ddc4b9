"""The objective: candidates -> prompted images -> scores -> losses (eq. 1 and 2)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import numpy as np
import torch

from ..encoders.base import Encoder
from ..inputs.images import Images
from ..losses import Temperature
from ..prompters.base import Prompter
from ..scorers.background import BackgroundThread
from ..scorers.ledger import Ledger, Sent
from ..scorers.scoring import log_scores_of
from .step_images import StepImages

__all__ = ["Objective"]

_CHUNK_BYTES = 64 * 2**20  # prompts that are measured at once
_CACHE_BYTES = 512 * 2**20  # features that are kept rather than computed again
_ANSWERS_PER_IMAGE, _MOST_ANSWERS = 10, 4_000  # of the last steps, that a head is trained on
_RMS_PIXELS = 16 * 48 * 48  # on which the size of a change of the prompts is measured, as far as 8 to 64 images go


class Objective:
    """The loss of candidates on training images: everything between an optimizer and a service.

    Parameters
    ----------
    prompter : Prompter
        Fitted.
    images : Images
    y : ndarray of shape (n_images,)
        Class indices.
    weights : ndarray of shape (n_images,)
        Of the images' losses; scaled to a mean of 1.
    ledger : Ledger
    prompt_scale : float
    temperature : Temperature
        Of the service, at which losses are taken.
    augment : callable or None
        Makes other views of the pixels of a step, the same for all candidates that are compared on them. None: they are
        taken as they are, and the prompter's features are computed once.

    Attributes
    ----------
    last_accuracy : float
        Share of the last candidates' images that the service got right.
    """

    last_accuracy: float

    def __init__(
        self,
        prompter: Prompter,
        images: Images,
        y: np.ndarray,
        weights: np.ndarray,
        ledger: Ledger,
        prompt_scale: float,
        temperature: Temperature,
        augment: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):
        self.prompter = prompter
        self.images = images
        self.y = y
        self.weights = weights / weights.mean()
        self.ledger = ledger
        self.prompt_scale = prompt_scale
        self.temperature = temperature
        self.augment = augment
        self._answers: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=_MOST_ANSWERS)
        self._aside = BackgroundThread()
        one = prompter.features(self.pixels(np.arange(1)))
        self._keeps_features = one.numel() * one.element_size() * len(y) <= _CACHE_BYTES
        self._coming: Future[torch.Tensor] | None = None
        self._rms_features: torch.Tensor | None = None
        self._ahead: tuple[np.ndarray, Future[StepImages]] | None = None

    def pixels(self, rows: np.ndarray) -> torch.Tensor:
        return self.images.pixels(rows)

    def features(self, rows: np.ndarray) -> torch.Tensor:
        return self._kept[rows] if self._keeps_features else self.prompter.features(self.pixels(rows))

    def make_features(self, aside: BackgroundThread) -> None:
        """Begin to make the features of all images, where they are kept, in a thread; errors come with their use."""
        if self._keeps_features and self._coming is None:
            batches = _batches(np.arange(len(self.y)))
            of_all = lambda: torch.cat([self.prompter.features(self.pixels(rows)) for rows in batches])
            self._coming = aside.submit(of_all)

    def candidate_losses(
        self, candidates: np.ndarray, rows: np.ndarray, following: np.ndarray | None = None
    ) -> np.ndarray:
        """Mean loss (p,) of candidates (p, d) on training images.

        Parameters
        ----------
        candidates : ndarray of shape (p, d)
        rows : ndarray of shape (n,) or (p, n)
            The images of all candidates, or those of each; all of them are billed for each.
        following : ndarray of shape (p, n) or None, default=None
            The rows of the next call, where they are known: its images are read while the service answers.
        """
        rows = np.broadcast_to(rows, (len(candidates), rows.shape[-1]))
        sent = self._drawn(candidates, self._step_images(rows))
        if following is not None and self._reads_ahead:
            coming = self._aside.submit(StepImages.of, following, self._canvas_and_features)
            self._ahead = following, coming
        log_scores = self.ledger.log_scores(sent)
        self._answers.append((rows.reshape(-1), log_scores))
        y = self.y[rows].reshape(-1)
        self.last_accuracy = float((log_scores.argmax(axis=1) == y).mean())
        losses = self.temperature.losses(log_scores, y).reshape(rows.shape)
        return (losses * self.weights[rows]).mean(axis=1)

    def _step_images(self, rows: np.ndarray) -> StepImages:
        """The images of a step, which may have been read ahead."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and np.array_equal(ahead[0], rows):
            return ahead[1].result()
        return StepImages.of(rows, self._canvas_and_features)

    @property
    def _reads_ahead(self) -> bool:
        """Whether a thread saves more than it costs; augmentation draws random numbers, which must keep their order."""
        return self.augment is None and not (self.images.in_memory and self._keeps_features)

    def _canvas_and_features(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = self.pixels(rows)
        if self.augment is not None:
            pixels = self.augment(pixels)
        kept = self._keeps_features and self.augment is None
        features = self._kept.index_select(0, torch.from_numpy(rows)) if kept else self.prompter.features(pixels)
        return self.prompter.canvas(pixels).to(self.ledger.device), features.to(self.ledger.device)

    def _drawn(self, candidates: np.ndarray, images: StepImages) -> Sent:
        """The images of candidates, one candidate after the other, as they are sent."""
        parts, places = [], []
        w = torch.as_tensor(candidates, dtype=torch.float32, device=self.ledger.device)
        drawn = images.drawn(self.prompter, w, self.prompt_scale)
        for some, of_some in drawn:
            parts.append(self.ledger.as_sent(of_some.flatten(0, 1)))
            places.append(some)
        order = np.argsort(np.concatenate(places))
        sent = self.ledger.joined(parts)
        if (np.diff(order) < 0).any():
            sent = sent.reshape(len(order), -1, *sent.shape[1:])[order].reshape(sent.shape)
        return sent

    def recent_answers(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows (n,) and log scores (n, n_classes) of the images that training has paid for last, with their prompts.

        Those of the last steps, a few for each image: their prompts are near the one that is used.
        """
        most = min(_ANSWERS_PER_IMAGE * len(self.y), _MOST_ANSWERS)
        kept: list[tuple[np.ndarray, np.ndarray]] = []
        for answer in reversed(self._answers):
            if sum(len(rows) for rows, _ in kept) + len(answer[0]) > most:
                break
            kept.insert(0, answer)
        if not kept:
            return np.empty(0, dtype=int), np.empty((0, self.ledger.n_classes))
        return np.concatenate([rows for rows, _ in kept]), np.concatenate([scores for _, scores in kept])

    def frozen(self, w: np.ndarray, prompt_scale: float) -> Prompter:
        """The prompter, frozen at the parameter vector `w` as it is used for prediction."""
        statistics = self.prompter.batch_statistics(torch.as_tensor(w, dtype=torch.float64), self._feature_batches)
        return self.prompter.freeze(w, statistics, prompt_scale)

    def log_scores(self, w: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Log scores (len(rows), n_classes) of images prompted for prediction; bills len(rows) images."""
        return log_scores_of(self.ledger, self.images, rows, self.frozen(w, self.prompt_scale).draw)

    def plain_log_scores(self, rows: np.ndarray) -> np.ndarray:
        """Log scores (len(rows), n_classes) of images as they are; bills len(rows) images."""
        return log_scores_of(self.ledger, self.images, rows)

    def encoded(self, encoder: Encoder, rows: np.ndarray) -> np.ndarray:
        """A frozen encoder's features (len(rows), n_features) of images; bills nothing."""
        return encoder.encode_batches(self.pixels(part) for part in _batches(rows))

    def prompt_rms(self, w: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Root mean square (p,) by which `directions` (p, d) each move the prompts, in units of the pixel range.

        It bills nothing, and is measured on a few images.
        """
        n_images = int(np.clip(_RMS_PIXELS // math.prod(self.images.size), 8, 64))
        if self._rms_features is None:
            self._rms_features = self.features(np.arange(min(len(self.y), n_images))).double()[None]
        start = torch.as_tensor(w, dtype=torch.float64)
        before = self.prompter.prompts(start[None, None], self._rms_features)[0]
        moved = []
        for part in torch.as_tensor(directions).split(max(1, _CHUNK_BYTES // (before.numel() * 8))):
            moves = self.prompter.prompts((start + part)[None], self._rms_features)[0] - before
            moved.append(moves.square_().mean(dim=(1, 2, 3, 4)).sqrt_())
        return self.prompt_scale * torch.cat(moved).numpy()

    def _feature_batches(self) -> Iterator[torch.Tensor]:
        return (self.features(part).double() for part in _batches(np.arange(len(self.y))))

    @property
    def _kept(self) -> torch.Tensor:
        """The features of all images."""
        self.make_features(self._aside)
        assert self._coming is not None
        return self._coming.result()


def _batches(rows: np.ndarray, size: int = 32) -> Iterator[np.ndarray]:
    return (rows[first : first + size] for first in range(0, len(rows), size))
