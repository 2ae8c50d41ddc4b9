"""Google Cloud Vision's label detection: ``images:annotate``."""

from __future__ import annotations

from typing import Any

from ....exceptions import ServiceError
from ..adapter import Adapter, Images, Request
from ..encoding import to_base64
from ..json_bodies import shortened
from ..keys import key_header

__all__ = ["GoogleVision"]

_RESOURCE_EXHAUSTED = 8
# google.rpc.Code: deadline exceeded, resource exhausted, aborted, internal, unavailable.
_PASSING = (4, _RESOURCE_EXHAUSTED, 10, 13, 14)


class GoogleVision(Adapter):
    """Adapter for Google Cloud Vision's LABEL_DETECTION: its own labels, each with a confidence between 0 and 1.

    Parameters
    ----------
    max_results : int, default=50
        Maximal number of labels, the most confident first.
    oauth : bool, default=False
        Whether the key is an OAuth 2.0 access token instead of an API key. Tokens expire: pass a function that returns
        the current one as the scorer's key.
    project : str or None, default=None
        The billed project, if the token does not determine it.
    model : str or None, default=None
        "builtin/stable" or "builtin/latest". None: the service's default.

    Notes
    -----
    The url of the scorer is ``https://vision.googleapis.com/v1``, or that of a location, such as
    ``https://eu-vision.googleapis.com/v1``. A request may have up to 16 images and 10 MB, so large images need
    ``images_per_request`` or ``image_format="jpeg"``. There is no list of the many labels, see
    `LabelMappedScorer.learn`.
    """

    images_per_request = 16
    fixed_labels = True
    score_type = "probabilities"

    def __init__(
        self, *, max_results: int = 50, oauth: bool = False, project: str | None = None, model: str | None = None
    ):
        self.max_results = max_results
        self.oauth = oauth
        self.project = project
        self.model = model

    def request(self, images: Images, class_prompts: list[str]) -> Request:
        """Build a request with the images and the wanted feature; see `Adapter`."""
        feature: dict[str, Any] = {"type": "LABEL_DETECTION", "maxResults": self.max_results}
        if self.model is not None:
            feature["model"] = self.model
        body = {"requests": [{"image": {"content": to_base64(image)}, "features": [feature]} for image in images]}
        headers = {} if self.project is None else {"X-Goog-User-Project": self.project}
        return Request("images:annotate", body, headers=headers)

    def scores(self, answer: Any, class_prompts: list[str]) -> Any:
        """Return a dict from label to confidence for each image, or its error; see `Adapter`."""
        if "error" in answer and "responses" not in answer:
            raise _error(answer["error"])
        return [_row(response) for response in answer["responses"]]

    def authorize(self, request: Request, url: str, body: bytes, key: str | None) -> dict[str, str]:
        """Return the header with the key or token; see `Adapter`."""
        return key_header("Authorization" if self.oauth else "X-Goog-Api-Key", key)


def _row(response: dict[str, Any]) -> dict[str, float] | ServiceError:
    labels = response.get("labelAnnotations", [])
    # Labels that are present are valid, whatever else went wrong.
    if "error" in response and not labels:
        return _error(response["error"])
    row: dict[str, float] = {}
    for label in labels:
        # Two meanings may have the same name, and answers leave out zeros.
        name = label["description"]
        row[name] = max(row.get(name, 0.0), label.get("score", 0.0))
    return row


def _error(error: dict[str, Any]) -> ServiceError:
    code = error.get("code")
    return ServiceError(
        f"Google Cloud Vision answered with the error {code}: {shortened(error.get('message', ''))}.",
        retry=code in _PASSING,
        status=429 if code == _RESOURCE_EXHAUSTED else None,
    )
