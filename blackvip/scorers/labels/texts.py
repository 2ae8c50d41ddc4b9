"""Which of a service's labels mean a class, told by their texts."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

__all__ = ["text_matches"]

Words = tuple[str, ...]

_SAME, _EQUAL, _CONTAINED, _IN_PROMPT = 4, 3, 2, 1  # how well a label's text matches
_ARTICLES = frozenset({"a", "an", "the"})


def text_matches(labels: Sequence[str], class_prompts: Sequence[str]) -> np.ndarray:
    """Which labels mean which classes.

    In this order: a label is a class prompt; it has the same words but for case, accents, punctuation and the plural;
    its words contain those of the class or are contained in them; its words are in the class prompt. The words of a
    class are those of its prompt without what all prompts begin and end with. A label may be several names, with
    commas or slashes between them. It means the class that it matches best, and none where several are as good. Of
    the labels of a class only those are taken that match it best.

    Parameters
    ----------
    labels : sequence of str
    class_prompts : sequence of str

    Returns
    -------
    matches : ndarray of shape (n_labels, n_classes), bool

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
    """Classes by their texts and words."""

    def __init__(self, class_prompts: Words):
        prompts = [_words(prompt) for prompt in class_prompts]
        names = _without_template(prompts)
        self._by_text = _inverted([prompt] for prompt in class_prompts)
        self._by_name = _inverted([prompt, name] for prompt, name in zip(prompts, names))
        self._names = _inverted([name] for name in names)
        self._by_part = _inverted(_parts(name) for name in names)
        self._by_prompt_part = _inverted(_parts(prompt) for prompt in prompts)

    def qualities(self, label: str) -> dict[int, float]:
        """How well a label matches classes; of two that contain each other, more words in common are better."""
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
    """Words without case, accents, punctuation, outer articles and the plural's s."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    words = re.findall(r"[^\W_]+", plain.casefold())
    while words and words[0] in _ARTICLES:
        words = words[1:]
    return tuple(word[:-1] if len(word) > 3 and word[-1] == "s" and word[-2] != "s" else word for word in words)


def _without_template(prompts: list[Words]) -> list[Words]:
    """Prompts without the words that all of them begin and end with, as far as something is left of each."""
    names = list(prompts)
    for first, rest in ((0, slice(1, None)), (-1, slice(None, -1))):
        while len(names) > 1 and all(len(name) > 1 for name in names) and len({name[first] for name in names}) == 1:
            names = [name[rest] for name in names]
    return [name[1:] if len(name) > 1 and name[0] in _ARTICLES else name for name in names]


def _parts(words: Words) -> set[Words]:
    """All runs of words within these."""
    return {words[i:j] for i in range(len(words)) for j in range(i + 1, len(words) + 1)}


def _inverted(keys_of_classes: Iterable[Iterable[object]]) -> dict[object, set[int]]:
    classes: dict[object, set[int]] = {}
    for column, keys in enumerate(keys_of_classes):
        for key in filter(None, keys):  # a text without words is like no other
            classes.setdefault(key, set()).add(column)
    return classes
