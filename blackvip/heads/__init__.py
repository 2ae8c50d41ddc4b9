"""Heads: from the service's log scores, and local features, to class probabilities."""

from .base import Head, ServiceHead, log_loss
from .calibrated import CalibratedHead
from .classifier import ClassifierHead
from .fused import FusedHead
from .local_probe import LocalProbe
from .tempered import TemperedHead

__all__ = [
    "CalibratedHead",
    "ClassifierHead",
    "FusedHead",
    "Head",
    "LocalProbe",
    "ServiceHead",
    "TemperedHead",
    "log_loss",
]
