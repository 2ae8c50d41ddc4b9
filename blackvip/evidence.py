"""Evidence: what is known of the labelled images so far, all of it paid for."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from .controls import fit_controls
from .guard import prompt_helps
from .heads import JudgedHead, choose_head

__all__ = ["Evidence"]


@dataclass
class Evidence:
    """A row per labelled image; `partial_fit` adds rows, and keeps no images.

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

    def controls(self) -> dict[str, JudgedHead]:
        """What was free, fitted to all images."""
        return fit_controls(self.plain, self.features, self.y, self.weights)

    def decide(self, head: object, controls: dict[str, JudgedHead], guard: bool) -> tuple[bool, JudgedHead]:
        """Whether the prompt is used, and the head that goes with that.

        Parameters
        ----------
        head : {"auto", "calibrated"}, None or classifier
            See `choose_head`.
        controls : dict of str to JudgedHead
        guard : bool
            Whether the prompt must help.
        """
        rows = np.flatnonzero(self.held_out)
        judged = None
        if "calibrated_zero_shot" in controls:
            judged = controls["zero_shot"], controls["calibrated_zero_shot"]
        plain = choose_head(head, self.plain, self.y, self.weights, rows, judged)
        if not np.isfinite(self.prompted).all():
            return False, plain
        prompted = choose_head(head, self.prompted, self.y, self.weights, rows)
        used = not guard or prompt_helps(plain, prompted, rows)
        return used, prompted if used else plain
