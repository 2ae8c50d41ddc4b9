"""The leaderboard of a fit: the baselines, and what predictions use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..documentation import Table
from .judging import HeadResult

__all__ = ["Leaderboard"]


class Leaderboard(Table):
    """The baselines and the result of a fit, by cross-validation on the training images; printed, it is a table.

    Parameters
    ----------
    baselines : mapping of str to HeadResult
        Results without a prompt.
    result : HeadResult
        Result of what predictions use.
    prompt_used : bool
        Whether it is for images with the prompt.
    """

    def __init__(self, baselines: Mapping[str, HeadResult], result: HeadResult, prompt_used: bool):
        self.baselines = baselines
        self.result = result
        self.prompt_used = prompt_used

    def _cells(self) -> list[Sequence[str]]:
        """Return a row for each baseline, the best last, and one for what is used."""
        ranked = sorted(self.baselines.items(), key=lambda item: item[1].accuracy)
        used = f"used: {'prompt' if self.prompt_used else 'no prompt'}, {self.result.head.title}"
        rows = [*((name.replace("_", " "), result) for name, result in ranked), (used, self.result)]
        head = ("on training images", "accuracy", "log loss")
        return [head, *((name, f"{result.accuracy:.3f}", f"{result.log_loss:.3g}") for name, result in rows)]

    __repr__ = Table.__str__
