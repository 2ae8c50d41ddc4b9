"""Comparison: many methods on the same images, seeds and budget, in one table and one plot."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from ..displays.drawing import load_pyplot
from ..exceptions import BudgetError, PromptNotUsedWarning
from ..inputs.labels import labels_of
from ..scorers import SharedBudget
from .methods import METHODS, Method, View, make_method, prepared, with_parameters
from .results import ResultsFile, data_identity, read_rows
from .white_box import WhiteBoxClassifier

__all__ = ["METHODS", "Comparison", "compare", "make_method"]

_FIGURES = (
    "n_queries",
    "n_predict",
    "accuracy",
    "log_loss",
    "price",
    "seconds",
    "predict_seconds",
    "prompt_used",
)
_ENOUGH = 10**12  # images for predictions, which no budget limits
_MOST_LOSS = -np.log(1e-12)  # of an image, so that one sure mistake does not make a mean of all infinite


def compare(
    methods: Sequence[str] | Mapping[str, Any],
    score_fn: Any,
    X: Any,
    y: Any,
    X_test: Any,
    y_test: Any,
    *,
    class_prompts: Any = "a photo of a {}.",
    max_queries: int | Sequence[int] = 10_000,
    seeds: Sequence[int] = (0, 1, 2),
    results: str | os.PathLike[str] | None = None,
    n_jobs: int | None = None,
    verbose: int = 1,
) -> Comparison:
    """Fit methods to the same images with the same seeds and budget, and score them on the same test images.

    Parameters
    ----------
    methods : sequence of str, or dict
        Names: "zero-shot", "calibrated", "local-probe" and "fused" (what is free, from one fit); "frequency", "blm" and
        "blm+" (a mapping from the service's labels, or from the class prompts, to the classes); "ares" and "ares-both"
        (`AReSClassifier` without and with the service in prediction); "basis" (`BlackVIPClassifier` as it is); and, by
        `blackvip.presets`, "vp-spsa-gc", "vp-spsa", "bar", "bar-spsa-gc", "blackvip" and "blackvip-se" (the same, with
        the encoder "pca", where no weights are at hand), both also with "-spsa" behind; "blackvip-mae",
        "blackvip-in21k" and "blackvip-scratch" have other encoders, of which the first two are downloaded. At last
        "vp-white-box" (`WhiteBoxClassifier`), where `score_fn` allows gradients; it has no budget, and counts the
        images whose gradient was taken. Or a dict from any name to one of these names, to a dict of parameters of
        `BlackVIPClassifier`, or to an estimator with a parameter `score_fn`, be it within another one as in a search
        or a pipeline.
    score_fn : callable
        As of `BlackVIPClassifier`.
    X : images, in any form that `BlackVIPClassifier` takes
        Training images.
    y : array-like of shape (n_images,)
        Their labels.
    X_test : images
        Test images. They are used for nothing but the figures.
    y_test : array-like of shape (n_test_images,)
        Their labels.
    class_prompts : str, dict or sequence of str, default="a photo of a {}."
        As of `BlackVIPClassifier`.
    max_queries : int or sequence of int, default=10_000
        Images that each fit may bill; of several budgets, all are made. Methods that bill one image per training image
        or none are fitted once.
    seeds : sequence of int, default=(0, 1, 2)
        The `random_state` of each fit. Methods without one are fitted once.
    results : str, path-like or None, default=None
        A file of JSON lines, to which each run is added as soon as it ends. A run that is there is not made again, so
        that a comparison that was stopped goes on; one of other data, another service or other parameters is refused.
    n_jobs : int or None, default=None
        Runs that are made at once, in threads: `score_fn` must bear that. The figures are the same but for the
        seconds. None: one.
    verbose : {0, 1, 2}, default=1
        Progress bar: never, on a terminal, always.

    Returns
    -------
    comparison : Comparison
        Whose ``rows`` make a table.

    Raises
    ------
    ValueError
        For unusable arguments; a `BlackVIPError` for a file of other runs. A method that refuses the budget has a row
        that says why, and does not stop the others; any other error does.

    Examples
    --------
    >>> import numpy as np
    >>> from blackvip import compare
    >>> def service(images, class_prompts):  # it takes bright images for days
    ...     day = images.mean(axis=(1, 2, 3)) / 255
    ...     return 20 * np.stack([day - 0.5, 0.5 - day], axis=1)
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["night", "day"], 40)  # all of it far too dark for the service
    >>> X = rng.uniform(0, 0.3, (80, 16, 16)) + np.where(y == "day", 0.15, 0)[:, None, None]
    >>> found = compare(
    ...     ["zero-shot", "calibrated", "basis"], service, X[::2], y[::2], X[1::2], y[1::2], max_queries=1000, seeds=[0]
    ... )
    >>> [(row["method"], row["accuracy"]) for row in found.summary()]
    [('zero-shot', 0.5), ('calibrated', 1.0), ('basis', 1.0)]
    """
    budgets = _checked_numbers([max_queries] if isinstance(max_queries, Integral) else max_queries, "max_queries", 1)
    seeds = _checked_numbers(seeds, "seeds", 0)
    y, y_test = labels_of(X, y), labels_of(X_test, y_test)
    runs = [run for method in prepared(methods, score_fn, class_prompts) for run in _runs(method, budgets, seeds)]
    identity = None if results is None else data_identity(score_fn, class_prompts, X, y, X_test, y_test)
    with ResultsFile(results, identity) as file, _bar(len(runs), verbose) as bar, warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptNotUsedWarning)  # "prompt_used" says so
        found = {number: file.find(run.key, run.method.identity) for number, run in enumerate(runs)}
        bar.update(sum(rows is not None for rows in found.values()))
        left = {number: runs[number] for number, rows in found.items() if rows is None}
        for number, rows in _made(n_jobs, left, score_fn, X, y, X_test, y_test, class_prompts):
            file.add(rows, runs[number].method.identity)
            found[number] = rows
            bar.set_postfix_str(f"{rows[-1]['method']} is done", refresh=False)
            bar.update()
    return Comparison([row for rows in found.values() for row in rows or []])


def _made(n_jobs: int | None, runs: Mapping[int, _Run], *data: Any) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The rows of runs, by their numbers, as they end."""

    def make(number: int) -> tuple[int, list[dict[str, Any]]]:
        return number, runs[number].make(*data)

    if n_jobs in (None, 1):
        return map(make, runs)  # in this thread, where Ctrl-C ends a fit
    return Parallel(n_jobs, prefer="threads", return_as="generator_unordered")(delayed(make)(number) for number in runs)


