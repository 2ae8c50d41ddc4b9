"""Encoders by their names: short ones, and those of timm's models."""

from __future__ import annotations

import difflib

import timm
from sklearn.base import clone

from .base import Encoder, TrainableEncoder
from .timm import TimmEncoder

__all__ = ["make_encoder", "make_frozen_encoder"]


def make_encoder(encoder: str | Encoder) -> Encoder:
    """Make an unfitted encoder.

    Parameters
    ----------
    encoder : {"pca", "gradients", "scratch"}, name of a timm model, or Encoder
        An `Encoder` is cloned.
    """
    names = ", ".join(map(repr, Encoder.named))
    if isinstance(encoder, Encoder):
        return clone(encoder)
    if not isinstance(encoder, str):
        raise TypeError(
            f"encoder is a {type(encoder).__name__}; expected one of {names}, a timm model's name, or an Encoder."
        )
    if encoder in Encoder.named:
        return Encoder.named[encoder]()
    if not timm.is_model(encoder.split(".")[0]):
        close = difflib.get_close_matches(encoder, timm.list_models(), n=3)
        raise ValueError(
            f"encoder={encoder!r} is neither one of {names}, nor a model that timm knows"
            + (f"; similar names: {', '.join(close)}." if close else ". timm.list_models() lists them.")
        )
    return TimmEncoder(encoder)


def make_frozen_encoder(local_encoder: str | Encoder) -> Encoder:
    """Make an unfitted encoder that has no parameters to train; a trainable one is a ValueError."""
    encoder = make_encoder(local_encoder)
    if isinstance(encoder, TrainableEncoder):
        raise ValueError(
            f"local_encoder={local_encoder!r} is trained together with a prompt; expected a frozen one, such as "
            "'gradients', 'pca' or a timm model's name."
        )
    return encoder
