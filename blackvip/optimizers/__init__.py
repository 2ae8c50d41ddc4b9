"""Optimizers that see only losses: ask for candidates, tell their losses.

They know nothing of images, networks or services, so each can be tested on a formula.

| module | content |
|---|---|
| `base.py` | the base class, and short names |
| `spsa.py` | SPSA, and SPSA-GC, BlackVIP's own (eq. 3 to 5) |
| `gains.py` | rules that find step and perturbation sizes |
| `adam.py` | Adam's steps on SPSA's estimates |
| `rgf.py` | BAR's random gradient-free estimate |
| `cma_es.py` | CMA-ES, which compares losses and estimates no gradient |
| `subspace.py` | any of them in a few random directions of many parameters |
"""

from .adam import AdamSPSA
from .base import GainProbe, Optimizer, make_optimizer, segmented_uniform
from .cma_es import CMAES
from .rgf import RGF
from .spsa import SPSA, SPSAGC
from .subspace import Subspace

__all__ = [
    "CMAES",
    "RGF",
    "SPSA",
    "SPSAGC",
    "AdamSPSA",
    "GainProbe",
    "Optimizer",
    "Subspace",
    "make_optimizer",
    "segmented_uniform",
]
