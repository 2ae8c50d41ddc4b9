"""Persistence: files that are safe to load, whoever made them.

A file is a ``.safetensors`` file, which any tool can list: arrays are tensors, all else is a JSON document in its
metadata, with a format version and a checksum beside it. Loading one executes nothing, and imports nothing that the
file names. The checksum finds damage; what it does not find, a change by someone who computes it anew, is checked value
by value against `blackvip.persistence.schema`.
"""

from __future__ import annotations

import os
from typing import Any

from sklearn.utils.validation import check_is_fitted

from .._version import __version__
from ..exceptions import PersistenceError
from .format import decode, encode, expect, read, write

__all__ = ["FORMAT_VERSION", "Saveable", "load", "save"]

FORMAT_VERSION = 1  #: The version of the files that are written, and so far the only one that is read.

Path = str | os.PathLike[str]


class Saveable:
    """Mixin of estimators that `blackvip.load` brings back."""

    def save(self, path: Path) -> None:
        """Save the fitted estimator to a file that is safe to load, see `blackvip.load`.

        Parameters
        ----------
        path : str or path-like
            The file, with any suffix. One that is there is replaced at once, when all is written.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        PersistenceError
            If a part of it cannot be saved, such as a head that is not of this package, or the file cannot be
            written.
        FileNotFoundError
            If there is no such folder.

        Notes
        -----
        The score function stays behind, since it is code, and may have a key: `blackvip.load` takes one. So do
        callbacks, metadata requests and a `random_state` that is neither an int nor None; the state of the generator
        that `fit` used is saved.
        """
        save(self, path)


def save(estimator: Any, path: Path) -> None:
    """Save a fitted classifier, transformer or prompter; `Saveable.save` says the same.

    Parameters
    ----------
    estimator : BlackVIPClassifier, BlackVIPPrompter, Coordinator or PromptBasis
        Fitted.
    path : str or path-like
        The file, with any suffix.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    PersistenceError
        If a part of it cannot be saved, or the file cannot be written.
    FileNotFoundError
        If there is no such folder.
    """
    check_is_fitted(estimator)
    try:
        data = _dump(estimator)
        _parse(data, getattr(estimator, "score_fn", None))  # nothing is written that is not read
        write(path, data)
    except ValueError as error:  # one of our own, or scikit-learn's on parameters that were set since `fit`
        reason = str(error).removesuffix(".")
        raise PersistenceError(
            f"The {type(estimator).__name__} cannot be saved to {os.fspath(path)}: {reason}."
        ) from error


def load(path: Path, score_fn: Any = None) -> Any:
    """Load what `save` has written. It executes nothing that the file brings, so that the file need not be trusted.

    Parameters
    ----------
    path : str or path-like
        The file.
    score_fn : callable or None, default=None
        The score function of the classifier in the file; not used where there is none. Without it, a classifier needs
        ``set_params(score_fn=...)`` before it predicts.

    Returns
    -------
    estimator : BlackVIPClassifier, BlackVIPPrompter, Coordinator or PromptBasis
        Fitted as it was: it gives the same predictions, bit for bit on one machine, and `partial_fit` goes on from
        where it was.

    Raises
    ------
    PersistenceError
        If the file is damaged, of another version, too large, or is not what `save` writes.
    FileNotFoundError
        If there is no such file.
    TypeError
        If `score_fn` is neither callable nor None.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import blackvip
    >>> def service(images, class_prompts):  # it takes bright images for days
    ...     day = images.mean(axis=(1, 2, 3)) / 255
    ...     return 20 * np.stack([day - 0.5, 0.5 - day], axis=1)
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["night", "day"], 20)  # all of it far too dark for the service
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
    except Exception as error:  # whatever else a broken file brings about
        reason = f"{type(error).__name__}: {error}"[:200]
        raise PersistenceError(
            f"{os.fspath(path)} cannot be loaded, it is not as `save` writes it: {reason}"
        ) from error


def _dump(estimator: Any) -> bytes:
    """The bytes of a file."""
    from .fields import Writing
    from .schema import MODEL

    file = Writing()
    packed = MODEL.pack(estimator, file, "")
    document = {"format": "blackvip", "version": FORMAT_VERSION, "package": __version__, "object": packed}
    return encode(document, file.tensors)


def _parse(data: bytes, score_fn: Any) -> Any:
    """The object in the bytes of a file of unknown origin."""
    from .fields import Reading
    from .schema import MODEL

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
    file = Reading(tensors, score_fn)
    estimator = MODEL.unpack(document["object"], file, "")
    surplus = sorted(tensors.keys() - file.values.keys())
    expect(not surplus, f"it has tensors that belong nowhere: {surplus!r:.100}")
    return estimator
