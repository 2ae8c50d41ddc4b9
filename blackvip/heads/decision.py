"""The decision at the end of `fit`: which head to use, and whether to use the prompt."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .base import Head, ServiceHead, head_class
from .baselines import fit_baselines
from .classifier import make_head
from .judging import HeadResult, judge
from .local_probe import LocalProbe
from .scored import LabelledScores, LastAnswers, ScoredImages

__all__ = [
    "Decision",
    "WithoutPrompt",
    "check_head_fits",
    "choose_head",
    "decide",
    "fit_local_probe",
    "fit_without_prompt",
    "prompt_helps",
]

_MIN_IMAGES = 2  # of each class, for head="auto" to consider any head but the service's own
_MIN_GAIN = 1e-3  # relative gain in log loss: two fits to the same scores may differ by less
_MIN_NATS = 1e-6  # the same, absolute: where all images are right, relative differences say nothing


@dataclass
class WithoutPrompt:
    """Results without a prompt.

    Attributes
    ----------
    baselines : dict of str to HeadResult
        See `fit_baselines`.
    chosen : HeadResult
        The head for images without prompts.
    shared : dict
        Computations that do not depend on the prompt, see `LabelledScores.once`.
    """

    baselines: dict[str, HeadResult]
    chosen: HeadResult
    shared: dict[Hashable, Any]


class Decision(NamedTuple):
    """The outcome of a fit.

    Attributes
    ----------
    prompt_used : bool
        Whether predictions use the prompt.
    result : HeadResult
        The head that goes with this choice.
    comparison : str
        The log losses without and with the prompt, in words.
    head_note : str
        A sentence that says so if no head helps, or the one that was asked for does not; else empty.
    """

    prompt_used: bool
    result: HeadResult
    comparison: str
    head_note: str = ""


def fit_local_probe(
    features: Future[np.ndarray], block_sizes: tuple[int, ...], y: np.ndarray, weights: np.ndarray, n_classes: int
) -> dict[Hashable, Any]:
    """Fit what heads need of local features alone, which can be done before the service has answered.

    Parameters
    ----------
    features : future of ndarray of shape (n_images, n_features)
        Local features.
    block_sizes : tuple of int
        Number of features in each block.
    y : ndarray of shape (n_images,)
        Class indices.
    weights : ndarray of shape (n_images,)
        Weights of the images.
    n_classes : int
        Number of classes, including those without images.

    Returns
    -------
    shared : dict
        See `LabelledScores.once`.
    """
    no_scores, held_out = np.empty((len(y), n_classes)), np.zeros(len(y), bool)
    data = LabelledScores(no_scores, features.result(), block_sizes, y, weights, held_out)
    if LocalProbe.can_fit(data.counts):
        judge(LocalProbe(), data)
    return data.shared


def fit_without_prompt(
    scored: ScoredImages, head: Any, early: Future[dict[Hashable, Any]] | None = None
) -> WithoutPrompt:
    """Fit the baselines, and choose the head for images without prompts; needs no trained prompt.

    Parameters
    ----------
    scored : ScoredImages
        The training images.
    head : str, None or classifier
        See `choose_head`.
    early : future of dict or None, default=None
        Result of `fit_local_probe` for the same images.
    """
    plain = scored.without_prompt({} if early is None else early.result())
    baselines = fit_baselines(plain)
    fitted = {type(baseline.head): baseline for baseline in baselines.values()}
    return WithoutPrompt(baselines, choose_head(head, plain, fitted), plain.shared)


def decide(
    without: WithoutPrompt,
    scored: ScoredImages,
    last_answers: LastAnswers | None,
    head: Any,
    guard: bool,
) -> Decision:
    """Choose between the trained prompt and none, and choose the head.

    Parameters
    ----------
    without : WithoutPrompt
        The results of the same images without a prompt.
    scored : ScoredImages
        The training images.
    last_answers : (ndarray of shape (n,), ndarray of shape (n, n_classes)) or None
        Rows, and log scores of these images with the prompts of training's last steps.
    head : str, None or classifier
        See `choose_head`.
    guard : bool
        Whether to use the prompt only if it helps, see `prompt_helps`.
    """
    zero_shot = without.baselines["zero_shot"]
    used, result, comparison = False, without.chosen, "images with it were not scored"
    if np.isfinite(scored.prompted).all():
        prompted = choose_head(head, scored.with_prompt(last_answers, without.shared))
        comparison = f"log loss {prompted.log_loss:.3g} with it, {without.chosen.log_loss:.3g} without"
        used = not guard or prompt_helps(without.chosen, prompted, np.flatnonzero(scored.held_out))
        # The head without a prompt may be worse than the service's own answers, if it was asked for.
        if used and guard and prompted.is_worse(zero_shot):
            used, comparison = False, f"accuracy {prompted.accuracy:.3f} with it, {zero_shot.accuracy:.3f} zero-shot"
        result = prompted if used else result
    return Decision(used, result, comparison, _head_note(head, result, without.baselines))


def _head_note(head: Any, result: HeadResult, baselines: Mapping[str, HeadResult]) -> str:
    """Say so if the head is worse than the service's own answers, or if no head is better; else return nothing."""
    zero_shot = baselines["zero_shot"]
    own = f"the service's own answers (accuracy {zero_shot.accuracy:.3f}, log loss {zero_shot.log_loss:.3g})"
    if head == "auto" and not result.head.learns and len(baselines) > 1:
        # The result has the service's own answers, to images with the prompt if it is used.
        return (
            "No head classifies the training images better than the service's own answers (accuracy "
            f"{result.accuracy:.3f}), so predictions are the service's own."
        )
    if result.head.learns and result.is_worse(zero_shot):
        return (
            f"The {result.head.title} classifies the training images worse than {own}: accuracy "
            f"{result.accuracy:.3f}, log loss {result.log_loss:.3g}. Use head='auto', or head=None."
        )
    return ""


