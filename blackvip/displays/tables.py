"""Tables of the report: rows of texts with a caption and notes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..journal.identity import describe, name_of
from ..scorers.declarations import declared
from ..scorers.wrappers import innermost
from ..training.costs import duration
from .curves import BASELINE_NAMES
from .drawing import counted
from .findings import Results, images_per_prediction, trained_accuracy, wilson_interval

__all__ = ["accuracy_table", "cost_table", "parameter_table", "rung_table", "service_name"]

_LONGEST = 300  # characters of a parameter's value


def service_name(estimator: Any) -> str:
    """Return the name of the score function's class or function, never its parameters or repr, which may hold a key."""
    return name_of(innermost(estimator.score_fn)).removeprefix("__main__.")


def accuracy_table(estimator: Any, results: Results) -> dict[str, Any]:
    """Make the table of accuracies on the test images: baselines, the service with the prompt, and the classifier."""
    n, n_train = len(results.y), len(estimator.scored_images_.y)
    titles = {**BASELINE_NAMES, "prompt": "prompt alone", "classifier": "this classifier"}
    rows = []
    for name, hits in results.hits.items():
        if name == "prompt" and not estimator.prompt_used_:
            continue
        baseline = estimator.baselines_.get(name)
        low, high = wilson_interval(int(hits.sum()), n)
        held_out = "" if baseline is None else f"{baseline.accuracy:.3f}"
        if name == "classifier":
            held_out = f"{trained_accuracy(estimator):.3f}"
        n_images = 1.0 if name != "classifier" else images_per_prediction(estimator)
        if baseline is not None and not baseline.head.needs_scores:
            n_images = 0.0
        cells = [
            titles[name],
            f"{hits.mean():.3f}",
            f"{low:.3f}–{high:.3f}",
            held_out,
            f"{n_images:.2g}",
        ]
        rows.append({"cells": cells, "chosen": name == "classifier"})
    return {
        "caption": f"Accuracy on {counted(n, 'test image')}, with its 95 % interval, and billed images per prediction",
        "columns": _columns("method", "accuracy", "interval", "in training", "images"),
        "rows": rows,
        "notes": [
            f"Wilson's intervals. “In training” is cross-validated on the {counted(n_train, 'training image')}. "
            "Zero-shot and the prompt alone are the service's own predictions. All others come from a head or a local "
            "model."
        ],
    }


def rung_table(estimator: Any) -> dict[str, Any] | None:
    """Make the table of what each rung of the ladder adds on the training images; None without a ladder."""
    rows = []
    for rung in estimator.rungs_:
        cells = [
            rung["prompter"],
            f"{rung['own_accuracy']:.3f}",
            f"{rung['accuracy']:.3f}",
            f"{rung['log_loss']:.3g}",
            f"{rung['n_queries']:,d}",
        ]
        rows.append({"cells": cells, "chosen": rung["helps"]})
    if not rows:
        return None
    return {
        "caption": "What each part adds, on the training images",
        "columns": _columns("prompt", "service alone", "with head", "log loss", "billed so far"),
        "rows": rows,
        "notes": [
            "Each row is a rung of the ladder; those in bold were better than the row in bold above them. Accuracies "
            "with the head are cross-validated. Those of the service alone are too high for a trained prompt, which "
            "has seen these images."
        ],
    }


def cost_table(estimator: Any, n_queries: int, waited: float) -> dict[str, Any]:
    """Make the table of the billed images of the fit, of the report and of 1,000 predictions."""
    price = declared(estimator.score_fn, "price_per_image")
    rate = estimator.seconds_per_image_
    n_predicted = round(1000 * images_per_prediction(estimator))
    parts = [
        ("this fit", estimator.n_queries_, None if rate is None else rate * estimator.n_queries_),
        ("this report", n_queries, waited),
        ("1,000 predictions", n_predicted, None if rate is None else n_predicted * rate),
    ]
    rows = []
    for title, n_images, seconds in parts:
        cells = [title, f"{n_images:,d}", "" if seconds is None else duration(seconds)]
        rows.append({"cells": cells + ([] if price is None else [f"{n_images * price:,.2f}"]), "chosen": False})
    sentence = (
        "The service declares no price." if price is None else f"The service declares a price of {price:g} per image."
    )
    return {
        "caption": "Billed images, and time spent waiting for the service",
        "columns": _columns("for", "images", "time", *([] if price is None else ["price"])),
        "rows": rows,
        "notes": [
            sentence + " The time of the fit is its number of images times the mean time per image in its last run."
        ],
    }


def parameter_table(estimator: Any) -> dict[str, Any]:
    """Make the table of all parameters of the classifier; those that differ from their defaults come first."""
    rows: list[dict[str, Any]] = []
    for name, parameter in inspect.signature(type(estimator)).parameters.items():
        value = service_name(estimator) if name == "score_fn" else _shown(getattr(estimator, name))
        default = "required" if parameter.default is parameter.empty else _shown(parameter.default)
        rows.append({"cells": [name, value, "" if value == default else default], "chosen": False})
    rows.sort(key=lambda row: not row["cells"][2])
    return {
        "caption": "All parameters; those that differ from their defaults come first",
        "columns": _columns("parameter", "value", "default", numbers=False),
        "rows": rows,
    }


def _shown(value: Any) -> str:
    """Format a parameter in one line, without secrets: foreign objects are shown by name only."""
    # A pipeline may hold a foreign one.
    if hasattr(value, "get_params") and not all(map(_is_ours, (value, *value.get_params().values()))):
        return name_of(value)
    # In a mapping, a class may be called "key".
    text = _text(describe(value, open_names=isinstance(value, Mapping)))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _is_ours(value: Any) -> bool:
    """Return whether a value is not a foreign estimator."""
    return not hasattr(value, "get_params") or type(value).__module__.partition(".")[0] in ("blackvip", "sklearn")


def _text(described: Any, within: bool = False) -> str:
    """Format a result of `describe` as code; strings have quotes only `within` something else."""
    if isinstance(described, str) and not within:
        return described
    if isinstance(described, list):
        return f"[{', '.join(_text(item, within=True) for item in described)}]"
    if not isinstance(described, dict):
        return repr(described)
    if described.keys() == {"class", "params"}:
        params = [f"{name}={_text(value, within=True)}" for name, value in described["params"].items()]
        return f"{described['class'].rpartition('.')[2]}({', '.join(params)})"
    return f"{{{', '.join(f'{key!r}: {_text(value, within=True)}' for key, value in described.items())}}}"


def _columns(*titles: str, numbers: bool = True) -> list[dict[str, Any]]:
    """Describe the columns of a table; all but the first hold numbers."""
    return [{"title": title, "number": numbers and place > 0} for place, title in enumerate(titles)]
