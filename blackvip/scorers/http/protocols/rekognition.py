"""Amazon Rekognition's DetectLabels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ....exceptions import ServiceError
from ...wrappers import LeavesOutLive
from ..adapter import Adapter, Images, Request
from ..encoding import to_base64
from ..json_bodies import parse_json
from ..signing import Signer

__all__ = ["Rekognition"]

_PASSING = ("ThrottlingException", "ProvisionedThroughputExceededException", "InternalServerError")


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
    _live_attributes = ("_signer",)
    _signer: Signer | None = None

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
        if self._signer is None:
            # Two threads may each make one, and either will do.
            self._signer = Signer("rekognition", type(self).__name__)
        return self._signer.headers(request, url, body, self.region, self.profile)

    def is_passing(self, status: int, content: bytes) -> bool:
        """Return whether an error is one that AWS asks to retry; see `Adapter`."""
        try:
            return json.loads(content)["__type"].rpartition("#")[2] in _PASSING
        except (ValueError, LookupError, TypeError, AttributeError):
            return False
