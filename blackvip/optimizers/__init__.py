"""Optimizers that see losses only: ask for candidates, tell their losses.

They know nothing of images, networks or services, so that each can be tested alone on a formula.

| module | its algorithms |
|---|---|
| `base.py` | what a training loop needs of an optimizer |
| `spsa.py` | SPSA, and SPSA-GC, BlackVIP's own |
| `adam.py` | Adam's steps on SPSA's estimates |
| `rgf.py` | BAR's random gradient-free estimate |
| `cma_es.py` | CMA-ES, which compares losses and estimates no gradient |
| `subspace.py` | any of them in a few random directions of many parameters |
"""

from .adam import AdamSPSA
from .base import Optimizer, segmented_uniform
from .cma_es import CMAES
from .rgf import RGF
from .spsa import SPSA, SPSAGC
from .subspace import Subspace

__all__ = ["CMAES", "RGF", "SPSA", "SPSAGC", "AdamSPSA", "Optimizer", "Subspace", "segmented_uniform"]
