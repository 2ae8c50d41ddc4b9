"""Chat models with log-probabilities: against OpenAI's types, a service that speaks so, and what goes wrong."""

import json
import pickle
from typing import get_type_hints

import numpy as np
import pytest
from openai.types.chat import ChatCompletion
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import TypeAdapter
from servers.app import stripe_scores
from servers.chat import chat, completion, label_logprobs
from servers.shared import PROMPTS, make_images, scorer_of
from sklearn.base import clone

from blackvip import BlackVIPClassifier
from blackvip.exceptions import ClassPromptError, LabelMassWarning
from blackvip.scorers.http import CHAT_PRESETS, ChatLogprobs, ChatPreset, HTTPScorer, Refusal, ServiceError
from blackvip.scorers.http.encoding import encode_image
from blackvip.scorers.http.json_bodies import to_json

IMAGES = make_images(5)
EXPECTED = label_logprobs(stripe_scores(IMAGES, 3))
OF_OPENAI = TypeAdapter(CompletionCreateParamsNonStreaming)


@pytest.fixture
def service(remote):
    remote.control()
    return remote


def scorer(service, preset="openai", **parameters):
    return scorer_of(service, ChatLogprobs("tiny", preset, **parameters), "/chat/v1")


def seen(service):
    return json.loads(service.counts()["seen"]["body"])


def body_of(adapter, prompts=PROMPTS):
    request = adapter.request([encode_image(IMAGES[0])], prompts)
    return json.loads(to_json(request.json))


def read(answer, adapter=None):
    return (adapter or ChatLogprobs("tiny")).scores(answer, PROMPTS)[0]


# requests and answers are those of OpenAI's types


@pytest.mark.parametrize("preset", ["openai", "azure"])
def test_openais_types_accept_requests_and_answers(preset):
    adapter = ChatLogprobs("gpt-5.4-nano", preset, detail="low", reasoning_effort="none")
    body = body_of(adapter)
    checked = OF_OPENAI.validate_python(body, strict=True)
    # Lists that its types call iterables are checked when they are read.
    parts = [part for message in checked["messages"] for part in message["content"]]
    assert [part["type"] for part in parts] == ["text", "image_url"]
    assert set(body) <= set(get_type_hints(CompletionCreateParamsNonStreaming))
    assert body["max_completion_tokens"] == 1
    assert (body["reasoning_effort"], body["top_logprobs"]) == ("none", 20)
    assert parts[0]["text"].splitlines()[1:4] == ["A: one", "B: two", "C: three"]
    _, answer, n_classes = chat({}, body)
    told = json.loads(json.dumps(answer(stripe_scores(IMAGES[:1], n_classes))))
    ChatCompletion.model_validate(told, strict=True)
    np.testing.assert_allclose(read(told), EXPECTED[0])


@pytest.mark.parametrize("name", CHAT_PRESETS)
def test_presets(name):
    body = body_of(ChatLogprobs("tiny", name, extra={"seed": 3, "temperature": None}))
    assert body["seed"] == 3
    assert "temperature" not in body
    assert body[CHAT_PRESETS[name].max_tokens] == 1
    assert ("cache_prompt" in body) == (name == "llama.cpp")
    OF_OPENAI.validate_python(body)


# scores


@pytest.mark.parametrize("preset", ["openai", "vllm"])
def test_scores_are_log_probabilities_of_letters_with_and_without_a_blank(service, preset):
    own = scorer(service, preset)
    np.testing.assert_allclose(own(IMAGES, PROMPTS), EXPECTED, rtol=1e-12)
    assert own.score_type == "logits"
    assert service.counts()["images"] == 5
    assert (own.model_, own.n_tokens_) == ("tiny fp_1", 5 * 91)
    body = seen(service)
    assert body.get("logprob_token_ids") == ([65, 265, 66, 266, 67, 267] if preset == "vllm" else None)
    assert own.n_requests_ == (5 + 1 + 2 * 3 if preset == "vllm" else 5)
    assert own.adapter._ids is None
    assert pickle.dumps(own) == pickle.dumps(clone(own))


