"""Settings of papers, as parameters of `BlackVIPClassifier`.

BlackVIPClassifier(score_fn, prompts, **presets.cvpr2023())
"""

from __future__ import annotations

from typing import Any

__all__ = ["cvpr2023"]

_CLIP_UNIT = 0.27  # of the pixel range: one unit of CLIP's normalised space, the mean of its three channels


def cvpr2023() -> dict[str, Any]:
    """BlackVIP as published (CVPR 2023): Coordinator, SPSA-GC with set gains, no head, no guard.

    Returns
    -------
    parameters : dict of str to object
        Its gains are those that most of the paper's data sets share (a = 0.01, c = 0.01, gamma = 0.1, momentum 0.9,
        p_eps = 1 in units of CLIP's normalised space, five directions on batches of 128), so that a step bills 1,280
        images. Neither the encoder, for which the paper has ViT-MAE, nor the budget is among them.
    """
    return {
        "prompter": "coordinator",
        "prompt_scale": _CLIP_UNIT,
        "optimizer": "spsa-gc",
        "a": 0.01,
        "c": 0.01,
        "alpha": 0.4,
        "gamma": 0.1,
        "stability": 1.0,
        "momentum": 0.9,
        "n_directions": 5,
        "clip": None,
        "batch_size": 128,
        "share_batch": True,
        "temperature": 1.0,
        "head": None,
        "guard": False,
    }
