"""Recognition of the format of scores, from all plain scores of the training images together.

Most formats show in the numbers alone. Cosine similarities between 0 and 1, and logits between 0 and 100, look like
probabilities and percent that do not sum to 1 or 100. There the labels decide: the scores are read in both ways, and
the reading counts under which a calibrated head predicts the labels better.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..heads.base import log_loss
from ..heads.calibrated import CalibratedHead
from .formats import BELOW_ZERO, SCORE_TYPES, SUM_ERROR, UNITS, ScoreFormat

__all__ = ["recognise"]

# How a format was found.
_DECLARED, _BY_RANGE, _BY_SUMS = "as declared", "as the range shows", "as the sums show"
# Decimals to which a service may round, the levels of 8-bit numbers, and the units of means of a few rounded numbers.
_SINGLE_UNITS = (*(10.0**-decimals for decimals in range(1, 7)), 1 / 255, 1 / 256)
_MEAN_UNITS = (10.0**-decimals / n for decimals in (2, 3, 4) for n in range(2, 33))
_ROUNDING_UNITS = sorted({*_SINGLE_UNITS, *(unit for unit in _MEAN_UNITS if unit > 1e-5)}, reverse=True)
# Fractions and zeros, and distinct fractions, that are needed to tell rounding from coincidence.
_N_ROUNDED, _N_DISTINCT = 20, 3
# Relative error of a rounded number that arrives as a 32-bit float.
_SINGLE_PRECISION = 1e-7
# Share of images that must have the same number of scores other than zero, for zeros to be missing ones.
_TOP_SHARE = 0.9
# An image's largest score is rarely more than so many times its smallest one if the scores are cosine similarities.
_COSINE_RATIO = 5.0
# Percent of some of a service's classes sum to more than this for some image, and never to more than 100.
_PERCENT_SUM = 50
# Sums of percent that were rounded up, down or to 8-bit floats are within this share of 100.
_COARSE_SUM_ERROR = 0.1
# Sums of all images' scores are within this share of one number if they are parts of it, such as levels of 8 bits.
_PART_SUM_ERROR = 0.05
# Standard errors by which such scores must be the better logits.
_CLEARLY = 2.0
# The most images and scores of an image that a doubtful case is decided on.
_MOST_IMAGES, _MOST_SCORES = 1_000, 64


def recognise(
    scores: np.ndarray, declared: str = "auto", y: np.ndarray | None = None, weights: np.ndarray | None = None
) -> ScoreFormat:
    """Recognise the format of scores.

    Parameters
    ----------
    scores : ndarray of shape (n_images, n_scores)
        Scores of images without prompts, as `check_scores` returns them.
    declared : {"auto", "logits", "probabilities", "percent", "levels"}, default="auto"
        The declared type; "auto" if none is declared.
    y : ndarray of shape (n_images,) or None, default=None
        Class indices. None: a doubtful case is a guess.
    weights : ndarray of shape (n_images,) or None, default=None
        Positive weights of the images.

    Returns
    -------
    score_format : ScoreFormat
        The format; its `finding` says what was seen and assumed.

    Notes
    -----
    Scores are logits if one is negative or above 100. Otherwise they are probabilities if none is above 1, and percent
    if one is. Two cases are doubtful: scores up to 1 that do not sum to 1 and are all of similar size, as cosine
    similarities are; and scores up to 100 that do not sum to 100. There the labels must clearly speak for logits if the
    sums come near 100 and never exceed it, and clearly for percent otherwise. Whole numbers up to 255, of which one is
    above 100, may be levels of 8 bits; there the labels decide, but the format remains a guess.
    """
    if declared in UNITS:
        return _described(_in_detail(scores, declared), _DECLARED, scores)
    found, reason = _shown_by_numbers(scores)
    if declared == "logits":
        doubtful = reason == _BY_SUMS
        reason = f"{_DECLARED}, although they sum like {found.score_type}" if doubtful else _DECLARED
        return _described(ScoreFormat("logits", certain=not doubtful), reason, scores)
    return _decided(found, scores, y, weights) if reason is None else _described(found, reason, scores)


def _shown_by_numbers(scores: np.ndarray) -> tuple[ScoreFormat, str | None]:
    """Tell the format from the numbers alone, and by what; None if logits could look the same, so labels decide."""
    given = scores[np.isfinite(scores)]
    logits = ScoreFormat("logits")
    if not len(given) or np.isneginf(scores).any():
        return logits, _BY_RANGE
    bounded = "probabilities" if given.max() <= 1 + SUM_ERROR else "percent"
    unit = UNITS[bounded]
    if not unit * BELOW_ZERO <= given.min() <= given.max() <= unit * (1 + SUM_ERROR):
        doubt = _doubt_of_logits(scores, given)
        if not doubt and _looks_like_levels(given):
            return _in_detail(scores, "levels"), None
        return (replace(logits, certain=False), f"which is a guess, since {doubt}") if doubt else (logits, _BY_RANGE)
    found = _in_detail(scores, bounded)
    if _sums_to_one(scores / unit, found.floor):
        return found, _BY_SUMS
    if given.min() < 0:
        return logits, _BY_RANGE
    if not _looks_like_cosines(scores):
        if bounded == "probabilities":
            return found, _BY_RANGE
        if _sums_to_one(scores / unit, 0.0, _COARSE_SUM_ERROR):
            return found, _BY_SUMS
    return found, None


def _decided(bounded: ScoreFormat, scores: np.ndarray, y: np.ndarray | None, weights: np.ndarray | None) -> ScoreFormat:
    """Choose between probabilities or percent and logits by the labels."""
    readings, margin = [bounded, ScoreFormat("logits")], 0.0
    if bounded.score_type == "percent":
        # Percent of some of a service's classes come near 100 together for some image.
        part = not _looks_like_cosines(scores) and _PERCENT_SUM <= np.nansum(scores, axis=1).max() <= 100
        readings, margin = (readings, _CLEARLY) if part else (readings[::-1], 1.0)
    rows = np.arange(0) if y is None else _decisive_rows(scores, y)
    if not len(rows) or y is None:
        reason = "which is a guess, since there are too few labelled images to decide it"
        return _described(replace(readings[0], certain=False), reason, scores)
    weights = np.ones(len(rows)) if weights is None else weights[rows]
    columns = np.argsort(-np.nan_to_num(scores).mean(axis=0), kind="stable")[:_MOST_SCORES]
    _, index = np.unique(y[rows], return_inverse=True)
    losses = []
    for reading in readings:
        log_scores = reading.log_scores(scores)[np.ix_(rows, columns)]
        losses.append(log_loss(CalibratedHead(Cs=(1.0,)).fit_held_out(log_scores, index, weights), index))
    excess = losses[0] - losses[1]
    standard_error = excess.std() / np.sqrt(len(rows))
    advantage = np.average(excess, weights=weights)
    # That whole numbers are 8-bit levels remains a guess.
    clear = bounded.score_type != "levels" and bool(margin or abs(advantage) > standard_error)
    order = [1, 0] if advantage > margin * standard_error else [0, 1]
    means = [f"{np.average(losses[place], weights=weights):.3g}" for place in order]
    reason = (
        f"{'as the labels show' if clear else 'which is a guess'}: a head that is calibrated to them has a cross-"
        f"validated log loss of {means[0]}, and of {means[1]} if they are read as {readings[order[1]].score_type}"
    )
    return _described(replace(readings[order[0]], certain=clear), reason, scores)


def _decisive_rows(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Find rows with scores whose classes have two or more of them; none if these are not two classes."""
    rows = np.flatnonzero(np.isfinite(scores).any(axis=1))
    if len(rows) > _MOST_IMAGES:
        rows = rows[np.linspace(0, len(rows) - 1, _MOST_IMAGES).astype(int)]
    rows = rows[np.bincount(y[rows])[y[rows]] >= 2]
    return rows if len(np.unique(y[rows])) >= 2 else rows[:0]


