"""Encoders by name: the short names of this package, and the names of timm's models."""

from __future__ import annotations

import difflib

from sklearn.base import clone

from .base import Encoder
from .timm import TimmEncoder

__all__ = ["make_encoder", "make_frozen_encoder"]


def make_encoder(encoder: str | Encoder) -> Encoder:
    """Make an unfitted encoder.

    Parameters
    ----------
    encoder : {"pca", "gradients", "scratch"}, name of a timm model, or Encoder
        An `Encoder` is cloned.

    Returns
    -------
    encoder : Encoder
        The unfitted encoder.

    Raises
    ------
    TypeError
        If it is neither a name nor an `Encoder`.
    ValueError
        If no encoder and no model of timm has this name.
    """
    names = ", ".join(map(repr, Encoder.named))
    if isinstance(encoder, Encoder):
        return clone(encoder)
    if not isinstance(encoder, str):
        raise TypeError(
            f"encoder is a {type(encoder).__name__}; expected one of {names}, the name of a timm model, or an Encoder."
        )
    if encoder in Encoder.named:
        return Encoder.named[encoder]()
    # Imported here, since timm takes a third of the package's import time and the default encoders do not need it.
    import timm

    if not timm.is_model(encoder.split(".")[0]):
        close = difflib.get_close_matches(encoder, timm.list_models(), n=3)
        raise ValueError(
            f"encoder={encoder!r} is neither one of {names}, nor a model that timm knows"
            + (f"; similar names: {', '.join(close)}." if close else ". timm.list_models() lists all models.")
        )
    return TimmEncoder(encoder)


def make_frozen_encoder(encoder: str | Encoder, parameter: str = "local_encoder") -> Encoder:
    """Make an unfitted encoder that has no trained parameters.

    Parameters
    ----------
    encoder : str or Encoder
        The value that `make_encoder` takes.
    parameter : str, default="local_encoder"
        Name of the parameter that holds it, for the error.

    Returns
    -------
    encoder : Encoder
        The unfitted encoder.

    Raises
    ------
    ValueError
        If the encoder is trained together with a prompt.
    """
    made = make_encoder(encoder)
    if not made.is_frozen:
        raise ValueError(
            f"{parameter}={encoder!r} is trained together with a prompt, so its features change at every step; "
            "expected a frozen encoder, such as 'gradients', 'pca' or the name of a timm model."
        )
    return made
