"""The values of black and white, which are found from all training images together and compared with later images.

uint8 images have a known range. For all other numbers, the smallest and the largest number of the whole set decide,
never those of one image.
"""

from __future__ import annotations

__all__ = ["ALMOST_BLACK", "FULL", "PICTURE", "fits_range", "is_doubtful", "is_fraction", "range_of"]

#: Values of black and white that images usually have.
_USUAL = ((0.0, 1.0), (0.0, 255.0), (0.0, 65_535.0), (-1.0, 1.0))
FULL = ((0.0, 255.0), (0.0, 65_535.0))  #: Ranges in which 8-bit images may be among others.
#: Largest number of a set that is rather in a range of its own than a set of almost black 8-bit images: digits of
#: scikit-learn range from 0 to 16.
ALMOST_BLACK = 16.0
_MUCH_ABOVE_1 = 8.0
PICTURE = 64  #: Pixels of the smallest picture.
_TWELVE_BITS = 4_095.0
# Part of white by which numbers pass their range where they were computed in single precision.
_ROUNDING = 1e-5
# Interpolation makes numbers that pass the range by a part of it.
_OVERSHOOT = 0.25


def range_of(low: float, high: float) -> tuple[float, float]:
    """Find the values of black and white of a set of images.

    Parameters
    ----------
    low, high : float
        Smallest and largest number in the set.

    Returns
    -------
    black, white : float
        0 and 1 for numbers up to 1; 0 and 255 for numbers up to 255 of which some exceed 16; 0 and 65535 for numbers up
        to 65535 of which some exceed 4095; -1 and 1 for numbers between these that fall below -0.5; otherwise `low` and
        `high`.
    """
    for least, white in ((-1.0, 1.0), (ALMOST_BLACK, 255.0), (_TWELVE_BITS, 65_535.0)):
        if low >= -_ROUNDING * white and least < high <= white * (1 + _ROUNDING):
            return 0.0, white
    if -1 - _ROUNDING <= low <= -0.5 and high <= 1 + _ROUNDING:
        return -1.0, 1.0
    return low, max(high, low + 1e-12)


def is_doubtful(low: float, high: float) -> bool:
    """Return whether a set with numbers between `low` and `high` may have another range than `range_of` finds."""
    black, white = range_of(low, high)
    return (black, white) not in _USUAL or (white > 1 and high <= white / 2)


def is_fraction(low: float, high: float) -> bool:
    """Return whether numbers between `low` and `high` lie in [0, 1], with a margin for what interpolation adds."""
    return low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT


def fits_range(low: float, high: float, black: float, white: float, n_pixels: int) -> bool:
    """Return whether later images can be in the range that was learned in `fit`.

    Dark images between 0 and 255, none of them above 1, cannot be told from images between 0 and 1. After images
    between 0 and 1 they are read as such, and after images between 0 and 255 they are refused.

    Parameters
    ----------
    low, high : float
        Smallest and largest number in the later images.
    black, white : float
        The learned range.
    n_pixels : int
        Pixels of an image; fewer than 64 are not a picture.

    Returns
    -------
    fits : bool
        False if the images must be refused.
    """
    # Pictures around 0 have negative numbers, more so than interpolation makes them.
    if black < 0 and low >= -0.1 and is_fraction(low, high) and n_pixels >= PICTURE:
        return False
    if low == high == 0:
        return True
    usual = (black, white) in _USUAL
    # A range that was read off the training images may be passed by others.
    margin = (white - black) * (_OVERSHOOT if usual else 1)
    if low < black - margin or high > white + margin:
        return False
    if black != 0:
        return True
    # Numbers around 0 are standardised, unless they fall below it by no more than interpolation explains.
    overshoot = high * _OVERSHOOT if white <= 1 or high > white / 16 else 0
    if low < -max(overshoot, white / 1_000):
        return False
    # Numbers between 0 and 1 would be black, as would 8-bit numbers among 16-bit ones.
    black_fractions = white >= _MUCH_ABOVE_1 and is_fraction(low, high)
    return not black_fractions and not (white > _TWELVE_BITS and high <= 255)
