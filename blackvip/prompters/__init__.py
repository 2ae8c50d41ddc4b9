"""Prompters make the visual prompts that are added to images."""

from .base import Prompter, prompted
from .basis import PromptBasis
from .by_name import make_prompter
from .coordinator import Coordinator
from .corrections import CORRECTIONS, Correction, Learned
from .enlarged import Enlarged
from .frames import PaddingFrame, ReprogrammingFrame
from .stacked import Stacked

__all__ = [
    "CORRECTIONS",
    "Coordinator",
    "Correction",
    "Enlarged",
    "Learned",
    "PaddingFrame",
    "PromptBasis",
    "Prompter",
    "ReprogrammingFrame",
    "Stacked",
    "make_prompter",
    "prompted",
]
