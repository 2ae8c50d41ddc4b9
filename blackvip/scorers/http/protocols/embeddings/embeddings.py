"""Services that embed texts and images in one space."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, Literal

import numpy as np

from .....exceptions import ServiceError
from ....wrappers import LeavesOutLive
from ...adapter import Adapter, Images, Request, Send
from ...json_bodies import shortened
from ...json_templates import filled, placeholders
from ...keys import key_header
from ...signing import Signer
from ...usage import Usage
from ..by_name import preset_of
from .forms import EMBEDDING_FORMS, EmbeddingForm, image_values, path_for
from .vectors import at_path, read_vectors, scale_factor, unit_vectors

__all__ = ["Embeddings", "ImageVectors"]


class Embeddings(LeavesOutLive, Adapter):
    """Adapter for services that embed texts and images: scores are a scale times the cosine of the two vectors.

    Each list of class prompts is embedded once, in requests without images. So one billed image answers any number of
    class prompts, and a class may have several.

    Parameters
    ----------
    model : str
        Name of the model.
    form : str or EmbeddingForm
        The service: "openai" (servers with data urls in `input`), "vllm", "infinity", "llama.cpp", "openrouter",
        "nvidia", "jina", "cohere", "voyage", "gemini", "titan" or "nova"; or a form of your own.
    scale : float or "fit", default=100.0
        Factor of the cosine. 100 is that of CLIP models. "fit": scores are the cosines themselves, and the temperature
        that `BlackVIPClassifier` and its heads fit to the labelled scores is the inverse of the scale.
    dimensions : int or None, default=None
        Number of dimensions to ask for, where the service offers a choice. None: the service's default.
    vector_size : int or None, default=None
        Size of the vectors. If it is given, the scores end with the image's vector, from which the fused head learns,
        too. None: heads have the scores alone.
    text_prefix : str, default=""
        Put before each class prompt, for models that expect an instruction there.
    extra : mapping or None, default=None
        Further fields of each request, which replace others of the same name; None as a value leaves a field out. They
        are shown and stored, so keys do not belong here.
    region, profile : str or None, default=None
        AWS region, and profile in the AWS configuration, for "titan" and "nova". None: the region in the url, else that
        of the configuration; and the default profile.

    Notes
    -----
    The url of the scorer is the part before the form's path, such as ``http://localhost:8000/v1`` for vLLM,
    ``https://api.jina.ai/v1``, ``https://api.cohere.com/v2``, ``https://api.voyageai.com/v1``,
    ``https://generativelanguage.googleapis.com/v1beta``, and ``https://bedrock-runtime.us-east-1.amazonaws.com``.
    Requests to Bedrock are signed with the credentials that AWS's own tools find, or use a Bedrock API key if the
    scorer has a key.

    Vectors are scaled to length 1, even if the service has done so. A vector that is zero or not finite, one whose
    number of dimensions is not that of the texts, and a wrong number of vectors are errors.

    Examples
    --------
    >>> from blackvip.scorers.http import Embeddings, HTTPScorer
    >>> scorer = HTTPScorer("http://localhost:8000/v1", Embeddings("openai/clip-vit-base-patch32", "vllm"))
    >>> jina = HTTPScorer("https://api.jina.ai/v1", Embeddings("jina-clip-v2", "jina"), key="JINA_API_KEY")
    """

    score_type = "logits"
    _live_attributes = ("_signer",)
    _signer: Signer | None = None
    # Unit vectors (n_prompts, d) of the class prompts; of prepared adapters.
    _texts: np.ndarray | None = None

    def __init__(
        self,
        model: str,
        form: str | EmbeddingForm,
        *,
        scale: float | Literal["fit"] = 100.0,
        dimensions: int | None = None,
        vector_size: int | None = None,
        text_prefix: str = "",
        extra: Mapping[str, Any] | None = None,
        region: str | None = None,
        profile: str | None = None,
    ):
        self.model = model
        self.form = form
        self.scale = scale
        self.dimensions = dimensions
        self.vector_size = vector_size
        self.text_prefix = text_prefix
        self.extra = extra
        self.region = region
        self.profile = profile

    @property
    def service(self) -> EmbeddingForm:
        """The form."""
        return preset_of(self.form, EMBEDDING_FORMS, EmbeddingForm)

    @property
    def images_per_request(self) -> int:  # type: ignore[override]
        """The most images of a request."""
        return self.service.images_per_request

    @property
    def min_size(self) -> int | None:  # type: ignore[override]
        """Smallest height and width that the service takes, in pixels."""
        return self.service.min_size

    @property
    def max_size(self) -> int | None:  # type: ignore[override]
        """Largest height and width that the service takes, in pixels."""
        return self.service.max_size

    @property
    def first_timeout(self) -> float | None:  # type: ignore[override]
        """Time limit in seconds until the service has answered for the first time."""
        return self.service.first_timeout

    def prepare(self, send: Send, class_prompts: list[str]) -> Embeddings:
        """Request the vectors of the class prompts, and return a copy that has them; see `Adapter`.

        Raises
        ------
        ValueError
            If a parameter is invalid, or the vectors have another size than `vector_size`.
        ServiceError
            If the answers have no such vectors.
        """
        self._check()
        texts = list(dict.fromkeys(self.text_prefix + prompt for prompt in class_prompts))
        pieces: list[np.ndarray] = []
        for first in range(0, len(texts), self.service.texts_per_request):
            piece = texts[first : first + self.service.texts_per_request]
            answer = send(self._request(self.service.texts, [{"text": text} for text in piece]))
            pieces.append(self._vectors(answer, len(piece), pieces[0].shape[1] if pieces else self.dimensions))
        found = pieces[0].shape[1]
        if self.vector_size not in (None, found):
            raise ValueError(
                f"vector_size={self.vector_size} was given; expected {found}, the size of the service's vectors."
            )
        vectors = dict(zip(texts, unit_vectors(np.concatenate(pieces))))
        prepared = copy.copy(self)
        prepared._signer = self._signer
        prepared._texts = np.stack([vectors[self.text_prefix + prompt] for prompt in class_prompts])
        return prepared

    def request(self, images: Images, class_prompts: list[str]) -> Request:
        """Build a request with the images; see `Adapter`."""
        template = self.service.images
        values = image_values(template)
        return self._request(template, [{name: value(image) for name, value in values.items()} for image in images])

    def scores(self, answer: Any, class_prompts: list[str]) -> np.ndarray:
        """Return the scores of one image; see `Adapter`."""
        return self.scores_of(answer, class_prompts, 1)

    def scores_of(self, answer: Any, class_prompts: list[str], n_images: int) -> np.ndarray:
        """Return the scores of the images of a request, see `similarities` and `Adapter`."""
        return self.similarities(self._vectors(answer, n_images, self._prepared_texts().shape[1]))

    def similarities(self, vectors: np.ndarray) -> np.ndarray:
        """Return the scores of images whose vectors are known, of an adapter that `prepare` returned.

        Parameters
        ----------
        vectors : ndarray of shape (n_images, n_dimensions)

        Returns
        -------
        scores : ndarray of shape (n_images, n_class_prompts), or with `vector_size` more columns
            The scale times the cosine of the image's vector and that of each class prompt; then the image's vector.
        """
        texts, scale, units = self._prepared_texts(), scale_factor(self.scale), unit_vectors(vectors)
        # One by one, since the last digits of a product of matrices depend on the other rows.
        cosines = np.stack([scale * (texts @ unit) for unit in units])
        return cosines if self.vector_size is None else np.hstack([cosines, units])

    def usage_of(self, answer: Any) -> Usage | None:
        """Return the number of tokens, which services report under names of their own; see `Adapter`."""
        if not self.service.usage:
            return super().usage_of(answer)
        told = [at_path(answer, path) for path in self.service.usage]
        numbers = [number for number in told if isinstance(number, (int, float)) and not isinstance(number, bool)]
        return Usage.of({"input_tokens": sum(numbers)}) if numbers else None

    def is_final(self, status: int, content: bytes) -> bool:
        """Return whether an error lasts, such as a daily quota that is spent; see `Adapter`."""
        text = self.service.final_text
        return (status == 429 and text is not None and text.encode() in content) or super().is_final(status, content)

    def authorize(self, request: Request, url: str, body: bytes, key: str | None) -> dict[str, str]:
        """Return the header with the key, or those with AWS's signature; see `Adapter`."""
        if self.service.signed_as is None or key is not None:
            return key_header(self.service.key_header, key)
        if self._signer is None:
            # Two threads may each make one, and either will do.
            self._signer = Signer(self.service.signed_as, f"{type(self).__name__} of this form")
        return self._signer.headers(request, url, body, self.region, self.profile)

    def _request(self, template: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> Request:
        body = filled(template, {"model": self.model, "dimensions": self.dimensions}, items)
        if self.extra:
            body = {name: value for name, value in {**body, **self.extra}.items() if value is not None}
        return Request(path_for(self.service.path, self.model), body)

    def _vectors(self, answer: Any, n_expected: int, dimension: int | None) -> np.ndarray:
        error = at_path(answer, self.service.error) if self.service.error else None
        if error:
            raise ServiceError(f"The service answered with an error: {shortened(error)}.")
        return read_vectors(answer, self.service.vectors, n_expected, dimension)

    def _prepared_texts(self) -> np.ndarray:
        if self._texts is None:
            raise ServiceError(
                f"{type(self).__name__} has no vectors of the class prompts; expected the adapter that `prepare` "
                "returns. HTTPScorer takes care of that."
            )
        return self._texts

    def _check(self) -> None:
        form, dimensions = self.service, self.dimensions
        scale_factor(self.scale)
        if not isinstance(self.model, str) or not self.model.strip() or not isinstance(self.text_prefix, str):
            raise ValueError(
                f"model={self.model!r} and text_prefix={self.text_prefix!r} were given; expected a text that is not "
                "empty, and a text."
            )
        for name, value in {"dimensions": dimensions, "vector_size": self.vector_size}.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < 1):
                raise ValueError(f"{name}={value!r} was given; expected a positive whole number, or None.")
        has_field = all("dimensions" in placeholders(template) for template in (form.texts, form.images))
        if dimensions is not None and not has_field:
            raise ValueError(f"dimensions={dimensions!r} was given, but the form has no field for it; expected None.")


class ImageVectors(Embeddings):
    """Adapter that returns the vectors of images in place of scores, for an `EmbeddingCache` or a use of your own.

    It has the parameters of `Embeddings`.

    Examples
    --------
    >>> from blackvip.scorers.http import EmbeddingCache, HTTPScorer, ImageVectors
    >>> scorer = HTTPScorer("https://api.jina.ai/v1", ImageVectors("jina-clip-v2", "jina"), key="JINA_API_KEY")
    >>> cached = EmbeddingCache(scorer)
    """

    fixed_labels = True

    def scores_of(self, answer: Any, class_prompts: list[str], n_images: int) -> np.ndarray:
        """Return the vectors (n_images, n_dimensions), float32; see `Adapter`."""
        return self._vectors(answer, n_images, self._prepared_texts().shape[1])
