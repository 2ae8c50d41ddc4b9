"""Journals: what survives a kill."""

from .journal import Journal

__all__ = ["Journal"]
