"""Class prompts: one text or several for each class, which a service receives with every image."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from ..exceptions import ClassPromptError, ClassPromptWarning, warn_caller
from ..persistence.fields import LABEL, Field, ListOf, OneOf, Pairs, Reading, Writing, text
from ..persistence.format import expect
from .label_values import is_valid_text, label_key, plain_label, shown
from .prompt_groups import PromptGroups

__all__ = ["CLASS_PROMPTS", "MADE_PROMPTS", "EncodedClassPrompts", "make_class_prompts", "make_prompt_groups"]

_PLACE = re.compile(r"\{\s*\}")
# Modules of scikit-learn whose meta-estimators number the labels before they fit; `_base` runs in worker processes.
_ENCODING = {"sklearn.multiclass", *(f"sklearn.ensemble._{name}" for name in ("bagging", "base", "stacking", "voting"))}
_ENCODED_HINT = (
    " Meta-estimators such as VotingClassifier and OneVsRestClassifier replace labels by numbers before they fit."
)


class EncodedClassPrompts(dict[Any, Any]):
    """Class prompts by label, which may also be used with labels that were replaced by numbers.

    `VotingClassifier`, `StackingClassifier`, `BaggingClassifier` and others replace the labels by the numbers 0 to
    n - 1, in sorted order, before they fit. A plain dict of class prompts is then an error, because its keys are not
    the labels. This dict says that such numbers are meant as positions of its sorted keys, if there are exactly as many
    labels as keys. It never applies to booleans.

    Examples
    --------
    >>> from blackvip import EncodedClassPrompts
    >>> prompts = EncodedClassPrompts({"dog": "a dog", "cat": "a cat"})
    >>> make_class_prompts(prompts, ["cat", "dog"]), make_class_prompts(prompts, [0, 1])
    (['a cat', 'a dog'], ['a cat', 'a dog'])
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({super().__repr__()})"


def make_class_prompts(spec: Any, classes: Any, names: Mapping[Any, str] | None = None) -> list[str]:
    """Turn a template, a dict, a Series or a sequence into one class prompt per class.

    Parameters
    ----------
    spec : str, dict, Series or sequence of str
        A template in which ``{}`` stands for the class's name; a dict from class label to prompt, or a pandas Series
        with labels as its index, which may hold more labels than are needed; or one prompt per class, in the order of
        `classes`. `EncodedClassPrompts` is a dict for meta-estimators that replace labels by numbers.
    classes : array-like of shape (n_classes,)
        Class labels, in the order of the returned prompts.
    names : dict from label to str or None, default=None
        Names that a template uses instead of labels that are numbers or booleans, see `class_names`.

    Returns
    -------
    class_prompts : list of str
        One prompt per class.

    Raises
    ------
    ClassPromptError
        If a class has no prompt or several, or if a prompt is not a text, is blank, still has a ``{}``, or comes twice.

    Warns
    -----
    ClassPromptWarning
        If a template is filled with numbers or booleans.

    Examples
    --------
    >>> make_class_prompts("a photo of a {}.", ["cat", "dog"])
    ['a photo of a cat.', 'a photo of a dog.']
    >>> make_class_prompts({"cat": "a cat", "dog": "a dog", "cow": "a cow"}, ["cat", "dog"])
    ['a cat', 'a dog']
    """
    groups = make_prompt_groups(spec, classes, names)
    if groups.several:
        raise ClassPromptError(
            "class_prompts has several prompts for a class; expected one for each, since only BlackVIPClassifier takes "
            "several. Pass one template, or a dict from label to prompt."
        )
    return groups.prompts


