"""What a search or a cross-validation may bill, before it is run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import get_scorer
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_consistent_length

from .classifier import BlackVIPClassifier
from .searches import SEARCHES, Split, bills, rounds, splits_of
from .transformer import BlackVIPPrompter

__all__ = ["SearchCost", "search_cost"]


@dataclass(frozen=True)
class SearchCost:
    """The most images that a search, or a cross-validation, bills.

    Parameters
    ----------
    n_fits : int
        Fits to training folds; the refit is not among them.
    fit, score, refit : int
        Images that those fits, scoring them, and the refit on all images bill. A fit is counted with all of its
        `max_queries`; `score` is exact where no fit fails.
    """

    n_fits: int
    fit: int
    score: int
    refit: int = 0

    @property
    def total(self) -> int:
        """Images, all told."""
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
    """The most images that a search bills; asking sends none.

    Parameters
    ----------
    search : estimator
        A `GridSearchCV`, `RandomizedSearchCV`, `HalvingGridSearchCV` or `HalvingRandomSearchCV`, for what its
        `fit` bills. Any other estimator, or a search with `cv` given, for what `cross_validate` bills. The
        `BlackVIPClassifier` may be in a `Pipeline`, `BlackVIPPrompter`, `CalibratedClassifierCV`,
        `VotingClassifier`, `StackingClassifier`, `FrozenEstimator`, or in several of these.
    X : images
        Only their number matters; they are not read.
    y : array-like of shape (n_images,)
        Class labels.
    cv : int, splitter or iterable, default=None
        As in `cross_validate`, where None means five folds.
    groups : array-like of shape (n_images,), default=None
        For the splitter.
    scoring : str, callable, list, tuple, dict or None, default=None
        As in `cross_validate`. A search has its own.
    return_train_score : bool, default=False
        As in `cross_validate`. A search has its own.
    train_sizes : array-like of shape (n_sizes,) or None, default=None
        As in `learning_curve`, for what that bills; it scores the training images too.

    Returns
    -------
    cost : SearchCost
        Images by what they are for.

    Raises
    ------
    TypeError
        If the classifier is in an estimator of which it is not known how often it fits its parts.
    ValueError
        If the candidates cannot be known beforehand.

    Notes
    -----
    Scoring bills an image per image and method that the scorers call: "accuracy" calls ``predict`` and "roc_auc"
    ``decision_function``, so that both together bill two; those that call the same method share the answers. A
    scorer that is a function of its own is taken to predict once.

    `cross_val_score` and `cross_val_predict` bill the same as `cross_validate`; `permutation_test_score`
    bills ``1 + n_permutations`` times as much.

    Successive halving keeps the candidates that score best; here they are taken to be the dearest. A random search
    without a random_state draws anew in each fit; each of its candidates is taken to have the greatest
    max_queries in its lists.

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
    SearchCost(n_fits=5, fit=10000, score=120, refit=0)
    """
    check_consistent_length(X, y, groups)
    y = np.asarray(y)
    if isinstance(search, SEARCHES) and cv is None:
        return _of_search(search, X, y, groups)[0]
    splits = splits_of(cv, search, X, y, groups)
    if train_sizes is not None:
        sizes = _absolute_sizes(train_sizes, len(splits[0][0]))
        splits = [(train[:size], test) for train, test in splits for size in sizes]
        return_train_score = True
    fit, score = _of_folds(search, y, splits, _passes(search, scoring), return_train_score)
    return SearchCost(len(splits), fit, score)


def _of_estimator(estimator: Any, y: np.ndarray) -> tuple[int, int]:
    """The most images that a fit to labels `y` bills, and what the fitted estimator bills per predicted image."""
    if isinstance(estimator, BlackVIPClassifier):
        return estimator.max_queries, 1
    if not bills(estimator):
        return 0, 0
    match estimator:
        case FrozenEstimator():
            return 0, _of_estimator(estimator.estimator, y)[1]
        case BlackVIPPrompter():  # drawing prompts bills nothing
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
    if isinstance(estimator, SEARCHES):
        cost, per_image = _of_search(estimator, y, y)
        return cost.total, per_image
    raise TypeError(
        f"There is a BlackVIPClassifier in a {type(estimator).__name__}, of which search_cost does not know how often "
        "it fits and asks its parts; expected a pipeline, a search, or one of BlackVIPPrompter, FrozenEstimator, "
        "CalibratedClassifierCV, VotingClassifier and StackingClassifier. Ask for the cost of its parts instead."
    )


def _of_stacked(part: Any, cv: Any, y: np.ndarray) -> tuple[int, int]:
    """A part of a `StackingClassifier`: fitted to everything, and cross-validated for its predictions."""
    fit, per_image = _of_estimator(part, y)
    if isinstance(cv, str):  # "prefit"
        return len(y) * per_image, per_image
    return fit + sum(_of_folds(part, y, splits_of(cv, part, y, y), passes=1)), per_image


def _of_calibrated(calibrated: Any, y: np.ndarray) -> tuple[int, int]:
    part, cv, ensemble = calibrated.estimator, calibrated.cv, calibrated.ensemble
    if ensemble == "auto":
        ensemble = not isinstance(part, FrozenEstimator)
    if isinstance(cv, str) or not ensemble:
        return _of_stacked(part, cv, y)  # one classifier, fitted to everything
    splits = splits_of(cv, part, y, y)
    per_image = sum(_of_estimator(part, y[train])[1] for train, _ in splits)
    return sum(_of_folds(part, y, splits, passes=1)), per_image


def _of_folds(
    estimator: Any, y: np.ndarray, splits: Sequence[Split], passes: int, train_scores: bool = False
) -> tuple[int, int]:
    """Images for the fits to each split's training images, and for their scores."""
    fits = scores = 0
    for train, test in splits:
        fit, per_image = _of_estimator(estimator, y[train])
        fits += fit
        scores += passes * per_image * (len(test) + len(train) * train_scores)
    return fits, scores


