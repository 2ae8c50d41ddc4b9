"""Services over HTTP as score functions. Needs ``pip install "blackvip[http]"``."""

from .adapter import Adapter, Request, ServiceError

__all__ = ["Adapter", "Request", "ServiceError"]