def _in_detail(scores: np.ndarray, score_type: str) -> ScoreFormat:
    """Return the format of scores of a known type: whether they are rounded, and whether zeros are missing scores."""
    if score_type == "logits":
        return ScoreFormat(score_type)
    unit = _rounding_unit(scores / UNITS[score_type])
    n_positive = (np.nan_to_num(scores) > 0).sum(axis=1)
    most = n_positive.max(initial=0)
    top_only = 0 < most < scores.shape[1] and (n_positive == most).mean() >= _TOP_SHARE
    return ScoreFormat(score_type, unit / 2, bool(top_only and (scores <= 0).any()))


def _are_top_only(scores: np.ndarray) -> bool:
    """Return whether nearly all images have the same number of scores, but not always the same ones."""
    given = np.isfinite(scores)
    n_given = given.sum(axis=1)
    most = n_given.max(initial=0)
    same_columns = bool((given == given[:1]).all())
    return bool(0 < most < scores.shape[1] and (n_given == most).mean() >= _TOP_SHARE and not same_columns)


def _rounding_unit(probabilities: np.ndarray) -> float:
    """Return the unit of which all probabilities are multiples; 0 if there is none, or too few of them to tell."""
    given = probabilities[np.isfinite(probabilities)]
    fractions = given[(given > 0) & (given < 1)]
    if len(fractions) + np.sum(given == 0) < _N_ROUNDED or len(np.unique(fractions)) < _N_DISTINCT:
        return 0.0
    # A few of them rule most units out.
    some = fractions[:_N_ROUNDED]
    return next((unit for unit in _ROUNDING_UNITS if _are_multiples(some, unit) and _are_multiples(given, unit)), 0.0)


