"""Files of figures, and what benchmarks write about them into docs/."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

DOCS = pathlib.Path(__file__).parents[1] / "docs"
_MARKER = "<!-- What follows is written by {}. -->"


def read_lines(path: pathlib.Path) -> list[dict]:
    """The rows of a file of JSON lines; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def cell(values: Sequence[float], digits: int = 3) -> str:
    """Mean of some figures (least to greatest)."""
    if not len(values):
        return ""
    return f"{np.mean(values):.{digits}f} ({np.min(values):.{digits}f}-{np.max(values):.{digits}f})"


def write_below_marker(path: pathlib.Path, script: str, lines: Iterable[str]) -> None:
    """Replace what a script wrote into a page, and keep the words above it."""
    marker = _MARKER.format(script)
    words = path.read_text().partition(marker)[0].rstrip() if path.exists() else ""
    path.write_text("\n".join([words, "", marker, "", *lines]) + "\n")
