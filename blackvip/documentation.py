"""Display of an estimator in a notebook: the diagram of its parts and the link to its documentation."""

from __future__ import annotations

from importlib import metadata
from typing import Any

try:
    from sklearn.utils._repr_html.estimator import _VisualBlock
except ImportError:  # scikit-learn before 1.7
    from sklearn.utils._estimator_html_repr import _VisualBlock

__all__ = ["Documented", "documentation_url", "pipeline_block"]


def documentation_url() -> str:
    """Return the URL of the documentation from the package's metadata, or "" if the package is not installed."""
    try:
        urls = metadata.metadata("blackvip").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return ""
    return next((url.split(", ", 1)[1] for url in urls if url.startswith("Documentation, ")), "")


class Documented:
    """Mixin for estimators that link to their page in the documentation."""

    _doc_link_module = "blackvip"
    _doc_link_template = "{url}api/blackvip.{name}.html"

    def _doc_link_url_param_generator(self) -> dict[str, str]:
        return {"url": documentation_url(), "name": type(self).__name__}


def pipeline_block(parts: dict[str, Any]) -> Any:
    """Make the diagram of an estimator whose named parts are applied one after another."""
    return _VisualBlock("serial", list(parts.values()), names=list(parts), name_details=list(map(str, parts.values())))
