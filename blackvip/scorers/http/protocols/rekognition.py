"""Amazon Rekognition's DetectLabels."""

from __future__ import annotations

import importlib
import json
import re
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ....exceptions import ServiceError
from ...wrappers import LeavesOutLive
from ..adapter import Adapter, Images, Request
from ..encoding import to_base64
from ..json_bodies import parse_json
from ..keys import is_loopback

__all__ = ["Rekognition"]

_PASSING = ("ThrottlingException", "ProvisionedThroughputExceededException", "InternalServerError")
_REGION = re.compile(r"(?:^|\.)rekognition(?:-fips)?\.([a-z]{2}(?:-[a-z]+)+-\d+)\.")
_LOADING = threading.Lock()


class Rekognition(LeavesOutLive, Adapter):
    """Adapter for Amazon Rekognition's DetectLabels: its own labels, each with a confidence between 0 and 1.

    Parameters
    ----------
    max_labels : int, default=50
        Maximal number of labels, the most confident first.
    min_confidence : float, default=0.0
        Lowest confidence of a label, in percent. The service's own default is 55.
    region : str or None, default=None
        AWS region. None: the one in the url, else that of the AWS configuration.
    profile : str or None, default=None
        Profile in the AWS configuration. None: the default profile.

    Notes
    -----
    The url of the scorer is that of the region, such as ``https://rekognition.eu-west-1.amazonaws.com``. The scorer has
    no key: requests are signed with the credentials that AWS's own tools find in the environment
    (``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``), the configuration files, or the machine's role. They are
    renewed when they expire. This adapter needs ``pip install "blackvip[aws]"``.

    Images must have at least 80 pixels in height and width, and each request has one. Labels of a group, such as "Dog"
    and "Pet", come with the same confidence.
    """

    fixed_labels = True
    score_type = "probabilities"
    min_size = 80
    max_size = 10_000
    _live_attributes = ("_session",)
    _session: Any = None

    def __init__(
        self,
        *,
        max_labels: int = 50,
        min_confidence: float = 0.0,
        region: str | None = None,
        profile: str | None = None,
    ):
        self.max_labels = max_labels
        self.min_confidence = min_confidence
        self.region = region
        self.profile = profile

    def request(self, images: Images, class_prompts: list[str]) -> Request:
        """Build a request with the image; see `Adapter`."""
        headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "RekognitionService.DetectLabels"}
        body = {
            "Image": {"Bytes": to_base64(images[0])},
            "MaxLabels": self.max_labels,
            "MinConfidence": self.min_confidence,
        }
        return Request(json=body, headers=headers)

    def parse(self, content: bytes, headers: Mapping[str, str]) -> Any:
        """Parse JSON, whatever its declared type; see `Adapter`."""
        return parse_json(content)

    def scores(self, answer: Any, class_prompts: list[str]) -> Any:
        """Return a dict from label to confidence; see `Adapter`."""
        return [{label["Name"]: label["Confidence"] / 100 for label in answer["Labels"]}]

    def authorize(self, request: Request, url: str, body: bytes, key: str | None) -> dict[str, str]:
        """Return the headers with the request's signature, version 4; see `Adapter`."""
        if key is not None:
            raise ServiceError(
                "Rekognition was given a key, but its requests are signed with AWS credentials. Leave out key, and set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile."
            )
        parts = urlsplit(url)
        if parts.scheme != "https" and not is_loopback(parts.hostname):
            raise ServiceError(
                f"Signed requests would go to {parts.hostname} without encryption; expected an https url."
            )
        session, credentials = self._signer()
        signed = _botocore("awsrequest").AWSRequest(request.method, url, dict(request.headers), body)
        signer = _botocore("auth").SigV4Auth
        signer(credentials.get_frozen_credentials(), "rekognition", self._region(url, session)).add_auth(signed)
        return {name: value for name, value in signed.headers.items() if name not in request.headers}

    def is_passing(self, status: int, content: bytes) -> bool:
        """Return whether an error is one that AWS asks to retry; see `Adapter`."""
        try:
            return json.loads(content)["__type"].rpartition("#")[2] in _PASSING
        except (ValueError, LookupError, TypeError, AttributeError):
            return False

    def _signer(self) -> tuple[Any, Any]:
        """Return a session and its self-renewing credentials."""
        with _LOADING:
            if self._session is None or self._session[0] != self.profile:
                try:
                    session = _botocore("session").Session(profile=self.profile)
                    credentials = session.get_credentials()
                except _botocore("exceptions").BotoCoreError as error:
                    raise ServiceError(f"AWS credentials cannot be loaded: {error}.") from None
                if credentials is None:
                    raise ServiceError(
                        "There are no AWS credentials; expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the "
                        "environment, a profile in the AWS configuration, or a role of this machine."
                    )
                self._session = (self.profile, session, credentials)
            return self._session[1:]

    def _region(self, url: str, session: Any) -> str:
        named = _REGION.search(urlsplit(url).hostname or "")
        region = self.region or (named and named[1]) or session.get_config_variable("region")
        if not region:
            raise ServiceError(
                f"The url {url!r} does not name an AWS region; expected one there, or region, such as "
                "region='eu-west-1'."
            )
        return str(region)


def _botocore(module: str) -> Any:
    """Import a module of botocore, which only this adapter needs."""
    try:
        return importlib.import_module(f"botocore.{module}")
    except ImportError as error:
        raise ImportError(
            f'Rekognition needs the package {error.name}, which is not installed. Run pip install "blackvip[aws]".',
            name=error.name,
        ) from error
