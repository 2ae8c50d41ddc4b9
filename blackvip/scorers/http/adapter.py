"""What a protocol is, in two functions: images to a request, and its answer to scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from .json_bodies import parse_json

__all__ = ["Adapter", "Images", "Request"]

Images = Sequence[bytes] | np.ndarray


@dataclass
class Request:
    """One HTTP request.

    Parameters
    ----------
    path : str, default=""
        What is appended to the service's url after a slash, if anything; already percent-encoded.
    json : object, default=None
        The body as what becomes JSON, in which bytes become text in base64; not read where `content` is given.
    content : bytes or None, default=None
        The body as it is. Name its type in `headers`.
    headers : dict, default={}
        No keys: those are given by `Adapter.authorize`.
    params : dict, default={}
        Of the url's query.
    method : str, default="POST"
        In capitals.
    """

    path: str = ""
    json: Any = None
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    method: str = "POST"


class Adapter(BaseEstimator):
    """Base of all adapters. One for a service of your own has two methods, `request` and `scores`.

    A parameter of ``__init__`` is assigned to an attribute of the same name, as in every scikit-learn estimator.
    Several threads use one adapter at the same time: its methods, `prepare` aside, may not change it.

    Attributes
    ----------
    images_per_request : int or None, default=1
        The most images in one request; None: any number.
    image_format : {"png", "jpeg", "raw"}, default="png"
        What the images are that `request` is given: files of that type, or for "raw" pixels. A service that takes
        one type of file may be sent the other, see `HTTPScorer`.
    min_size, max_size : int or None, default=None
        The least and the greatest height and width that the service takes, in pixels. None: any.
    score_type : {"auto", "logits", "probabilities"}, default="auto"
        What the scores are.
    fixed_labels : bool, default=False
        Whether the service has labels of its own, which are not the class prompts. Its scores are passed on as they
        are then, for `LabelMappedScorer`.

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

    def prepare(self, get: Callable[[str], Any]) -> None:
        """Called once before the first request, by one thread. It may ask the service, and keep what it learns.

        Parameters
        ----------
        get : callable
            ``get(path)``: the answer to a GET request at the service's url and the path, parsed.
        """

    def request(self, images: Images, class_prompts: list[str]) -> Any:
        """The request for some images.

        Parameters
        ----------
        images : list of bytes, or ndarray of shape (n, height, width, 3), uint8
            Files, or for ``image_format="raw"`` pixels; at most `images_per_request`.
        class_prompts : list of str
            One for each class.

        Returns
        -------
        request : Request or object
            What is no `Request` is the JSON body of a POST request to the service's url. Bytes in it become text in
            base64.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method request(images, class_prompts).")

    def scores(self, answer: Any, class_prompts: list[str]) -> Any:
        """The scores in an answer.

        Parameters
        ----------
        answer : object
            As `parse` returns it.
        class_prompts : list of str
            Those of the request.

        Returns
        -------
        scores : array-like of shape (n, n_classes), or list
            A row for each image of the request, in their order: numbers, NaN where there is none; or a dict from
            class prompt to score; or a `ServiceError`, if the service answered for the others but not for this one.
            With `fixed_labels` the columns are the service's labels, and dicts are from label to score.

        Raises
        ------
        ServiceError
            If the answer is an error, or is no answer to the request.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method scores(answer, class_prompts).")

    def parse(self, content: bytes, headers: Mapping[str, str]) -> Any:
        """The answer as `scores` takes it. Strict JSON, unless it is overridden.

        Parameters
        ----------
        content : bytes
            The body of an answer with status 2xx, not compressed.
        headers : mapping
            From name, in any case, to value.

        Returns
        -------
        answer : object
            The parsed JSON.

        Raises
        ------
        ServiceError
            If it is not what was expected; with `retry` where it only ended too early.
        """
        return parse_json(content, headers.get("content-type", ""))

    def is_passing(self, status: int, content: bytes) -> bool:
        """Whether an error with a status that is final as a rule may pass, as its body says.

        Parameters
        ----------
        status : int
            From 400 to 499, but none that is asked again in any case.
        content : bytes
            The beginning of the body.

        Returns
        -------
        passing : bool
            False unless it is overridden.
        """
        return False

    def authorize(self, request: Request, url: str, body: bytes, key: str | None) -> dict[str, str]:
        """Headers that prove who asks; called for every attempt, as late as possible.

        Parameters
        ----------
        request : Request
            What `request` returned.
        url : str
            The whole address that is asked, query included.
        body : bytes
            What is sent.
        key : str or None
            None where no key is set.

        Returns
        -------
        headers : dict
            From name to value. No error shows the values.
        """
        return {} if key is None else {"Authorization": f"Bearer {key}"}
