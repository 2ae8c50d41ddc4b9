"""Prompters make the visual prompts that are added to images."""

from .base import Prompter, make_prompter, prompted
from .basis import PromptBasis
from .coordinator import Coordinator
from .frames import PaddingFrame, ReprogrammingFrame

__all__ = ["Coordinator", "PaddingFrame", "PromptBasis", "Prompter", "ReprogrammingFrame", "make_prompter", "prompted"]
