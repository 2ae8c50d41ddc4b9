"""Clarifai's prediction API, version 2: ``models/{model}/outputs``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from ....exceptions import ServiceError
from ..adapter import Adapter, Images, Request
from ..encoding import to_base64
from ..json_bodies import shortened

__all__ = ["Clarifai"]

# The last two are successes with a deprecation warning.
_SUCCESS = (10000, 10001, 10002)
_MIXED = 10010
_THROTTLED = 11005
_PASSING = frozenset(
    {
        10030,  # try again
        _THROTTLED,
        *(21351, 21354, 21355),  # a model is deploying, busy, loading
        *(40030, 40031, 40032),  # a queue is full, a server unavailable, a request timed out
        *range(98000, 99000),  # internal
    }
)


class Clarifai(Adapter):
    """Adapter for Clarifai: the concepts of a model, each with a value between 0 and 1.

    Parameters
    ----------
    model : str, default="general-image-recognition"
        Id of the model.
    user, app : str, default="clarifai", "main"
        Owner and app of the model.
    version : str or None, default=None
        Version of the model. None: the latest.
    concepts : sequence of str or None, default=None
        Names of concepts in the model's spelling; only these are requested. None: the `max_concepts` with the highest
        values.
    max_concepts : int, default=50
        Maximal number of concepts, up to 200.
    images_per_request : int, default=32
        Images in one request, up to 128.

    Notes
    -----
    Requests go to ``POST users/{user}/apps/{app}/models/{model}/outputs``. The url of the scorer is
    ``https://api.clarifai.com/v2``, and its key is a personal access token. Accounts are usually limited to 15 requests
    per second, see ``requests_per_second``.
    """

    fixed_labels = True
    score_type = "probabilities"

    def __init__(
        self,
        model: str = "general-image-recognition",
        *,
        user: str = "clarifai",
        app: str = "main",
        version: str | None = None,
        concepts: Sequence[str] | None = None,
        max_concepts: int = 50,
        images_per_request: int = 32,
    ):
        self.model = model
        self.user = user
        self.app = app
        self.version = version
        self.concepts = concepts
        self.max_concepts = max_concepts
        self.images_per_request = images_per_request

    def request(self, images: Images, class_prompts: list[str]) -> Request:
        """Build a request with the images and the wanted concepts; see `Adapter`."""
        parts = {"users": self.user, "apps": self.app, "models": self.model, "versions": self.version}
        path = "/".join(f"{name}/{quote(value, safe='')}" for name, value in parts.items() if value is not None)
        config: dict[str, Any] = {"max_concepts": self.max_concepts}
        if self.concepts is not None:
            config = {"select_concepts": [{"name": name} for name in self.concepts]}
        body = {
            "inputs": [{"data": {"image": {"base64": to_base64(image)}}} for image in images],
            "model": {"output_info": {"output_config": config}},
        }
        return Request(f"{path}/outputs", body)

    def scores(self, answer: Any, class_prompts: list[str]) -> Any:
        """Return a dict from concept to value for each image, or its error; see `Adapter`."""
        code = answer["status"]["code"]
        if code not in (*_SUCCESS, _MIXED):
            raise _error(answer["status"])
        return [_row(output) for output in answer["outputs"]]

    def authorize(self, request: Request, url: str, body: bytes, key: str | None) -> dict[str, str]:
        """Return the header with the token; see `Adapter`."""
        return {} if key is None else {"Authorization": f"Key {key}"}

    def is_passing(self, status: int, content: bytes) -> bool:
        """Return whether the status code in an error's body is temporary; see `Adapter`."""
        try:
            return json.loads(content)["status"]["code"] in _PASSING
        except (ValueError, LookupError, TypeError):
            return False


def _row(output: dict[str, Any]) -> dict[str, float] | ServiceError:
    if output["status"]["code"] not in _SUCCESS:
        return _error(output["status"])
    concepts = (output.get("data") or {}).get("concepts") or []
    return {concept["name"]: concept.get("value", 0.0) for concept in concepts}


def _error(status: dict[str, Any]) -> ServiceError:
    code = status.get("code")
    said = ". ".join(filter(None, (status.get("description"), status.get("details"))))
    return ServiceError(
        f"Clarifai answered with the error {code}: {shortened(said)}.",
        retry=code in _PASSING,
        status=429 if code == _THROTTLED else None,
    )
