"""Class prompts: one text per class, which a service receives with every image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..exceptions import ClassPromptError

__all__ = ["make_class_prompts"]


def make_class_prompts(spec: Any, classes: Any) -> list[str]:
    """Turn a template, a dict or a sequence into one class prompt per class.

    Parameters
    ----------
    spec : str, dict or sequence of str
        A template in which ``{}`` stands for the class's name; a dict from class label to prompt, which may hold more
        labels than are needed; or one prompt per class, in the order of `classes`. `VotingClassifier` and
        `StackingClassifier` replace labels by numbers. If no label is in the dict, and all are numbers from 0 to
        ``len(spec) - 1``, they are read as positions of its sorted keys.
    classes : array-like of shape (n_classes,)
        Class labels, in the order of the returned prompts.

    Returns
    -------
    class_prompts : list of str
        One prompt per class.

    Raises
    ------
    ClassPromptError
        If a class has no prompt, or if a prompt is not a text.

    Examples
    --------
    >>> make_class_prompts("a photo of a {}.", ["cat", "dog"])
    ['a photo of a cat.', 'a photo of a dog.']
    >>> make_class_prompts({"cat": "a cat", "dog": "a dog", "cow": "a cow"}, ["cat", "dog"])
    ['a cat', 'a dog']
    """
    # Messages show plain labels.
    classes = np.asarray(classes).tolist()
    if isinstance(spec, str):
        if "{}" not in spec:
            raise ClassPromptError(
                f"The class prompt template {spec!r} has no '{{}}', so every class would get the same prompt. Put "
                "'{}' where the class name goes, or pass a dict or one prompt per class."
            )
        prompts = [spec.replace("{}", str(label)) for label in classes]
    elif isinstance(spec, Mapping):
        spec = _by_position(spec, classes)
        missing = [label for label in classes if label not in spec]
        if missing:
            raise ClassPromptError(
                f"class_prompts has no prompt for the classes {missing}; it has prompts for {list(spec)}. "
                "Add the missing ones; the keys of the dict are the class labels in y."
            )
        prompts = [spec[label] for label in classes]
    elif isinstance(spec, Sequence) or hasattr(spec, "tolist"):
        prompts = list(spec)
        if len(prompts) != len(classes):
            raise ClassPromptError(
                f"class_prompts has {len(prompts)} prompts, but y has {len(classes)} classes: {classes}. "
                "Pass one prompt per class in this order, or a dict from class to prompt, which may hold more "
                "classes than y."
            )
    else:
        raise ClassPromptError(
            f"class_prompts is a {type(spec).__name__}; expected a template with '{{}}', a dict from class to "
            "prompt, or a sequence of prompts."
        )
    for label, prompt in zip(classes, prompts):
        if not isinstance(prompt, str):
            raise ClassPromptError(
                f"The prompt of class {label!r} is a {type(prompt).__name__}, {prompt!r}; expected a text."
            )
    return [str(prompt) for prompt in prompts]


def _by_position(spec: Mapping[Any, Any], classes: list[Any]) -> Mapping[Any, Any]:
    """Return the dict by the positions of its sorted keys if the labels are such positions, else unchanged."""
    if any(label in spec for label in classes):
        return spec
    if not all(isinstance(label, int) and 0 <= label < len(spec) for label in classes):
        return spec
    return dict(enumerate(spec[key] for key in np.unique(list(spec)).tolist()))
