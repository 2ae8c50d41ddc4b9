"""A fit again: what it has paid for already is answered from its journal."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..exceptions import JournalError
from ..journal.journal import Journal

__all__ = ["ContentKeys", "JournalHit", "Replay"]


class ContentKeys:
    """The keys of answers: digests of the service, the class prompts and an image as it is sent.

    Parameters
    ----------
    service : object
        See `service_identity`.
    class_prompts : iterable of str
    """

    def __init__(self, service: Any, class_prompts: Iterable[str]):
        self._base = hashlib.sha256(json.dumps([service, list(class_prompts)]).encode())

    def of(self, images: Any) -> list[bytes]:
        """A key of 32 bytes for each image of an array or tensor (n, ...)."""
        pixels = images if isinstance(images, np.ndarray) else images.detach().cpu().numpy()
        base = self._base.copy()
        base.update(f"{pixels.dtype.str} {pixels.shape[1:]}".encode())
        keys = []
        for image in pixels:
            digest = base.copy()
            digest.update(np.ascontiguousarray(image).data)
            keys.append(digest.digest())
        return keys


class JournalHit(NamedTuple):
    """What a journal knows of some images.

    Attributes
    ----------
    keys : list of bytes
    scores : ndarray of shape (n_images, n_classes)
        NaN where nothing is known.
    known : ndarray of shape (n_images,), bool
    n_billed : int
        How many of the known ones were billed.
    """

    keys: list[bytes]
    scores: np.ndarray
    known: np.ndarray
    n_billed: int


class Replay:
    """The journal of a fit, as its ledger uses it: the k-th time that an image is asked for gets the k-th answer.

    A fit asks for the same images each time that it is run. So it does not matter in which order answers came, and a
    service that answers one image differently each time is remembered so.

    Parameters
    ----------
    journal : Journal
    service : object
        See `service_identity`.
    seed : int
        Of the fit.

    Attributes
    ----------
    aside : bool
        Whether what is asked for from now on is no part of what the fit does when nothing interrupts it.
    """

    def __init__(self, journal: Journal, service: Any, seed: int):
        self.journal = journal
        self.service = service
        self.seed = seed
        self.aside = False
        self.n_known = journal.n_answers - journal.n_free  # that were billed, and need not be billed again
        self._n_left = journal.n_answers - journal.n_aside  # that the fit has not asked for yet
        self._asked: Counter[bytes] = Counter()
        self._records: set[int] = set()  # of which anything was recalled

    def recall(self, images: Any, class_prompts: Sequence[str]) -> JournalHit:
        """What is known of images that are asked for.

        Parameters
        ----------
        images : ndarray or tensor, of n images
            As they would be sent.
        class_prompts : sequence of str

        Raises
        ------
        JournalError
            If some would have to be sent, and the journal has answers for others that the fit did not ask for: then
            it asks for other images than the last time, and would pay for all of them again.
        """
        keys = [self._next_key(content) for content in ContentKeys(self.service, class_prompts).of(images)]
        places = [self.journal.find(key) for key in keys]
        known = np.array([place is not None for place in places], bool)
        scores = np.full((len(keys), len(class_prompts)), np.nan)
        n_billed = int(known.sum())
        for row, place in enumerate(places):
            if place is None:
                continue
            scores[row] = self.journal.scores(place, len(class_prompts))
            self._n_left -= not self.journal.is_aside(place)
            if place.record not in self._records:  # those that came together are asked for together
                self._records.add(place.record)
                n_billed -= self.journal.free_in(place.record)
        if not known.all():
            self._check_path()
            self.journal.check_usable()
        return JournalHit(keys, scores, known, max(0, n_billed))

    def keep(self, keys: Sequence[bytes], scores: np.ndarray, n_free: int) -> None:
        """Write down answers that came, of which `n_free` were not billed; they are on disk when this returns."""
        self.journal.add(keys, scores, n_free, self.aside)

    def _next_key(self, content: bytes) -> bytes:
        number = self._asked[content]
        self._asked[content] += 1
        return hashlib.sha256(content + number.to_bytes(8, "little")).digest()

    def _check_path(self) -> None:
        if self._n_left > 0 and not self.aside:
            raise JournalError(
                f"The journal {os.fspath(self.journal.path)!r} has answers for {self._n_left} images that this fit "
                "does not ask for: its prompts are computed otherwise than when they were paid for, as after an update "
                "of torch or NumPy, on another machine or with another number of threads. Nothing more was sent. Go on "
                "where it was made, or give another checkpoint to pay anew."
            )
