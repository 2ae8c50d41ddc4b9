"""ScoredImages: what is known of the labelled images so far, all of it paid for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .baselines import fit_baselines
from .fused import Probes, fit_probes
from .judging import HeadResult, LastAnswers, choose_head

__all__ = ["ScoredImages", "WithoutPrompt", "prompt_helps"]

_LEAST_GAIN = 1e-3  # of the loss: less is the work of a regression's tolerance


@dataclass
class WithoutPrompt:
    """What a user has without a prompt.

    Attributes
    ----------
    controls : dict of str to HeadResult
        See `blackvip.controls`.
    plain : HeadResult
        The head that is used where no prompt is.
    probes : Probes or None
        What all fused heads have in common; None where a class has too few images for one.
    """

    controls: dict[str, HeadResult]
    plain: HeadResult
    probes: Probes | None


@dataclass
class ScoredImages:
    """A row per labelled image that was scored before and after training; `partial_fit` adds rows.

    Attributes
    ----------
    y : ndarray of shape (n_images,)
        Class indices.
    weights : ndarray of shape (n_images,)
    held_out : ndarray of shape (n_images,), bool
        Whether the prompt was not trained on the image.
    features : ndarray of shape (n_images, n_features)
        For the local probe.
    plain : ndarray of shape (n_images, n_classes)
        Log scores of the images as they are.
    prompted : ndarray of shape (n_images, n_classes)
        Log scores with the prompt at the end of the run in which the image came. NaN where they were not scored.
    """

    y: np.ndarray
    weights: np.ndarray
    held_out: np.ndarray
    features: np.ndarray
    plain: np.ndarray
    prompted: np.ndarray

    def after(self, earlier: ScoredImages | None) -> ScoredImages:
        """This behind what was known earlier."""
        if earlier is None:
            return self
        parts = {f.name: (getattr(earlier, f.name), getattr(self, f.name)) for f in fields(self)}
        return ScoredImages(**{name: np.concatenate(both) for name, both in parts.items()})

    def last(self, known: np.ndarray, rows: np.ndarray, log_scores: np.ndarray) -> LastAnswers:
        """LastAnswers answers to images of the last run, by their rows here; `known` are its images that stand here."""
        here = np.isin(rows, known)
        return np.searchsorted(known, rows[here]) + len(self.y) - len(known), log_scores[here]

    def free(self, head: object, block_sizes: tuple[int, ...]) -> WithoutPrompt:
        """What needs no prompt; it can be known before one is trained.

        Parameters
        ----------
        head : {"auto", "fused", "calibrated"}, None or classifier
            See `choose_head`.
        block_sizes : tuple of int
            How many features each of the local encoder's blocks has.
        """
        probes = self._fit_probes(block_sizes)
        controls = fit_baselines(self.plain, self.features, self.y, self.weights, block_sizes, probes)
        names = {"service": "zero_shot", "calibrated": "calibrated_zero_shot", "fused": "fused_zero_shot"}
        judged = {kind: controls[name] for kind, name in names.items() if name in controls}
        return WithoutPrompt(controls, self._chosen(head, self.plain, block_sizes, probes, judged=judged), probes)

    def decide(
        self,
        free: WithoutPrompt,
        head: object,
        guard: bool,
        block_sizes: tuple[int, ...],
        last_answers: LastAnswers | None = None,
    ) -> tuple[bool, HeadResult]:
        """Whether the prompt is used, and the head that goes with that.

        Parameters
        ----------
        free : Free
            Of this evidence.
        head : {"auto", "fused", "calibrated"}, None or classifier
            See `choose_head`.
        guard : bool
            Whether the prompt must help.
        block_sizes : tuple of int
            How many features each of the local encoder's blocks has.
        last_answers : (ndarray of shape (n,), ndarray of shape (n, n_classes)) or None
            Rows, and log scores of these images with the prompts of training's last steps.
        """
        if not np.isfinite(self.prompted).all():
            return False, free.plain
        prompted = self._chosen(head, self.prompted, block_sizes, free.probes, last_answers=last_answers)
        used = not guard or prompt_helps(free.plain, prompted, np.flatnonzero(self.held_out))
        return used, prompted if used else free.plain

    def _chosen(
        self, head: object, log_scores: np.ndarray, block_sizes: tuple[int, ...], probes: Probes | None, **known: Any
    ) -> HeadResult:
        held_out = np.flatnonzero(self.held_out)
        return choose_head(
            head, log_scores, self.features, self.y, self.weights, held_out, block_sizes, probes=probes, **known
        )

    def _fit_probes(self, block_sizes: tuple[int, ...]) -> Probes | None:
        """What all fused heads have in common; None where a class has too few images for one."""
        counts = np.bincount(self.y)
        if np.count_nonzero(counts) < 2 or counts[counts > 0].min() < 2:
            return None
        blocks = np.split(self.features, np.cumsum(block_sizes)[:-1], axis=1)
        index = np.unique(self.y, return_inverse=True)[1]
        return fit_probes(blocks, index, self.weights)


def prompt_helps(plain: HeadResult, prompted: HeadResult, held_out: np.ndarray) -> bool:
    """Whether prompted images are classified better than plain ones.

    Parameters
    ----------
    plain, prompted : HeadResult
        On the training images without and with their prompts.
    held_out : ndarray of int
        The images that the prompt was not trained on; may be empty.

    Returns
    -------
    helps : bool
        Whether the log loss is lower on all images, by more than two fits to the same scores differ, and on the
        held-out ones not higher by more than a standard error. Those that the prompt was trained on flatter it, but
        are the more numerous; the few held out say by themselves little about a small gain, but enough about a prompt
        that fits the others alone. No image counts for more than not knowing its class would, so that a single wrong
        answer that is sure does not decide.
    """
    chance = np.log(plain.held_out.shape[1])
    gain = np.minimum(plain.losses, chance) - np.minimum(prompted.losses, chance)
    weights = plain.weights
    if weights @ gain <= _LEAST_GAIN * (weights @ np.minimum(plain.losses, chance)):
        return False
    if not len(held_out):
        return True
    gain, weights = gain[held_out], weights[held_out]
    standard_error = gain.std() / np.sqrt(len(gain))
    return bool(np.average(gain, weights=weights) > -standard_error)
