"""Baselines: results without a prompt, from one billed image per training image."""

from __future__ import annotations

from .base import ServiceHead
from .calibrated import CalibratedHead
from .fused import FusedHead
from .judging import HeadResult, judge
from .local_probe import LocalProbe
from .scored import LabelledScores

__all__ = ["fit_baselines"]


def fit_baselines(plain: LabelledScores) -> dict[str, HeadResult]:
    """Fit the heads that need no prompt.

    Parameters
    ----------
    plain : LabelledScores
        The training images without prompts.

    Returns
    -------
    baselines : dict of str to HeadResult
        "zero_shot", "calibrated_zero_shot", "local_probe" and "fused_zero_shot"; only those for which there are
        enough images.
    """
    heads = {
        "zero_shot": ServiceHead(),
        "calibrated_zero_shot": CalibratedHead(),
        "local_probe": LocalProbe(),
        "fused_zero_shot": FusedHead(),
    }
    return {name: judge(head, plain) for name, head in heads.items() if head.can_fit(plain.counts)}
