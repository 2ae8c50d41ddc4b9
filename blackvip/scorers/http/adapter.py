"""The base of all protocols: from images to a request, and from its answer to scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from .json_bodies import error_codes, parse_json
from .keys import key_header
from .usage import Usage

__all__ = ["Adapter", "Images", "Request", "Send"]

Images = Sequence[bytes] | np.ndarray
#: Sends a request, or a JSON body to the service's url, and returns the parsed answer.
Send = Callable[[Any], Any]


@dataclass
class Request:
    """One HTTP request.

    Parameters
    ----------
    path : str, default=""
        Path below the service's url, percent-encoded.
    json : object, default=None
        A body to be encoded as JSON; bytes in it become base64 text. Ignored if `content` is given.
    content : bytes or None, default=None
        A body to be sent unchanged. Give its type in `headers`.
    headers : dict, default={}
        Headers without secrets. `Adapter.authorize` adds the key.
    params : dict, default={}
        Fields of the url's query.
    method : str, default="POST"
        HTTP method, in capitals.
    """

    path: str = ""
    json: Any = None
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    method: str = "POST"


class Adapter(BaseEstimator):
    """Base of all adapters. An adapter for your own service needs two methods, `request` and `scores`.

    Each parameter of ``__init__`` is stored as an attribute of the same name, as in every scikit-learn estimator.
    Several threads share one adapter, so its methods must not change it. What `prepare` learns goes into a copy.

    Attributes
    ----------
    images_per_request : int or None, default=1
        Maximal number of images in a request; None: no limit.
    image_format : {"png", "jpeg", "raw"}, default="png"
        Format of the images that `request` receives: files of that type, or pixels for "raw". `HTTPScorer` can replace
        one type of file by the other.
    min_size, max_size : int or None, default=None
        Smallest and largest height and width that the service takes, in pixels. None: no limit.
    score_type : {"auto", "logits", "probabilities"}, default="auto"
        Type of the scores.
    fixed_labels : bool, default=False
        Whether scores are for the service's own labels instead of the class prompts. They are then returned unchanged,
        for `LabelMappedScorer`.
    max_class_prompts : int or None, default=None
        Maximal number of class prompts in a request. More are refused before anything is sent. None: no limit.
    one_prompt_per_class : bool, default=False
        Whether each class has one prompt, since prompts compete and would share the score of their class. Several are
        refused before anything is sent.
    vector_size : int or None, default=None
        How many columns of its scores come after those of the class prompts: a vector of the image, which the fused
        head uses as features. None: there is none.
    first_timeout : float or None, default=None
        Time limit in seconds until the service has answered for the first time, for servers that start slowly. None:
        the scorer's `timeout`.

    Examples
    --------
    >>> from blackvip.scorers.http import Adapter, HTTPScorer
    >>> class Shop(Adapter):
    ...     score_type = "probabilities"
    ...
    ...     def request(self, images, class_prompts):
    ...         return {"image": images[0], "labels": class_prompts}
    ...
    ...     def scores(self, answer, class_prompts):
    ...         return [{entry["label"]: entry["confidence"] for entry in answer["labels"]}]
    >>> HTTPScorer("https://vision.example/v1/classify", Shop(), key="SHOP_KEY")
    HTTPScorer(adapter=Shop(), key='SHOP_KEY',
               url='https://vision.example/v1/classify')
    """

    images_per_request: int | None = 1
    image_format: str = "png"
    min_size: int | None = None
    max_size: int | None = None
    score_type: str = "auto"
    fixed_labels: bool = False
    max_class_prompts: int | None = None
    one_prompt_per_class: bool = False
    vector_size: int | None = None
    first_timeout: float | None = None

    def prepare(self, send: Send, class_prompts: list[str]) -> Adapter:
        """Return the adapter that serves these class prompts. By default it is this one.

        One thread calls it once for each list of class prompts, before the first request for them. The scorer keeps
        the adapters of the last few lists.

        Parameters
        ----------
        send : callable
            ``send(request)`` sends a `Request`, or a JSON body to the service's url, and returns the answer as `parse`
            returns it. It retries like every request, and bills no image.
        class_prompts : list of str

        Returns
        -------
        adapter : Adapter
            This adapter, or a changed copy of it (``copy.copy(self)``). This adapter itself must not change, so that
            its clones, pickles and identity hold its parameters alone.
        """
        return self

    def request(self, images: Images, class_prompts: list[str]) -> Any:
        """Build the request for some images.

        Parameters
        ----------
        images : list of bytes, or ndarray of shape (n, height, width, 3), uint8
            Files, or pixels for ``image_format="raw"``; at most `images_per_request`.
        class_prompts : list of str

        Returns
        -------
        request : Request or object
            Any other object is the JSON body of a POST request to the service's url. Bytes in it become base64 text.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method request(images, class_prompts).")

    def scores(self, answer: Any, class_prompts: list[str]) -> Any:
        """Read the scores from an answer.

        Parameters
        ----------
        answer : object
            The answer as `parse` returns it.
        class_prompts : list of str
            Class prompts of the request.

        Returns
        -------
        scores : array-like of shape (n, n_classes), or list
            One row for each image of the request, in their order: numbers, with NaN for missing ones; a dict from
            class prompt to score; a `Refusal` if the service refused this image; or another `ServiceError` if it failed
            for this image only. With `fixed_labels`, columns are the service's labels, and dicts go from label to
            score.

        Raises
        ------
        ServiceError
            If the answer is an error, does not answer the request, or lacks what the scores are computed from.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method scores(answer, class_prompts).")

    def scores_of(self, answer: Any, class_prompts: list[str], n_images: int) -> Any:
        """Read the scores of the images of a request, in the form of `scores`, which is called by default.

        Parameters
        ----------
        answer : object
            The answer as `parse` returns it.
        class_prompts : list of str
            Class prompts of the request.
        n_images : int
            Number of images of the request.

        Returns
        -------
        scores : array-like of shape (n_images, n_classes), or list
            As `scores` returns them.
        """
        return self.scores(answer, class_prompts)

    def parse(self, content: bytes, headers: Mapping[str, str]) -> Any:
        """Parse an answer for `scores`. The default takes strict JSON.

        Parameters
        ----------
        content : bytes
            Decompressed body of an answer with a status 2xx.
        headers : mapping
            Header names, in any case, to values.

        Returns
        -------
        answer : object
            The parsed JSON.

        Raises
        ------
        ServiceError
            If the answer is malformed; with `retry` if it is merely truncated.
        """
        return parse_json(content, headers.get("content-type", ""))

    def is_passing(self, status: int, content: bytes) -> bool:
        """Return whether an error is temporary, as its body says, although its status usually is not.

        Parameters
        ----------
        status : int
            From 400 to 499, without those that are always retried.
        content : bytes
            Beginning of the body.

        Returns
        -------
        passing : bool
            False by default.
        """
        return False

    def is_final(self, status: int, content: bytes) -> bool:
        """Return whether an error lasts, as its body says, although its status is usually retried.

        Parameters
        ----------
        status : int
            408, 409, 425, 429, or at least 500 without 501 and 505.
        content : bytes
            Beginning of the body.

        Returns
        -------
        final : bool
            By default, whether a 429 has the code ``insufficient_quota``, as in OpenAI's form of errors.
        """
        return status == 429 and "insufficient_quota" in error_codes(content)

    def is_refusal(self, status: int, content: bytes) -> bool:
        """Return whether an error means that the service refuses the image of the request, as content filters do.

        Parameters
        ----------
        status : int
            At least 400.
        content : bytes
            Beginning of the body.

        Returns
        -------
        refusal : bool
            By default, whether a 400 has the code ``content_filter``, as in OpenAI's form of errors.
        """
        return status == 400 and "content_filter" in error_codes(content)

    def usage_of(self, answer: Any) -> Usage | None:
        """Return what an answer says about its cost.

        Parameters
        ----------
        answer : object
            The answer as `parse` returns it.

        Returns
        -------
        usage : Usage or None
            By default, the numbers in ``answer["usage"]``: `input_tokens` or `prompt_tokens`, `output_tokens` or
            `completion_tokens`, and `cost`. None if there are none.
        """
        return Usage.of(answer.get("usage")) if isinstance(answer, Mapping) else None

    def model_of(self, answer: Any) -> str | None:
        """Return the name of the model that answered.

        Parameters
        ----------
        answer : object
            The answer as `parse` returns it.

        Returns
        -------
        model : str or None
            A change during a fit is warned about. By default, ``answer["model"]``, followed by
            ``answer["system_fingerprint"]`` if there is one.
        """
        if not isinstance(answer, Mapping):
            return None
        names = [answer.get(name) for name in ("model", "system_fingerprint")]
        return " ".join(name for name in names if isinstance(name, str) and name) or None

    def authorize(self, request: Request, url: str, body: bytes, key: str | None) -> dict[str, str]:
        """Return the headers that authorize a request. It is called for every attempt, just before it is sent.

        Parameters
        ----------
        request : Request
            The request that `request` returned.
        url : str
            Full url of the request, with its query.
        body : bytes
            Body of the request.
        key : str or None
            The key; None if there is none.

        Returns
        -------
        headers : dict
            Header names to values. The values are redacted in errors.
        """
        return key_header("Authorization", key)
