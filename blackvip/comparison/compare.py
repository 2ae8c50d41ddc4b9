"""Compare many methods on the same images, seeds and budget, in one table and one plot."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from numbers import Integral
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from ..displays.drawing import load_pyplot
from ..exceptions import BudgetError, PromptNotUsedWarning
from ..inputs.class_names import class_names
from ..inputs.class_prompts import make_prompt_groups
from ..inputs.labels import check_same_type, labels_of
from ..scorers import SharedBudget
from ..training.progress import ProgressBar
from .methods import METHODS, Method, View, make_method, prepared, with_parameters
from .results import ResultsFile, data_identity, read_rows

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
# Predictions have no budget: this many images are always enough.
_ENOUGH = 10**12
# The largest loss of an image, so that one confident mistake does not make the mean infinite.
_MOST_LOSS = -np.log(1e-12)


def compare(
    methods: Sequence[str] | Mapping[str, Any],
    score_fn: Any,
    X: Any,
    y: Any,
    X_test: Any,
    y_test: Any,
    *,
    class_prompts: Any = "{}",
    max_queries: int | Sequence[int] = 10_000,
    seeds: Sequence[int] = (0, 1, 2),
    results: str | os.PathLike[str] | None = None,
    n_jobs: int | None = None,
    verbose: int = 1,
) -> Comparison:
    """Fit methods to the same images with the same seeds and budget, and score them on the same test images.

    `METHODS` in `blackvip.comparison.compare` lists the names that it knows.

    Parameters
    ----------
    methods : sequence of str, or dict
        Names of methods, from this list:

        - "zero-shot", "calibrated", "local-probe", "fused": the baselines without a prompt, all from one fit.
        - "frequency", "blm", "blm+": label mappings from the service's labels, or from the class prompts.
        - "ares", "ares-both": `AReSClassifier`, predicting without and with the service.
        - "basis": `BlackVIPClassifier` with ``prompter="basis"``.
        - "vp-spsa-gc", "vp-spsa", "bar", "bar-spsa-gc", "blackvip", "blackvip-spsa", "blackvip-se",
          "blackvip-se-spsa": the papers' methods, from `blackvip.presets`. "blackvip" uses the encoder "pca", which
          needs no weights. "blackvip-scratch", "blackvip-mae" and "blackvip-in21k" use other encoders; the last two
          download weights.
        - "vp-white-box": `WhiteBoxClassifier`, for a `score_fn` with gradients. It has no budget, and counts the
          images whose gradient it computes.

        Or a dict from any name to one of these names, to a dict of parameters of `BlackVIPClassifier`, or to an
        estimator with a parameter `score_fn`, which may be nested as in a search or a pipeline.
    score_fn : callable
        Score function, as in `BlackVIPClassifier`.
    X : images, in any form that `BlackVIPClassifier` takes
        Training images.
    y : array-like of shape (n_images,)
        Their labels.
    X_test : images
        Test images. They are used only to score the fitted methods.
    y_test : array-like of shape (n_test_images,)
        Their labels.
    class_prompts : str, dict, Series or sequence of str, default="{}"
        Class prompts, as in `BlackVIPClassifier`.
    max_queries : int or sequence of int, default=10_000
        The most images that each fit may bill. With several budgets, each method is fitted once per budget; methods
        that bill at most one image per training image are fitted only once.
    seeds : sequence of int, default=(0, 1, 2)
        The `random_state` of each fit. Methods without one are fitted only once.
    results : str, path-like or None, default=None
        A file to which each run is added as soon as it ends. Runs that are already in the file are not repeated, so
        an interrupted comparison continues where it stopped. A file with other data, another service or other
        parameters is refused.
    n_jobs : int or None, default=None
        Number of runs at a time, in threads; `score_fn` must be thread-safe. The figures do not depend on it, except
        the seconds. None: one.
    verbose : {0, 1, 2}, default=1
        Progress bar: never, on a terminal, always.

    Returns
    -------
    comparison : Comparison
        The result; its ``rows`` make a table.

    Raises
    ------
    ValueError
        If an argument is invalid, or if `results` belongs to another comparison (`BlackVIPError`). A method that
        refuses the budget gets a row that says why, and the other methods still run. Any other error is raised.

    Examples
    --------
    >>> import numpy as np
    >>> from blackvip import compare
    >>> def service(images, class_prompts):  # believes that bright means day
    ...     day = images.mean(axis=(1, 2, 3)) / 255
    ...     return 20 * np.stack([day - 0.5, 0.5 - day], axis=1)
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["night", "day"], 40)  # every photo is underexposed
    >>> X = rng.uniform(0, 0.3, (80, 16, 16)) + np.where(y == "day", 0.15, 0)[:, None, None]
    >>> found = compare(
    ...     ["zero-shot", "calibrated", "basis"], service, X[::2], y[::2], X[1::2], y[1::2], max_queries=1000, seeds=[0]
    ... )
    >>> [(row["method"], row["accuracy"]) for row in found.summary()]
    [('zero-shot', 0.5), ('calibrated', 1.0), ('basis', 1.0)]
    """
    budgets = _checked_numbers([max_queries] if isinstance(max_queries, Integral) else max_queries, "max_queries", 1)
    seeds = _checked_numbers(seeds, "seeds", 0)
    if isinstance(class_prompts, (str, list)) and (names := class_names(X, y)):
        class_prompts = make_prompt_groups(class_prompts, np.unique(labels_of(X, y)), names).class_prompts
    y, y_test = labels_of(X, y), labels_of(X_test, y_test)
    check_same_type(y_test, y, "y_test")
    runs = [run for method in prepared(methods, score_fn, class_prompts) for run in _runs(method, budgets, seeds)]
    identity = None if results is None else data_identity(score_fn, class_prompts, X, y, X_test, y_test)
    bar = ProgressBar(len(runs), "compare", verbose, unit="run")
    with bar, ResultsFile(results, identity) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptNotUsedWarning)  # the column "prompt_used" tells
        found = {number: file.find(run.key, run.method.identity) for number, run in enumerate(runs)}
        bar.update(sum(rows is not None for rows in found.values()))
        left = {number: runs[number] for number, rows in found.items() if rows is None}
        for number, rows in _made(n_jobs, left, score_fn, X, y, X_test, y_test, class_prompts):
            file.add(rows, runs[number].method.identity)
            found[number] = rows
            bar.show(f"{rows[-1]['method']} is done")
            bar.update()
    return Comparison([row for rows in found.values() for row in rows or []])


def _made(n_jobs: int | None, runs: Mapping[int, _Run], *data: Any) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield the number and the rows of each run as it ends."""

    def make(number: int) -> tuple[int, list[dict[str, Any]]]:
        return number, runs[number].make(*data)

    if n_jobs in (None, 1):
        # Stay in this thread, so that Ctrl-C ends a fit.
        return map(make, runs)
    return Parallel(n_jobs, prefer="threads", return_as="generator_unordered")(delayed(make)(number) for number in runs)


