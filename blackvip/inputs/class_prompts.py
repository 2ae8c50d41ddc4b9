"""Class prompts: what the service is asked, one text per class."""

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
        A template that contains ``{}``, where the class's name goes; a dict from class label to
        prompt, which may hold more labels than are needed; or one prompt per class, in the order
        of `classes`. Where the labels are numbers none of which is in the dict, but all of which are
        places in it, as `VotingClassifier` and `StackingClassifier` make them of any labels, they
        are taken for the places of its sorted keys.
    classes : array-like of shape (n_classes,)
        The class labels, in the order in which the scores are returned.

    Returns
    -------
    class_prompts : list of str of length n_classes

    Raises
    ------
    ClassPromptError
        If a class has no prompt, or a prompt is not a text.

    Examples
    --------
    >>> make_class_prompts("a photo of a {}.", ["cat", "dog"])
    ['a photo of a cat.', 'a photo of a dog.']
    >>> make_class_prompts({"cat": "a cat", "dog": "a dog", "cow": "a cow"}, ["cat", "dog"])
    ['a cat', 'a dog']
    """
    classes = np.asarray(classes).tolist()  # plain labels, for the messages
    if isinstance(spec, str):
        if "{}" not in spec:
            raise ClassPromptError(
                f"The class prompt template {spec!r} has no '{{}}', so that every class would get the same "
                "prompt. Put '{}' where the class name goes, or pass a dict or one prompt per class."
            )
        prompts = [spec.replace("{}", str(label)) for label in classes]
    elif isinstance(spec, Mapping):
        spec = _by_position(spec, classes)
        missing = [label for label in classes if label not in spec]
        if missing:
            raise ClassPromptError(
                f"class_prompts has no prompt for the classes {missing}; it has them for {list(spec)}. "
                "Add the missing ones; the dict's keys are the class labels as they stand in y."
            )
        prompts = [spec[label] for label in classes]
    elif isinstance(spec, Sequence) or hasattr(spec, "tolist"):
        prompts = list(spec)
        if len(prompts) != len(classes):
            raise ClassPromptError(
                f"class_prompts has {len(prompts)} prompts, but y has {len(classes)} classes: {classes}. "
                "Pass one prompt per class in this order, or a dict from class to prompt, which may hold "
                "more classes than y."
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
    """The dict by the places of its sorted keys, where that is how the labels name them."""
    if any(label in spec for label in classes):
        return spec
    if not all(isinstance(label, int) and 0 <= label < len(spec) for label in classes):
        return spec
    return dict(enumerate(spec[key] for key in np.unique(list(spec)).tolist()))
