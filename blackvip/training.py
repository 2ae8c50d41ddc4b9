"""The training loop: images -> features -> prompts -> scores -> losses -> update, within a budget."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from .gains import adapt_step_size, set_gains
from .images import to_uint8
from .losses import cross_entropy
from .optimizers import Optimizer
from .prompters import prompted

__all__ = ["Batches", "Objective", "TrainingResult", "train"]

_CHUNK_BYTES = 64 * 2**20  # prompted images of one chunk of candidates, as float32
_CACHE_BYTES = 512 * 2**20  # features that are kept rather than computed again


class Objective:
    """The loss of candidates on training images: everything between an optimizer and a service.

    Parameters
    ----------
    prompter : Prompter
        Fitted.
    images : Images
    image_format : ImageFormat
    y : ndarray of shape (n_images,)
        Class indices.
    ledger : Ledger
    prompt_scale : float
    """

    def __init__(self, prompter, images, image_format, y, ledger, prompt_scale):
        self.prompter = prompter
        self.images = images
        self.image_format = image_format
        self.y = y
        self.ledger = ledger
        self.prompt_scale = prompt_scale
        self._features = self._cached_features()

    def pixels(self, rows) -> torch.Tensor:
        return self.image_format.pixels(self.images[rows])

    def features(self, rows) -> torch.Tensor:
        return self._features[rows] if self._features is not None else self.prompter.features(self.pixels(rows))

    def candidate_losses(self, candidates: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Mean loss of each candidate (p, d) on the images `rows`; bills p times len(rows) images."""
        pixels, features = self.pixels(rows), self.features(rows)
        weights = torch.as_tensor(candidates, dtype=torch.float32)
        chunk = max(1, _CHUNK_BYTES // (pixels.numel() * pixels.element_size()))
        images = [
            to_uint8(prompted(pixels, self.prompter.prompts(part, features), self.prompt_scale).flatten(0, 1))
            for part in weights.split(chunk)
        ]
        log_scores = self.ledger.log_scores(np.concatenate(images))
        return cross_entropy(log_scores.reshape(len(candidates), len(rows), -1), self.y[rows]).mean(axis=1)

    def frozen(self, w: np.ndarray, prompt_scale: float):
        """The prompter, frozen at the parameter vector `w` as it is used for prediction."""
        statistics = self.prompter.batch_statistics(torch.as_tensor(w, dtype=torch.float64), self._feature_batches)
        return self.prompter.freeze(w, statistics, prompt_scale)

    def log_scores(self, w: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Log scores (len(rows), n_classes) of images prompted for prediction; bills len(rows) images."""
        frozen = self.frozen(w, self.prompt_scale)
        return self._scored(frozen.transform(self.pixels(part)) for part in _batches(rows))

    def plain_log_scores(self) -> np.ndarray:
        """Log scores (n_images, n_classes) of all images as they are; bills n_images images."""
        return self._scored(self.pixels(part) for part in _batches(np.arange(len(self.y))))

    def encoded(self, encoder) -> np.ndarray:
        """A frozen encoder's features (n_images, n_features) of all images; bills nothing."""
        return np.concatenate([encoder.transform(self.pixels(part)) for part in _batches(np.arange(len(self.y)))])

    def prompt_rms(self, w: np.ndarray, direction: np.ndarray) -> float:
        """Root mean square by which `direction` moves the prompts, in units of the pixel range; bills nothing."""
        features = self.features(np.arange(min(len(self.y), 64)))
        both = torch.as_tensor(np.stack([w, w + direction]), dtype=torch.float64)
        before, after = self.prompter.prompts(both, features.double())
        return self.prompt_scale * (after - before).square().mean().sqrt().item()

    def _scored(self, pixel_batches):
        images = [to_uint8(pixels) for pixels in pixel_batches]
        return self.ledger.log_scores(np.concatenate(images) if images else np.empty((0, 1, 1, 3), np.uint8))

    def _feature_batches(self):
        return (self.features(part).double() for part in _batches(np.arange(len(self.y))))

    def _cached_features(self):
        one = self.prompter.features(self.pixels(np.arange(1)))
        if one.numel() * one.element_size() * len(self.y) > _CACHE_BYTES:
            return None
        return torch.cat([self.prompter.features(self.pixels(part)) for part in _batches(np.arange(len(self.y)))])


def _batches(rows, size=32):
    return (rows[first : first + size] for first in range(0, len(rows), size))


@dataclass
class TrainingResult:
    """What a training run leaves.

    Attributes
    ----------
    w : ndarray of shape (d,)
        The best parameter vector by the held-out loss, or the last one where nothing was held out.
    optimizer : Optimizer
        With its gains and its last state.
    a : float or None
        The step size that training started with.
    n_iter : int
        Steps made.
    termination_reason : {"budget", "no_improvement", "interrupted", "error"}
    error : BaseException or None
        What ended the training before its time.
    history : list of dict
        A row per step; see `BlackVIPClassifier.history_`.
    """

    w: np.ndarray
    optimizer: Optimizer
    a: float | None = None
    n_iter: int = 0
    termination_reason: str = "budget"
    error: BaseException | None = None
    history: list = field(default_factory=list)


class Batches:
    """Mini-batches of rows: every row once in random order, then all again in another order.

    Parameters
    ----------
    rows : ndarray of int
    batch_size : int
        No more than ``len(rows)``.
    rng : numpy.random.Generator
    """

    def __init__(self, rows, batch_size, rng):
        self.rows, self.batch_size, self.rng = rows, batch_size, rng
        self.left = np.empty(0, dtype=int)

    def next(self) -> np.ndarray:
        batch = self.left[: self.batch_size]
        self.left = self.left[self.batch_size :]
        missing = self.batch_size - len(batch)
        if missing:
            order = self.rng.permutation(self.rows)
            self.left = order[missing:]
            batch = np.concatenate([batch, order[:missing]])
        return batch


def train(objective, optimizer, w, batches, validation, budget, rng, on_step=None) -> TrainingResult:
    """Ask, score and tell until the budget is spent, nothing improves any more, or something stops it.

    Parameters
    ----------
    objective : Objective
    optimizer : Optimizer
        Gains that are "auto" are found first, from a share of the budget.
    w : ndarray of shape (d,)
        Where to start.
    batches : Batches
    validation : Validation
    budget : int
        Images that may be billed.
    rng : numpy.random.Generator
    on_step : callable or None
        Called with each step's row of the history.

    Returns
    -------
    result : TrainingResult
        Also when `KeyboardInterrupt` or an error of the score function ended the training, which is in its
        `error` then.
    """
    result = TrainingResult(w, optimizer)
    stop_at = objective.ledger.n_queries + budget
    cost = optimizer.n_candidates * batches.batch_size
    adaptive = getattr(optimizer, "a", None) == "auto"
    try:
        set_gains(objective, optimizer, w, batches, rng, budget - validation.cost)
        result.a = getattr(optimizer, "a", None)
        optimizer.start(w, rng)
        left = stop_at - objective.ledger.n_queries - validation.cost
        validation.spread_over(left // cost)
        for _ in range(left // cost):
            losses = objective.candidate_losses(optimizer.ask(), batches.next())
            optimizer.tell(losses)
            result.w = optimizer.w
            result.n_iter += 1
            row = {"n_iter": result.n_iter, "loss": float(losses.mean()), **optimizer.figures()}
            if validation.is_due(result.n_iter):
                row.update(validation.check(optimizer.w))
                if adaptive:
                    adapt_step_size(optimizer, validation)
            row["n_queries"] = objective.ledger.n_queries
            result.history.append(row)
            if on_step is not None:
                on_step(row)
            if validation.exhausted:
                result.termination_reason = "no_improvement"
                break
    except KeyboardInterrupt as error:
        result.termination_reason, result.error = "interrupted", error
    except Exception as error:  # whatever a stranger's score function raises: what is paid for must not be lost
        result.termination_reason, result.error = "error", error
    if validation.best_w is not None:
        result.w = validation.best_w
    return result