@dataclass(repr=False)
class Comparison:
    """Result of `compare`.

    Parameters
    ----------
    rows : list of dict
        One row per run; ``pandas.DataFrame(comparison.rows)`` makes a table of them. Its columns are:

        - "method", and "seed" (None for a method without one),
        - "max_queries" (None for a method whose cost does not depend on it),
        - "n_queries" and "n_predict": images billed by the fit, and by predicting all test images,
        - "accuracy" and "log_loss" on the test images (in nats; None without probabilities),
        - "price" of the fit (None unless the service declares a price), "seconds" of the fit, "predict_seconds",
        - "prompt_used" (None for a method without a guard),
        - "refused": why a method did not run (None if it did); all figures are then None.

    Notes
    -----
    ``a + b`` has the rows of both comparisons, for example of runs on different images.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def load(cls, results: str | os.PathLike[str]) -> Comparison:
        """Load the runs in a results file of `compare`, finished or not.

        Parameters
        ----------
        results : str or path-like
            The file.

        Returns
        -------
        comparison : Comparison
            All runs in the file.
        """
        return cls(read_rows(results))

    def summary(self) -> list[dict[str, Any]]:
        """Average the runs of each method and budget.

        Returns
        -------
        rows : list of dict
            "method", "max_queries", "n_runs"; "accuracy" (mean), "least" and "greatest" over the runs; the means of
            "n_queries", "n_predict", "price" and "seconds"; and "refused" if the method did not run.
        """
        groups: dict[tuple[str, int | None], list[dict[str, Any]]] = {}
        for row in self.rows:
            groups.setdefault((row["method"], row["max_queries"]), []).append(row)
        return [_summed_up(*key, rows) for key, rows in groups.items()]

    def plot(self, ax: Any = None) -> Any:
        """Plot accuracy on the test images against the images billed by the fits; needs matplotlib.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Axes to draw into. None: a new figure.

        Returns
        -------
        ax : matplotlib Axes
            The axes, with a line for each method with several budgets, a point for each method with one, and a
            horizontal line for each method that bills nothing. Bars span the least to the greatest accuracy.
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
        names, table = self._cells()
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>" for cells in table)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        """Return the column names and the cells of the summary."""
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
    #: The budget in its rows: None if the cost does not depend on it.
    budget: int | None
    seed: int | None

    @property
    def key(self) -> list[dict[str, Any]]:
        """The key of each of its rows."""
        names = self.method.views or [self.method.name]
        return [{"method": name, "seed": self.seed, "max_queries": self.budget} for name in names]

    def make(
        self, score_fn: Any, X: Any, y: np.ndarray, X_test: Any, y_test: np.ndarray, class_prompts: Any
    ) -> list[dict[str, Any]]:
        """Fit and score; return a row for each view."""
        # Any estimator is stopped at the limit, whatever it makes of `max_queries`.
        budget = SharedBudget(score_fn, max_queries=self.limit)
        estimator = with_parameters(self.method.estimator, budget, class_prompts, self.limit, self.seed)
        white_box = getattr(estimator, "needs_gradients", False)
        begin = time.perf_counter()
        try:
            estimator.fit(X, y)
        except (BudgetError, TypeError) as error:
            if budget.n_queries or isinstance(error, TypeError) and not white_box:
                raise
            return [{**key, **dict.fromkeys(_FIGURES), "refused": str(error)} for key in self.key]
        if getattr(estimator, "termination_reason_", None) == "interrupted":
            # Half a run has no result.
            raise KeyboardInterrupt
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
    """Predict labels and log probabilities (None if there are none), by each view or by the estimator itself."""
    if views:
        log_probas = estimator.log_probas(X, [view.name for view in views.values()])
        found = [log_probas[view.name] for view in views.values()]
    elif hasattr(estimator, "predict_log_proba"):
        found = [estimator.predict_log_proba(X)]
    else:
        return [(estimator.predict(X), None)]
    return [(estimator.classes_[log_proba.argmax(axis=1)], log_proba) for log_proba in found]


def _log_loss(log_proba: np.ndarray, classes: np.ndarray, y: np.ndarray) -> float:
    """Compute the mean negative log probability of the true class, in nats; unknown classes have probability 0."""
    place = {label: index for index, label in enumerate(classes.tolist())}
    columns = [place.get(label, -1) for label in y.tolist()]
    losses = [-row[column] if column >= 0 else np.inf for row, column in zip(log_proba, columns)]
    return float(np.minimum(losses, _MOST_LOSS).mean())


def _runs(method: Method, budgets: Sequence[int], seeds: Sequence[int]) -> Iterator[_Run]:
    """Yield a run for each budget and each seed that makes a difference."""
    once = method.costs_the_same
    for limit in [max(budgets)] if once else budgets:
        for seed in seeds if method.has_seed else [None]:
            yield _Run(method, limit, None if once else limit, seed)


def _checked_numbers(values: Any, name: str, least: int) -> list[int]:
    numbers = list(values)
    if not numbers or not all(isinstance(value, Integral) and int(value) >= least for value in numbers):
        raise ValueError(f"{name}={values!r:.100}; expected whole numbers of at least {least}.")
    return [int(value) for value in dict.fromkeys(numbers)]
