"""Decision endpoints: an image and a list of options in, a probability for each option out."""

from .base import Decisions
from .gemini import GeminiDecisions
from .openai import OpenAIDecisions
from .presets import SYSTEM_ONE_PRESETS, SystemOnePreset
from .system_one import SystemOne

__all__ = [
    "SYSTEM_ONE_PRESETS",
    "Decisions",
    "GeminiDecisions",
    "OpenAIDecisions",
    "SystemOne",
    "SystemOnePreset",
]
