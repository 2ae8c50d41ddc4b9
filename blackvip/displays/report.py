"""The report: a fit and its results on other images, in one self-contained HTML file.

Everything that comes from labels, paths and services is text that jinja2 escapes. The file's content security policy
allows neither scripts nor other addresses.
"""

from __future__ import annotations

import base64
import inspect
import io
import math
import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from itertools import chain, zip_longest
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._version import __version__
from ..exceptions import PersistenceError
from ..inputs.labels import check_labels
from ..journal.identity import describe, name_of
from ..persistence.format import write
from ..process.settings import usual_settings
from ..scorers.declarations import declared
from ..scorers.wrappers import innermost
from ..training.costs import duration
from .confusion import ConfusionChangeDisplay
from .costs import CostCurveDisplay
from .curves import BASELINE_NAMES, QueryCurveDisplay
from .drawing import Display, check_fitted, counted, only_axes
from .gains import GainDisplay
from .prompts import PromptDisplay

__all__ = ["report"]

_DPI, _CSS_DPI = 200, 96
# A picture is scaled down to this share of its size on a narrow page, and scrolled beyond that.
_LEAST_SCALE = 0.63
_MOST_CLASSES = 15  # in the confusion matrix
_LONGEST = 300  # characters of a parameter's value
_ENDINGS = {
    "budget": "its budget was spent",
    "no_gain": "no further rung of the ladder helped",
    "ceiling": "nothing was left to gain",
    "no_improvement": "the held-out images stopped improving",
    "nothing_to_train": "the prompter has nothing to train",
    "callback": "a callback stopped it",
    "interrupted": "it was interrupted",
    "error": "the score function failed",
}


class _Results(NamedTuple):
    """Results on the test images.

    Attributes
    ----------
    y : ndarray of shape (n_images,)
        True labels.
    before, after : ndarray of shape (n_images,)
        Labels predicted by the service alone, without and with the prompt.
    hits : dict of str to int
        Number of correct predictions of each baseline, of "prompt" and of "classifier".
    """

    y: np.ndarray
    before: np.ndarray
    after: np.ndarray
    hits: dict[str, int]

    @classmethod
    def of(cls, estimator: Any, found: Any) -> _Results:
        before, after = (estimator.classes_[scores.argmax(axis=1)] for scores in (found.plain, found.prompted))
        hits = {name: int((labels == found.y).sum()) for name, labels in found.labels.items()}
        return cls(found.y, before, after, hits)