def _are_multiples(numbers: np.ndarray, unit: float) -> bool:
    return bool((np.abs(numbers - np.round(numbers / unit) * unit) <= _SINGLE_PRECISION * numbers).all())


def _doubt_of_logits(scores: np.ndarray, given: np.ndarray) -> str:
    """Say what speaks against logits, although some are negative or large; "" if nothing does."""
    negative = given[given < 0]
    if len(negative) > 1 and (negative == -1).all() and (given[given >= 0] % 1 != 0).any():
        return "all negative scores are -1, as if it marked missing ones; return NaN for these"
    sums = scores[np.isfinite(scores).all(axis=1)].sum(axis=1)
    constant = len(sums) > 1 and np.ptp(sums) <= _PART_SUM_ERROR * sums.max()
    if constant and not len(negative) and not _looks_like_cosines(scores):
        return f"an image's scores always sum to about {sums.mean():.3g}; divide them by that if they are parts of it"
    return ""


def _looks_like_levels(given: np.ndarray) -> bool:
    """Return whether scores, of which one is negative or above 100, are whole numbers from 0 to 255."""
    return bool(0 <= given.min() <= given.max() <= UNITS["levels"] and (given % 1 == 0).all())


def _sums_to_one(probabilities: np.ndarray, floor: float, error: float = SUM_ERROR) -> bool:
    """Return whether the scores of every image sum to 1, apart from rounding; images without scores do not count."""
    total = np.nansum(probabilities, axis=1)
    complete = np.isfinite(probabilities).all(axis=1) & (total > 0)
    allowed = error + probabilities.shape[1] * floor
    return bool(complete.any() and (np.abs(total[complete] - 1) <= allowed).all() and (total <= 1 + allowed).all())


def _looks_like_cosines(scores: np.ndarray) -> bool:
    """Return whether the scores of nearly all images are of similar size."""
    rows = scores[np.isfinite(scores).all(axis=1)]
    return bool(len(rows) and np.mean(rows.max(axis=1) <= _COSINE_RATIO * rows.min(axis=1)) >= _TOP_SHARE)


def _described(score_format: ScoreFormat, reason: str, scores: np.ndarray) -> ScoreFormat:
    """Add the finding in words, with the observed range and sums."""
    given = scores[np.isfinite(scores)]
    seen = "there was no score"
    if len(given):
        sums = np.nansum(np.where(np.isfinite(scores), scores, np.nan), axis=1)
        seen = (
            f"values from {given.min():.3g} to {given.max():.3g}, sums of an image's scores from {sums.min():.3g} to "
            f"{sums.max():.3g}"
        )
        if score_format.floor:
            seen += f", rounded to {2 * score_format.floor * UNITS[score_format.score_type]:.3g}"
        if score_format.zeros_missing:
            seen += ", zeros for scores that are not returned"
    levels = len(given) and given.max() > UNITS["percent"] and _looks_like_levels(given)
    types = ("logits", "levels") if levels else (name for name in SCORE_TYPES if name != "levels")
    others = " or ".join(repr(name) for name in types if name != score_format.score_type)
    hint = "" if reason == _DECLARED else f" If this is wrong, set score_type to {others}."
    top_only = _are_top_only(scores)
    return replace(score_format, top_only=top_only, finding=f"{score_format.score_type}, {reason} ({seen}).{hint}")
