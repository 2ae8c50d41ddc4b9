"""What the tests of services over HTTP have in common."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from blackvip.scorers.http import (
    Adapter,
    ChatLogprobs,
    CosineScore,
    Embeddings,
    GeminiDecisions,
    HTTPScorer,
    HuggingFaceClassifier,
    HuggingFaceZeroShot,
    KServe,
    OpenAIDecisions,
    ServiceError,
    SystemOne,
    TFServing,
    TorchServe,
)

PROMPTS = ["one", "two", "three"]


class Own(Adapter):
    """The protocol that app.py has for the tests alone: any number of images, and errors of single ones."""

    images_per_request = None

    def request(self, images, class_prompts):
        return {"images": list(images), "labels": class_prompts}

    def scores(self, answer, class_prompts):
        return [row if isinstance(row, list) else ServiceError(row["error"], retry=True) for row in answer["scores"]]


def make_images(n, side=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def scorer_of(service, adapter=None, path="/own", **parameters):
    """Small requests and no patience with a service that is next door."""
    return HTTPScorer(service.url + path, adapter or Own(), **{"images_per_request": 1, "timeout": 5.0, **parameters})


class Faked(NamedTuple):
    """An adapter that all tests of faults and keys use.

    To add one: a line in `FAKED` below, by a name for the test; and in fakes.py, the path of its requests and the
    function that answers them. Run ``pytest tests/test_http_faults.py tests/test_http_security.py -k NAME``.
    """

    make: Callable[[], Adapter]
    # Path of the scorer's url; the adapter appends its own.
    path: str = ""
    # Whether the key is sent as it is. A signature holds none of it.
    has_key: bool = True


FAKED = {
    "own": Faked(Own, "/own"),
    "kserve": Faked(lambda: KServe("m")),
    "tf-serving": Faked(lambda: TFServing("m")),
    "torchserve": Faked(lambda: TorchServe("m")),
    "hf-zero-shot": Faked(HuggingFaceZeroShot, "/hf"),
    "hf-classifier": Faked(HuggingFaceClassifier, "/hf"),
    "chat": Faked(lambda: ChatLogprobs("m", "azure"), "/chat/v1"),
    "chat-token-ids": Faked(lambda: ChatLogprobs("m", "vllm"), "/chat/v1"),
    "openai-decisions": Faked(OpenAIDecisions, "/openai/v1"),
    "gemini-decisions": Faked(lambda: GeminiDecisions(n_orders=2), "/gemini/v1beta"),
    "system-one": Faked(lambda: SystemOne("m", "vllm"), "/vllm"),
    "system-one-wrapped": Faked(lambda: SystemOne("decider-1", "cloudflare", n_orders=3), "/cloudflare"),
    "embeddings": Faked(lambda: Embeddings("m", "openai"), "/embed/openai"),
    "embeddings-vllm": Faked(lambda: Embeddings("m", "vllm"), "/embed/vllm"),
    "embeddings-gemini": Faked(lambda: Embeddings("m", "gemini"), "/embed/gemini"),
    "embeddings-titan": Faked(lambda: Embeddings("m", "titan", region="eu-west-1"), "/embed/titan"),
    "cosine-score": Faked(lambda: CosineScore("m"), "/embed/vllm"),
}
