"""The choice of an image correction by successive halving; no correction wins every doubtful comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch

from ..heads.judging import is_clear
from ..losses import cross_entropy, fit_temperature
from ..prompters.base import Prompter
from ..prompters.corrections import AS_IT_IS, CORRECTIONS, Correction

__all__ = [
    "Choice",
    "capped_losses",
    "choose_correction",
    "fitted_corrections",
    "halving_sizes",
    "in_turn_of_classes",
    "most_requests",
]

_FIRST, _MOST = 4, 64  # images on which all corrections are compared, and on which the last ones are
_FOR_TEMPERATURE = 4  # images that count as much for a correction's temperature as what suits the best one
_LEAST_GAIN = 1e-3  # nats: where all answers are right, clear differences may mean nothing
_CHECKED = 16  # further images on which the winner must not be worse, before it is tried on all the others


class Choice(NamedTuple):
    """The outcome of `choose_correction`.

    Attributes
    ----------
    name : str or None
        The chosen correction; None if none helps.
    losses : dict of str to float
        Mean loss of each correction on the last images on which it was compared, in nats; "none": of no correction, on
        the last images of all.
    """

    name: str | None
    losses: dict[str, float]


def in_turn_of_classes(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a random order of the images in which the classes take turns."""
    shuffled = rng.permutation(len(y))
    turn = np.empty(len(y), dtype=int)
    for label in np.unique(y):
        rows = np.flatnonzero(y[shuffled] == label)
        turn[rows] = np.arange(len(rows))
    return shuffled[np.argsort(turn, kind="stable")]


