"""Encoders: from images to the features that a Coordinator draws its prompts from, and that local probes read."""

from .base import Encoder, TrainableEncoder
from .by_name import make_encoder
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
    "TrainableEncoder",
    "make_encoder",
]
