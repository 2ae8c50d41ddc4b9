"""Prompters by name: the short names of this package, and the names of image corrections."""

from __future__ import annotations

from typing import Any

from sklearn.base import clone

from ..persistence.fields import Field, Reading, Scalar, Writing
from ..persistence.objects import Object
from .base import Prompter
from .corrections import CORRECTIONS, Correction

__all__ = ["PROMPTER", "make_prompter"]


def make_prompter(prompter: str | Prompter) -> Prompter:
    """Make an unfitted prompter.

    Parameters
    ----------
    prompter : str or Prompter
        A registered name, such as "basis" or "coordinator", the name of an image correction in `CORRECTIONS`, or a
        `Prompter`, which is cloned. "auto": the basis, which the last rung of the ladder trains.

    Returns
    -------
    prompter : Prompter
        The unfitted prompter.

    Raises
    ------
    ValueError
        If no prompter or correction has this name.
    """
    if isinstance(prompter, Prompter):
        return clone(prompter)
    prompter = "basis" if prompter == "auto" else prompter
    if prompter in Prompter.named:
        return Prompter.named[prompter]()
    if prompter in CORRECTIONS:
        return Correction(prompter)
    names = ", ".join(map(repr, [*Prompter.named, *CORRECTIONS]))
    raise ValueError(f"prompter={prompter!r}; expected one of {names}, or a Prompter.")


class _PrompterField(Field):
    """A prompter among the parameters of another object: a name that is known here, or an unfitted object."""

    _object = Object(Prompter, fitted="no")
    _name = Scalar(
        lambda name: name == "auto" or name in Prompter.named or name in CORRECTIONS,
        "the name of a prompter that is known here; import the module that adds it first",
    )

    def pack(self, value: Any, file: Writing, where: str) -> Any:
        return self._field(value).pack(value, file, where)

    def unpack(self, packed: Any, file: Reading, where: str) -> Any:
        return self._field(packed).unpack(packed, file, where)

    def _field(self, value: Any) -> Field:
        return self._name if isinstance(value, str) else self._object


PROMPTER = _PrompterField()
