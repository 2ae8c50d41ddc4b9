"""Changes of an image in words: brightness, contrast, colour and detail."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

__all__ = ["change_in_words"]

_LUMA = np.array([0.299, 0.587, 0.114])  # weights of R, G and B in the brightness, ITU-R BT.601
_SEEN = 0.02  # of the pixel range: smaller shifts are hardly visible
_FACTOR = 1.15  # of contrast or detail, likewise
_FEW = 0.1  # of the pixels, which are then called single ones
_DETAIL = 1.0  # pixels, the standard deviation of the blur that separates details
_SHIFTS = {("R", 1): "redder", ("G", 1): "greener", ("B", 1): "bluer"} | {
    ("R", -1): "less red",
    ("G", -1): "less green",
    ("B", -1): "less blue",
}


def change_in_words(before: np.ndarray, after: np.ndarray) -> list[str]:
    """Describe what was changed in an image, the strongest changes of each kind.

    Parameters
    ----------
    before, after : ndarray of shape (height, width, 3), uint8
        The image without and with the change.

    Returns
    -------
    words : list of str
        Such as "brighter by 12%", "contrast x 2.3", "redder by 5%", "detail x 0.6" and "inverted". Percentages are
        of the pixel range. "no visible change" if there is none.
    """
    first, second = before / 255, after / 255
    grey = [image @ _LUMA for image in (first, second)]
    words = []
    shift = grey[1].mean() - grey[0].mean()
    if abs(shift) >= _SEEN:
        words.append(f"{'brighter' if shift > 0 else 'darker'} by {abs(shift):.0%}")
    if _correlation(*grey) < -0.5:
        words.append("inverted")
    contrast = _ratio(grey[1].std(), grey[0].std())
    if contrast:
        words.append(f"contrast x {contrast}" if float(contrast) else "flat")
    # The shift of each channel against the brightness, the largest one.
    cast = (second - first).mean(axis=(0, 1)) - shift
    channel = int(np.abs(cast).argmax())
    if abs(cast[channel]) >= _SEEN:
        words.append(f"{_SHIFTS['RGB'[channel], int(np.sign(cast[channel]))]} by {abs(cast[channel]):.0%}")
    if "flat" in words:
        return words
    details = [(image - gaussian_filter(image, _DETAIL)).std() / max(image.std(), 1e-9) for image in grey]
    detail = _ratio(details[1], details[0])
    if detail:
        words.append(f"detail x {detail}")
    strongest = np.abs(second - first).max()
    if not words and strongest >= _SEEN:
        few = (np.abs(second - first).max(axis=2) >= _SEEN).mean() < _FEW
        words.append(f"{'single pixels' if few else 'pixels'} by up to {strongest:.0%}")
    return words or ["no visible change"]


def _ratio(after: float, before: float) -> str:
    """Return the ratio of two spreads as text; empty if it is not visible, or if there was no spread."""
    if before < 1 / 255:
        return ""
    ratio = after / before
    return "" if 1 / _FACTOR < ratio < _FACTOR else f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    spreads = one.std() * other.std()
    return float(((one - one.mean()) * (other - other.mean())).mean() / spreads) if spreads > 1e-6 else 0.0
