"""Persistence: files that are safe to load, even from strangers."""

from .files import FORMAT_VERSION, SaveableEstimator, load, save
from .saveable import Saveable

__all__ = ["FORMAT_VERSION", "Saveable", "SaveableEstimator", "load", "save"]