@dataclass(repr=False)
class Comparison:
    """What `compare` has found.

    Parameters
    ----------
    rows : list of dict
        One per run, so that ``pandas.DataFrame(comparison.rows)`` is a table: "method"; "seed", None where a method
        has none; "max_queries", None where a method's bill does not depend on it; "n_queries", billed by the fit;
        "n_predict", billed by the predictions of all test images; "accuracy" and "log_loss" (in nats, None where there
        are no probabilities) on the test images; "price", of the fit, where the service declares one; "seconds", of
        the fit; "predict_seconds"; "prompt_used", None where there is no such question; and "refused", why a method
        did not run, whose figures are None then.

    Notes
    -----
    Comparisons can be added up, ``a + b`` has the rows of both: for runs whose images differ from seed to seed.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def load(cls, results: str | os.PathLike[str]) -> Comparison:
        """What is in a file of `compare`, finished or not.

        Parameters
        ----------
        results : str or path-like
            The file.

        Returns
        -------
        comparison : Comparison
            Of all runs that are in it.
        """
        return cls(read_rows(results))

    def summary(self) -> list[dict[str, Any]]:
        """A row per method and budget.

        Returns
        -------
        rows : list of dict
            "method", "max_queries", "n_runs"; "accuracy", "least" and "greatest", the mean and the spread over runs;
            and the means of "n_queries", "n_predict", "price", "seconds"; "refused", where a method did not run.
        """
        groups: dict[tuple[str, int | None], list[dict[str, Any]]] = {}
        for row in self.rows:
            groups.setdefault((row["method"], row["max_queries"]), []).append(row)
        return [_summed_up(*key, rows) for key, rows in groups.items()]

    def plot(self, ax: Any = None) -> Any:
        """Accuracy on the test images against the images that fits have billed; needs matplotlib.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to draw. None: a new figure.

        Returns
        -------
        ax : matplotlib Axes
            A line for each method with several budgets, a point for each with one, from the least to the greatest
            accuracy over the seeds; and a horizontal line for each method that bills nothing.
        """
        ax = load_pyplot("Comparison.plot").subplots()[1] if ax is None else ax
        made = [row for row in self.summary() if row["accuracy"] is not None]
        for number, name in enumerate(dict.fromkeys(row["method"] for row in made)):
            points = sorted((row for row in made if row["method"] == name), key=lambda row: row["n_queries"])
            mean = np.array([row["accuracy"] for row in points])
            if points[-1]["n_queries"] == 0:
                ax.axhline(mean[0], ls=("--", ":", "-.")[number % 3], lw=1, color=f"C{number}", label=name)
                continue
            spread = [mean - [row["least"] for row in points], [row["greatest"] for row in points] - mean]
            billed = [max(row["n_queries"], 1) for row in points]
            ax.errorbar(billed, mean, spread, marker="osv^Dd<>"[number % 8], capsize=3, color=f"C{number}", label=name)
        ax.set(xscale="log", xlabel="billed images", ylabel="accuracy")
        ax.legend(fontsize="small")
        return ax

    def __add__(self, other: Comparison) -> Comparison:
        return Comparison(self.rows + other.rows) if isinstance(other, Comparison) else NotImplemented

    def __repr__(self) -> str:
        names, table = self._cells()
        widths = [max(map(len, column)) for column in zip(names, *table)] if table else [len(name) for name in names]
        lines = [
            "  ".join(cell.ljust(width) if place == 0 else cell.rjust(width) for place, (cell, width) in pairs)
            for pairs in (list(enumerate(zip(cells, widths))) for cells in (names, *table))
        ]
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        from html import escape

        names, table = self._cells()
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>" for cells in table)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        """Names of the columns, and the cells of the summary."""
        summary = self.summary()
        priced = any(row["price"] is not None for row in summary)
        names = ["method", "budget", "accuracy", "least", "greatest", "runs", "billed", "s", *["price"] * priced]
        return names, [_cells_of(row, priced) for row in summary]


def _cells_of(row: dict[str, Any], priced: bool) -> list[str]:
    budget = "" if row["max_queries"] is None else f"{row['max_queries']:,d}"
    if row["accuracy"] is None:
        return [row["method"], budget, "refused", "", "", "", "", "", *[""] * priced]
    figures = [f"{row[name]:.3f}" for name in ("accuracy", "least", "greatest")]
    price = ["" if row["price"] is None else f"{row['price']:.2f}"] * priced
    return [
        row["method"],
        budget,
        *figures,
        str(row["n_runs"]),
        f"{row['n_queries']:,.0f}",
        f"{row['seconds']:.1f}",
        *price,
    ]


def _summed_up(method: str, budget: int | None, rows: list[dict[str, Any]]) -> dict[str, Any]:
    made = [row for row in rows if row["refused"] is None]
    accuracies = [row["accuracy"] for row in made]

    def mean(name: str) -> float | None:
        values = [row[name] for row in made if row[name] is not None]
        return float(np.mean(values)) if values else None

    return {
        "method": method,
        "max_queries": budget,
        "n_runs": len(made),
        "accuracy": mean("accuracy"),
        "least": min(accuracies, default=None),
        "greatest": max(accuracies, default=None),
        **{name: mean(name) for name in ("n_queries", "n_predict", "price", "seconds")},
        "refused": next((row["refused"] for row in rows if row["refused"] is not None), None),
    }


@dataclass
class _Run:
    method: Method
    limit: int
    budget: int | None  # what its rows say
    seed: int | None

    @property
    def key(self) -> list[dict[str, Any]]:
        """Of each row."""
        names = self.method.views or [self.method.name]
        return [{"method": name, "seed": self.seed, "max_queries": self.budget} for name in names]

    def make(
        self, score_fn: Any, X: Any, y: np.ndarray, X_test: Any, y_test: np.ndarray, class_prompts: Any
    ) -> list[dict[str, Any]]:
        """Fit and score; a row for each name."""
        budget = SharedBudget(score_fn, max_queries=self.limit)  # a fit of whatever kind is stopped there
        estimator = with_parameters(self.method.estimator, budget, class_prompts, self.limit, self.seed)
        white_box = isinstance(estimator, WhiteBoxClassifier)
        begin = time.perf_counter()
        try:
            estimator.fit(X, y)
        except (BudgetError, TypeError) as error:
            if budget.n_queries or isinstance(error, TypeError) and not white_box:
                raise
            return [{**key, **dict.fromkeys(_FIGURES), "refused": str(error)} for key in self.key]
        if getattr(estimator, "termination_reason_", None) == "interrupted":
            raise KeyboardInterrupt  # half a run is no figure
        seconds = time.perf_counter() - begin
        n_queries = estimator.n_queries_ if white_box else budget.n_queries
        before = budget.n_queries
        budget.max_queries = before + _ENOUGH
        begin = time.perf_counter()
        predictions = _predictions(estimator, X_test, self.method.views)
        predict_seconds = time.perf_counter() - begin
        n_predict = len(y_test) if white_box else budget.n_queries - before
        views = self.method.views.values() or [View("", "")]
        rows = []
        for key, view, (predicted, log_proba) in zip(self.key, views, predictions):
            billed = n_queries if view.bills_fit else 0
            figures = {
                "n_queries": billed,
                "n_predict": n_predict if view.bills_predictions else 0,
                "accuracy": float((predicted == y_test).mean()),
                "log_loss": None if log_proba is None else _log_loss(log_proba, estimator.classes_, y_test),
                "price": None if budget.price_per_image is None else billed * budget.price_per_image,
                "seconds": round(seconds, 3),
                "predict_seconds": round(predict_seconds, 3),
                "prompt_used": getattr(estimator, "prompt_used_", None),
            }
            rows.append({**key, **figures, "refused": None})
        return rows


def _predictions(estimator: Any, X: Any, views: Mapping[str, View]) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Labels of images, and where there are any their log probabilities, by each view or the estimator itself."""
    if views:
        log_probas = estimator.log_probas(X, [view.name for view in views.values()])
        found = [log_probas[view.name] for view in views.values()]
    elif hasattr(estimator, "predict_log_proba"):
        found = [estimator.predict_log_proba(X)]
    else:
        return [(estimator.predict(X), None)]
    return [(estimator.classes_[log_proba.argmax(axis=1)], log_proba) for log_proba in found]


