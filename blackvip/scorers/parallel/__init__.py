"""Score functions spread over threads, processes or machines."""

from .scorer import ParallelScorer

__all__ = ["ParallelScorer"]