def test_given_token_ids_and_labels(service):
    own = scorer(service, "vllm", labels=["X", "Y", "Z"], label_token_ids=[88, 89, 90])
    np.testing.assert_allclose(own(IMAGES, PROMPTS), EXPECTED + np.log(0.75), rtol=1e-12)
    assert own.n_requests_ == 5
    assert "X: one\nY: two\nZ: three" in seen(service)["messages"][0]["content"][0]["text"]


def test_a_server_without_token_ids_tells_its_most_likely_tokens(service):
    service.control(script=["404"])
    np.testing.assert_allclose(scorer(service, "vllm")(IMAGES, PROMPTS), EXPECTED, rtol=1e-12)
    service.control(script=["404"])
    with pytest.raises(ClassPromptError, match="There are 21 class prompts, but the server returns no token ids"):
        scorer(service, "vllm")(IMAGES, [f"class {n}" for n in range(21)])
    service.control(quick={"status": "fine"})
    with pytest.raises(ServiceError, match=r"{'status': 'fine'} at '\.\./tokenize'; expected token ids"):
        scorer(service, "vllm")(IMAGES, PROMPTS)
    assert service.counts()["requests"] == 1


def test_missing_labels_are_missing():
    top = [("The", -0.1), (" A", -3.0), ("A", -2.0), ("", -3.5), ("B", -9999.0), ("a", -4.0)]
    row = read(completion(("The", -0.1), top))
    np.testing.assert_allclose(row, [np.logaddexp(-2, -3), -np.inf, -np.inf])
    # The token of the answer counts although it is not among the most likely ones.
    assert read(completion(("C", -8.0), top))[2] == -8
    assert read(completion(("C", -9999.0), top))[2] == -np.inf
    assert np.isneginf(read(completion(("The", -0.1), [("The", -0.1)]))).all()


def test_an_answer_without_a_token_id_is_an_error():
    adapter = ChatLogprobs("tiny", "vllm", label_token_ids=[65, 66, 67]).prepare(None, PROMPTS)
    with pytest.raises(ServiceError, match="not that of token_id:65; .*ignore logprob_token_ids.*label_token_ids=None"):
        adapter.scores(completion(("A", -0.1), [("A", -0.1)]), PROMPTS)


# what goes wrong


def test_answers_without_log_probabilities_are_errors(service):
    for top in (None, []):
        service.control(quick=completion(("The", 0.0), top))
        with pytest.raises(ServiceError, match=r"answered 'The' without log-probabilities.*reasoning_effort='none'"):
            scorer(service)(IMAGES[:1], PROMPTS)


def test_answers_in_prose_are_an_error_once_there_are_several(service):
    service.control(quick=completion(("The", -0.1), [("The", -0.1), ("It", -4.0)]))
    assert np.isneginf(scorer(service)(IMAGES[:4], PROMPTS)).all()
    with pytest.raises(ServiceError, match="5 of 5 answers have none of the labels 'A' to 'C'.*begins 'The'"):
        scorer(service)(IMAGES, PROMPTS)


def test_a_low_mass_of_the_labels_is_told_once(service):
    service.control(quick=completion(("The", -0.1), [("The", -0.1), ("B", -4.0)]))
    own = scorer(service)
    with pytest.warns(LabelMassWarning, match="In 8 answers, .* a mean probability of 0.018") as caught:
        own(make_images(30), PROMPTS)
    assert len(caught) == 1


REFUSALS = {
    "refusal": completion(("I", -0.1), None, message={"refusal": "I can't help."}),
    "filter": completion(("", 0.0), None, finish_reason="content_filter"),
}


@pytest.mark.parametrize("kind", [*REFUSALS, "400"])
def test_refusals_are_images_without_scores(service, kind):
    if kind == "400":
        told = {"error": {"message": "filtered", "type": None, "param": "prompt", "code": "content_filter"}}
        service.control(script=["", "400-filter"], errors={"400-filter": [400, {}, told]})
    else:
        ChatCompletion.model_validate(REFUSALS[kind], strict=True)
        assert isinstance(ChatLogprobs("tiny").scores(REFUSALS[kind], PROMPTS)[0], Refusal)
        service.control(quick=REFUSALS[kind])
    own = scorer(service)
    scores = own(IMAGES[:2], PROMPTS)
    assert own.n_refused_ == np.isnan(scores).all(axis=1).sum() == (1 if kind == "400" else 2)


