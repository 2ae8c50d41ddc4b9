"""Decision endpoints: OpenAI, Azure, Google and the System One form, as fakes that the SDKs' own types judge."""

import importlib.util
import json
import pickle
import warnings
from dataclasses import replace
from functools import partial
from itertools import permutations

import numpy as np
import pytest
from servers.app import stripe_scores
from servers.decisions import MODEL, probabilities
from servers.running import running
from servers.shared import make_images, scorer_of
from sklearn.base import clone

from blackvip import BlackVIPClassifier
from blackvip.exceptions import ClassPromptError, LabelMassWarning, ScoreError
from blackvip.scorers import Ledger, ScoreReader
from blackvip.scorers.http import (
    SYSTEM_ONE_PRESETS,
    GeminiDecisions,
    OpenAIDecisions,
    Refusal,
    ServiceError,
    SystemOne,
    SystemOnePreset,
)
from blackvip.scorers.http.protocols.decisions.base import option_orders

PROMPTS = ["a cat", "a dog", "a fish"]
IMAGES = make_images(3, side=12)
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def remote():
    with pytest.MonkeyPatch.context() as patch:
        if all(map(importlib.util.find_spec, ("openai", "google.genai"))):
            patch.setenv("DECISIONS_CHECKED", "1")
        with running() as service:
            yield service


@pytest.fixture
def service(remote, monkeypatch):
    monkeypatch.setenv("A_KEY", "sk-planted-0123456789")
    remote.control(key="sk-planted-0123456789")
    return remote


#: Adapter, path of the scorer's url, and decimals of the probabilities.
ADAPTERS = {
    "openai": (OpenAIDecisions, "/openai/v1", 2),
    "azure": (partial(OpenAIDecisions, "my-deployment", key_header="api-key"), "/azure/openai/v1", 2),
    "gemini": (partial(GeminiDecisions, resolution="low"), "/gemini/v1beta", 2),
    **{
        name: (partial(SystemOne, MODEL, name), f"/{name}", {"images": None}.get(preset.images, 2))
        for name, preset in SYSTEM_ONE_PRESETS.items()
    },
}
ADAPTERS["cloudflare"] = (*ADAPTERS["cloudflare"][:2], 4)
ADAPTERS["foundry"] = (*ADAPTERS["foundry"][:2], 2)


def make(service, name, key="A_KEY", n_concurrent=8, **parameters):
    adapter, path, _ = ADAPTERS[name]
    return scorer_of(service, adapter(**parameters), path, key=key, n_concurrent=n_concurrent)


def expected(images, prompts, n_orders, decimals):
    """Mean probabilities over the orders."""
    orders = option_orders(tuple(prompts), n_orders)
    scores = stripe_scores(images, len(prompts))
    return np.array([np.mean([probabilities(row, list(o), decimals) for o in orders], axis=0) for row in scores])


@pytest.mark.parametrize("name", ADAPTERS)
def test_each_service_is_asked_in_its_own_form_and_answers_for_all_options(service, name):
    descriptions = {"a dog": "man's best friend"}
    scorer = make(service, name, n_orders=3, descriptions=descriptions, instructions="Which animal?")
    scores = scorer(IMAGES, PROMPTS)
    np.testing.assert_allclose(scores, expected(IMAGES, PROMPTS, 3, ADAPTERS[name][2]), rtol=1e-12)
    counts = service.counts()
    assert counts["images"] == counts["requests"] == 3
    assert (scorer.score_type, scorer.n_tokens_) == ("probabilities", 3 * 90)
    assert scorer.cost_ == (pytest.approx(3 * 9e-6) if name == "openrouter" else None)
    assert scorer.model_ in (scorer.adapter.model, None)
    sent = counts["seen"]["body"]
    assert (sent.count("man's best friend"), sent.count("Which animal?")) == (3, 3)
    (header,) = {"authorization", "api-key", "x-goog-api-key"} & set(counts["seen"]["headers"])
    assert header == {"azure": "api-key", "foundry": "api-key", "gemini": "x-goog-api-key"}.get(name, "authorization")
    # One order, and a copy, which shares nothing but its parameters.
    scores = pickle.loads(pickle.dumps(clone(scorer).set_params(adapter__n_orders=1)))(IMAGES[:1], PROMPTS)
    np.testing.assert_allclose(scores, expected(IMAGES[:1], PROMPTS, 1, ADAPTERS[name][2]), rtol=1e-12)
    # The body repeats no key, and neither does the url.
    assert "planted" not in sent + counts["seen"]["path"] + repr(scorer) + repr(pickle.dumps(scorer))


