"""Match a service's labels with class prompts by their texts."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

__all__ = ["text_matches"]

Words = tuple[str, ...]

# How well a label's text matches.
_SAME, _EQUAL, _CONTAINED, _IN_PROMPT = 4, 3, 2, 1
_ARTICLES = frozenset({"a", "an", "the"})


def text_matches(labels: Sequence[str], class_prompts: Sequence[str]) -> np.ndarray:
    """Return which labels match which classes.

    From the best match to the worst: the label equals the class prompt; it has the same words apart from case,
    accents, punctuation and the plural; its words contain those of the class, or the other way round; its words occur
    in the class prompt. The words of a class are those of its prompt, without the words that all prompts begin and
    end with. A label may consist of several names, separated by commas or slashes. It matches its best class, or none
    if several classes tie. A class keeps only the labels that match it best.

    Parameters
    ----------
    labels : sequence of str
        Labels of a service.
    class_prompts : sequence of str
        One prompt per class.

    Returns
    -------
    matches : ndarray of shape (n_labels, n_classes), bool
        At most one True in each row.

    Examples
    --------
    >>> text_matches(["Cats", "Hot dog", "dog, domestic dog"], ["a photo of a cat.", "a photo of a dog."]).astype(int)
    array([[1, 0],
           [0, 0],
           [0, 1]])
    """
    matches: np.ndarray = _text_matches(tuple(labels), tuple(class_prompts)).copy()
    return matches


@functools.lru_cache(maxsize=8)
def _text_matches(labels: Words, class_prompts: Words) -> np.ndarray:
    index = _index_of(class_prompts)
    quality = np.zeros((len(labels), len(class_prompts)))
    for row, label in enumerate(labels):
        found = index.qualities(label)
        best = max(found.values(), default=0.0)
        classes = [column for column, value in found.items() if value == best]
        if len(classes) == 1:
            quality[row, classes[0]] = best
    return (quality > 0) & (np.floor(quality) == np.floor(quality.max(axis=0, initial=0)))


class _Index:
    """Index of classes by their texts and words."""

    def __init__(self, class_prompts: Words):
        prompts = [_words(prompt) for prompt in class_prompts]
        names = _without_template(prompts)
        self._by_text = _inverted([prompt] for prompt in class_prompts)
        self._by_name = _inverted([prompt, name] for prompt, name in zip(prompts, names))
        self._names = _inverted([name] for name in names)
        self._by_part = _inverted(_parts(name) for name in names)
        self._by_prompt_part = _inverted(_parts(prompt) for prompt in prompts)

    def qualities(self, label: str) -> dict[int, float]:
        """Return how well a label matches classes; if one contains the other, more common words are better."""
        found: dict[int, float] = {}

        def note(classes: Iterable[int], quality: float) -> None:
            for column in classes:
                found[column] = max(found.get(column, 0.0), quality)

        note(self._by_text.get(label, ()), _SAME)
        for name in {label, *re.split(r"[,;/|]", label)}:
            words = _words(name)
            common = 1 - 1 / (1 + len(words))
            note(self._by_name.get(words, ()), _EQUAL)
            note(self._by_part.get(words, ()), _CONTAINED + common)
            note(self._by_prompt_part.get(words, ()), _IN_PROMPT + common)
            for part in _parts(words):
                note(self._names.get(part, ()), _CONTAINED + 1 - 1 / (1 + len(part)))
        return found


_index_of = functools.lru_cache(maxsize=8)(_Index)


def _words(text: str) -> Words:
    """Split a text into words without case, accents, punctuation, leading articles and the plural's s."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    words = re.findall(r"[^\W_]+", plain.casefold())
    while words and words[0] in _ARTICLES:
        words = words[1:]
    return tuple(word[:-1] if len(word) > 3 and word[-1] == "s" and word[-2] != "s" else word for word in words)


def _without_template(prompts: list[Words]) -> list[Words]:
    """Remove the words that all prompts begin and end with, as long as something is left of each prompt."""
    names = list(prompts)
    for first, rest in ((0, slice(1, None)), (-1, slice(None, -1))):
        while len(names) > 1 and all(len(name) > 1 for name in names) and len({name[first] for name in names}) == 1:
            names = [name[rest] for name in names]
    return [name[1:] if len(name) > 1 and name[0] in _ARTICLES else name for name in names]


def _parts(words: Words) -> set[Words]:
    """Return all contiguous runs of these words."""
    return {words[i:j] for i in range(len(words)) for j in range(i + 1, len(words) + 1)}


def _inverted(keys_of_classes: Iterable[Iterable[object]]) -> dict[object, set[int]]:
    classes: dict[object, set[int]] = {}
    for column, keys in enumerate(keys_of_classes):
        # A text without words matches nothing.
        for key in filter(None, keys):
            classes.setdefault(key, set()).add(column)
    return classes
