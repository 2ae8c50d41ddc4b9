"""Services that embed texts and images, one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ...encoding import data_url, media_type
from ...json_templates import is_repeatable, placeholders

__all__ = ["EMBEDDING_FORMS", "IMAGE_PART", "EmbeddingForm", "image_values", "path_for"]

_SHARED = {"model", "dimensions"}
_OF_TEXTS = {"text"}
# What a template may need of an image.
_OF_IMAGES: dict[str, Callable[[bytes], Any]] = {
    "image": bytes,
    "image_url": data_url,
    "media_type": media_type,
    "image_format": lambda image: media_type(image).removeprefix("image/"),
}
#: An image in a list of contents, as in chat messages.
IMAGE_PART = {"type": "image_url", "image_url": {"url": "{image_url}"}}


@dataclass(frozen=True)
class EmbeddingForm:
    """A service that embeds texts and images: its requests, where vectors are in its answers, and its limits.

    Requests are JSON with names in braces. ``{model}`` and ``{dimensions}`` are parameters of `Embeddings`, and
    ``{text}`` is a text. ``{image}`` is an image in base64, ``{image_url}`` a data url, ``{media_type}`` such as
    "image/png", and ``{image_format}`` such as "png". The outermost list that has one of these is repeated for each
    text or image of the request. Fields without a value are left out.

    Parameters
    ----------
    texts, images : mapping
        The body of a request for texts, and of one for images.
    vectors : str, default="data.*.embedding"
        Where the vectors are in an answer: names of fields with dots between them, and ``*`` for the list of all
        answers. Vectors are lists of numbers, or 32-bit floats in base64. An `index` beside a vector is its place.
    path : str, default="embeddings"
        Path of requests below the scorer's url. ``{model}`` stands for the model's name.
    texts_per_request, images_per_request : int, default=64 and 1
        The most texts and images of a request.
    usage : tuple of str, default=()
        Fields of an answer whose sum is the number of tokens, with dots as in `vectors`. Empty: the answer's `usage`,
        as in OpenAI's answers.
    error : str or None, default=None
        Field of an answer that reports an error, although the status is 200.
    key_header : str, default="Authorization"
        Header of the key, which follows the word "Bearer" in Authorization.
    signed_as : str or None, default=None
        The service's name in AWS's signatures, with which requests are signed if there is no key.
    final_text : str or None, default=None
        A text in the body of a 429 that will not pass, such as that of a spent daily quota.
    min_size, max_size : int or None, default=None
        Smallest and largest height and width of an image, in pixels.
    first_timeout : float or None, default=None
        Time limit in seconds until the service has answered for the first time. None: the scorer's `timeout`.

    Examples
    --------
    >>> from blackvip.scorers.http import EmbeddingForm, Embeddings
    >>> shop = EmbeddingForm(
    ...     texts={"model": "{model}", "texts": ["{text}"]},
    ...     images={"model": "{model}", "pictures": [{"png": "{image}"}]},
    ...     vectors="vectors.*",
    ...     path="embed",
    ... )
    >>> Embeddings("eye-2", shop).images_per_request
    1
    """

    texts: Mapping[str, Any]
    images: Mapping[str, Any]
    vectors: str = "data.*.embedding"
    path: str = "embeddings"
    texts_per_request: int = 64
    images_per_request: int = 1
    usage: tuple[str, ...] = ()
    error: str | None = None
    key_header: str = "Authorization"
    signed_as: str | None = None
    final_text: str | None = None
    min_size: int | None = None
    max_size: int | None = None
    first_timeout: float | None = None

    def __post_init__(self) -> None:
        limits = (self.texts_per_request, self.images_per_request)
        for name, own, most in zip(("texts", "images"), (_OF_TEXTS, set(_OF_IMAGES)), limits):
            found = placeholders(getattr(self, name))
            if found - _SHARED - own or not found & own:
                raise ValueError(
                    f"{name} has the placeholders {sorted(found)}; expected at least one of {sorted(own)}, and "
                    f"otherwise only {sorted(_SHARED)}."
                )
            if most > 1 and not is_repeatable(getattr(self, name), found & own):
                raise ValueError(
                    f"{name}_per_request={most} was given, but {sorted(found & own)} are in no list that could be "
                    f"repeated; expected {name}_per_request=1, or such a list."
                )
        if self.vectors.count("*") > 1:
            raise ValueError(f"vectors={self.vectors!r} was given; expected at most one '*', for the list of answers.")


def image_values(template: Any) -> dict[str, Callable[[bytes], Any]]:
    """Return the functions that compute what a template needs of an image, by the names of its placeholders."""
    names = placeholders(template)
    return {name: value_of for name, value_of in _OF_IMAGES.items() if name in names}


def path_for(path: str, model: str) -> str:
    """Return a form's path with the model's name, percent-encoded."""
    return path.replace("{model}", quote(model, safe=""))


def _openai(image: Any = "{image_url}", encoding: str = "float", **limits: Any) -> EmbeddingForm:
    """Return OpenAI's form of embeddings, in which every service has images in another way."""
    fields = {"model": "{model}", "dimensions": "{dimensions}", "encoding_format": encoding}
    return EmbeddingForm({**fields, "input": ["{text}"]}, {**fields, "input": [image]}, **limits)