def make_prompt_groups(spec: Any, classes: Any, names: Mapping[Any, str] | None = None) -> PromptGroups:
    """Turn templates, a dict, a Series or a sequence into the class prompts of each class.

    Parameters
    ----------
    spec : str, sequence of str, dict, Series, or sequence of sequence of str
        Class prompts as in `make_class_prompts`; or a list of templates, each of which makes a prompt for every class;
        or lists of prompts in place of single ones.
    classes, names
        Class labels and their names, as in `make_class_prompts`.

    Returns
    -------
    groups : PromptGroups
        The prompts of each class, in the order of `classes`.

    Raises
    ------
    ClassPromptError
        As `make_class_prompts` does, apart from classes with several prompts.

    Examples
    --------
    >>> make_prompt_groups(["a photo of a {}.", "a sketch of a {}."], ["cat", "dog"]).class_prompts
    [['a photo of a cat.', 'a sketch of a cat.'], ['a photo of a dog.', 'a sketch of a dog.']]
    >>> make_prompt_groups({"cat": ["a cat", "a kitten"], "dog": "a dog"}, ["cat", "dog"]).class_prompts
    [['a cat', 'a kitten'], ['a dog']]
    """
    # Messages show plain labels.
    labels = [plain_label(label) for label in (classes.tolist() if hasattr(classes, "tolist") else classes)]
    if getattr(spec, "ndim", None) == 0:
        spec = spec.item()
    prompts: list[list[Any]]
    if isinstance(spec, Mapping) or hasattr(spec, "iloc"):
        prompts = [_texts_of(value) for value in _looked_up(spec, labels)]
    elif (templates := _templates(spec)) is not None:
        filled = [_filled(template, labels, names or {}, warns=not n) for n, template in enumerate(templates)]
        prompts = [list(of_class) for of_class in zip(*filled)]
    else:
        prompts = [_texts_of(value) for value in _in_order(spec, labels)]
    prompts = [[plain_label(prompt) for prompt in of_class] for of_class in prompts]
    _check(prompts, labels, is_template=isinstance(spec, str))
    return PromptGroups.of(prompts)


def _templates(spec: Any) -> list[str] | None:
    """Return the templates in a text, or in a sequence of nothing but texts with a ``{}``; None if it is neither."""
    if isinstance(spec, str):
        return [spec]
    items = _as_sequence(spec)
    if not isinstance(items, Sequence) or isinstance(items, (bytes, bytearray)) or not len(items):
        return None
    items = [plain_label(item) for item in items]
    return items if all(isinstance(item, str) and _PLACE.search(item) for item in items) else None


def _texts_of(value: Any) -> list[Any]:
    """Return the prompts of a class as a list: one text, or a sequence of them."""
    value = _as_sequence(value)
    is_single = isinstance(value, (str, bytes, bytearray)) or not isinstance(value, Sequence)
    return [value] if is_single else list(value)


def _filled(template: str, labels: list[Any], names: Mapping[Any, str], warns: bool = True) -> list[str]:
    """Fill a template with the names of the classes; it may warn of labels without a name."""
    # Doubled braces are those of str.format that stay.
    if "{}" not in template.replace("{{}}", ""):
        raise ClassPromptError(
            f"The class prompt template {template[:100]!r} has no '{{}}', so every class would get the same prompt. "
            "Put '{}' where the class name goes, or pass a dict or one prompt per class."
        )
    blank = [label for label in labels if isinstance(label, str) and _is_blank(label)]
    if blank:
        raise ClassPromptError(
            f"The name of class {blank[0]!r:.60} is blank, so the template {template[:100]!r} cannot use it. If these "
            "labels are missing, leave their images out; if not, pass a dict from label to class prompt."
        )
    unnamed = [label for label in labels if not isinstance(label, str) and label not in names]
    prompts = [template.replace("{}", _name(label, names)) for label in labels]
    if unnamed and warns:
        kind = "booleans" if isinstance(unnamed[0], bool) else "numbers"
        warn_caller(
            f"The labels are {kind}, so the template {template[:100]!r} makes class prompts such as "
            f"{prompts[labels.index(unnamed[0])]!r}; a service seldom knows what they stand for. Pass a dict from "
            f"label to class prompt, such as {{{unnamed[0]!r}: 'a cat', ...}}, or pass the class prompts as a list if "
            "this is what you mean." + (_ENCODED_HINT if _inside_encoder() else ""),
            ClassPromptWarning,
        )
    return prompts


def _name(label: Any, names: Mapping[Any, str]) -> str:
    """Return the text for a class in a template: 2019.0 is written 2019."""
    if isinstance(label, str):
        return label
    return str(names.get(label, int(label) if isinstance(label, float) and label.is_integer() else label))


