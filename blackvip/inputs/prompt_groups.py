"""Prompt groups: which class prompts stand for which class, and how their scores become scores of classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

__all__ = ["ClassPrompts", "PromptGroups"]

#: One class prompt per class, or a list of them for each class.
ClassPrompts = list[str] | list[list[str]]


@dataclass(frozen=True)
class PromptGroups:
    """Class prompts of each class, in the order in which a service receives them.

    Parameters
    ----------
    of_classes : tuple of tuple of str
        At least one prompt for each class.
    """

    of_classes: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, class_prompts: Iterable[str | Iterable[str]]) -> PromptGroups:
        """Make groups from a sequence with one text, or a sequence of texts, for each class."""
        return cls(tuple((texts,) if isinstance(texts, str) else tuple(texts) for texts in class_prompts))

    @property
    def several(self) -> bool:
        """Whether a class has more than one prompt."""
        return any(len(texts) > 1 for texts in self.of_classes)

    @property
    def if_several(self) -> PromptGroups | None:
        """These groups if a class has more than one prompt; None if there is nothing to group."""
        return self if self.several else None

    @property
    def class_prompts(self) -> ClassPrompts:
        """One text per class, or a list of texts for each class if one of them has several."""
        return [list(texts) for texts in self.of_classes] if self.several else self.prompts

    @property
    def prompts(self) -> list[str]:
        """All prompts, those of the first class first."""
        return [text for texts in self.of_classes for text in texts]

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.of_classes)

    @property
    def prompt_classes(self) -> tuple[int, ...]:
        """Class index of each prompt that shares its class with others."""
        return tuple(k for k, texts in enumerate(self.of_classes) if len(texts) > 1 for _ in texts)

    def columns(self, log_scores: np.ndarray, gaps: np.ndarray) -> np.ndarray:
        """Compute the scores of the classes, and the deviations of single prompts from them (B25).

        Parameters
        ----------
        log_scores : ndarray of shape (n_images, n_prompts)
            Log scores of the prompts.
        gaps : ndarray of shape (n_images, n_prompts), bool
            Scores that say nothing about their prompt. The mean leaves them out, unless all scores of a class are gaps.

        Returns
        -------
        columns : ndarray of shape (n_images, n_classes + n_deviations)
            The mean log score of each class, then the deviations of the prompts in `prompt_classes` from their class's
            mean; 0 for a gap.
        """
        if not self.several:
            return log_scores
        sizes = np.array([len(texts) for texts in self.of_classes])
        first, owner = np.cumsum(sizes) - sizes, np.repeat(np.arange(len(sizes)), sizes)
        given = ~gaps
        given |= ~np.logical_or.reduceat(given, first, axis=1)[:, owner]
        total = np.add.reduceat(np.where(given, log_scores, 0), first, axis=1)
        means = total / np.add.reduceat(given, first, axis=1, dtype=int)
        deviations = np.where(gaps, 0, log_scores - means[:, owner])
        return np.hstack([means, deviations[:, sizes[owner] > 1]])
