"""Services that embed texts and images, for fakes.py, each with its own requests and answers; see SERVICES there.

An image's vector is that of the brightness of its stripes, a text's that of its digest. None is of length 1.
"""

from __future__ import annotations

import base64
import hashlib

import numpy as np

from servers.decisions import pixels, strict
from servers.images import NO_IMAGES, decoded

N_DIMENSIONS = 8
N_TOKENS = 7


def image_vectors(scores: np.ndarray) -> np.ndarray:
    """Brightness of the stripes (n, d) to vectors (n, d), float32."""
    return (2.5 * scores - 0.7).astype(np.float32)


def text_vector(text: str, n_dimensions: int = N_DIMENSIONS) -> np.ndarray:
    """(n_dimensions,), float32."""
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    return (digest[:n_dimensions] / 100 - 1.2).astype(np.float32)


def embedded(texts, images, to_answer, n_dimensions=None):
    """What a fake returns: for texts the answer at once, for images a function of the brightness of their stripes."""
    n_dimensions = n_dimensions or N_DIMENSIONS
    assert bool(texts) != bool(images), "texts or images"
    if texts:
        assert all(isinstance(text, str) and not text.startswith("data:") for text in texts)
        vectors = np.stack([text_vector(text, n_dimensions) for text in texts])
        return NO_IMAGES, lambda scores: to_answer(vectors), 1
    return np.concatenate(images), lambda scores: to_answer(image_vectors(scores)), n_dimensions


def in_base64(file: str) -> np.ndarray:
    return decoded(base64.b64decode(file, validate=True))[None]


def image_part(part) -> np.ndarray:
    assert set(part) == {"type", "image_url"}
    assert part["type"] == "image_url"
    return pixels(part["image_url"]["url"])


def openai_answer(data, usage):
    """A function from vectors to OpenAI's answer, which lists them in another order."""

    def to_answer(vectors):
        as_text = data.get("encoding_format") == "base64"
        told = [base64.b64encode(v.tobytes()).decode() if as_text else v.tolist() for v in vectors]
        items = [{"object": "embedding", "index": index, "embedding": v} for index, v in enumerate(told)]
        return {"object": "list", "data": items[::-1], "model": data["model"], "usage": usage}

    return to_answer


def openai(images_of, known=("model", "input", "encoding_format", "dimensions")):
    """Services of OpenAI's form; `images_of` returns the images of the input, or none if it has texts."""

    def fake(headers, data):
        assert set(data) <= set(known), sorted(data)
        images = images_of(data)
        texts = None if images else data["input"]
        assert not texts or len(texts) <= 256
        usage = {"prompt_tokens": N_TOKENS, "total_tokens": N_TOKENS}
        return embedded(texts, images, openai_answer(data, usage), data.get("dimensions"))

    return fake


def data_urls(data):
    return [pixels(entry) for entry in data["input"] if entry.startswith("data:")]


def parts(data):
    return [image_part(*entry["content"]) for entry in data["input"] if isinstance(entry, dict)]


def vllm_images(data):
    assert ("input" in data) != ("messages" in data)
    if "input" in data:
        return None
    (message,) = data["messages"]
    assert message["role"] == "user"
    return [image_part(*message["content"])]


def infinity_images(data):
    assert data["modality"] in ("text", "image")
    assert len(data["input"]) <= 32
    return [pixels(url) for url in data["input"]] if data["modality"] == "image" else None


def jina(headers, data):
    assert set(data) <= {"model", "input", "dimensions", "embedding_type", "normalized"}
    assert (data["embedding_type"], data["normalized"]) == ("float", True)
    assert all(len(entry) == 1 for entry in data["input"])
    texts = [entry["text"] for entry in data["input"] if "text" in entry]
    images = [in_base64(entry["image"]) for entry in data["input"] if "image" in entry]
    return embedded(texts, images, openai_answer(data, {"total_tokens": N_TOKENS}), data.get("dimensions"))


def cohere(headers, data):
    assert set(data) <= {"model", "input_type", "texts", "images", "embedding_types", "output_dimension"}
    assert data["embedding_types"] == ["float"]
    assert data["input_type"] == ("image" if "images" in data else "search_query")
    images = [pixels(url) for url in data.get("images", [])]
    assert len(images) <= 1
    assert len(data.get("texts", [])) <= 96
    billed = {"image_tokens": N_TOKENS, "images": 1} if images else {"input_tokens": N_TOKENS}
    return embedded(
        data.get("texts"),
        images,
        lambda vectors: {
            "id": "1",
            "embeddings": {"float": vectors.tolist()},
            "meta": {"api_version": {"version": "2"}, "billed_units": billed},
            "response_type": "embeddings_by_type",
        },
        data.get("output_dimension"),
    )


def voyage(headers, data):
    assert set(data) <= {"model", "inputs", "output_dimension"}
    entries = [entry for part in data["inputs"] for entry in part["content"]]
    assert len(entries) == len(data["inputs"])
    texts = [entry["text"] for entry in entries if entry["type"] == "text"]
    images = [pixels(entry["image_base64"]) for entry in entries if entry["type"] == "image_base64"]
    usage = {"text_tokens": 0, "image_pixels": 3920, "total_tokens": N_TOKENS}
    return embedded(texts, images, openai_answer(data, usage), data.get("output_dimension"))


