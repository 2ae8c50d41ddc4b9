"""Score functions for services over HTTP. They need ``pip install "blackvip[http]"``."""

try:
    import httpcore  # noqa: F401
    import httpx  # noqa: F401
    import isal  # noqa: F401
    import pybase64  # noqa: F401
    import tenacity  # noqa: F401
except ImportError as error:
    raise ImportError(
        f'Services over HTTP need the package {error.name}, which is not installed. Run pip install "blackvip[http]".',
        name=error.name,
    ) from error

from ...exceptions import Refusal, ServiceError
from .adapter import Adapter, Request
from .embedding_cache import EmbeddingCache
from .encoding import media_type, to_base64
from .protocols.chat_logprobs import CHAT_PRESETS, ChatLogprobs, ChatPreset
from .protocols.clarifai import Clarifai
from .protocols.decisions import (
    SYSTEM_ONE_PRESETS,
    Decisions,
    GeminiDecisions,
    OpenAIDecisions,
    SystemOne,
    SystemOnePreset,
)
from .protocols.embeddings import (
    COSINE_FORMS,
    EMBEDDING_FORMS,
    CosineForm,
    CosineScore,
    EmbeddingForm,
    Embeddings,
    ImageVectors,
)
from .protocols.google_vision import GoogleVision
from .protocols.hugging_face import HuggingFaceClassifier, HuggingFaceZeroShot
from .protocols.kserve import KServe
from .protocols.rekognition import Rekognition
from .protocols.tf_serving import TFServing
from .protocols.torchserve import TorchServe
from .scorer import HTTPScorer
from .usage import Usage

__all__ = [
    "CHAT_PRESETS",
    "COSINE_FORMS",
    "EMBEDDING_FORMS",
    "SYSTEM_ONE_PRESETS",
    "Adapter",
    "ChatLogprobs",
    "ChatPreset",
    "Clarifai",
    "CosineForm",
    "CosineScore",
    "Decisions",
    "EmbeddingCache",
    "EmbeddingForm",
    "Embeddings",
    "GeminiDecisions",
    "GoogleVision",
    "HTTPScorer",
    "HuggingFaceClassifier",
    "HuggingFaceZeroShot",
    "ImageVectors",
    "KServe",
    "OpenAIDecisions",
    "Refusal",
    "Rekognition",
    "Request",
    "ServiceError",
    "SystemOne",
    "SystemOnePreset",
    "TFServing",
    "TorchServe",
    "Usage",
    "media_type",
    "to_base64",
]