def _of_search(search: Any, X: Any, y: np.ndarray, groups: Any = None) -> tuple[SearchCost, int]:
    """What a search bills, and what its best candidate bills per predicted image."""
    splits = splits_of(search.cv, search.estimator, X, y, groups)
    passes = _passes(search.estimator, search.scoring)
    n_fits, fits, scores, refits = 0, 0, 0, [(0, 0)]
    for n_kept, candidates, rows in rounds(search, y, splits):
        folds = [_of_folds(candidate, y, rows, passes, search.return_train_score) for candidate in candidates]
        fit, score = (sum(sorted(images)[-n_kept:]) for images in zip(*folds))  # of the dearest
        n_fits, fits, scores = n_fits + n_kept * len(splits), fits + fit, scores + score
        refits = [_of_estimator(candidate, y) for candidate in candidates]  # the best is of the last round
    refit, per_image = (max(images) for images in zip(*refits))
    return SearchCost(n_fits, fits, scores, refit if search.refit else 0), per_image


def _absolute_sizes(train_sizes: Any, n_max: int) -> np.ndarray:
    sizes = np.asarray(train_sizes)
    if np.issubdtype(sizes.dtype, np.floating):
        sizes = np.clip((sizes * n_max).astype(int), 1, n_max)
    return np.unique(sizes)


def _passes(estimator: Any, scoring: Any) -> int:
    """How often scorers predict: once for each method of the estimator that any of them calls."""
    if scoring is None:
        return 1  # its score method
    names: Iterable[Any] = [scoring] if isinstance(scoring, str) or callable(scoring) else scoring
    scorers = [get_scorer(name) for name in (names.values() if isinstance(names, Mapping) else names)]
    n_functions, methods = 0, set()
    for scorer in scorers:
        wanted = getattr(scorer, "_response_method", None)
        if wanted is None:
            n_functions += 1
        else:
            wanted = [wanted] if isinstance(wanted, str) else wanted
            methods.add(next((method for method in wanted if hasattr(estimator, method)), wanted[0]))
    return n_functions + len(methods)


def _sum(costs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    fits, per_image = zip(*costs)
    return sum(fits), sum(per_image)
