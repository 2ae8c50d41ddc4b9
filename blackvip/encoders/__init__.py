"""Encoders turn images into the features that the Coordinator and local probes read."""

from .base import Encoder
from .by_name import make_encoder, make_frozen_encoder
from .cached import CachedEncoder
from .histograms import GradientEncoder
from .pca import PCAEncoder
from .scratch import ScratchEncoder
from .timm import TimmEncoder

__all__ = [
    "CachedEncoder",
    "Encoder",
    "GradientEncoder",
    "PCAEncoder",
    "ScratchEncoder",
    "TimmEncoder",
    "make_encoder",
    "make_frozen_encoder",
]