def test_a_new_vendor_is_a_preset_of_a_few_lines(service):
    newcomer = SystemOnePreset("files", "decide/{model}", key_header="X-Newcomer-Key", max_options=12)
    scorer = scorer_of(service, SystemOne(MODEL, newcomer, n_orders=2), "/newcomer", key="A_KEY")
    service.control()
    np.testing.assert_allclose(scorer(IMAGES, PROMPTS), expected(IMAGES, PROMPTS, 2, 3), rtol=1e-12)
    assert service.counts()["seen"]["headers"]["x-newcomer-key"] == "sk-planted-0123456789"
    assert scorer.max_class_prompts == 12
    assert clone(scorer.adapter).get_params() == scorer.adapter.get_params()


def test_orders_are_those_of_the_prompts_alone():
    """The first is the identity, the second its reverse, and all differ."""
    prompts = tuple(f"option {index}" for index in range(7))
    orders = option_orders(prompts, 8)
    assert orders == option_orders(tuple(list(prompts)), 8)
    assert orders[:3] == option_orders(prompts, 3)
    assert orders[:2] == (tuple(range(7)), tuple(range(6, -1, -1)))
    assert len(set(orders)) == 8
    # The same in every process and version.
    assert orders[2] == (3, 4, 5, 6, 0, 2, 1)
    assert orders[3] == orders[2][::-1]
    assert np.ptp(np.argsort(orders, axis=1).mean(axis=0)) == 0
    assert option_orders((*prompts, "another"), 3)[2] != orders[2]
    assert set(option_orders(("a", "b", "c"), 50)) == set(permutations(range(3)))
    assert option_orders(("yes", "no"), 4) == ((0, 1), (1, 0))


TAKES = ".*or use a service that takes more: .*embeddings any number"


@pytest.mark.parametrize(
    ("name", "n_options", "message"),
    [
        ("vllm", 27, "27 class prompts.* expected at most 26." + TAKES),
        ("openai", 256, "256 class prompts.* expected at most 255." + TAKES),
        ("gemini", 256, "256 class prompts.* expected at most 255." + TAKES),
        ("llama.cpp", 256, "expected at most 255." + TAKES),
        ("openai", 1, "given the options 'a 0'; expected at least two"),
    ],
)
def test_too_many_options_are_refused_before_anything_is_sent(service, name, n_options, message):
    prompts = [f"a {index}" for index in range(n_options)]
    for ask in (make(service, name), lambda images, prompts: Ledger(make(service, name), prompts).scores(images)):
        with pytest.raises(ClassPromptError, match=message):
            ask(IMAGES, prompts)
    assert service.counts().get("requests", 0) == 0


def test_limits_of_single_models():
    assert SystemOne("OpenJEV-9b", "llama.cpp").max_class_prompts == 52
    assert SystemOne("laya", "llama.cpp").max_class_prompts == 255


@pytest.mark.parametrize(
    ("parameters", "prompts", "message"),
    [
        ({"n_orders": 65}, PROMPTS, "n_orders=65 was given; expected a whole number from 1 to 64"),
        ({"n_orders": 0}, PROMPTS, "n_orders=0 was given"),
        ({"n_orders": True}, PROMPTS, "n_orders=True was given"),
        ({"instructions": " "}, PROMPTS, "instructions=' ' was given; expected a text"),
        ({"descriptions": {"cat": "x"}}, PROMPTS, "descriptions has texts for 'cat', which are no class prompts"),
        ({}, ["a cat", "a cat"], "the options 'a cat', 'a cat'; expected at least two texts that differ"),
        ({}, ["a cat", "a dog "], "expected at least two texts that differ, without blanks"),
        ({}, ["a cat", "a\ndog"], "expected at least two texts that differ, without blanks"),
        ({}, ["a cat", ""], "expected at least two texts that differ, without blanks"),
    ],
)
def test_wrong_parameters_and_options_are_refused_before_anything_is_sent(service, parameters, prompts, message):
    with pytest.raises(ValueError, match=message):
        make(service, "vllm", **parameters)(IMAGES, prompts)
    assert service.counts().get("requests", 0) == 0


def test_wrong_presets_are_refused():
    with pytest.raises(ValueError, match="no preset 'vlm'; expected 'vllm', 'llama.cpp', .*, or a SystemOnePreset"):
        SystemOne("m", "vlm").max_class_prompts  # noqa: B018
    with pytest.raises(ValueError, match="images='pictures' was given; expected one of 'images', 'files'"):
        SystemOnePreset("pictures")
    with pytest.raises(ValueError, match="headers has 'X-API-Key', which would be shown and stored"):
        replace(SYSTEM_ONE_PRESETS["vllm"], headers={"X-API-Key": "secret"})


