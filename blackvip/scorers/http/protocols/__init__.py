"""Adapters for the protocols of services, one file each."""

from .chat_logprobs import CHAT_PRESETS, ChatLogprobs, ChatPreset
from .clarifai import Clarifai
from .decisions import (
    SYSTEM_ONE_PRESETS,
    Decisions,
    GeminiDecisions,
    OpenAIDecisions,
    SystemOne,
    SystemOnePreset,
)
from .embeddings import (
    COSINE_FORMS,
    EMBEDDING_FORMS,
    CosineForm,
    CosineScore,
    EmbeddingForm,
    Embeddings,
    ImageVectors,
)
from .google_vision import GoogleVision
from .hugging_face import HuggingFaceClassifier, HuggingFaceZeroShot
from .kserve import KServe
from .rekognition import Rekognition
from .tf_serving import TFServing
from .torchserve import TorchServe

__all__ = [
    "CHAT_PRESETS",
    "ChatLogprobs",
    "ChatPreset",
    "COSINE_FORMS",
    "EMBEDDING_FORMS",
    "SYSTEM_ONE_PRESETS",
    "Clarifai",
    "CosineForm",
    "CosineScore",
    "Decisions",
    "EmbeddingForm",
    "Embeddings",
    "GeminiDecisions",
    "GoogleVision",
    "HuggingFaceClassifier",
    "HuggingFaceZeroShot",
    "ImageVectors",
    "KServe",
    "OpenAIDecisions",
    "Rekognition",
    "SystemOne",
    "SystemOnePreset",
    "TFServing",
    "TorchServe",
]
