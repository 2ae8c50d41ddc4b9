"""Presets by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

__all__ = ["preset_of"]

Preset = TypeVar("Preset")


def preset_of(preset: str | Preset, presets: Mapping[str, Preset], kind: type[Preset]) -> Preset:
    """Return the preset of a name; one that is given itself is returned unchanged.

    Raises
    ------
    ValueError
        If there is no preset of that name.
    """
    if not isinstance(preset, str):
        return preset
    if preset not in presets:
        raise ValueError(
            f"There is no preset {preset!r}; expected {', '.join(map(repr, presets))}, or a {kind.__name__}."
        )
    return presets[preset]
