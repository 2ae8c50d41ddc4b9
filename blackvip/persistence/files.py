"""Saving and loading: files that are safe to load, even from strangers.

A file is a ``.safetensors`` file, which any tool can list: arrays are tensors, and everything else is a JSON document
in its metadata, next to a format version and a checksum. Loading a file executes nothing, and imports nothing that the
file names. The checksum detects damage. It does not detect a change by somebody who computes it anew, so every value is
also checked against what its class allows.
"""

from __future__ import annotations

import os
from typing import Any

from sklearn.utils.validation import check_is_fitted

from .._version import __version__
from ..exceptions import PersistenceError
from ..process.settings import usual_settings
from .fields import Reading, Writing
from .format import decode, encode, expect, read, write
from .objects import Object
from .saveable import Saveable

__all__ = ["FORMAT_VERSION", "SaveableEstimator", "load", "save"]

FORMAT_VERSION = 1  #: Version of the files that are written, and the only one that is read so far.

Path = str | os.PathLike[str]


class SaveableEstimator(Saveable, saveable=False):
    """Mixin of estimators that `blackvip.load` brings back."""

    def save(self, path: Path) -> None:
        """Save the fitted estimator to a file that is safe to load, see `blackvip.load`.

        Parameters
        ----------
        path : str or path-like
            The file, with any suffix. An existing file is replaced in one step, once everything is written.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        PersistenceError
            If a part of it cannot be saved, such as a head of scikit-learn, or if the file cannot be written.
        FileNotFoundError
            If the folder does not exist.

        Notes
        -----
        The score function is not saved, since it is code and may hold a key: pass it to `blackvip.load`. Callbacks,
        metadata requests, and a `random_state` that is neither an int nor None are not saved either. The state of the
        generator that `fit` used is saved.
        """
        save(self, path)


@usual_settings()
def save(estimator: Any, path: Path) -> None:
    """Save a fitted classifier, transformer or prompter, as its method `save` does.

    Parameters
    ----------
    estimator : BlackVIPClassifier, BlackVIPPrompter or Prompter
        The fitted estimator.
    path : str or path-like
        The file, with any suffix. An existing file is replaced in one step, once everything is written.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    PersistenceError
        If a part of it cannot be saved, or if the file cannot be written.
    FileNotFoundError
        If the folder does not exist.
    """
    check_is_fitted(estimator)
    try:
        data = _dump(estimator)
        # Nothing is written that cannot be read.
        _parse(data, getattr(estimator, "score_fn", None))
        write(path, data)
    except ValueError as error:  # a PersistenceError, or scikit-learn's for a parameter that was set after `fit`
        reason = str(error).removesuffix(".")
        raise PersistenceError(
            f"The {type(estimator).__name__} cannot be saved to {os.fspath(path)}: {reason}."
        ) from error


@usual_settings()
def load(path: Path, score_fn: Any = None) -> Any:
    """Load a file that `save` has written. It executes nothing from the file, so the file need not be trusted.

    Parameters
    ----------
    path : str or path-like
        The file.
    score_fn : callable or None, default=None
        Score function for the classifier in the file; ignored if there is none. Without it, a classifier needs
        ``set_params(score_fn=...)`` before it predicts.

    Returns
    -------
    estimator : BlackVIPClassifier, BlackVIPPrompter or Prompter
        The fitted estimator. On one machine its predictions are the same, bit for bit, and `partial_fit` continues
        where it stopped.

    Raises
    ------
    PersistenceError
        If the file is damaged, of another version, too large or not one that `save` writes, or if it has an object of
        a class whose module is not imported.
    FileNotFoundError
        If the file does not exist.
    TypeError
        If `score_fn` is neither callable nor None.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import blackvip
    >>> def service(images, class_prompts):  # believes that bright means daytime
    ...     day = images.mean(axis=(1, 2, 3)) / 255
    ...     return 20 * np.stack([day - 0.5, 0.5 - day], axis=1)
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["night", "day"], 20)  # every photo is underexposed
    >>> X = rng.uniform(0, 0.3, (40, 16, 16)) + np.where(y == "day", 0.15, 0)[:, None, None]
    >>> clf = blackvip.BlackVIPClassifier(service, prompter="basis", max_queries=2000, random_state=0).fit(X, y)
    >>> folder = tempfile.mkdtemp()
    >>> clf.save(os.path.join(folder, "day.blackvip"))
    >>> same = blackvip.load(os.path.join(folder, "day.blackvip"), service)
    >>> bool((same.predict_proba(X) == clf.predict_proba(X)).all())
    True
    """
    if score_fn is not None and not callable(score_fn):
        raise TypeError(f"score_fn is a {type(score_fn).__name__}; expected a callable or None.")
    try:
        return _parse(read(path), score_fn)
    except FileNotFoundError:
        raise
    except PersistenceError as error:
        raise PersistenceError(f"{os.fspath(path)} cannot be loaded: {error}.") from error
    except Exception as error:  # a broken file may raise any other
        reason = f"{type(error).__name__}: {error}"[:200]
        raise PersistenceError(
            f"{os.fspath(path)} cannot be loaded, because `save` did not write it: {reason}"
        ) from error


_MODEL = Object(SaveableEstimator)


def _dump(estimator: Any) -> bytes:
    """Return the bytes of a file."""
    file = Writing()
    packed = _MODEL.pack(estimator, file, "")
    document = {"format": "blackvip", "version": FORMAT_VERSION, "package": __version__, "object": packed}
    return encode(document, file.tensors)


def _parse(data: bytes, score_fn: Any) -> Any:
    """Return the object in the bytes of a file of unknown origin."""
    document, tensors = decode(data)
    expect(document["format"] == "blackvip", "its format is not blackvip's")
    version = document["version"]
    expect(
        type(version) is int and version == FORMAT_VERSION,
        f"its format has the version {version!r:.20}; this release of blackvip reads version {FORMAT_VERSION}. "
        "Upgrade blackvip to read a later one",
    )
    expect(document.keys() == {"format", "version", "package", "object"}, "its document has other keys than it should")
    expect(isinstance(document["package"], str), "it does not name the release that wrote it")
    file = Reading(tensors, given={"score_fn": score_fn})
    estimator = _MODEL.unpack(document["object"], file, "")
    surplus = sorted(tensors.keys() - file.values.keys())
    expect(not surplus, f"it has tensors that no object uses: {surplus!r:.100}")
    return estimator
