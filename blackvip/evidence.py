"""Evidence: what is known of the labelled images so far, all of it paid for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .controls import fit_controls
from .fusion import Probes, fit_probes
from .guard import prompt_helps
from .judging import Further, JudgedHead, choose_head

__all__ = ["Evidence", "Free"]


@dataclass
class Free:
    """What a user has without a prompt.

    Attributes
    ----------
    controls : dict of str to JudgedHead
        See `blackvip.controls`.
    plain : JudgedHead
        The head that is used where no prompt is.
    probes : Probes or None
        What all fused heads have in common; None where a class has too few images for one.
    """

    controls: dict[str, JudgedHead]
    plain: JudgedHead
    probes: Probes | None


@dataclass
class Evidence:
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

    def after(self, earlier: Evidence | None) -> Evidence:
        """This behind what was known earlier."""
        if earlier is None:
            return self
        parts = {f.name: (getattr(earlier, f.name), getattr(self, f.name)) for f in fields(self)}
        return Evidence(**{name: np.concatenate(both) for name, both in parts.items()})

    def last(self, known: np.ndarray, rows: np.ndarray, log_scores: np.ndarray) -> Further:
        """Further answers to images of the last run, by their rows here; `known` are its images that stand here."""
        here = np.isin(rows, known)
        return np.searchsorted(known, rows[here]) + len(self.y) - len(known), log_scores[here]

    def free(self, head: object, block_sizes: tuple[int, ...]) -> Free:
        """What needs no prompt; it can be known before one is trained.

        Parameters
        ----------
        head : {"auto", "fused", "calibrated"}, None or classifier
            See `choose_head`.
        block_sizes : tuple of int
            How many features each of the local encoder's blocks has.
        """
        probes = self._fit_probes(block_sizes)
        controls = fit_controls(self.plain, self.features, self.y, self.weights, block_sizes, probes)
        names = {"service": "zero_shot", "calibrated": "calibrated_zero_shot", "fused": "fused_zero_shot"}
        judged = {kind: controls[name] for kind, name in names.items() if name in controls}
        return Free(controls, self._chosen(head, self.plain, block_sizes, probes, judged=judged), probes)

    def decide(
        self, free: Free, head: object, guard: bool, block_sizes: tuple[int, ...], further: Further | None = None
    ) -> tuple[bool, JudgedHead]:
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
        further : (ndarray of shape (n,), ndarray of shape (n, n_classes)) or None
            Rows, and log scores of these images with the prompts of training's last steps.
        """
        if not np.isfinite(self.prompted).all():
            return False, free.plain
        prompted = self._chosen(head, self.prompted, block_sizes, free.probes, further=further)
        used = not guard or prompt_helps(free.plain, prompted, np.flatnonzero(self.held_out))
        return used, prompted if used else free.plain

    def _chosen(
        self, head: object, log_scores: np.ndarray, block_sizes: tuple[int, ...], probes: Probes | None, **known: Any
    ) -> JudgedHead:
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
