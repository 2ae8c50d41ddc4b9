"""The most images that a search or a cross-validation may bill, before it is run."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import ParameterGrid, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_consistent_length

from .transformer import BlackVIPPrompter

__all__ = ["SearchCost", "search_cost"]

Split = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class SearchCost:
    """The most images that a search or a cross-validation bills.

    Parameters
    ----------
    n_fits : int
        Number of fits to training folds, without the final refit.
    fit : int
        Images billed by these fits, each of which is assumed to use up its `max_queries`.
    score : int
        Images billed to score these fits.
    refit : int, default=0
        Images billed by the final refit on all images.
    """

    n_fits: int
    fit: int
    score: int
    refit: int = 0

    @property
    def total(self) -> int:
        """Images billed altogether."""
        return self.fit + self.score + self.refit

    def __str__(self) -> str:
        refit = f", {self.refit:,} for the refit" * bool(self.refit)
        return f"at most {self.total:,} images: {self.fit:,} for {self.n_fits} fits, {self.score:,} to score{refit}"


def search_cost(
    search: Any,
    X: Any,
    y: Any,
    *,
    cv: Any = None,
    groups: Any = None,
    scoring: Any = None,
    return_train_score: bool = False,
    train_sizes: Any = None,
) -> SearchCost:
    """Return the most images that a search or a cross-validation bills, without sending any.

    The bound is the number of fits times the `max_queries` of one fit, plus the images that are scored.

    Parameters
    ----------
    search : estimator
        A `GridSearchCV`, `RandomizedSearchCV`, `HalvingGridSearchCV` or `HalvingRandomSearchCV`: the result is what
        its `fit` bills. Any other estimator, or a search together with `cv`: the result is what `cross_validate`
        bills. The `BlackVIPClassifier` may be nested in a `Pipeline`, `BlackVIPPrompter`, `CalibratedClassifierCV`,
        `VotingClassifier`, `StackingClassifier` or `FrozenEstimator`, to any depth.
    X : images
        Training images. Only their number matters; they are not read.
    y : array-like of shape (n_images,)
        Class labels.
    cv : int, splitter or iterable, default=None
        As in `cross_validate`, where None means five folds.
    groups : array-like of shape (n_images,), default=None
        Groups for the splitter.
    scoring : str, callable, list, tuple, dict or None, default=None
        As in `cross_validate`. It changes nothing: a fitted classifier remembers its answers, so any number of scorers
        bills one image per image.
    return_train_score : bool, default=False
        As in `cross_validate`. Ignored for a search.
    train_sizes : array-like of shape (n_sizes,) or None, default=None
        As in `learning_curve`: the result is then what `learning_curve` bills, including its training scores.

    Returns
    -------
    cost : SearchCost
        Upper bounds, broken down by what the images are for.

    Raises
    ------
    TypeError
        If the classifier is part of an estimator whose number of fits is unknown.
    ValueError
        If a search draws `max_queries` or an estimator from a distribution without an upper end.

    Notes
    -----
    `cross_val_score` and `cross_val_predict` bill the same as `cross_validate`. `permutation_test_score` bills
    ``1 + n_permutations`` times as much.

    The bound is exact for a grid search whose fits use up their budgets. For a random search and for successive
    halving, every candidate is assumed to cost as much as the most expensive one. Successive halving is assumed to
    run for as many rounds as its candidates allow.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import GridSearchCV
    >>> from blackvip import BlackVIPClassifier
    >>> from blackvip.model_selection import search_cost
    >>> def service(images, class_prompts):
    ...     return images.mean(axis=(1, 2))
    >>> X, y = np.zeros((60, 8, 8)), np.arange(60) % 3
    >>> search = GridSearchCV(BlackVIPClassifier(service, max_queries=2000), {"a": [0.01, 0.1]}, cv=3)
    >>> print(search_cost(search, X, y))
    at most 14,120 images: 12,000 for 6 fits, 120 to score, 2,000 for the refit
    >>> search_cost(search.estimator, X, y, cv=5, scoring=["accuracy", "neg_log_loss"])
    SearchCost(n_fits=5, fit=10000, score=60, refit=0)
    """
    check_consistent_length(X, y, groups)
    y = np.asarray(y)
    if _is_search(search) and cv is None:
        return _of_search(search, y, groups)[0]
    splits = _splits(cv, search, y, groups)
    if train_sizes is not None:
        sizes = np.asarray(train_sizes)
        if np.issubdtype(sizes.dtype, np.floating):
            n_most = len(splits[0][0])
            sizes = np.clip((sizes * n_most).astype(int), 1, n_most)
        splits = [(train[:size], test) for train, test in splits for size in np.unique(sizes)]
        return_train_score = True
    fit, score = _of_folds(search, y, splits, return_train_score)
    return SearchCost(len(splits), fit, score)


def _is_search(estimator: Any) -> bool:
    return hasattr(estimator, "param_grid") or hasattr(estimator, "param_distributions")


def _bills(estimator: Any) -> bool:
    """Return whether an estimator, or one inside it at any depth, has a budget of billed images."""
    if isinstance(estimator, type) or not hasattr(estimator, "get_params"):
        return False
    return _has_budget(estimator) or any(map(_bills, estimator.get_params(deep=True).values()))


def _has_budget(estimator: Any) -> bool:
    return hasattr(estimator, "get_params") and "max_queries" in estimator.get_params(deep=False)


def _of_estimator(estimator: Any, y: np.ndarray) -> tuple[int, int]:
    """Return the most images that a fit to labels `y` bills, and those that a prediction bills."""
    if _has_budget(estimator):
        return estimator.max_queries, 1
    if not _bills(estimator):
        return 0, 0
    if _is_search(estimator):
        cost, per_image = _of_search(estimator, y)
        return cost.total, per_image
    match estimator:
        case FrozenEstimator():
            return 0, _of_estimator(estimator.estimator, y)[1]
        case BlackVIPPrompter():
            # It draws prompts and sends nothing.
            return _of_estimator(estimator.estimator, y)[0], 0
        case Pipeline():
            steps = [_of_estimator(step, y) for _, step in estimator.steps]
            transformed = sum(per_image for _, per_image in steps[:-1])
            fit, per_image = _sum(steps)
            return fit + len(y) * transformed, per_image
        case VotingClassifier():
            return _sum(_of_estimator(part, y) for _, part in estimator.estimators)
        case StackingClassifier():
            return _sum(_of_stacked(part, estimator.cv, y) for _, part in estimator.estimators)
        case CalibratedClassifierCV():
            return _of_calibrated(estimator, y)
    raise TypeError(
        f"A {type(estimator).__name__} contains a BlackVIPClassifier, but search_cost does not know how often it fits "
        "its parts. Expected a pipeline, a search, or one of BlackVIPPrompter, FrozenEstimator, "
        "CalibratedClassifierCV, VotingClassifier and StackingClassifier. Compute the cost of its parts instead."
    )


def _of_stacked(part: Any, cv: Any, y: np.ndarray) -> tuple[int, int]:
    """Return the cost of a part that is fitted to all images and cross-validated for its predictions."""
    fit, per_image = _of_estimator(part, y)
    if isinstance(cv, str):  # "prefit"
        return len(y) * per_image, per_image
    return fit + sum(_of_folds(part, y, _splits(cv, part, y))), per_image


def _of_calibrated(calibrated: Any, y: np.ndarray) -> tuple[int, int]:
    part, cv, ensemble = calibrated.estimator, calibrated.cv, calibrated.ensemble
    if ensemble == "auto":
        ensemble = not isinstance(part, FrozenEstimator)
    if isinstance(cv, str) or not ensemble:
        return _of_stacked(part, cv, y)
    splits = _splits(cv, part, y)
    per_image = sum(_of_estimator(part, y[train])[1] for train, _ in splits)
    return sum(_of_folds(part, y, splits)), per_image


def _of_folds(estimator: Any, y: np.ndarray, splits: Sequence[Split], train_scores: bool = False) -> tuple[int, int]:
    """Return the images billed by the fits to each split, and by scoring them."""
    fits = scores = 0
    for train, test in splits:
        fit, per_image = _of_estimator(estimator, y[train])
        fits += fit
        scores += per_image * (len(test) + len(train) * train_scores)
    return fits, scores


def _of_search(search: Any, y: np.ndarray, groups: Any = None) -> tuple[SearchCost, int]:
    """Return the cost of a search, and of a prediction by its best estimator."""
    splits = _splits(search.cv, search.estimator, y, groups)
    is_grid = hasattr(search, "param_grid")
    parameters = list(ParameterGrid(search.param_grid) if is_grid else _costly_parameters(search.param_distributions))
    n_fits = fits = scores = refit = per_image = 0
    for n_candidates, resources in _rounds(search, len(parameters), y, len(splits)):
        candidates = [_with(search, {**given, **resources}) for given in parameters]
        folds = [_of_folds(one, y, splits, search.return_train_score) for one in candidates]
        if is_grid and n_candidates == len(candidates):
            fit, score = _sum(folds)
        else:
            # It is not known which candidates are fitted: each may be the most expensive one.
            fit, score = (n_candidates * max(images) for images in zip(*folds))
        n_fits, fits, scores = n_fits + n_candidates * len(splits), fits + fit, scores + score
        refit, per_image = (max(images) for images in zip(*(_of_estimator(one, y) for one in candidates)))
    return SearchCost(n_fits, fits, scores, refit if search.refit else 0), per_image


def _rounds(search: Any, n_grid: int, y: np.ndarray, n_splits: int) -> Iterator[tuple[int, dict[str, int]]]:
    """Return the most candidates that are fitted in each round, and the most resources that each has."""
    if not hasattr(search, "factor"):
        yield getattr(search, "n_iter", n_grid), {}
        return
    by_images = search.resource == "n_samples"
    largest = len(y) if search.max_resources == "auto" else search.max_resources
    smallest = search.min_resources
    if isinstance(smallest, str):
        n_classes = len(np.unique(y)) if is_classifier(search.estimator) else 1
        smallest = 2 * n_classes * n_splits if by_images else 1
    n = getattr(search, "n_candidates", n_grid)
    n = largest // smallest if n == "exhaust" else n
    n_wanted = 1 + floor(log(n, search.factor))
    if search.min_resources == "exhaust":
        smallest = max(smallest, largest // search.factor ** (n_wanted - 1))
    n_possible = 1 + floor(log(largest // smallest, search.factor))
    aggressive = search.aggressive_elimination
    for number in range(n_wanted if aggressive else min(n_possible, n_wanted)):
        power = max(0, number - n_wanted + n_possible) if aggressive else number
        yield n, {} if by_images else {search.resource: min(int(search.factor**power * smallest), largest)}
        n = ceil(n / search.factor)


def _costly_parameters(distributions: Any) -> Iterator[dict[str, Any]]:
    """List all combinations of values on which the cost of a drawn candidate may depend."""
    for space in [distributions] if isinstance(distributions, Mapping) else distributions:
        costly = {}
        for name, values in space.items():
            if hasattr(values, "rvs"):
                if name.rpartition("__")[2] == "max_queries":
                    costly[name] = [_upper_end(name, values)]
            elif not all(isinstance(value, float) for value in values):
                costly[name] = list(values)
        yield from ParameterGrid(costly)


def _upper_end(name: str, distribution: Any) -> int:
    end = distribution.support()[1] if hasattr(distribution, "support") else np.inf
    if not np.isfinite(end):
        raise ValueError(
            f"The search draws {name} from a distribution without an upper end, so its cost has no bound. Give a list "
            "of values, or a distribution such as scipy.stats.randint."
        )
    return ceil(end)


def _with(search: Any, parameters: Mapping[str, Any]) -> Any:
    # Values are cloned one by one: cloning the dict would deep-copy the score function of a classifier in it.
    return clone(search.estimator).set_params(**{name: clone(value, safe=False) for name, value in parameters.items()})


def _splits(cv: Any, estimator: Any, y: np.ndarray, groups: Any = None) -> list[Split]:
    """Return the splits that scikit-learn makes of `cv`; random ones differ, but have the same sizes."""
    if isinstance(cv, Iterator):
        raise ValueError(
            f"cv is a {type(cv).__name__}, which can be iterated only once. Expected an int, a splitter or a list of "
            "splits: pass list(cv), both here and to the search."
        )
    splitter = copy.deepcopy(check_cv(cv, y, classifier=is_classifier(estimator)))
    if getattr(splitter, "random_state", 0) is None:
        # Leave numpy's global random state alone.
        splitter.random_state = 0
    return list(splitter.split(y, y, groups))


def _sum(costs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    fits, per_image = zip(*costs)
    return sum(fits), sum(per_image)
