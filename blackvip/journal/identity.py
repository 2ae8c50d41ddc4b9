"""Descriptions of objects in JSON, by which answers on disk are matched to the objects that they belong to.

Values named like secrets are left out. Objects that are not estimators are described by their class alone.
"""

from __future__ import annotations

import enum
import hashlib
import os
import re
import reprlib
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import torch

from ..inputs.decoding import as_array, is_tensor

__all__ = ["describe", "differences", "is_secret", "name_of"]

_SECRET = re.compile(
    r"(api|access|private)?keys?|auth(orization)?|bearer|cookies?|credentials?|pass(phrase|wd|word)|secrets?|session|"
    r"signature|tokens?"
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# Most differences that an error names.
_MOST_NAMED = 8


def describe(value: Any, open_names: bool = True) -> Any:
    """Describe a value as JSON that is the same in every process.

    Parameters
    ----------
    value : object
        Estimators are described by their class and parameters, functions and other objects by their name alone.
    open_names : bool, default=True
        Whether to include entries that are named like secrets.

    Returns
    -------
    description : object in JSON
        The description.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else repr(value)
    if isinstance(value, str):
        return str(value) if open_names else _without_credentials(value)
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()}
    if isinstance(value, np.ndarray) or is_tensor(value):
        array = np.ascontiguousarray(as_array(value))
        if array.dtype.kind == "O":
            return describe(array.tolist(), open_names)
        return {"array": f"{array.dtype} {list(array.shape)}", "sha256": hashlib.sha256(array.tobytes()).hexdigest()}
    if isinstance(value, Mapping):
        items = {key if isinstance(key, str) else repr(key): item for key, item in value.items()}
        return {key: describe(items[key], open_names) for key in sorted(items) if open_names or not is_secret(key)}
    if isinstance(value, (set, frozenset)):
        return sorted((describe(item, open_names) for item in value), key=repr)
    if isinstance(value, (list, tuple)):
        return [describe(item, open_names) for item in value]
    if isinstance(value, (os.PathLike, torch.device, torch.dtype, np.dtype, enum.Enum)):
        return str(value)
    if hasattr(type(value), "get_params"):
        return _described_estimator(value, open_names)
    return name_of(value)


def _described_estimator(estimator: Any, open_names: bool) -> dict[str, Any]:
    params = estimator.get_params(deep=False)
    relevant = getattr(estimator, "identity_params", None)
    if relevant is not None:
        params = {name: params[name] for name in relevant}
    return {"class": name_of(estimator), "params": describe(params, open_names)}


def name_of(value: Any) -> str:
    """Return the module and name of a function, or of an object's class."""
    # Bound arguments are left out, since one may be a key.
    while isinstance(value, partial):
        value = value.func
    named = value if isinstance(getattr(value, "__qualname__", None), str) else type(value)
    # A process that multiprocessing has spawned gives the main module another name.
    module = "__main__" if (module := getattr(named, "__module__", None)) == "__mp_main__" else module
    return f"{module}.{named.__qualname__}"


def is_secret(name: str) -> bool:
    """Return whether a name is that of a secret, such as ``api_key`` (but not ``tokenizer``)."""
    words = [word.lower() for word in _WORDS.findall(name)]
    return any(_SECRET.fullmatch(word) for word in (*words, "".join(words)))


def _without_credentials(text: str) -> str:
    """Remove the user, the password and the secrets in the query from an address."""
    if "://" not in text:
        return text
    try:
        parts = urlsplit(text)
    except ValueError:
        return "address"
    query = "&".join(item for item in parts.query.split("&") if not is_secret(item.partition("=")[0]))
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query))


def differences(found: Any, expected: Any) -> list[str]:
    """List the differences between two descriptions, for an error.

    Parameters
    ----------
    found : object in JSON
        The description on disk.
    expected : object in JSON
        The present description.

    Returns
    -------
    differences : list of str
        One phrase per difference, and at most a few of them; empty if the descriptions are equal.
    """
    named = list(_differences(found, expected, ""))
    more = len(named) - _MOST_NAMED
    return named[:_MOST_NAMED] + ([f"and {more} more"] if more > 0 else [])


def _differences(found: Any, expected: Any, name: str) -> Iterable[str]:
    if isinstance(found, dict) and isinstance(expected, dict):
        if "class" in found and "class" in expected and found["class"] != expected["class"]:
            found, expected = found["class"], expected["class"]
        else:
            missing = object()
            for key in sorted(found.keys() | expected.keys(), key=str):
                place = f"{name}.{key}" if name and key != "params" else name or key
                yield from _differences(found.get(key, missing), expected.get(key, missing), place)
            return
    if isinstance(found, list) and isinstance(expected, list):
        if len(found) != len(expected):
            yield f"{name} had {len(found)} entries and has {len(expected)} now"
            return
        for index, pair in enumerate(zip(found, expected)):
            yield from _differences(*pair, f"{name}[{index}]")
        return
    if found == expected and isinstance(found, bool) == isinstance(expected, bool):
        return
    if name.endswith("sha256"):
        yield f"{name.removesuffix('.sha256')} differ (SHA-256 {str(found)[:12]} then, {str(expected)[:12]} now)"
        return
    then, now = (reprlib.repr(side) if type(side) is not object else "not there" for side in (found, expected))
    yield f"{name} was {then} and is {now} now"
