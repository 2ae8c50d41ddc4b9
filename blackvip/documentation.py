"""Display in notebooks: the diagram of an estimator's parts, the link to its documentation, and tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from html import escape
from importlib import metadata
from typing import Any

try:
    from sklearn.utils._repr_html.estimator import _VisualBlock
except ImportError:  # scikit-learn before 1.7
    from sklearn.utils._estimator_html_repr import _VisualBlock

__all__ = ["Documented", "Table", "aligned", "documentation_url", "pipeline_block"]


def documentation_url() -> str:
    """Return the URL of the documentation from the package's metadata, or "" if it has none."""
    try:
        urls = metadata.metadata("blackvip").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return ""
    return next((url.split(", ", 1)[1] for url in urls if url.startswith("Documentation, ")), "")


class Documented:
    """Mixin for estimators that link to their page in the documentation, where it has a public address."""

    _doc_link_module = "blackvip"
    _doc_link_template = "{url}api/blackvip.{name}.html"

    def _doc_link_url_param_generator(self) -> dict[str, str]:
        return {"url": documentation_url(), "name": type(self).__name__}

    def _get_doc_link(self) -> str:
        link: str = super()._get_doc_link() if documentation_url() else ""  # type: ignore[misc]
        return link


def pipeline_block(parts: dict[str, Any]) -> Any:
    """Make the diagram of an estimator whose named parts are applied one after another.

    Parameters
    ----------
    parts : dict of str to object
        Estimators, or names, in the order in which they are applied.

    Returns
    -------
    block : object
        The diagram that scikit-learn draws in a notebook.
    """
    return _VisualBlock("serial", list(parts.values()), names=list(parts), name_details=list(map(str, parts.values())))


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Align rows of cells in lines: the first cell of each is a name, and all others are numbers."""
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:]))])
        for row in cells
    )


class Table(ABC):
    """Base of results that print as an aligned table, and that a notebook shows as an HTML table."""

    #: A line below the table.
    note: str = ""

    @abstractmethod
    def _cells(self) -> list[Sequence[str]]:
        """Return rows of cells: the head first, and the name of each row in its first cell; all others hold numbers."""

    def __str__(self) -> str:
        return "\n".join([aligned(self._cells()), *([self.note] if self.note else [])])

    def _repr_html_(self) -> str:
        head, *rows = ([escape(cell) for cell in row] for row in self._cells())
        # A name's indentation tells that its row is a part of the one above.
        named = [(row[0].lstrip(), len(row[0]) - len(row[0].lstrip()), row[1:]) for row in rows]
        titles = "".join(f'<th scope="col">{cell}</th>' for cell in head)
        lines = [
            f'<tr><th scope="row" style="text-align: left; padding-left: {0.5 + indent}em">{name}</th>'
            + "".join(f'<td style="text-align: right">{cell}</td>' for cell in numbers)
            + "</tr>"
            for name, indent, numbers in named
        ]
        note = f"<p>{escape(self.note)}</p>" if self.note else ""
        return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(lines)}</tbody></table>{note}"