@usual_settings()
def report(clf: Any, path: str | PathLike[str], X: Any, y: Any, *, n_examples: int = 4) -> dict[str, float]:
    """Write a report of a fit and its results on other images to one HTML file; bills two images each.

    Each image is sent once without and once with its prompt, or just once if the prompt is not used
    (``prompt_used_`` is False). The report has the accuracies of the classifier, of the prompt alone and of the
    baselines, all displays with alternative texts, the cost and the parameters. The file loads nothing from elsewhere
    and runs no code. It names the score function, but holds none of its parameters. Needs matplotlib and jinja2.

    Parameters
    ----------
    clf : BlackVIPClassifier
        A fitted classifier.
    path : str or path-like
        The HTML file. An existing file is replaced at once when the report is complete.
    X : images, in any form that `fit` takes
        Test images that the classifier has not seen.
    y : array-like of shape (n_images,)
        Labels of the images. The report counts images of a class that was not trained as mistakes, and says so.
    n_examples : int, default=4
        Number of images to show. They alternate between mistakes that the prompt repaired, mistakes that it made,
        and images that stayed wrong or correct.

    Returns
    -------
    accuracies : dict of str to float
        Accuracy on these images of each of `baselines_`, of the service's own predictions with the prompt ("prompt"),
        and of the classifier ("classifier").

    Raises
    ------
    ImportError
        If matplotlib or jinja2 is missing.
    ValueError
        If images or labels are unusable, the folder does not exist, or the file cannot be written
        (`PersistenceError`). As far as possible, this is checked before any image is sent.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from blackvip import BlackVIPClassifier, report
    >>> def service(images, class_prompts):  # believes that bright means day
    ...     day = images.mean(axis=(1, 2, 3)) / 255
    ...     return 20 * np.stack([day - 0.5, 0.5 - day], axis=1)
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["night", "day"], 40)  # every photo is underexposed
    >>> X = rng.uniform(0, 0.3, (80, 16, 16)) + np.where(y == "day", 0.15, 0)[:, None, None]
    >>> clf = BlackVIPClassifier(service, "a photo taken at {}", max_queries=1000, random_state=0)
    >>> clf = clf.fit(X[::2], y[::2])
    >>> found = report(clf, os.path.join(tempfile.mkdtemp(), "fit.html"), X[1::2], y[1::2])
    >>> found["zero_shot"], found["classifier"]
    (0.5, 1.0)
    """
    check_fitted(clf, "report")
    template = _template()
    _check_target(path)
    if not isinstance(n_examples, Integral) or n_examples < 1:
        raise ValueError(f"n_examples={n_examples!r}; expected a whole number of images, at least 1.")
    found = clf.compare_prompt(X, check_labels(y), heads=True, some_unknown=True)
    results = _Results.of(clf, found)
    examples = PromptDisplay.prepare(clf, found, _examples(results, int(n_examples)))
    page = template.render(
        title="Report of a fit",
        subtitle=_subtitle(clf, len(results.y)),
        figures=_figures(clf, results),
        warnings=list(_warnings(clf, results)),
        accuracies=_accuracies(clf, results),
        pictures=list(_pictures(clf, results, examples)),
        cost=_cost(clf, found.n_queries, found.seconds),
        ending=_ending(clf),
        parameters=_parameters(clf),
        origin=_origin(),
    )
    try:
        write(path, page.encode())
    except PersistenceError as error:
        raise PersistenceError(f"{path} cannot be written: {error}.") from error
    return {name: n_hits / len(results.y) for name, n_hits in results.hits.items()}


