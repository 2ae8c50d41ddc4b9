"""Heads: from the service's log scores, and local features, to class probabilities."""

from .base import CalibratedHead, ServiceHead, log_loss
from .fused import FusedHead

__all__ = ["CalibratedHead", "FusedHead", "ServiceHead", "log_loss"]
