"""The training loop: images -> features -> prompts -> scores -> losses -> update, within a budget."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..encoders.base import Encoder
from ..inputs.images import Images
from ..losses import Temperature
from ..optimizers import Optimizer
from ..prompters.base import Prompter
from ..scorers.background import BackgroundThread
from ..scorers.ledger import Ledger, Sent
from ..scorers.scoring import log_scores_of
from .gains import adapt_step_size, gain_cost, set_gains
from .monitoring import Monitor
from .step_images import StepImages
from .validation import Validation

__all__ = ["Batches", "Objective", "Plan", "TrainingResult", "train"]

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
            self._rms_features = self.features(np.arange(min(len(self.y), n_images))).double()
        start = torch.as_tensor(w, dtype=torch.float64)
        before = self.prompter.prompts(start[None], self._rms_features)
        moved = []
        for part in torch.as_tensor(directions).split(max(1, _CHUNK_BYTES // (before.numel() * 8))):
            moves = self.prompter.prompts(start + part, self._rms_features) - before
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
    termination_reason : {"budget", "no_improvement", "callback", "interrupted", "error"}
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
    history: list[dict[str, Any]] = field(default_factory=list)


class Batches:
    """Mini-batches of rows: every row once in random order, then all again in another order.

    Parameters
    ----------
    rows : ndarray of int
    batch_size : int
        Rows of a step, no more than ``len(rows)``.
    rng : numpy.random.Generator
    shared : bool
        Whether all candidates of a step get all its rows. If not, they are divided among the groups of candidates that
        an optimizer compares with one another, a row for each at least.
    """

    def __init__(self, rows: np.ndarray, batch_size: int, rng: np.random.Generator, shared: bool = False):
        self.rows, self.batch_size, self.rng, self.shared = rows, batch_size, rng, shared
        self.left = np.empty(0, dtype=int)

    def n_rows_each(self, optimizer: Optimizer) -> int:
        """Rows that each candidate of a step gets, and is billed for."""
        return self.batch_size if self.shared else max(1, self.batch_size // optimizer.n_comparisons)

    def n_rows(self, optimizer: Optimizer) -> int:
        """Rows of a step, over all candidates."""
        return self.n_rows_each(optimizer) * (1 if self.shared else optimizer.n_comparisons)

    def for_step(self, optimizer: Optimizer) -> np.ndarray:
        """The rows of each candidate of the next step, of shape (n_candidates, n)."""
        return self._divided(self.next(self.n_rows(optimizer)), optimizer)

    def upcoming(self, optimizer: Optimizer) -> np.ndarray | None:
        """What `for_step` will return; None where that needs another order, which is drawn when it is needed."""
        n_rows = self.n_rows(optimizer)
        return self._divided(self.left[:n_rows], optimizer) if len(self.left) >= n_rows else None

    def _divided(self, rows: np.ndarray, optimizer: Optimizer) -> np.ndarray:
        if self.shared:
            return np.tile(rows, (optimizer.n_candidates, 1))
        return rows.reshape(optimizer.n_comparisons, -1)[optimizer.comparisons]

    def next(self, n_rows: int) -> np.ndarray:
        """The next rows."""
        while len(self.left) < n_rows:
            self.left = np.concatenate([self.left, self.rng.permutation(self.rows)])
        rows, self.left = self.left[:n_rows], self.left[n_rows:]
        return rows


@dataclass
class Plan:
    """What a run may spend, and how much of it on what; all of it is known before the first image is sent.

    Attributes
    ----------
    n_steps : int
        Steps that will be made.
    step, gains : int
        Images that one step, and finding the gains, bill.
    budget : int
        Images that training may bill in this run and those to come, by which the gains are chosen.
    """

    n_steps: int
    step: int
    gains: int
    budget: int

    @classmethod
    def make(
        cls,
        optimizer: Optimizer,
        d: int,
        batches: Batches,
        validation_cost: int,
        budget: int,
        max_steps: int | None = None,
    ) -> Plan:
        """The plan of a run in `d` parameters that may bill `budget` images, and makes `max_steps` steps at most."""
        step = optimizer.n_candidates_for(d) * batches.n_rows_each(optimizer)
        budget -= validation_cost
        gains = 0 if optimizer.started else gain_cost(optimizer, d, batches, budget)
        n_steps = max(0, (budget - gains) // step)
        return cls(n_steps if max_steps is None else min(n_steps, max_steps), step, gains, budget)


def train(
    objective: Objective,
    optimizer: Optimizer,
    w: np.ndarray,
    batches: Batches,
    validation: Validation,
    plan: Plan,
    rng: np.random.Generator,
    adaptive: bool,
    monitor: Monitor | None = None,
) -> TrainingResult:
    """Ask, score and tell until the plan is carried out, nothing improves any more, or something stops it.

    Parameters
    ----------
    objective : Objective
    optimizer : Optimizer
        One that has not started starts at `w`; gains that are "auto" are found first. One that has goes on.
    w : ndarray of shape (d,)
        Where to start.
    batches : Batches
    validation : Validation
    plan : Plan
    rng : numpy.random.Generator
    adaptive : bool
        Whether the step size is corrected after each check of the held-out images.
    monitor : Monitor or None
        Is told each step; training ends where it says so.

    Returns
    -------
    result : TrainingResult
        Also when `KeyboardInterrupt` or an error of the score function ended the training, which is in its
        `error` then.
    """
    result = TrainingResult(w, optimizer)
    try:
        if optimizer.started:
            validation.start_from(w)
        else:
            set_gains(objective, optimizer, w, batches, rng, plan.budget)
            optimizer.start(w, rng)
        validation.spread_over(plan.n_steps)
        result.a = getattr(optimizer, "a", None)
        for _ in range(plan.n_steps):
            if monitor is not None:
                monitor.begin_step()
            candidates, rows = optimizer.ask(), batches.for_step(optimizer)
            losses = objective.candidate_losses(candidates, rows, batches.upcoming(optimizer))
            optimizer.tell(losses)
            result.w = optimizer.w
            result.n_iter += 1
            loss, accuracy = float(losses.mean()), objective.last_accuracy
            row = {"n_iter": result.n_iter, "loss": loss, "accuracy": accuracy, **optimizer.figures()}
            if validation.is_due(result.n_iter):
                row.update(validation.check(optimizer.w))
                if adaptive:
                    adapt_step_size(optimizer, validation)
            row["n_queries"] = objective.ledger.n_queries
            result.history.append(row)
            if monitor is not None and monitor.end_step(row, optimizer.w):
                result.termination_reason = "callback"
                break
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