def halving_sizes(n_images: int) -> list[int]:
    """Return the number of images after each round of halving: at most half of all, so that others judge the winner."""
    most = min(_MOST, n_images // 2)
    sizes = [_FIRST]
    while 2 * sizes[-1] <= most:
        sizes.append(2 * sizes[-1])
    return [size for size in sizes if size <= most]


def most_requests(n_corrections: int, n_images: int, budget: int) -> list[int]:
    """Return the largest sizes of the requests that `choose_correction` makes with a budget of images."""
    requests, alive, seen, left = [], n_corrections, 0, budget
    for size in halving_sizes(n_images):
        if alive * (size - seen) + n_images - size > left:
            break
        requests += [size - seen] * alive
        left -= alive * (size - seen)
        alive, seen = _n_kept(alive), size
    return [*requests, n_images - seen] if seen else []


def choose_correction(
    names: list[str],
    score: Callable[[list[str], np.ndarray], Iterable[np.ndarray]],
    plain: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    rng: np.random.Generator,
    budget: int,
) -> Choice:
    """Choose an image correction by successive halving, and check it on images that have not chosen it.

    Parameters
    ----------
    names : list of str
        The corrections to choose from.
    score : callable
        ``score(names, rows)`` yields the log scores (len(rows), n_classes) of images with each of these corrections; it
        bills them.
    plain : ndarray of shape (n_images, n_classes)
        Log scores of all images without a correction.
    y : ndarray of shape (n_images,)
        Class indices.
    weights : ndarray of shape (n_images,)
        Weights of the images in all means.
    rng : numpy.random.Generator
        Draws the order of the images.
    budget : int
        The most images that may be billed.

    Returns
    -------
    choice : Choice
        Its correction has a lower loss than no correction on the images that have not chosen it, by more than a
        standard error of the difference and by more than 0.001 nats.

    Notes
    -----
    All corrections are compared on four images; after each round, the better half is compared on twice as many
    (Jamieson and Talwalkar, AISTATS 2016). Those that are worse than no correction by more than a standard error drop
    out, and the choice ends early when none is left. Losses are cross-entropies, and count for at most that of a guess.
    Each correction has a temperature of its own, since one for all would hide the only one with which the service is
    right behind many with which it is sure and wrong. On few images it is drawn towards the temperature that suits the
    best correction, so that sure answers still count for more than unsure ones where all are right (B32).
    """
    order = in_turn_of_classes(y, rng)
    alive, scores = list(names), {name: np.empty((0, plain.shape[1])) for name in names}
    losses: dict[str, float] = {}
    n_seen = 0
    for size in halving_sizes(len(y)):
        rows = order[n_seen:size]
        if len(rows) * len(alive) + len(y) - size > budget:
            break
        for name, further in zip(alive, score(alive, rows), strict=True):
            scores[name] = np.concatenate([scores[name], further])
        budget -= len(rows) * len(alive)
        n_seen = size
        seen, weighed = order[:size], weights[order[:size]]
        found = _compared({name: scores[name] for name in alive} | {AS_IT_IS: plain[seen]}, y[seen], weighed)
        losses.update({name: float(np.average(of_images, weights=weighed)) for name, of_images in found.items()})
        alive = sorted(alive, key=losses.__getitem__)[: _n_kept(len(alive))]
        alive = [name for name in alive if not is_clear(found[name] - found[AS_IT_IS], weighed)]
        if len(alive) < 2:
            break
    chosen_by, others = order[:n_seen], order[n_seen:]
    if not n_seen or not alive or len(others) > budget:
        return Choice(None, losses)
    best, gain = alive[0], np.empty(0)
    temperature = fit_temperature(plain[chosen_by], y[chosen_by], weights=weights[chosen_by])
    without = capped_losses(plain[others], y[others], temperature)
    temperature = fit_temperature(scores[best], y[chosen_by], weights=weights[chosen_by])
    for part in np.split(others, [_CHECKED]):
        if len(part):
            [scored] = score([best], part)
            corrected = capped_losses(scored, y[part], temperature)
            gain = np.concatenate([gain, without[len(gain) : len(gain) + len(part)] - corrected])
            if np.average(gain, weights=weights[others[: len(gain)]]) <= 0:
                return Choice(None, losses)
    helps = is_clear(gain, weights[others]) and np.average(gain, weights=weights[others]) > _LEAST_GAIN
    return Choice(best if helps else None, losses)


def fitted_corrections(pixels: torch.Tensor, prompt_scale: float) -> dict[str, Prompter]:
    """Fit all corrections to a sample of the training images (n, 3, height, width), and return them by name.

    Raises
    ------
    ValueError
        If one of them fails on an image, as one that a user has added may.
    """
    corrections: dict[str, Prompter] = {}
    for name in CORRECTIONS:
        if name == AS_IT_IS:
            continue
        try:
            corrections[name] = Correction(name).fit_pixels(pixels).freeze(np.zeros(0), None, prompt_scale)
            corrections[name].draw(pixels[:1])
        except Exception as error:
            raise ValueError(
                f"The correction {name!r} failed on a training image: {error}. Repair it, or remove it from "
                "blackvip.prompters.CORRECTIONS."
            ) from error
    return corrections


def _n_kept(n: int) -> int:
    return max(1, n // 2)


def capped_losses(log_scores: np.ndarray, y: np.ndarray, temperature: float) -> np.ndarray:
    """Compute losses (n_images,) at a temperature; at most that of a guess."""
    return np.minimum(cross_entropy(log_scores / temperature, y), np.log(log_scores.shape[1]))


def _compared(scores: dict[str, np.ndarray], y: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Compute losses (n_images,) of several sets of log scores, each at a temperature of its own (B32)."""
    own = {name: fit_temperature(log_scores, y, weights=weights) for name, log_scores in scores.items()}
    means = {name: np.average(capped_losses(scores[name], y, own[name]), weights=weights) for name in scores}
    of_best, share = own[min(means, key=means.__getitem__)], len(y) / (len(y) + _FOR_TEMPERATURE)
    # (B32)
    return {name: capped_losses(scores[name], y, own[name] ** share * of_best ** (1 - share)) for name in scores}
