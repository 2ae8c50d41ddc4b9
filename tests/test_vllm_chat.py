"""Chat completions of a real vLLM: log-probabilities are those that transformers computes from the same weights."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from servers.shared import make_images
from servers.vllm import MARKS, check_fit, vllm_with

from blackvip.exceptions import ClassPromptError
from blackvip.scorers.http import ChatLogprobs, HTTPScorer, ServiceError, SystemOne
from blackvip.scorers.http.encoding import encode_image

pytestmark = MARKS
BLANK = "\u0120"
PROMPTS = [f"option {n}" for n in range(26)]
# Of the model's own size, so that nothing is resized.
IMAGES = make_images(4, side=56) // np.array([[[[1]]], [[[2]]], [[[4]]], [[[8]]]], np.uint8)


@pytest.fixture(scope="module")
def vllm(tmp_path_factory):
    with vllm_with("llava", tmp_path_factory.mktemp("vllm")) as server:
        yield server


def scorer(vllm, preset="vllm", model="tiny", **parameters):
    return HTTPScorer(vllm.url + "/v1", ChatLogprobs(model, preset, **parameters), n_concurrent=4)


@pytest.fixture(scope="module")
def expected(vllm):
    """A function of class prompts.

    It returns the log-probabilities of the letters, alone and after a blank (n, n_classes, 2), and of all tokens.
    """
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    processor = AutoProcessor.from_pretrained(vllm.model)
    model = LlavaForConditionalGeneration.from_pretrained(vllm.model).eval()
    pictures = [Image.fromarray(image) for image in IMAGES]

    def logprobs(prompts):
        (message,) = ChatLogprobs("tiny", "vllm").request([encode_image(IMAGES[0])], prompts).json["messages"]
        message["content"] = [{"type": part["type"].removesuffix("_url"), **part} for part in message["content"]]
        text = processor.apply_chat_template([message], add_generation_prompt=True)
        texts = [text] * len(pictures)
        inputs = processor(images=pictures, text=texts, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            told = model(**inputs).logits[:, -1].double().log_softmax(dim=-1).numpy()
        letters = [chr(ord("A") + n) for n in range(len(prompts))]
        return told[:, [processor.tokenizer.convert_tokens_to_ids([each, BLANK + each]) for each in letters]], told

    return logprobs


def test_scores_by_token_ids_are_exact_however_unlikely(vllm, expected):
    letters, everything = expected(PROMPTS)
    own = scorer(vllm)
    scores = own(IMAGES, PROMPTS)
    np.testing.assert_allclose(scores, np.logaddexp.reduce(letters, axis=2), atol=1e-4)
    # Some of the letters are not among the most likely tokens, and images differ.
    assert (letters < np.sort(everything)[:, None, None, -20]).any()
    assert np.ptp(scores, axis=0).max() > 0.01
    assert own.model_.startswith("tiny vllm-")
    # One image in each request, and one request for each text whose token is wanted.
    assert own.n_requests_ == len(IMAGES) + 1 + 2 * len(PROMPTS)


def test_the_most_likely_tokens_leave_gaps(vllm, expected):
    letters, everything = expected(PROMPTS[:20])
    least = np.sort(everything)[:, None, None, -20]
    with np.errstate(divide="ignore"):
        wanted = np.logaddexp.reduce(np.where(letters >= least, letters, -np.inf), axis=2)
    assert 0 < np.isneginf(wanted).sum() < wanted.size
    scores = scorer(vllm, label_token_ids=None)(IMAGES, PROMPTS[:20])
    # The token of the answer counts too, although it may be less likely than the most likely ones.
    told = np.isfinite(wanted)
    np.testing.assert_allclose(scores[told], wanted[told], atol=1e-4)
    assert (np.isfinite(scores) > told).sum() <= len(IMAGES)


def test_structured_outputs_are_relative_to_the_labels(vllm, expected):
    letters = expected(PROMPTS[:5])[0][..., 0]
    constrained = scorer(vllm, structured_outputs=True, label_token_ids=None)(IMAGES, PROMPTS[:5])
    relative = letters - np.logaddexp.reduce(letters, axis=1, keepdims=True)
    np.testing.assert_allclose(constrained, relative, atol=1e-4)


def test_requests_one_at_a_time_get_the_same_answers(vllm):
    alone = HTTPScorer(vllm.url + "/v1", ChatLogprobs("tiny", "vllm"), n_concurrent=1)
    np.testing.assert_array_equal(alone(IMAGES, PROMPTS), scorer(vllm)(IMAGES, PROMPTS))


def test_too_many_classes_are_refused_before_anything_is_sent(vllm):
    own = scorer(vllm, label_token_ids=None)
    before = vllm.n_requests()
    with pytest.raises(ClassPromptError, match="21 class prompts.*takes 20 in a request.*decisions"):
        own(IMAGES, PROMPTS[:21])
    with pytest.raises(ClassPromptError, match="takes 52 in a request.*decisions"):
        scorer(vllm)(IMAGES, [f"option {n}" for n in range(53)])
    assert vllm.n_requests() == before


def test_more_log_probabilities_than_the_server_tells_are_its_error(vllm):
    own = scorer(vllm, label_token_ids=None, top_logprobs=21)
    with pytest.raises(ServiceError, match="400 .*21") as caught:
        own(IMAGES, PROMPTS[:21])
    assert caught.value.status == 400
    assert own.n_retries_ == 0


class Truncated(ChatLogprobs):
    """Sends the first half of a file."""

    def request(self, images, class_prompts):
        return super().request([image[: len(image) // 2] for image in images], class_prompts)


def test_a_broken_image_is_an_error(vllm):
    n_before = vllm.n_answered()
    with pytest.raises(ServiceError, match="400 "):
        HTTPScorer(vllm.url + "/v1", Truncated("tiny", "vllm"))(IMAGES[:1], PROMPTS)
    assert vllm.n_answered() == n_before


@pytest.mark.parametrize("label_token_ids", ["auto", None])
def test_a_model_that_is_not_there_is_named(vllm, label_token_ids):
    with pytest.raises(ServiceError, match="404 .*nothing") as caught:
        scorer(vllm, model="nothing", label_token_ids=label_token_ids)(IMAGES[:1], PROMPTS[:3])
    assert caught.value.status == 404


def test_a_protocol_that_the_model_lacks_is_an_error_at_once(vllm):
    own = HTTPScorer(vllm.url, SystemOne("tiny", "vllm"))
    with pytest.raises(ServiceError, match="501 ") as caught:
        own(IMAGES[:1], PROMPTS[:3])
    assert (caught.value.status, own.n_requests_, own.n_retries_) == (501, 1, 0)


def test_a_fit_and_a_prediction_bill_what_vllm_counts(vllm):
    check_fit(scorer(vllm), vllm.n_answered, side=56)


def test_the_example_runs_with_a_vllm(vllm, tmp_path):
    n_before = vllm.n_answered()
    command = [sys.executable, pathlib.Path(__file__).parents[1] / "examples" / "chat_on_vllm.py"]
    environment = {**os.environ, "VLLM_URL": vllm.url}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    billed = re.search(r"The model 'tiny' answers.*billed: (\d+) images to fit", done.stdout, re.DOTALL)
    assert vllm.n_answered() - n_before == int(billed[1]) + 30