def gemini(headers, data):
    assert not set(headers) & {"authorization", "api-key"}
    assert set(data) == {"requests"}
    assert len(data["requests"]) <= 100
    texts, images, sizes = [], [], set()
    for request in data["requests"]:
        assert request["model"] == "models/m"
        assert set(request) <= {"model", "content", "outputDimensionality"}
        sizes.add(request.get("outputDimensionality"))
        (part,) = request["content"]["parts"]
        if "text" in part:
            texts.append(part["text"])
        else:
            assert part["inlineData"]["mimeType"] == "image/png"
            images.append(in_base64(part["inlineData"]["data"]))
    return embedded(
        texts,
        images,
        lambda vectors: {
            "embeddings": [{"values": vector} for vector in vectors.tolist()],
            "usageMetadata": {"promptTokenCount": N_TOKENS},
        },
        sizes.pop(),
    )


def titan(headers, data):
    assert set(data) <= {"inputText", "inputImage", "embeddingConfig"}
    texts = [data["inputText"]] if "inputText" in data else None
    images = [in_base64(data["inputImage"])] if "inputImage" in data else None
    return embedded(
        texts,
        images,
        lambda vectors: {
            "embedding": vectors[0].tolist(),
            "inputTextTokenCount": N_TOKENS if texts else 0,
            "message": "The input is too bright." if not texts and vectors.min() > 1.6 else None,
        },
        data.get("embeddingConfig", {}).get("outputEmbeddingLength"),
    )


def nova(headers, data):
    assert (data["schemaVersion"], data["taskType"]) == ("nova-multimodal-embed-v1", "SINGLE_EMBEDDING")
    params = data["singleEmbeddingParams"]
    assert set(params) <= {"embeddingPurpose", "embeddingDimension", "text", "image"}
    texts = images = None
    if "text" in params:
        assert params["text"]["truncationMode"] in ("START", "END", "NONE")
        texts = [params["text"]["value"]]
    else:
        assert params["image"]["format"] == "png"
        images = [in_base64(params["image"]["source"]["bytes"])]
    kind = "TEXT" if texts else "IMAGE"
    return embedded(
        texts,
        images,
        lambda vectors: {"embeddings": [{"embeddingType": kind, "embedding": v} for v in vectors.tolist()]},
        params.get("embeddingDimension"),
    )


def compared(images, texts, to_answer):
    """What a fake returns that compares images with texts itself."""
    (image,) = images
    known = np.stack([text_vector(text) for text in texts]).astype(float)

    def answer(scores):
        vector = image_vectors(scores)[0].astype(float)
        cosines = known @ vector / np.linalg.norm(vector) / np.linalg.norm(known, axis=1)
        return to_answer(cosines.tolist())

    return image, answer, N_DIMENSIONS


def vllm_score(headers, data):
    assert set(data) == {"model", "text_1", "text_2"}
    assert set(data["text_1"]) == {"content"}

    def to_answer(cosines):
        items = [{"index": index, "object": "score", "score": cosine} for index, cosine in enumerate(cosines)]
        usage = {"prompt_tokens": N_TOKENS, "total_tokens": N_TOKENS}
        return {"id": "1", "object": "list", "model": data["model"], "data": items[::-1], "usage": usage}

    return compared([image_part(*data["text_1"]["content"])], data["text_2"], to_answer)


def roboflow(headers, data):
    assert set(data) == {"clip_version_id", "subject", "subject_type", "prompt", "prompt_type"}
    assert (data["subject_type"], data["prompt_type"]) == ("image", "text")
    assert data["subject"]["type"] == "base64"
    assert len(data["prompt"]) <= 8, "at most 8"
    images = [in_base64(data["subject"]["value"])]
    return compared(images, data["prompt"], lambda cosines: {"similarity": cosines, "time": 0.1})


SERVICES = {
    "vllm/score": vllm_score,
    "roboflow/clip/compare": roboflow,
    "openai/embeddings": openai(data_urls),
    "nvidia/embeddings": openai(data_urls),
    "vllm/embeddings": openai(vllm_images, ("model", "input", "messages", "encoding_format", "dimensions")),
    "infinity/embeddings": openai(infinity_images, ("model", "input", "modality", "encoding_format", "dimensions")),
    "llama.cpp/embeddings": openai(parts),
    "openrouter/embeddings": openai(parts),
    "jina/embeddings": jina,
    "cohere/embed": cohere,
    "voyage/multimodalembeddings": voyage,
    "gemini/models/m:batchEmbedContents": gemini,
    "titan/model/m/invoke": titan,
    "nova/model/amazon.nova-2-multimodal-embeddings-v1%3A0/invoke": nova,
    "nova/model/m/invoke": nova,
    # No form is for it; a test makes one.
    "newcomer/vectors": openai(lambda data: [in_base64(entry["png"]) for entry in data["input"] if "png" in entry]),
}
#: By the path of a request.
EMBEDDINGS = {f"/embed/{path}": strict(fake) for path, fake in SERVICES.items()}
