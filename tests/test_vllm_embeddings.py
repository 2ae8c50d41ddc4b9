"""Embeddings and cosines of a real vLLM: equal to those that transformers computes from the same weights."""

import numpy as np
import pytest
import torch
from PIL import Image
from servers.shared import make_images
from servers.vllm import MARKS, check_fit, vllm_with

from blackvip.scorers.http import (
    ChatLogprobs,
    CosineScore,
    EmbeddingCache,
    Embeddings,
    HTTPScorer,
    ImageVectors,
    ServiceError,
)

pytestmark = MARKS
PROMPTS = ["a photo of a cat", "a dark photo", "one two three", "a photo of a cat"]
# One size is that of the model, and the other is resized.
IMAGES = {side: make_images(4, side=side) for side in (32, 45)}
# Adapters by the name of their form, and the path of the url. CLIP does not know types of input.
FORMS = {
    "vllm": (lambda model: Embeddings(model, "vllm"), "/v1"),
    "cohere": (lambda model: Embeddings(model, "cohere", extra={"input_type": None}), "/v2"),
    "score": (CosineScore, "/v1"),
}


@pytest.fixture(scope="module")
def vllm(tmp_path_factory):
    with vllm_with("clip", tmp_path_factory.mktemp("vllm")) as server:
        yield server


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


def scorer(vllm, form, model="tiny"):
    make, path = FORMS[form]
    return HTTPScorer(vllm.url + path, make(model))


@pytest.fixture(scope="module")
def expected(vllm):
    """Unit vectors of the texts (n_prompts, d), and those of the images (n, d) by their side, of transformers."""
    from transformers import CLIPModel, CLIPProcessor

    processor, model = CLIPProcessor.from_pretrained(vllm.model), CLIPModel.from_pretrained(vllm.model).eval()
    vectors = {}
    for side, images in IMAGES.items():
        pictures = [Image.fromarray(image) for image in images]
        with torch.no_grad():
            told = model(**processor(text=PROMPTS, images=pictures, padding=True, return_tensors="pt"))
        vectors[side] = told.image_embeds.numpy()
    return told.text_embeds.numpy(), vectors


@pytest.mark.parametrize("side", IMAGES)
def test_scores_are_those_of_transformers(vllm, expected, form, side):
    texts, images = expected
    own = scorer(vllm, form)
    scores = own(IMAGES[side], PROMPTS)
    np.testing.assert_allclose(scores, 100 * images[side] @ texts.T, atol=100 * 1e-5)
    assert np.ptp(scores, axis=0).min() > 0.1
    # Texts are embedded once.
    assert own.n_requests_ == len(scores) + (form != "score")


@pytest.mark.parametrize("form", ["vllm", "cohere"])
def test_vectors_are_those_of_transformers_and_serve_other_class_prompts(vllm, expected, form):
    texts, images = expected
    own = scorer(vllm, form)
    own.set_params(adapter=ImageVectors(**own.adapter.get_params()))
    vectors = own(IMAGES[32], PROMPTS)
    np.testing.assert_allclose(vectors, images[32], atol=1e-5)
    cached = EmbeddingCache(own)
    cached(IMAGES[32], PROMPTS)
    n_before = vllm.n_answered()
    np.testing.assert_allclose(cached(IMAGES[32], PROMPTS[1:3]), 100 * images[32] @ texts[1:3].T, atol=100 * 1e-5)
    # The two texts.
    assert vllm.n_answered() == n_before + 2


def test_a_chat_of_this_model_is_an_error_at_once(vllm):
    own = HTTPScorer(vllm.url + "/v1", ChatLogprobs("tiny", "vllm", label_token_ids=None))
    with pytest.raises(ServiceError, match=r"40\d |501 "):
        own(IMAGES[32], PROMPTS[:3])
    assert own.n_retries_ == 0


def test_a_model_that_is_not_there_is_named(vllm, form):
    with pytest.raises(ServiceError, match="404 .*nothing"):
        scorer(vllm, form, "nothing")(IMAGES[32], PROMPTS[:3])


def test_a_fit_and_a_prediction_bill_what_vllm_counts(vllm, form):
    # It counts each text that it compares with an image, and the image.
    counts = {"per_image": 1 + 3} if form == "score" else {"n_texts": 3}
    check_fit(scorer(vllm, form), vllm.n_answered, side=32, **counts)


def test_vectors_follow_the_scores_and_teach_the_head_at_no_image(vllm, expected):
    texts, images = expected
    own = scorer(vllm, "vllm").set_params(adapter__vector_size=images[32].shape[1])
    answer = own(IMAGES[32], PROMPTS)
    np.testing.assert_allclose(answer[:, : len(PROMPTS)], 100 * images[32] @ texts.T, atol=100 * 1e-5)
    np.testing.assert_allclose(answer[:, len(PROMPTS) :], images[32], atol=1e-5)
    check_fit(own, vllm.n_answered, side=32, n_texts=3)