@pytest.mark.parametrize("prompts", [["{}", "picture of {}"], {"a": ["a cat", "a kitten"], "b": "a dog"}])
def test_several_prompts_of_a_class_would_share_its_probability(service, prompts):
    scorer = make(service, "openai")
    with pytest.raises(ClassPromptError, match="HTTPScorer lets prompts compete; expected one prompt per class"):
        BlackVIPClassifier(scorer, prompts, max_queries=100).fit(make_images(8), list("abababab"))
    assert service.counts().get("requests", 0) == 0


def openai_answer(*pairs, name="class"):
    listed = [{"value": value, "probability": probability} for value, probability in pairs]
    return {"type": "choice", "name": name, "probabilities": listed}


def read(*answers, n_orders=1, prompts=("cat", "dog")):
    return OpenAIDecisions(n_orders=n_orders).scores({"answers": list(answers)}, list(prompts))


def test_probabilities_come_in_any_order_and_with_rounding():
    np.testing.assert_array_equal(read(openai_answer(("dog", 0.25), ("cat", 0.75))), [[0.75, 0.25]])
    # As answers in another order of the questions.
    answers = openai_answer(("dog", 1), ("cat", 0), name="class_2"), openai_answer(("cat", 0.5), ("dog", 0.5))
    np.testing.assert_array_equal(read(*answers, n_orders=2), [[0.25, 0.75]])
    # Truth values that were texts.
    np.testing.assert_array_equal(
        read(openai_answer((True, 0.9), (False, 0.1)), prompts=("false", "true")), [[0.1, 0.9]]
    )
    many = [f"option {index}" for index in range(200)]
    assert read(openai_answer(*((option, 0.0) for option in many)), prompts=many)[0].sum() == 0
    # Each probability is rounded up.
    read(openai_answer(*((option, 0.01) for option in many)), prompts=many)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([], "answered the questions none, but not 'class'"),
        ([openai_answer(("cat", 1.0), ("dog", 0.0), name="other")], "answered the questions 'other', but not 'class'"),
        ([openai_answer(("cat", 1.0), ("dog", 0.0))] * 2, "answered the question 'class' twice"),
        ([openai_answer(("cat", 1.0))], "lacks the options 'dog'; expected a probability of each of the 2"),
        ([openai_answer(("cat", 0.9), ("Dog", 0.1))], "lacks the options 'dog', and has 'Dog'"),
        ([openai_answer(("cat", 0.9), ("dog", 0.1), ("cow", 0.0))], "has too many options, and has 'cow'"),
        ([openai_answer(("cat", 0.5), ("dog", 0.2), ("cat", 0.3))], "has the option 'cat' twice"),
        ([openai_answer(("cat", 1.2), ("dog", 0.0))], "gives 'cat' the probability 1.2; expected a number from 0 to 1"),
        ([openai_answer(("cat", 0.9), ("dog", -0.1))], "the probability -0.1"),
        ([openai_answer(("cat", "0.9"), ("dog", 0.1))], "the probability 0.9; expected a number"),
        ([openai_answer(("cat", None), ("dog", 0.1))], "the probability None"),
        ([openai_answer(("cat", True), ("dog", 0.0))], "the probability True"),
        ([openai_answer(("cat", float("nan")), ("dog", 0.1))], "the probability nan"),
        ([openai_answer(("cat", 0.7), ("dog", 0.2))], "sum to 0.9; expected 1, apart from rounding"),
        ([openai_answer(("cat", 0.9), ("dog", 0.8))], "sum to 1.7"),
    ],
)
def test_an_answer_that_is_not_one_probability_per_option_is_an_error(answers, message):
    with pytest.raises(ServiceError, match=message):
        read(*answers)


@pytest.mark.parametrize("name", ["openai", "gemini"])
def test_a_refused_image_is_counted_and_has_no_scores(service, name):
    images = np.concatenate([IMAGES, np.full_like(IMAGES[:1], 7)])
    scorer = make(service, name, n_orders=2)
    scores = scorer(images, PROMPTS)
    assert np.isnan(scores[3]).all()
    np.testing.assert_allclose(scores[:3], expected(IMAGES, PROMPTS, 2, 2), rtol=1e-12)
    assert scorer.n_refused_ == 1
    # One question of two is refused.
    refused = {"type": "refusal", "name": "class_2"}
    (row,) = read(openai_answer(("cat", 1), ("dog", 0)), refused, n_orders=2)
    assert isinstance(row, Refusal)


