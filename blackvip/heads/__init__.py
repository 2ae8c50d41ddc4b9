"""Heads: from the service's log scores, and local features, to class probabilities."""

from .base import ClassifierHead, Head, ServiceHead, log_loss
from .calibrated import CalibratedHead
from .fused import FusedHead, LocalProbe

__all__ = ["CalibratedHead", "ClassifierHead", "FusedHead", "Head", "LocalProbe", "ServiceHead", "log_loss"]