def _template() -> Any:
    """Load the page's template, which escapes its fields; raise an error that says which package is missing."""
    try:
        import jinja2
        import matplotlib  # noqa: F401  checked here, before any image is sent
    except ImportError as error:
        raise ImportError(
            f"A report needs matplotlib and jinja2, and {error.name} is missing; install them with "
            "`pip install blackvip[plot]`."
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("blackvip"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("report.html")


def _check_target(path: str | PathLike[str]) -> None:
    """Refuse a path that obviously cannot be written."""
    target = Path(path).expanduser()
    if target.is_dir():
        raise PersistenceError(f"{path} is a folder; expected the path of a file, such as {target / 'fit.html'}.")
    if not target.parent.is_dir():
        raise PersistenceError(f"{path} cannot be written: there is no folder {target.parent}. Create it first.")


def _examples(results: _Results, n: int) -> np.ndarray:
    """Rows of images to show: in turn one that was repaired, became wrong, stayed wrong and stayed correct."""
    was_right, is_right = results.before == results.y, results.after == results.y
    kinds = [~was_right & is_right, was_right & ~is_right, ~was_right & ~is_right, was_right & is_right]
    turns = zip_longest(*(np.flatnonzero(kind).tolist() for kind in kinds))
    return np.array([row for row in chain.from_iterable(turns) if row is not None][:n])


def _subtitle(estimator: Any, n_images: int) -> str:
    size = f"{estimator.image_format_.height} x {estimator.image_format_.width}"
    return (
        f"Service {_service_name(estimator)}, {len(estimator.classes_):,d} classes, images of {size} pixels: "
        f"trained on {len(estimator.scored_images_.y):,d}, tested on {n_images:,d} others."
    )


def _service_name(estimator: Any) -> str:
    """Name of the score function's class or function, never its parameters or repr, which may hold a key."""
    return name_of(innermost(estimator.score_fn)).removeprefix("__main__.")


def _figures(estimator: Any, results: _Results) -> list[dict[str, str]]:
    """Figures at the top of the page."""
    n = len(results.y)
    shares = {name: f"{n_hits / n:.3f}" for name, n_hits in results.hits.items()}
    low, high = _interval(results.hits["classifier"], n)
    was_right, is_right = results.before == results.y, results.after == results.y
    repaired, made = int((~was_right & is_right).sum()), int((was_right & ~is_right).sum())
    change = {
        "title": "Mistakes of the service",
        "value": f"{repaired:,d} repaired",
        "note": f"by the prompt, and {made:,d} made",
    }
    unused = {"title": "Prompt", "value": "not used", "note": "images are sent without a prompt"}
    return [
        {
            "title": "Accuracy",
            "value": shares["classifier"],
            "note": f"of this classifier (95 % interval {low:.3f} to {high:.3f})",
        },
        {
            "title": "Without a prompt",
            "value": shares["zero_shot"],
            "note": "accuracy of the service alone",
        },
        change if estimator.prompt_used_ else unused,
        {"title": "Billed by the fit", "value": f"{estimator.n_queries_:,d}", "note": "images; a prediction bills one"},
    ]


def _warnings(estimator: Any, results: _Results) -> Iterable[str]:
    """Warnings that the reader must not miss."""
    if not estimator.prompt_used_:
        yield (
            "the prompt does not help. On the training images, the service predicts no better with it than without, "
            "so images are sent without it. More training images, another prompter or a larger budget may help."
        )
    best = max(estimator.baselines_, key=lambda name: results.hits[name])
    if results.hits[best] > results.hits["classifier"]:
        without, own = (results.hits[name] / len(results.y) for name in (best, "classifier"))
        yield (
            f"on these images, the {BASELINE_NAMES[best]} baseline has an accuracy of {without:.3f}, and this "
            f"classifier {own:.3f}. The baseline needs no trained prompt."
        )
    if estimator.termination_reason_ in ("interrupted", "error"):
        yield f"training ended before its budget was spent, because {_ENDINGS[estimator.termination_reason_]}."
    n_unknown = int((~np.isin(results.y, estimator.classes_)).sum())
    if n_unknown:
        yield f"{counted(n_unknown, 'test image')} of classes that were not trained count as mistakes of every method."


def _accuracies(estimator: Any, results: _Results) -> dict[str, Any]:
    n, n_train = len(results.y), len(estimator.scored_images_.y)
    titles = {**BASELINE_NAMES, "prompt": "prompt alone", "classifier": "this classifier"}
    rows = []
    for name, n_hits in results.hits.items():
        if name == "prompt" and not estimator.prompt_used_:
            continue
        baseline = estimator.baselines_.get(name)
        low, high = _interval(n_hits, n)
        held_out = "" if baseline is None else f"{baseline.accuracy:.3f}"
        is_free = baseline is not None and not baseline.head.needs_scores
        cells = [
            titles[name],
            f"{n_hits / n:.3f}",
            f"{low:.3f}–{high:.3f}",
            held_out,
            "0" if is_free else "1",
        ]
        rows.append({"cells": cells, "chosen": name == "classifier"})
    return {
        "caption": f"Accuracy on {counted(n, 'test image')}, with its 95 % interval, and images billed per prediction",
        "columns": _columns("method", "accuracy", "interval", "cross-validated", "billed images"),
        "rows": rows,
        "notes": [
            "Wilson's intervals. The first rows are the baselines without a prompt; their cross-validated accuracy "
            f"is that on the {counted(n_train, 'training image')}. Zero-shot and the prompt alone are the service's "
            "own predictions; all others come from a head or a local model."
        ],
    }


def _pictures(estimator: Any, results: _Results, examples: PromptDisplay) -> Iterable[dict[str, Any]]:
    confusion = ConfusionChangeDisplay.prepare(
        results.y, results.before, results.after, estimator.classes_, _MOST_CLASSES
    )
    yield _picture(
        examples,
        "Images and their prompts",
        "The middle column shows what the prompt changes; grey is no change. Below each image is the service's own "
        "prediction and its probability. The examples alternate between mistakes that the prompt repaired, mistakes "
        "that it made, and images that stayed wrong or correct.",
    )
    yield _picture(
        confusion,
        "Mistakes that the prompt repaired and made",
        "How many more (+) or fewer (−) images of a true class (row) the service itself predicts as a class (column). "
        "Blue is better, orange is worse.",
    )
    if estimator.cascade or estimator.max_views > 1:
        caption = "The least sure predictions are replaced by dearer ones, from the local head's to those of all views."
        yield _picture(CostCurveDisplay.prepare(estimator), "Accuracy and images per prediction", caption)
    if not estimator.history_:
        return
    yield _picture(
        QueryCurveDisplay.prepare(estimator),
        "Accuracy and loss against billed images",
        "Each point is a step, measured on its few training images; the line is the running mean. Horizontal lines "
        "are the baselines without a prompt, cross-validated on the training images.",
    )
    try:
        gains = GainDisplay.prepare(estimator)
    except ValueError:
        # A custom optimizer may report neither gains nor norms.
        return
    caption = "Step size and perturbation size, and the Euclidean norms of the gradient estimates and of the steps."
    yield _picture(gains, "Gains and steps", caption)


def _picture(display: Display, title: str, caption: str) -> dict[str, Any]:
    """Draw a display as a PNG inside a data URL, with its texts."""
    import matplotlib.style
    from matplotlib.figure import Figure

    data = io.BytesIO()
    # Ignore the caller's style but keep the font: another one may lack the letters of the class names.
    font = {name: matplotlib.rcParams[name] for name in ("font.family", "font.sans-serif", "font.serif")}
    with matplotlib.style.context(["default", font]):
        figure = Figure(figsize=display.size)
        display.plot(only_axes(figure))
        figure.savefig(data, format="png", dpi=_DPI)
    width, height = (round(side * _CSS_DPI) for side in display.size)
    return {
        "title": title,
        "caption": caption,
        "alt": display.describe(),
        "source": "data:image/png;base64," + base64.b64encode(data.getvalue()).decode(),
        "width": width,
        "height": height,
        "least_width": math.ceil(_LEAST_SCALE * width),
        "wide": width > 600,
    }


def _cost(estimator: Any, n_queries: int, waited: float) -> dict[str, Any]:
    price = declared(estimator.score_fn, "price_per_image")
    rate = estimator.seconds_per_image_
    parts = [
        ("this fit", estimator.n_queries_, None if rate is None else rate * estimator.n_queries_),
        ("this report", n_queries, waited),
        ("1,000 predictions", 1000, None if rate is None else 1000 * rate),
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
        "columns": _columns("for", "billed images", "time", *([] if price is None else ["price"])),
        "rows": rows,
        "notes": [
            sentence + " The time of the fit is its number of images times the mean time per image in its last run."
        ],
    }


def _ending(estimator: Any) -> str:
    reason, prompter = _ENDINGS[estimator.termination_reason_], type(estimator.coordinator_).__name__
    return (
        f"Training made {counted(estimator.n_iter_, 'step')} of {type(estimator.optimizer_).__name__} on the "
        f"{counted(estimator.coordinator_.n_parameters_, 'parameter')} of {prompter}, and ended because {reason}. The "
        f"head is {estimator.head_.title}. Scores were read as {estimator.score_format_.finding}"
    )


def _parameters(estimator: Any) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for name, parameter in inspect.signature(type(estimator)).parameters.items():
        value = _service_name(estimator) if name == "score_fn" else _shown(getattr(estimator, name))
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
    ours = type(value).__module__.partition(".")[0] in ("blackvip", "sklearn")
    if hasattr(value, "get_params") and not ours:
        return name_of(value)
    # In a mapping, a class may be called "key".
    text = _text(describe(value, open_names=isinstance(value, Mapping)))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


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


def _origin() -> str:
    names = ("scikit-learn", "numpy", "torch", "matplotlib")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    now = datetime.now(UTC)
    return (
        f"Written by blackvip {__version__} on {now:%Y-%m-%d} at {now:%H:%M} UTC, with {versions} and Python "
        f"{platform.python_version()}. This file is self-contained."
    )


def _columns(*titles: str, numbers: bool = True) -> list[dict[str, Any]]:
    """Describe the columns of a table; all but the first hold numbers."""
    return [{"title": title, "number": numbers and place > 0} for place, title in enumerate(titles)]


def _interval(n_hits: int, n: int) -> tuple[float, float]:
    """Compute Wilson's 95 % interval of a proportion (Wilson, 1927)."""
    z, p = 1.959964, n_hits / n
    centre, spread = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return max(0.0, (centre - spread) / (1 + z**2 / n)), min(1.0, (centre + spread) / (1 + z**2 / n))