def test_a_spent_quota_is_not_waited_for(service):
    told = {"error": {"message": "You exceeded your quota", "type": "insufficient_quota", "code": "insufficient_quota"}}
    service.control(script=["spent"], errors={"spent": [429, {}, told]})
    with pytest.raises(ServiceError, match="429 .*insufficient_quota.*It lasts"):
        scorer(service)(IMAGES[:1], PROMPTS)
    assert service.counts()["requests"] == 1


@pytest.mark.parametrize(("preset", "most"), [("openai", 20), ("llama.cpp", 52), ("vllm", 52), (ChatPreset(5), 5)])
def test_too_many_classes_are_refused_before_anything_is_sent(service, preset, most):
    own, prompts = scorer(service, preset), [f"class {n}" for n in range(most + 1)]
    assert own.max_class_prompts == most
    with pytest.raises(ClassPromptError, match=f"takes {most} in a request.*decisions take 255.*embeddings"):
        own(IMAGES, prompts)
    y = np.arange(2 * len(prompts)) % len(prompts)
    with pytest.raises(ClassPromptError, match="decisions take 255"):
        BlackVIPClassifier(own, prompts).fit(make_images(len(y)), y)
    assert service.counts()["requests"] == 0


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"preset": "opnai"}, "There is no preset 'opnai'; expected 'openai', 'azure', 'vllm'"),
        ({"prompt": "Which?"}, "expected a text with '{options}', once"),
        ({"labels": ["A", " A", "B"]}, "expected texts that differ"),
        ({"label_token_ids": "yes"}, "expected 'auto', numbers, or None"),
        ({"extra": {"guided_choice": ["A"]}}, "which vLLM ignores; expected structured_outputs=True"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_is_sent(service, parameters, message):
    with pytest.raises(ValueError, match=message):
        scorer(service, **parameters)(IMAGES, PROMPTS)
    assert service.counts()["requests"] == 0


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (lambda text: [7] * len(text.strip()) * 2, "'A' has 2 tokens; expected one"),
        (lambda text: [7], "expected others for each label"),
    ],
)
def test_labels_that_are_no_distinct_tokens_are_refused(tokens, message):
    def send(request):
        messages = request.json.get("messages")
        return {"tokens": [1] if messages else tokens(request.json["prompt"])}

    with pytest.raises(ServiceError, match=message):
        ChatLogprobs("tiny", "vllm").prepare(send, PROMPTS)


def test_the_key_of_azure_has_a_header_of_its_own(service, monkeypatch):
    monkeypatch.setenv("A_KEY", "secret-of-azure")
    adapter = ChatLogprobs("tiny", "azure")
    HTTPScorer(service.url + "/chat/v1", adapter, key="A_KEY")(IMAGES[:1], PROMPTS)
    headers = service.counts()["seen"]["headers"]
    assert headers["api-key"] == "secret-of-azure"
    assert "authorization" not in headers


@pytest.mark.filterwarnings(
    "ignore::blackvip.PromptNotUsedWarning", "ignore::blackvip.exceptions.HeadNotHelpfulWarning"
)
def test_a_fit_and_a_prediction_bill_what_the_service_counts(service):
    X = make_images(24, side=9) // 3
    y = np.arange(24) % 3
    for image, label in zip(X, y):
        image[:, 3 * label : 3 * label + 3] += 60
    clf = BlackVIPClassifier(scorer(service), "{}", max_queries=60, random_state=0).fit(X[:12], y[:12])
    n_fit = clf.n_queries_
    assert service.counts()["images"] == n_fit <= 60
    assert (clf.predict(X[12:]) == y[12:]).mean() > 0.8
    assert service.counts()["images"] == n_fit + clf.n_queries_predict_
    assert clf.score_format_.score_type == "logits"
