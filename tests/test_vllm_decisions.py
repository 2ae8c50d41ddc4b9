"""System One with images, of a real vLLM: probabilities are those that transformers computes from the same weights."""

import numpy as np
import pytest
import torch
from PIL import Image
from servers.shared import make_images
from servers.vllm import MARKS, check_fit, vllm_with

from blackvip.exceptions import ClassPromptError, LabelMassWarning
from blackvip.scorers.http import HTTPScorer, ServiceError, SystemOne, SystemOnePreset
from blackvip.scorers.http.label_mass import LabelMass

# Random weights give little probability to letters.
pytestmark = [*MARKS, pytest.mark.filterwarnings("ignore::blackvip.exceptions.LabelMassWarning")]
PROMPTS = [f"option {n}" for n in range(26)]
# Of the size of the model's tiles, so that nothing is resized.
IMAGES = make_images(4, side=64) // np.array([[[[1]]], [[[2]]], [[[4]]], [[[8]]]], np.uint8)


@pytest.fixture(scope="module")
def vllm(tmp_path_factory):
    with vllm_with("lfm2", tmp_path_factory.mktemp("vllm")) as server:
        yield server


def scorer(vllm, model="tiny", **parameters):
    return HTTPScorer(vllm.url, SystemOne(model, "vllm", **parameters))


@pytest.fixture(scope="module")
def expected(vllm):
    """A function of options that returns their probabilities (n, n_options), and the mass of all their tokens (n,)."""
    from transformers import AutoProcessor, Lfm2VlForConditionalGeneration

    processor = AutoProcessor.from_pretrained(vllm.model)
    model = Lfm2VlForConditionalGeneration.from_pretrained(vllm.model).eval()
    adapter = SystemOne("tiny", "vllm")

    def probabilities(options):
        codes = [chr(ord("A") + n) for n in range(len(options))]
        lines = "\n".join(f"{code} {option}" for code, option in zip(codes, options))
        question = f"{adapter.instructions}\n\nOptions:\n{lines}\n\nReply with the option code only."
        text = {"type": "text", "text": f"{adapter.state}\n\n\nQUESTION:\n{question}"}
        messages = [{"role": "user", "content": [{"type": "image"}, text]}]
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
        ids = [processor.tokenizer.convert_tokens_to_ids([code, f"\u0120{code}"]) for code in codes]
        rows = []
        for image in IMAGES:
            inputs = processor(images=[Image.fromarray(image)], text=[prompt], add_special_tokens=False,
                               return_tensors="pt")  # fmt: skip
            with torch.no_grad():
                rows.append(model(**inputs).logits[0, -1].double().log_softmax(dim=-1).numpy()[ids])
        logprobs = np.stack(rows)
        shares = np.exp(logprobs.max(axis=2))
        return shares / shares.sum(axis=1, keepdims=True), np.exp(logprobs).sum(axis=(1, 2))

    return probabilities


def test_scores_are_probabilities_of_the_options(vllm, expected):
    own = scorer(vllm)
    scores = own(IMAGES, PROMPTS)
    np.testing.assert_allclose(scores, expected(PROMPTS)[0], atol=1e-5)
    assert np.ptp(scores, axis=0).max() > 1e-3
    assert own.score_type == "probabilities"
    assert (own.model_, own.n_requests_) == ("tiny", 4)
    assert own.n_tokens_ > 4 * 26


def test_orders_of_the_options_are_averaged(vllm, expected):
    options = PROMPTS[:3]
    own, reverse = expected(options)[0], expected(options[::-1])[0][:, ::-1]
    assert np.abs(own - reverse).max() > 1e-3
    np.testing.assert_allclose(scorer(vllm, n_orders=2)(IMAGES, options), (own + reverse) / 2, atol=1e-5)


def test_the_mass_of_the_labels_is_that_of_the_model(vllm, expected, monkeypatch):
    told = []
    monkeypatch.setattr(LabelMass, "add", lambda self, mass: told.append(mass))
    scorer(vllm)(IMAGES, PROMPTS[:2])
    assert sorted(told) == pytest.approx(sorted(expected(PROMPTS[:2])[1]), rel=1e-3)


def test_a_model_that_does_not_understand_the_question_is_told_once(vllm):
    with pytest.warns(LabelMassWarning, match="It does not understand the question") as caught:
        scorer(vllm)(make_images(10, side=64), PROMPTS[:2])
    assert len(caught) == 1


def test_more_than_26_options_are_refused_before_anything_is_sent(vllm):
    before = vllm.n_requests()
    with pytest.raises(ClassPromptError, match="27 class prompts.*takes 26 in a request"):
        scorer(vllm)(IMAGES, [*PROMPTS, "another"])
    assert vllm.n_requests() == before


def test_more_options_than_the_server_takes_are_its_error(vllm):
    own = HTTPScorer(vllm.url, SystemOne("tiny", SystemOnePreset(max_options=255)))
    with pytest.raises(ServiceError, match="400 .*26") as caught:
        own(IMAGES[:1], [*PROMPTS, "another"])
    assert (caught.value.status, own.n_requests_) == (400, 1)


class Truncated(SystemOne):
    """Sends the first half of a file."""

    def body(self, image, questions):
        return super().body(image[: len(image) // 2], questions)


def test_a_broken_image_is_an_error(vllm):
    n_before = vllm.n_answered()
    with pytest.raises(ServiceError, match="400 "):
        HTTPScorer(vllm.url, Truncated("tiny", "vllm"))(IMAGES[:1], PROMPTS)
    assert vllm.n_answered() == n_before


def test_a_model_that_is_not_there_is_named(vllm):
    with pytest.raises(ServiceError, match="404 .*nothing") as caught:
        scorer(vllm, "nothing")(IMAGES[:1], PROMPTS[:3])
    assert caught.value.status == 404


def test_a_fit_and_a_prediction_bill_what_vllm_counts(vllm):
    check_fit(scorer(vllm), vllm.n_answered, side=64)