def _looked_up(spec: Any, labels: list[Any]) -> list[Any]:
    """Look labels up in a dict or in the index of a Series."""
    is_series = not isinstance(spec, Mapping)
    if is_series and getattr(spec, "ndim", 1) != 1:
        raise ClassPromptError(f"class_prompts is a {type(spec).__name__}; pass the column of the class prompts.")
    what, keys = ("index", "index") if is_series else ("dict", "keys")
    by_key: dict[Any, Any] = {}
    for label, prompt in spec.items():
        if label_key(label) in by_key:
            raise ClassPromptError(
                f"class_prompts has two prompts for the class {plain_label(label)!r}; expected each class once. Pass "
                "several prompts of a class as a list."
            )
        by_key[label_key(label)] = prompt
    # The labels that most meta-estimators make, and those of OutputCodeClassifier.
    numbered, coded = [("number", position) for position in range(len(labels))], [("number", -1), ("number", 1)]
    wanted = [label_key(label) for label in labels]
    missing = [label for label, key in zip(labels, wanted) if key not in by_key]
    known = [plain_label(label) for label in spec.keys()]  # noqa: SIM118  a Series iterates over its values
    if not missing:
        doubtful = wanted == coded or (wanted == numbered and len(by_key) > len(labels))
        if doubtful and _inside_encoder():
            raise ClassPromptError(
                f"class_prompts has {len(by_key)} prompts, but the labels are {shown(labels)}, and the "
                "meta-estimator around this classifier may have replaced others by these numbers."
                + _encoded_remedy(False)
            )
        return [by_key[key] for key in wanted]
    fits = wanted == numbered and len(by_key) == len(labels) and {kind for kind, _ in by_key} in ({"text"}, {"number"})
    if isinstance(spec, EncodedClassPrompts) and fits:
        return [by_key[key] for key in sorted(by_key)]
    hint = _encoded_remedy(fits) if wanted in (numbered, coded) else ""
    raise ClassPromptError(
        f"class_prompts has no prompt for the classes {shown(missing)}; it has prompts for {shown(known)}. "
        f"Add the missing ones; the {keys} of the {'Series' if is_series else what} must be the class labels in y, of "
        "the same type." + hint
    )


def _encoded_remedy(fits: bool) -> str:
    """Tell what to do about labels that a meta-estimator has replaced."""
    if fits:
        return (
            _ENCODED_HINT
            + " If that is the case here, pass blackvip.EncodedClassPrompts(class_prompts), whose sorted keys are "
            "numbered in the same way, or one prompt per class as a list."
        )
    return (
        _ENCODED_HINT + " Inside one of them, pass one prompt for each of the labels that the classifier receives, as "
        "a list in their order; if these are parts of a problem, such as one class against the rest, use the "
        "classifier without the meta-estimator."
    )


def _in_order(spec: Any, labels: list[Any]) -> list[Any]:
    """Take prompts in the order of the classes."""
    spec = _as_sequence(spec)
    if isinstance(spec, (bytes, bytearray, str)) or not isinstance(spec, Sequence):
        raise ClassPromptError(
            f"class_prompts is a {type(spec).__name__}; expected a template with '{{}}', a dict from class to "
            "prompt, or a sequence of prompts or templates."
        )
    prompts = list(spec)
    if len(prompts) != len(labels):
        is_template = any(isinstance(prompt, str) and _PLACE.search(prompt) for prompt in prompts)
        hint = " If these are templates, each must have a '{}'." if is_template else ""
        raise ClassPromptError(
            f"class_prompts has {len(prompts)} prompts, but y has {len(labels)} classes: {shown(labels)}. "
            "Pass one prompt per class in this order, or a dict from class to prompt, which may hold more "
            f"classes than y.{hint}"
        )
    return prompts


def _as_sequence(spec: Any) -> Any:
    for method in ("to_pylist", "to_list", "tolist"):
        if hasattr(spec, method) and not isinstance(spec, Sequence):
            spec = getattr(spec, method)()
    return spec