_VLLM = {"model": "{model}", "dimensions": "{dimensions}", "encoding_format": "base64"}
_INFINITY = {"model": "{model}", "dimensions": "{dimensions}", "encoding_format": "base64"}
_JINA = {"model": "{model}", "dimensions": "{dimensions}", "embedding_type": "float", "normalized": True}
_COHERE = {"model": "{model}", "output_dimension": "{dimensions}", "embedding_types": ["float"]}
_VOYAGE = {"model": "{model}", "output_dimension": "{dimensions}"}
_GEMINI = {"model": "models/{model}", "outputDimensionality": "{dimensions}"}
_TITAN = {"embeddingConfig": {"outputEmbeddingLength": "{dimensions}"}}
_NOVA = {"embeddingDimension": "{dimensions}"}


def _nova(**params: Any) -> dict[str, Any]:
    return {
        "schemaVersion": "nova-multimodal-embed-v1",
        "taskType": "SINGLE_EMBEDDING",
        "singleEmbeddingParams": {**_NOVA, **params},
    }


#: Forms by name. You may add your own, or pass it to `Embeddings`.
EMBEDDING_FORMS: dict[str, EmbeddingForm] = {
    # Images are data urls among the texts. Servers that do not expect them there embed their characters.
    "openai": _openai(texts_per_request=256, first_timeout=300),
    # A data url in `input` would be taken as text.
    "vllm": EmbeddingForm(
        texts={**_VLLM, "input": ["{text}"]},
        images={**_VLLM, "messages": [{"role": "user", "content": [IMAGE_PART]}]},
        first_timeout=300,
    ),
    # Without a modality, the characters of a data url would be embedded.
    "infinity": EmbeddingForm(
        texts={**_INFINITY, "input": ["{text}"], "modality": "text"},
        images={**_INFINITY, "input": ["{image_url}"], "modality": "image"},
        texts_per_request=32,
        images_per_request=8,
        min_size=3,
        first_timeout=300,
    ),
    "llama.cpp": _openai({"content": [IMAGE_PART]}, texts_per_request=32, first_timeout=300),
    "openrouter": _openai({"content": [IMAGE_PART]}),
    "nvidia": _openai(images_per_request=8, first_timeout=300),
    "jina": EmbeddingForm(
        texts={**_JINA, "input": [{"text": "{text}"}]},
        images={**_JINA, "input": [{"image": "{image}"}]},
        images_per_request=8,
    ),
    "cohere": EmbeddingForm(
        texts={**_COHERE, "input_type": "search_query", "texts": ["{text}"]},
        images={**_COHERE, "input_type": "image", "images": ["{image_url}"]},
        vectors="embeddings.float.*",
        path="embed",
        texts_per_request=96,
        usage=("meta.billed_units.input_tokens", "meta.billed_units.image_tokens"),
    ),
    # Its types of input put words before texts, and before images too.
    "voyage": EmbeddingForm(
        texts={**_VOYAGE, "inputs": [{"content": [{"type": "text", "text": "{text}"}]}]},
        images={**_VOYAGE, "inputs": [{"content": [{"type": "image_base64", "image_base64": "{image_url}"}]}]},
        path="multimodalembeddings",
        images_per_request=8,
    ),
    "gemini": EmbeddingForm(
        texts={"requests": [{**_GEMINI, "content": {"parts": [{"text": "{text}"}]}}]},
        images={
            "requests": [
                {**_GEMINI, "content": {"parts": [{"inlineData": {"mimeType": "{media_type}", "data": "{image}"}}]}}
            ]
        },
        vectors="embeddings.*.values",
        path="models/{model}:batchEmbedContents",
        images_per_request=8,
        usage=("usageMetadata.promptTokenCount",),
        key_header="x-goog-api-key",
        # As in the id of the quota.
        final_text="PerDay",
    ),
    # A text and an image in one request would be averaged.
    "titan": EmbeddingForm(
        texts={**_TITAN, "inputText": "{text}"},
        images={**_TITAN, "inputImage": "{image}"},
        vectors="embedding",
        path="model/{model}/invoke",
        texts_per_request=1,
        usage=("inputTextTokenCount",),
        error="message",
        signed_as="bedrock",
        max_size=2048,
    ),
    "nova": EmbeddingForm(
        texts=_nova(embeddingPurpose="IMAGE_RETRIEVAL", text={"truncationMode": "END", "value": "{text}"}),
        images=_nova(
            embeddingPurpose="GENERIC_INDEX", image={"format": "{image_format}", "source": {"bytes": "{image}"}}
        ),
        vectors="embeddings.*.embedding",
        path="model/{model}/invoke",
        texts_per_request=1,
        signed_as="bedrock",
    ),
}
