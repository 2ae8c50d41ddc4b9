"""Checkpoints: the files that keep the answers of a fit and of its predictions."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..exceptions import JournalError, warn_caller
from ..inputs.images import Images
from ..inputs.reading import BATCH
from ..journal.identity import describe
from ..journal.journal import Journal
from .identity import instructions_of, service_identity
from .replay import Replay
from .wrappers import innermost, scorer_name

__all__ = ["predictions_path", "refuse_checkpoint", "replayed"]

# Parameters that do not identify a fit. The first two are compared in another form.
_NOT_COMPARED = ("score_fn", "class_prompts", "checkpoint", "n_jobs", "verbose")
_LARGEST_SEED = 2**128


def refuse_checkpoint(checkpoint: Any, what: str) -> None:
    """Raise a `JournalError` if a checkpoint is set where none can be used.

    Parameters
    ----------
    checkpoint : str, path-like or None
        Value of the parameter.
    what : str
        Start of the message: the method or the setting that continues an earlier fit.
    """
    if checkpoint is not None:
        raise JournalError(
            f"{what} continues an earlier fit, but a checkpoint holds one fit from its start, and "
            f"checkpoint={checkpoint!r}. Set checkpoint=None, or call fit with warm_start=False."
        )


@contextmanager
def replayed(
    clf: Any, images: Images, y: np.ndarray, weights: np.ndarray, draw_seed: Callable[[Any], int]
) -> Iterator[Replay | None]:
    """Open the journal of a fit for the time of a ``with`` block; the value is None if there is no checkpoint.

    Parameters
    ----------
    clf : BlackVIPClassifier
        Estimator that has learned the classes and the class prompts from the training set.
    images : Images
        The training images.
    y : ndarray of shape (n_images,)
        Class indices.
    weights : ndarray of shape (n_images,)
        Weights of the images.
    draw_seed : callable
        Makes a seed from `random_state`; a new journal keeps it.

    Raises
    ------
    JournalError
        If the journal belongs to another fit, or another process uses it.
    """
    if clf.checkpoint is None:
        yield None
        return
    identity = fit_identity(clf, images, y, weights)
    path = _fit_path(clf.checkpoint, identity)
    instructions = instructions_of(clf.score_fn)
    facts = {"seed": str(draw_seed(clf.random_state)), "instructions": instructions}
    with Journal(path, identity, facts) as journal:
        if journal.facts.get("instructions", instructions) != instructions:
            warn_of_new_code(clf.score_fn, path)
        try:
            yield Replay(journal, service_identity(clf.score_fn), _seed(journal))
        except (Exception, KeyboardInterrupt) as error:
            if journal.n_answers and not isinstance(error, JournalError):
                error.add_note(f"The answers so far are in {os.fspath(path)!r}. Call fit again to resume from there.")
            raise


def fit_identity(clf: Any, images: Images, y: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """Describe everything that determines which images a fit sends and how they are answered.

    Parameters
    ----------
    clf : BlackVIPClassifier
        The estimator. It has learned the classes and the class prompts.
    images : Images
        The training images.
    y : ndarray of shape (n_images,)
        Class indices.
    weights : ndarray of shape (n_images,)
        Weights of the images.

    Returns
    -------
    identity : dict
        A description in JSON.
    """
    pixels = hashlib.sha256()
    for first in range(0, len(images), BATCH):
        block = images[first : first + BATCH]
        pixels.update(block.dtype.str.encode() + np.ascontiguousarray(block).tobytes())
    params = {name: value for name, value in clf.get_params(deep=False).items() if name not in _NOT_COMPARED}
    return {
        "version": __version__,
        **describe(params),
        "score_fn": service_identity(clf.score_fn),
        "class_prompts": list(clf.class_prompts_),
        "classes": describe(clf.classes_.tolist()),
        "training images": {"number": len(images), "size": list(images.size), "sha256": pixels.hexdigest()},
        "labels": {"sha256": hashlib.sha256(y.astype("<i8").tobytes()).hexdigest()},
        "weights": {"sha256": hashlib.sha256(weights.astype("<f8").tobytes()).hexdigest()},
    }


def warn_of_new_code(score_fn: Any, path: str | os.PathLike[str]) -> None:
    """Warn that the code of a score function has changed since the answers in a file were paid for."""
    warn_caller(
        f"The code of the score function {scorer_name(innermost(score_fn))} has changed since its answers in "
        f"{os.fspath(path)!r} were paid for. They are used all the same. If it answers differently now, give another "
        "file, or another name to the function.",
        UserWarning,
    )


def predictions_path(checkpoint: str | os.PathLike[str]) -> Path:
    """Return the path of the file that keeps the answers of predictions."""
    if _is_folder(checkpoint):
        return _folder(checkpoint) / "predictions.journal"
    path = Path(checkpoint).expanduser()
    return path.with_name(path.name + ".predictions")


def _fit_path(checkpoint: str | os.PathLike[str], identity: dict[str, Any]) -> Path:
    if not _is_folder(checkpoint):
        return Path(checkpoint).expanduser()
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return _folder(checkpoint) / f"{digest[:32]}.journal"


def _is_folder(checkpoint: str | os.PathLike[str]) -> bool:
    path = os.path.expanduser(os.fspath(checkpoint))
    return path.endswith(tuple(filter(None, (os.sep, os.altsep)))) or os.path.isdir(path)


def _folder(checkpoint: str | os.PathLike[str]) -> Path:
    path = Path(checkpoint).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JournalError(
            f"checkpoint: the folder {os.fspath(path)!r} cannot be created ({error.strerror or error}). Give a path "
            "in a folder that can be written to."
        ) from error
    return path


def _seed(journal: Journal) -> int:
    text = str(journal.facts.get("seed"))
    seed = int(text) if text.isascii() and text.isdigit() and len(text) < 40 else _LARGEST_SEED
    if seed >= _LARGEST_SEED:
        raise JournalError(
            f"The journal {os.fspath(journal.path)!r} does not hold a seed written by blackvip. Use another checkpoint."
        )
    return seed
