"""One budget of billed images over many fits and predictions, also in several processes."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from ..exceptions import BudgetError
from ..journal.store import Format, Store
from .answers import Metered, Scored, scores_of
from .contract import ScoreFunction
from .wrappers import ScorerWrapper, scorer_name

__all__ = ["Lease", "SharedBudget"]

_FORMAT = Format(
    noun="shared budget",
    application_id=int.from_bytes(b"bvB\0"),
    version=1,
    tables=("CREATE TABLE counts (sent INTEGER, reserved INTEGER)",),
    error=BudgetError,
    remedy="give another path",
    when_full="Nothing was sent; make room and begin again",
    when_gone="nothing was sent. Give SharedBudget a path, and its file outlasts the process",
)


class SharedBudget(ScorerWrapper):
    """A score function with one budget of billed images for all that use it.

    It is a score function itself and replaces the one it wraps. Each fit reserves its `max_queries` images before it
    sends the first one, and releases what it did not need when it ends. So a search never starts a fit that it cannot
    pay for. A prediction reserves one image per image.

    Parameters
    ----------
    score_fn : callable
        ``score_fn(images, class_prompts) -> scores``, see `BlackVIPClassifier`. Its declared attributes are passed on.
    max_queries : int
        The most images that may be sent in all, at least 1.
    path : str or path-like or None, default=None
        The file that keeps count. An existing file is continued, so that a budget outlasts a restart. None: a
        temporary file, which is removed when the process that made it ends.

    Attributes
    ----------
    n_queries : int
        Images sent so far, by all processes.
    remaining : int
        Images that are neither sent nor reserved.

    Notes
    -----
    Copies share the budget and the count. ``copy.deepcopy`` and scikit-learn's ``clone`` copy neither the score
    function nor the count. Pickled copies, for example in joblib's processes, use the same file. The file is an SQLite
    database and must be on a local disk: locks of network file systems are unreliable.

    Images that a killed process had reserved stay reserved, since nobody knows what it sent last. To use them all the
    same, raise `max_queries` by as many.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import GridSearchCV
    >>> from blackvip import BlackVIPClassifier
    >>> from blackvip.scorers import SharedBudget
    >>> def service(images, class_prompts):
    ...     day = images.mean(axis=(1, 2, 3)) / 255
    ...     return 20 * np.stack([day - 0.5, 0.5 - day], axis=1)
    >>> y = np.repeat(["night", "day"], 20)
    >>> X = np.random.default_rng(0).uniform(0, 0.3, (40, 8, 8)) + np.where(y == "day", 0.15, 0)[:, None, None]
    >>> budget = SharedBudget(service, max_queries=4000)
    >>> clf = BlackVIPClassifier(budget, prompter="basis", head=None, max_queries=500, random_state=0)
    >>> search = GridSearchCV(clf, {"c": [0.05, 0.1]}, cv=2).fit(X, y)
    >>> budget.n_queries <= 5 * 500 + 2 * 40  # five fits, and each candidate's predictions
    True
    >>> budget.remaining == 4000 - budget.n_queries
    True
    """

    def __init__(self, score_fn: ScoreFunction, max_queries: int, path: str | os.PathLike[str] | None = None):
        if not callable(score_fn):
            raise TypeError(f"score_fn is a {type(score_fn).__name__}; expected a callable that takes images.")
        if not isinstance(max_queries, Integral) or max_queries < 1:
            raise ValueError(f"max_queries={max_queries!r}; expected a whole number of images, at least 1.")
        self.score_fn: ScoreFunction = score_fn
        self.max_queries: int = int(max_queries)
        # Workers may run in another folder.
        self.path: Path = _temporary_path() if path is None else Path(path).expanduser().absolute()
        self._store: Store = Store(self.path, _FORMAT, shared=True, synced=False)
        self._store.open()

    @property
    def n_queries(self) -> int:
        """Images that were sent so far, by all processes."""
        with self._counts() as counts:
            return counts.sent

    @property
    def remaining(self) -> int:
        """Images that are neither sent nor reserved."""
        with self._counts() as counts:
            return self._left(counts)

    def lease(self, n_images: int) -> Lease:
        """Reserve images for a fit or a prediction.

        Parameters
        ----------
        n_images : int
            The most that will be sent.

        Returns
        -------
        lease : Lease
            A score function that releases what it did not send at the end of a ``with`` block.

        Raises
        ------
        BudgetError
            If fewer are left. Nothing is reserved then.
        """
        with self._counts() as counts:
            left = self._left(counts)
            if n_images > left:
                reserved = f" and {counts.reserved} reserved by fits that run or were killed" * bool(counts.reserved)
                raise BudgetError(
                    f"A fit or a prediction may need {n_images} images, but of the shared budget of "
                    f"{self.max_queries} only {left} are left ({counts.sent} are sent{reserved}); nothing was sent for "
                    f"it. Set the max_queries of SharedBudget to {self.max_queries - left + n_images} or more, lower "
                    "that of the classifier, or try less: search_cost shows what a search may need."
                )
            counts.reserved += n_images
        return Lease(self, n_images)

    def __call__(self, images: np.ndarray, class_prompts: list[str]) -> Any:
        with self.lease(len(images)) as lease:
            return lease(images, class_prompts)

    def answers(self, images: Any, class_prompts: list[str]) -> Iterator[Scored]:
        """Yield answers as they arrive, see `blackvip.scorers.contract`. All images are reserved first.

        Parameters
        ----------
        images : ndarray of shape (n, height, width, 3), uint8, or tensor
            Images in the form that the score function takes.
        class_prompts : list of str
            One for each class.

        Yields
        ------
        rows : ndarray of int
            Indices into `images`.
        scores : object
            Scores as the score function returns them.

        Raises
        ------
        BudgetError
            If fewer are left.
        """
        with self.lease(len(images)) as lease:
            yield from lease.answers(images, class_prompts)

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedBudget:
        return self

    def __repr__(self) -> str:
        return f"SharedBudget({scorer_name(self.score_fn)}, max_queries={self.max_queries})"

    def _left(self, counts: _Counts) -> int:
        return max(0, self.max_queries - counts.sent - counts.reserved)

    @contextmanager
    def _counts(self) -> Iterator[_Counts]:
        """Lock and read the counts for one thread of one process; changes are kept unless an error is raised."""
        with self._store.transaction() as connection:
            found = connection.execute("SELECT sent, reserved FROM counts").fetchall() or [(0, 0)]
            if len(found) > 1 or not all(type(number) is int for number in found[0]):
                raise self._store.damaged("it does not hold two counts")
            counts = _Counts(*found[0])
            yield counts
            if (after := (counts.sent, counts.reserved)) != found[0]:
                connection.execute("DELETE FROM counts")
                connection.execute("INSERT INTO counts VALUES (?, ?)", after)


class Lease:
    """Score function that sends no more images than were reserved for it.

    Attributes
    ----------
    n_images : int
        Images reserved for it, sent or not.
    n_queries : int
        Images that it has sent.
    """

    def __init__(self, budget: SharedBudget, n_images: int):
        self._budget = budget
        self.n_images = n_images
        self.n_queries = 0

    def __call__(self, images: np.ndarray, class_prompts: list[str]) -> Any:
        self._count(len(images))
        return self._budget.score_fn(images, class_prompts)

    def answers(self, images: Any, class_prompts: list[str]) -> Iterator[Scored]:
        """Yield answers as they arrive; images that turn out not to be sent are reserved again."""
        self._count(len(images))
        pieces = Metered(scores_of(self._budget.score_fn, images, class_prompts))
        try:
            yield from pieces
        finally:
            pieces.close()
            self._count(-pieces.n_not_sent)

    def _count(self, n_images: int) -> None:
        """Count reserved images as sent, before they are sent, whether or not an answer arrives."""
        with self._budget._counts() as counts:
            if n_images > self.n_images - self.n_queries:
                raise BudgetError(
                    f"{n_images} images were to be sent, but of the {self.n_images} that were reserved "
                    f"{self.n_images - self.n_queries} are left. Ask for a lease of all that is needed."
                )
            counts.reserved -= n_images
            counts.sent += n_images
            self.n_queries += n_images

    def release(self) -> None:
        """Give back what was not sent. A second time does nothing."""
        with self._budget._counts() as counts:
            counts.reserved -= self.n_images - self.n_queries
            self.n_images = self.n_queries

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


@dataclass
class _Counts:
    sent: int
    reserved: int


def _temporary_path() -> Path:
    folder = tempfile.mkdtemp(prefix="blackvip-budget-")
    atexit.register(_remove, folder, os.getpid())
    return Path(folder, "budget")


def _remove(folder: str, pid: int) -> None:
    # The folder outlives a forked child.
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)
