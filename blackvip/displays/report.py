"""The report: a fit and its results on other images, in one self-contained HTML file.

Everything that comes from labels, paths and services is text that jinja2 escapes. The file's content security policy
allows neither scripts nor other addresses.
"""

from __future__ import annotations

import base64
import io
import math
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from itertools import chain, zip_longest
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..exceptions import PersistenceError
from ..inputs.labels import check_labels
from ..persistence.format import write
from ..process.settings import usual_settings
from .confusion import ConfusionChangeDisplay
from .costs import CostCurveDisplay
from .curves import QueryCurveDisplay
from .drawing import Display, check_fitted, counted, only_axes
from .findings import (
    Results,
    describe_ending,
    price_of_prediction,
    recommendation,
    uncertainties,
    wilson_interval,
)
from .gains import GainDisplay
from .prompts import PromptDisplay
from .tables import accuracy_table, cost_table, parameter_table, rung_table, service_name

__all__ = ["report"]

_DPI, _CSS_DPI = 200, 96
# A picture is scaled down to this share of its size on a narrow page, and scrolled beyond that.
_LEAST_SCALE = 0.63
_MOST_CLASSES = 15  # in the confusion matrix


@usual_settings()
def report(clf: Any, path: str | PathLike[str], X: Any, y: Any, *, n_examples: int = 4) -> dict[str, float]:
    """Write a report of a fit and its results on test images to one HTML file; bills each image twice.

    Each image is sent once without and once with its prompt, or just once if the prompt is not used
    (``prompt_used_`` is False). The report begins with a recommendation. Then come the accuracies of the classifier, of
    the prompt alone and of the baselines, what each part adds, what is uncertain, all displays with alternative texts,
    the cost and the parameters. The file loads nothing from elsewhere and runs no code. It names the score function,
    but contains none of its parameters. Needs matplotlib and jinja2.

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
    results = Results.of(clf, found)
    examples = PromptDisplay.prepare(clf, found, _examples(results, int(n_examples)))
    page = template.render(
        title="Report of a fit",
        subtitle=_subtitle(clf, len(results.y)),
        figures=_figures(clf, results),
        recommendation=recommendation(clf, results),
        warnings=list(_warnings(clf, results)),
        accuracies=accuracy_table(clf, results),
        rungs=rung_table(clf),
        found=_found(clf, results),
        pictures=list(_pictures(clf, results, examples)),
        cost=cost_table(clf, found.n_queries, found.seconds),
        parameters=parameter_table(clf),
        origin=_origin(),
    )
    try:
        write(path, page.encode())
    except PersistenceError as error:
        raise PersistenceError(f"{path} cannot be written: {error}.") from error
    return {name: results.accuracy(name) for name in results.hits}


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


def _examples(results: Results, n: int) -> np.ndarray:
    """Choose rows of images to show: in turn one that was repaired, became wrong, stayed wrong and stayed correct."""
    was_right, is_right = results.before == results.y, results.after == results.y
    kinds = [~was_right & is_right, was_right & ~is_right, ~was_right & ~is_right, was_right & is_right]
    turns = zip_longest(*(np.flatnonzero(kind).tolist() for kind in kinds))
    return np.array([row for row in chain.from_iterable(turns) if row is not None][:n])


def _subtitle(estimator: Any, n_images: int) -> str:
    size = f"{estimator.image_format_.height} x {estimator.image_format_.width}"
    return (
        f"Service {service_name(estimator)}, {len(estimator.classes_):,d} classes, images of {size} pixels: "
        f"trained on {len(estimator.scored_images_.y):,d}, tested on {n_images:,d} others."
    )


def _figures(estimator: Any, results: Results) -> list[dict[str, str]]:
    """Return the figures at the top of the page."""
    low, high = wilson_interval(int(results.hits["classifier"].sum()), len(results.y))
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
            "value": f"{results.accuracy('classifier'):.3f}",
            "note": f"of this classifier (95 % interval {low:.3f} to {high:.3f})",
        },
        {
            "title": "Service alone",
            "value": f"{results.accuracy('zero_shot'):.3f}",
            "note": "accuracy without a prompt or head",
        },
        change if estimator.prompt_used_ else unused,
        {
            "title": "Billed by the fit",
            "value": f"{estimator.n_queries_:,d}",
            "note": f"images, then {price_of_prediction(estimator)}",
        },
    ]


def _warnings(estimator: Any, results: Results) -> Iterable[str]:
    """Return the warnings that the reader must not miss."""
    if not estimator.prompt_used_:
        yield (
            "the prompt does not help. On the training images, no prompt makes the predictions clearly better, so "
            "images are sent unmodified. More training images, another prompter or a larger budget may help."
        )
    if estimator.termination_reason_ in ("interrupted", "error"):
        yield f"training ended before its budget was spent, because {describe_ending(estimator)}."
    n_unknown = int((~np.isin(results.y, estimator.classes_)).sum())
    if n_unknown:
        yield f"{counted(n_unknown, 'test image')} of classes that were not trained count as mistakes of every method."


def _pictures(estimator: Any, results: Results, examples: PromptDisplay) -> Iterable[dict[str, Any]]:
    confusion = ConfusionChangeDisplay.prepare(
        results.y, results.before, results.after, estimator.classes_, _MOST_CLASSES
    )
    yield _picture(
        examples,
        "Images and their prompts",
        "The middle column shows what the prompt changes, on the scale below it, and says it in words; grey is no "
        "change. Below the other images is the service's own prediction and its probability. The examples alternate "
        "between mistakes that the prompt repaired, mistakes that it made, and images that stayed wrong or correct.",
    )
    yield _picture(
        confusion,
        "Mistakes that the prompt repaired and made",
        "How many more (+) or fewer (−) images of a true class (row) the service itself predicts as a class (column). "
        "Blue is better, orange is worse.",
    )
    if estimator.cascade or estimator.max_views > 1:
        caption = "More images per prediction: first the least certain images are sent, then both of their views."
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


def _found(estimator: Any, results: Results) -> list[str]:
    """Return sentences on the findings of the fit, and on what the test images cannot tell."""
    steps = f"{counted(estimator.n_iter_, 'step')} of {type(estimator.optimizer_).__name__}"
    made = f"Training made {steps}" if estimator.n_iter_ else "The fit trained no prompt"
    ending = f"{made}, and ended because {describe_ending(estimator)}."
    return [f"Scores were read as {estimator.score_format_.finding}", ending, *uncertainties(estimator, results)]


def _origin() -> str:
    names = ("scikit-learn", "numpy", "torch", "matplotlib")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    now = datetime.now(UTC)
    return (
        f"Written by blackvip {__version__} on {now:%Y-%m-%d} at {now:%H:%M} UTC, with {versions} and Python "
        f"{platform.python_version()}. This file is self-contained."
    )