def _log_loss(log_proba: np.ndarray, classes: np.ndarray, y: np.ndarray) -> float:
    """Mean negative log probability of the true class, in nats; of a class that was not learned it is that of none."""
    place = {label: index for index, label in enumerate(classes.tolist())}
    columns = [place.get(label, -1) for label in y.tolist()]
    losses = [-row[column] if column >= 0 else np.inf for row, column in zip(log_proba, columns)]
    return float(np.minimum(losses, _MOST_LOSS).mean())


def _runs(method: Method, budgets: Sequence[int], seeds: Sequence[int]) -> Iterator[_Run]:
    """A run for each budget and each seed that makes a difference."""
    once = method.costs_the_same
    for limit in [max(budgets)] if once else budgets:
        for seed in seeds if method.has_seed else [None]:
            yield _Run(method, limit, None if once else limit, seed)


def _checked_numbers(values: Any, name: str, least: int) -> list[int]:
    numbers = list(values)
    if not numbers or not all(isinstance(value, Integral) and int(value) >= least for value in numbers):
        raise ValueError(f"{name}={values!r:.100}; expected whole numbers, {least} at least.")
    return [int(value) for value in dict.fromkeys(numbers)]


def _bar(n_runs: int, verbose: int) -> Any:
    disable = {0: True, 1: None, 2: False}[int(verbose)]
    return tqdm(total=n_runs, unit="run", desc="compare", disable=disable, dynamic_ncols=True)
