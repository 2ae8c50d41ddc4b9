"""Prompters: from an image's features to the prompt that is added to it, for many candidates at once."""

from .base import Prompter, make_prompter, prompted
from .basis import PromptBasis
from .coordinator import Coordinator
from .frames import PaddingFrame, ReprogrammingFrame

__all__ = ["Coordinator", "PaddingFrame", "PromptBasis", "Prompter", "ReprogrammingFrame", "make_prompter", "prompted"]