def _check(prompts: list[list[Any]], labels: list[Any], is_template: bool) -> None:
    """Raise a `ClassPromptError` if a class has no prompt, or one is not a text, is blank, unfilled or comes twice."""
    seen: dict[str, Any] = {}
    for label, of_class in zip(labels, prompts):
        if not of_class:
            raise ClassPromptError(f"The class {label!r} has an empty list of prompts; expected at least one text.")
    for label, prompt in ((label, prompt) for label, of_class in zip(labels, prompts) for prompt in of_class):
        if not isinstance(prompt, str):
            raise ClassPromptError(
                f"The prompt of class {label!r} is a {type(prompt).__name__}, {prompt!r:.100}; expected a text."
            )
        if _PLACE.search(prompt):
            remedy = "Rename the class" if is_template else "Write the name of the class, or pass nothing but templates"
            raise ClassPromptError(f"The prompt of class {label!r}, {prompt[:100]!r}, still has a '{{}}'. {remedy}.")
        if _is_blank(prompt):
            raise ClassPromptError(f"The prompt of class {label!r} is blank, {prompt[:100]!r}; expected a text.")
        if not is_valid_text(prompt):
            raise ClassPromptError(
                f"The prompt of class {label!r}, {prompt[:100]!r}, is not valid text, so it cannot be "
                "sent; expected text that UTF-8 can encode."
            )
        # Services do not tell texts apart that differ by their encoding or by spaces.
        compared = " ".join(unicodedata.normalize("NFC", prompt).split())
        if compared in seen and seen[compared] is label:
            raise ClassPromptError(
                f"The class {label!r} has the prompt {prompt[:100]!r} twice; expected different ones, apart from "
                "spaces."
            )
        if compared in seen:
            raise ClassPromptError(
                f"The classes {seen[compared]!r} and {label!r} have the same prompt, {prompt[:100]!r}; expected a "
                "different one for each class, apart from spaces."
            )
        seen[compared] = label


def _is_blank(text: str) -> bool:
    return all(unicodedata.category(char)[0] in "CZ" for char in text)


def _inside_encoder() -> bool:
    """Return whether a meta-estimator of scikit-learn that may replace labels by numbers is being fitted."""
    frame: Any = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") in _ENCODING:
            return True
        frame = frame.f_back
    return False


def _plain(value: Any) -> Any:
    """Return a prompt as a plain text, or the prompts of a class as a list of them."""
    value = _as_sequence(value)
    if isinstance(value, (list, tuple)):
        return (tuple if isinstance(value, tuple) else list)(map(_plain, value))
    return plain_label(value)


class _Mapped(Pairs):
    """A dict of class prompts, or a Series, which is stored as one."""

    def pack(self, value: Any, file: Writing, where: str) -> Any:
        if isinstance(value, Mapping) or hasattr(value, "iloc"):
            value = {plain_label(label): _plain(prompts) for label, prompts in value.items()}
        return super().pack(value, file, where)


class _Listed(ListOf):
    """A sequence of class prompts, of any kind."""

    def pack(self, value: Any, file: Writing, where: str) -> Any:
        return super().pack(_plain(value), file, where)


_TEXTS = OneOf(text(), ListOf(text()))


class _Encoded(Field):
    """`EncodedClassPrompts`."""

    _pairs = _Mapped(LABEL, _TEXTS)

    def pack(self, value: Any, file: Writing, where: str) -> Any:
        expect(isinstance(value, EncodedClassPrompts), f"{where} is a {type(value).__name__}")
        return {"encoded": self._pairs.pack(value, file, where)}

    def unpack(self, packed: Any, file: Reading, where: str) -> Any:
        expect(isinstance(packed, dict) and packed.keys() == {"encoded"}, f"{where} is not a dict of encoded prompts")
        return EncodedClassPrompts(self._pairs.unpack(packed["encoded"], file, where))


#: Field of the parameter `class_prompts` in a file.
CLASS_PROMPTS = OneOf(text(), _Encoded(), _Mapped(LABEL, _TEXTS), _Listed(_TEXTS))
#: Field of the attribute `class_prompts_`.
MADE_PROMPTS = OneOf(ListOf(text()), ListOf(ListOf(text())))
