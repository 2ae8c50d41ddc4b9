"""Services over HTTP as score functions. Needs ``pip install "blackvip[http]"``."""

try:
    import httpx  # noqa: F401
    import tenacity  # noqa: F401
except ImportError as error:
    raise ImportError(
        f'Services over HTTP need the package {error.name}, which is not installed. Run pip install "blackvip[http]".',
        name=error.name,
    ) from error

from .adapter import Adapter, Request, ServiceError
from .clarifai import Clarifai
from .encoding import media_type, to_base64
from .google_vision import GoogleVision
from .hugging_face import HuggingFaceClassifier, HuggingFaceZeroShot
from .kserve import KServe
from .rekognition import Rekognition
from .scorer import HTTPScorer
from .tf_serving import TFServing
from .torchserve import TorchServe

__all__ = [
    "Adapter",
    "Clarifai",
    "GoogleVision",
    "HTTPScorer",
    "HuggingFaceClassifier",
    "HuggingFaceZeroShot",
    "KServe",
    "Rekognition",
    "Request",
    "ServiceError",
    "TFServing",
    "TorchServe",
    "media_type",
    "to_base64",
]
