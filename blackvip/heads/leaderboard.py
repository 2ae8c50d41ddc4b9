"""The leaderboard at the end of a fit: the baselines, the prompt, and what is used."""

from __future__ import annotations

from collections.abc import Mapping

from .decision import Decision
from .judging import HeadResult

__all__ = ["leaderboard"]


def leaderboard(baselines: Mapping[str, HeadResult], decision: Decision) -> str:
    """Compare the baselines and the result of a fit in a few lines, by cross-validation on the training images.

    Parameters
    ----------
    baselines : mapping of str to HeadResult
        Results without a prompt.
    decision : Decision
        Outcome of the fit.

    Returns
    -------
    table : str
        A line for each baseline, the best last; and a line for what is used.
    """
    used = f"{'prompt' if decision.prompt_used else 'no prompt'}, {decision.result.head.title}"
    ranked = sorted(baselines.items(), key=lambda item: item[1].accuracy)
    rows = [*((name.replace("_", " "), result) for name, result in ranked), (f"used: {used}", decision.result)]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'on training images':{width}}  accuracy  log loss"]
    lines += [f"{name:{width}}  {result.accuracy:8.3f}  {result.log_loss:8.3g}" for name, result in rows]
    return "\n".join(lines)
