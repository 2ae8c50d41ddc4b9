"""JSON templates: bodies of requests, with names in braces for what changes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .encoding import to_base64

__all__ = ["filled", "is_repeatable", "placeholders"]

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_LEFT_OUT = object()


def placeholders(template: Any) -> set[str]:
    """Return the names in braces of a template."""
    if isinstance(template, str):
        return set(_PLACEHOLDER.findall(template))
    parts = template.values() if isinstance(template, Mapping) else template if isinstance(template, list) else ()
    return {name for part in parts for name in placeholders(part)}


def is_repeatable(template: Any, names: set[str]) -> bool:
    """Return whether all placeholders of these names are in lists, which can be repeated for several items."""
    if isinstance(template, Mapping):
        return all(is_repeatable(part, names) for part in template.values())
    return isinstance(template, list) or not names & placeholders(template)


def filled(template: Any, values: Mapping[str, Any], items: Sequence[Mapping[str, Any]] = ({},)) -> Any:
    """Fill in a template.

    A text that is a single placeholder becomes its value, of any type. Within a longer text, the value is inserted,
    bytes in base64.
    What has the value None is left out, and so are objects and lists that are empty without it.

    Parameters
    ----------
    template : object
        JSON with placeholders such as ``"{model}"`` in its texts.
    values : mapping
        From names to values.
    items : sequence of mapping, default=({},)
        Further values of each item. If there are several, the outermost list that has one of their names is repeated
        for each of them, see `is_repeatable`.

    Returns
    -------
    value : object

    Examples
    --------
    >>> template = {"model": "{model}", "input": [{"text": "{text}"}], "size": "{size}"}
    >>> filled(template, {"model": "m", "size": None}, [{"text": "a cat"}, {"text": "a dog"}])
    {'model': 'm', 'input': [{'text': 'a cat'}, {'text': 'a dog'}]}
    """
    if len(items) == 1:
        return _filled(template, {**values, **items[0]}, [])
    return _filled(template, values, items)


def _filled(part: Any, values: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> Any:
    """Fill in a part of a template that is yet to be repeated for some items."""
    if isinstance(part, str):
        whole = _PLACEHOLDER.fullmatch(part)
        if whole and whole[1] in values:
            return _LEFT_OUT if values[whole[1]] is None else values[whole[1]]
        # All at once, since a value may have braces of its own.
        return _PLACEHOLDER.sub(lambda found: _as_text(values.get(found[1], found[0])), part)
    if isinstance(part, list) and {name for item in items for name in item} & placeholders(part):
        return [_filled(entry, {**values, **item}, []) for item in items for entry in part]
    if isinstance(part, list):
        kept: Any = [value for entry in part if (value := _filled(entry, values, items)) is not _LEFT_OUT]
    elif isinstance(part, Mapping):
        members = {name: _filled(value, values, items) for name, value in part.items()}
        kept = {name: value for name, value in members.items() if value is not _LEFT_OUT}
    else:
        return part
    return _LEFT_OUT if part and not kept else kept


def _as_text(value: Any) -> str:
    return to_base64(value) if isinstance(value, bytes) else str(value)
