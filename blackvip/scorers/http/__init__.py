"""Services over HTTP as score functions. Needs ``pip install "blackvip[http]"``."""

from .adapter import Adapter, Request, ServiceError
from .encoding import media_type, to_base64

__all__ = ["Adapter", "Request", "ServiceError", "media_type", "to_base64"]
