"""What scikit-learn's searches will do: their candidates and rounds, and the images of each fit."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from math import ceil, floor, log
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    ParameterGrid,
    ParameterSampler,
    RandomizedSearchCV,
    check_cv,
)
from sklearn.utils import resample

from .classifier import BlackVIPClassifier

__all__ = ["SEARCHES", "Split", "bills", "rounds", "splits_of"]

Split = tuple[np.ndarray, np.ndarray]
Candidate = dict[str, Any]

_HALVING = (HalvingGridSearchCV, HalvingRandomSearchCV)
SEARCHES = (GridSearchCV, RandomizedSearchCV, *_HALVING)


def bills(estimator: Any) -> bool:
    """Whether a `BlackVIPClassifier` is in it, at any depth."""
    if isinstance(estimator, BlackVIPClassifier):
        return True
    if isinstance(estimator, type) or not hasattr(estimator, "get_params"):
        return False
    return any(bills(value) for value in estimator.get_params(deep=True).values())


def rounds(search: Any, y: np.ndarray, splits: list[Split]) -> Iterator[tuple[int, list[Any], list[Split]]]:
    """What a search evaluates, round by round.

    Parameters
    ----------
    search : estimator
        One of `SEARCHES`.
    y : ndarray of shape (n_images,)
        Class labels.
    splits : list of (train, test)
        What the search's `cv` makes of them.

    Yields
    ------
    n_kept : int
        How many of the candidates are evaluated.
    candidates : list of estimators
        All that may be among them.
    splits : list of (train, test)
        The images that they are evaluated on.
    """
    candidates = _candidates(search, y, len(splits))
    if not isinstance(search, _HALVING):
        yield len(candidates), [_with(search, candidate) for candidate in candidates], splits
        return
    for n_kept, n_resources in _schedule(search, len(candidates), y, len(splits)):
        if search.resource == "n_samples":
            rows = [_part(split, n_resources / len(y)) for split in splits]
            yield n_kept, [_with(search, candidate) for candidate in candidates], rows
        else:
            resources = {search.resource: n_resources}
            yield n_kept, [_with(search, {**candidate, **resources}) for candidate in candidates], splits


def _candidates(search: Any, y: np.ndarray, n_splits: int) -> list[Candidate]:
    if isinstance(search, GridSearchCV | HalvingGridSearchCV):
        return list(ParameterGrid(search.param_grid))
    n = search.n_iter if isinstance(search, RandomizedSearchCV) else search.n_candidates
    if n == "exhaust":
        n = _max_resources(search, y) // _min_resources(search, y, n_splits)
    if search.random_state is not None:
        return list(ParameterSampler(search.param_distributions, n, random_state=copy.deepcopy(search.random_state)))
    greatest = _greatest_max_queries(search.param_distributions)
    drawn = ParameterSampler(search.param_distributions, n, random_state=0)  # stands for what will be drawn
    return [{name: greatest.get(name, value) for name, value in candidate.items()} for candidate in drawn]


def _greatest_max_queries(distributions: Any) -> dict[str, int]:
    greatest: dict[str, int] = {}
    for one in [distributions] if isinstance(distributions, Mapping) else distributions:
        for name, values in one.items():
            is_budget = name.rpartition("__")[2] == "max_queries"
            is_distribution = hasattr(values, "rvs")
            unknown = is_budget if is_distribution else any(bills(value) for value in values)
            if unknown:
                raise ValueError(
                    f"The search draws {name} anew in each fit, since its random_state is None, and what it bills "
                    "depends on it. Set random_state to an int."
                )
            if is_budget:
                greatest[name] = max(greatest.get(name, 0), *values)
    return greatest


def _schedule(search: Any, n_candidates: int, y: np.ndarray, n_splits: int) -> Iterator[tuple[int, int]]:
    """Successive halving: the number of candidates, and their resources, in each round."""
    factor, largest, smallest = search.factor, _max_resources(search, y), _min_resources(search, y, n_splits)
    n_required = 1 + floor(log(n_candidates, factor))
    if search.min_resources == "exhaust":
        smallest = max(smallest, largest // factor ** (n_required - 1))
    n_possible = 1 + floor(log(largest // smallest, factor))
    for i in range(n_required if search.aggressive_elimination else min(n_possible, n_required)):
        power = max(0, i - n_required + n_possible) if search.aggressive_elimination else i
        yield n_candidates, min(int(factor**power * smallest), largest)
        n_candidates = ceil(n_candidates / factor)


def _max_resources(search: Any, y: np.ndarray) -> int:
    return len(y) if search.max_resources == "auto" else search.max_resources


def _min_resources(search: Any, y: np.ndarray, n_splits: int) -> int:
    if not isinstance(search.min_resources, str):
        return int(search.min_resources)
    if search.resource != "n_samples":
        return 1
    n_classes = len(np.unique(y)) if is_classifier(search.estimator) else 1
    return 2 * n_classes * n_splits


def _with(search: Any, candidate: Candidate) -> Any:
    # value by value, since a clone of the dict would deep-copy the score function of a classifier in it
    return clone(search.estimator).set_params(**{name: clone(value, safe=False) for name, value in candidate.items()})


def splits_of(cv: Any, estimator: Any, X: Any, y: np.ndarray, groups: Any = None) -> list[Split]:
    """The splits that scikit-learn's tools make of `cv`; where they are random, others of the same sizes."""
    if isinstance(cv, Iterator):
        raise ValueError(
            f"cv is a {type(cv).__name__}, which can be gone through only once; expected an int, a splitter or a list "
            "of splits. Give list(cv), here and to the search."
        )
    splitter = copy.deepcopy(check_cv(cv, y, classifier=is_classifier(estimator)))
    if getattr(splitter, "random_state", 0) is None:  # the sizes are the same, and the global state is not touched
        splitter.random_state = 0
    return list(splitter.split(X, y, groups))


def _part(split: Split, fraction: float) -> Split:
    train, test = (resample(rows, replace=False, n_samples=int(fraction * len(rows)), random_state=0) for rows in split)
    return train, test