INSUFFICIENT = {"error": {"message": "You exceeded your quota", "type": "insufficient_quota", "code": None}}
PER_MINUTE, PER_DAY = (
    {
        "error": {
            "code": 429,
            "status": "RESOURCE_EXHAUSTED",
            "message": "You exceeded your current quota",
            "details": [{"violations": [{"quotaId": f"GenerateRequestsPer{unit}PerProjectPerModel-FreeTier"}]}],
        }
    }
    for unit in ("Minute", "Day")
)
RATE = {"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}}
FILTERED = {"error": {"message": "The content was filtered", "code": "content_filter"}}
SPENT, FULL = ({"result": None, "success": False, "errors": [{"code": code, "message": "!"}]} for code in (3036, 3040))


@pytest.mark.parametrize(
    ("name", "status", "body", "kind"),
    [
        ("openai", 429, INSUFFICIENT, "final"),
        ("openai", 429, RATE, "passing"),
        ("azure", 400, FILTERED, "refusal"),
        ("gemini", 429, PER_DAY, "final"),
        ("gemini", 429, PER_MINUTE, "passing"),
        ("cloudflare", 429, SPENT, "final"),
        ("cloudflare", 429, FULL, "passing"),
        ("cloudflare", 400, FULL, "passing"),
        # Within an answer that is none.
        ("cloudflare", 200, FULL, "passing"),
        ("cloudflare", 200, SPENT, "final"),
    ],
)
def test_spent_quotas_end_a_run_and_busy_services_are_asked_again(service, name, status, body, kind):
    service.control(script=["odd"], errors={"odd": [status, {"retry-after": "0"}, body]})
    scorer = make(service, name, n_concurrent=1)
    if kind == "final":
        with pytest.raises(ServiceError, match="It lasts: is the quota spent" if status == 429 else "without 'result'"):
            scorer(IMAGES[:1], PROMPTS)
    else:
        assert np.isnan(scorer(IMAGES[:1], PROMPTS)).all() == (kind == "refusal")
    assert scorer.n_requests_ == (2 if kind == "passing" else 1)


def test_a_model_that_does_not_understand_the_question_is_warned_about_once(service):
    scorer = scorer_of(service, SystemOne("prose", "vllm"), "/vllm", key="A_KEY")
    scorer(IMAGES, PROMPTS)
    with pytest.warns(
        LabelMassWarning, match="all labels together a mean probability of 0.01; .* does not understand"
    ) as told:
        scorer(make_images(8, side=12, seed=1), PROMPTS)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scorer(IMAGES, PROMPTS)
        make(service, "vllm")(make_images(10, side=12), PROMPTS)


@pytest.mark.parametrize(("decimals", "n_orders"), [(2, 1), (2, 2), (2, 3), (2, 4), (2, 8), (4, 4), (None, 4)])
def test_the_rounding_of_means_is_recognised(decimals, n_orders):
    """A mean of n probabilities with two decimals is a multiple of 0.01 / n, and 0 stands for less than half of it."""
    scores = expected(make_images(40, side=8), PROMPTS, n_orders, decimals)
    reader = ScoreReader("probabilities")
    reader.score_columns(scores)
    # Three options have six orders.
    unit = 0.0 if decimals is None else 10.0**-decimals / min(n_orders, 6)
    assert reader.score_format.floor == pytest.approx(unit / 2)
    assert not reader.score_format.zeros_missing


@pytest.mark.filterwarnings("ignore::blackvip.PromptNotUsedWarning")
def test_a_fit_and_a_prediction_bill_what_the_service_answers(service):
    X, y = make_images(24, side=12) // 3, np.array(["cat", "dog", "fish"])[np.arange(24) % 3]
    for place, image in enumerate(X):
        image[:, 4 * (place % 3) : 4 * (place % 3) + 4] += 30
    scorer = make(service, "openai", n_orders=2)
    clf = BlackVIPClassifier(scorer, "a {}", prompter="basis", max_queries=150, random_state=0).fit(X, y)
    counts = service.counts()
    assert counts["images"] == counts["requests"] == clf.n_queries_ == scorer.n_requests_ <= 150
    assert clf.score_format_.score_type == "probabilities"
    assert clf.score_format_.floor == pytest.approx(0.0025)
    assert clf.score(make_images(6, side=12, seed=3), y[:6]) >= 0
    assert service.counts()["images"] == clf.n_queries_ + 6
    assert json.loads(service.counts()["seen"]["body"])["model"] == "gpt-6-luna"


def test_a_service_that_answers_something_else_is_an_error(service):
    """Without a key it says so, and shows no key."""
    with pytest.raises(ScoreError, match="401 Unauthorized"):
        make(service, "gemini", key=None)(IMAGES, PROMPTS)
    adapter = SystemOne("m", "vllm")
    assert adapter.request([PNG], PROMPTS).path == "v1/systemone"
    with pytest.raises((KeyError, TypeError, AttributeError)):
        adapter.scores({"status": "fine"}, PROMPTS)