def choose_head(head: Any, data: LabelledScores, fitted: Mapping[type[Head], HeadResult] | None = None) -> HeadResult:
    """Choose a head, and fit it.

    Parameters
    ----------
    head : {"auto"}, the name of a head, None or classifier
        "auto": the first of the fused, the calibrated and the tempered head that no later one clearly beats; and the
        service's own, if a class has fewer than two images. A name, or None for the service's own: this head
        with its default parameters. A head for which there are too few images is replaced by its `fallback`.
    data : LabelledScores
        The training images.
    fitted : mapping or None, default=None
        Heads with default parameters that are fitted to the same data already, by their classes.
    """
    results = dict(fitted or {})

    def result_of(kind: type[Head]) -> HeadResult:
        if kind not in results:
            results[kind] = judge(kind(), data)
        return results[kind]

    if isinstance(head, str) and head == "auto":
        return _best(data, result_of)
    if head is None or isinstance(head, str):
        return result_of(_fallback(head_class(head), data.counts))
    own = make_head(head)
    return judge(own, data) if own.can_fit(data.counts) else result_of(_fallback(type(own), data.counts))


def check_head_fits(head: Any, n_scores: int, y: np.ndarray, weights: np.ndarray) -> None:
    """Raise a `ValueError` if a head cannot be fitted to images with these labels, see `Head.check_fits`."""
    if not isinstance(head, str):
        make_head(head).check_fits(n_scores, y, weights)


def _fallback(kind: type[Head], counts: np.ndarray) -> type[Head]:
    """Return the first of a head and its fallbacks for which there are enough images."""
    while not kind.can_fit(counts):
        kind = kind.fallback or ServiceHead
    return kind


def _best(data: LabelledScores, result_of: Callable[[type[Head]], HeadResult]) -> HeadResult:
    """Return the first candidate of ``head="auto"`` that no later one beats.

    A head that learns wins a doubtful case against the service's own answers, because with few images it is the better
    one more often (docs/method.md), unless these are right for more images and have the lower log loss, too. The
    service's answers to images with a prompt flatter those that the prompt was trained on, so heads are then compared
    on the others. If there are none, a head that learns wins in any case.
    """
    if data.counts.min() < _MIN_IMAGES:
        return result_of(ServiceHead)
    results = [result_of(kind) for kind in Head.candidates if kind.can_fit(data.counts)]
    held_out = np.flatnonzero(data.held_out)
    rows = held_out if data.prompted and len(held_out) > 1 else None
    results.sort(key=lambda result: not result.head.learns)
    if data.is_trained_on and rows is None:
        results = [result for result in results if result.head.learns] or results
    best = results[0]
    for result in results[1:]:
        if result.head.learns:
            is_better = best.is_worse(result)
        else:
            is_better = best.is_worse(result, rows) or best.is_beaten_by(result, rows)
        best = result if is_better else best
    return best


def prompt_helps(plain: HeadResult, prompted: HeadResult, held_out: np.ndarray) -> bool:
    """Tell whether images with prompts are classified better than images without.

    Parameters
    ----------
    plain, prompted : HeadResult
        The training images' results without and with their prompts.
    held_out : ndarray of int
        The images that the prompt was not trained on; may be empty.

    Returns
    -------
    helps : bool
        Whether the log loss is lower on all images, by more than two fits to the same scores differ, and on the
        held-out images not higher by more than a standard error.

    Notes
    -----
    The images that the prompt was trained on flatter it, but they are more numerous. The few held-out images cannot
    confirm a small gain, but they do expose a prompt that fits only the others. A loss counts for at most that of a
    uniform guess, so a single confident mistake does not decide.
    """
    chance = np.log(plain.held_out.shape[1])
    # (B18)
    gain = np.minimum(plain.losses, chance) - np.minimum(prompted.losses, chance)
    weights = plain.weights
    loss = np.average(np.minimum(plain.losses, chance), weights=weights)
    if np.average(gain, weights=weights) <= max(_MIN_GAIN * loss, _MIN_NATS):
        return False
    if not len(held_out):
        return True
    # (B19)
    gain, weights = gain[held_out], weights[held_out]
    standard_error = gain.std() / np.sqrt(len(gain))
    return bool(np.average(gain, weights=weights) > -standard_error)
