"""What a service says besides scores: tokens, cost, its model, refusals, errors that last; and what is asked first."""

import copy
import json
import pickle
import sqlite3
import threading
import warnings
from contextlib import closing, suppress

import numpy as np
import pytest
from servers.app import stripe_scores
from servers.shared import PROMPTS, Own, make_images, scorer_of

from blackvip import BlackVIPClassifier
from blackvip.exceptions import ClassPromptError, ModelChangedWarning, ScoreError
from blackvip.journal import Journal
from blackvip.scorers import CachedScorer, Ledger
from blackvip.scorers.http import Refusal, Request, ServiceError, Usage
from blackvip.scorers.http.json_bodies import error_codes
from blackvip.scorers.identity import service_identity


@pytest.fixture
def service(remote):
    remote.control()
    return remote


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        ({"input_tokens": 77, "output_tokens": 2}, Usage(77, 2)),
        ({"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}, Usage(5, 1)),
        ({"total_tokens": 9}, Usage(9)),
        ({"cost": 0.0}, Usage(cost=0.0)),
        ({"input_tokens": None, "cost": 1e-5}, Usage(cost=1e-5)),
        ({"input_tokens": "77"}, None),
        ({"input_tokens": -1, "cost": True}, None),
        ({}, None),
        ([1], None),
        (None, None),
    ],
)
def test_usage_is_read_under_its_usual_names(told, usage):
    assert Own().usage_of({"usage": told}) == usage
    assert Own().usage_of([told]) is None


def test_tokens_and_costs_are_counted(service):
    """Each answer's own cost counts, else its tokens, else its images."""
    images = make_images(4)
    scorer = scorer_of(service, n_concurrent=1)
    assert (scorer.n_tokens_, scorer.cost_, scorer.model_, scorer.n_refused_) == (0, None, None, 0)
    tells = [{"usage": {"input_tokens": 70, "output_tokens": 2}}] * 2 + [{"usage": {"cost": 0.5, "input_tokens": 8}}]
    service.control(tells=[*tells, {}])
    scorer(images, PROMPTS)
    assert scorer.n_tokens_ == 2 * 72 + 8
    assert scorer.cost_ is None
    assert scorer.set_params(price_per_image=2.0).cost_ == 0.5 + 3 * 2
    assert scorer.set_params(price_per_million_tokens=1e6).cost_ == 0.5 + 144 + 2
    assert scorer.set_params(price_per_million_tokens=(1e6, 1e7)).cost_ == 0.5 + 140 + 40 + 2
    assert scorer.set_params(price_per_image=None).cost_ is None
    # Prices are no reason for another connection.
    assert scorer.n_requests_ == service.counts()["requests"] == 4
    for wrong in ((1.0,), (1.0, -1.0), -1, "1"):
        with pytest.raises(ValueError, match="price_per_million_tokens"):
            scorer_of(service, price_per_million_tokens=wrong)(images, PROMPTS)


def test_one_probe_image_prices_a_plan(service):
    X, y = make_images(12), np.arange(12) % 3
    service.control(tells=[{"usage": {"input_tokens": 2_000, "output_tokens": 0}}])
    scorer = scorer_of(service, price_per_million_tokens=0.5)
    price = scorer.estimate_price(X[0], PROMPTS)
    assert price == pytest.approx(0.001)
    assert service.counts()["images"] == 1
    assert scorer.estimate_price(X[0], PROMPTS) == pytest.approx(price)
    plan = BlackVIPClassifier(scorer.set_params(price_per_image=price), max_queries=500).plan(X, y)
    assert plan.fit.price == pytest.approx(price * plan.fit.images)
    assert plan.fit.images > 12
    assert service.counts()["images"] == 2
    service.control(script=["filtered"], errors=ERRORS)
    with pytest.raises(ServiceError, match="refused the image"):
        scorer.estimate_price(X[0], PROMPTS)
    service.control(tells=[{"usage": {"total_tokens": 3}}])
    with pytest.raises(ValueError, match="reports no cost, and 3 tokens were counted; .* Set price_per_million_tokens"):
        scorer_of(service).estimate_price(X[0], PROMPTS)


def test_a_change_of_the_model_is_told_once(service):
    models = ["m-1", "m-1", "m-2", "m-1", "m-3"]
    service.control(tells=[{"model": model, "system_fingerprint": "f"} for model in models])
    scorer = scorer_of(service, n_concurrent=1)
    with pytest.warns(ModelChangedWarning, match="the model 'm-2 f' after 'm-1 f'; expected one model") as caught:
        scorer(make_images(5), PROMPTS)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert scorer.model_ == CachedScorer(scorer, "unused").model_ == "m-3 f"


def striped(n):
    """Images of three classes, by the stripe that is brighter."""
    X, y = make_images(n, side=12) // 3, np.arange(n) % 3
    for image, label in zip(X, y):
        image[:, 4 * label : 4 * label + 4] += 60
    return X, y


@pytest.mark.filterwarnings("ignore::blackvip.PromptNotUsedWarning")
def test_the_journal_keeps_the_model_and_a_fit_that_resumes_with_another_one_says_so(service, tmp_path):
    X, y = striped(12)
    path = tmp_path / "run.journal"

    def fit(model, script=()):
        service.control(tells=[{"model": model}], script=script)
        clf = BlackVIPClassifier(
            scorer_of(service, n_concurrent=1), "{}", prompter="basis", max_queries=80, random_state=0,
            score_type="logits", checkpoint=path,
        )  # fmt: skip
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with suppress(ServiceError):
                clf.fit(X, y)
        return [str(warning.message) for warning in caught if warning.category is ModelChangedWarning]

    assert fit("m-1", [""] * 15 + ["400"]) == []
    assert fit("m-1", [""] * 15 + ["400"]) == []
    (told,) = fit("m-2", [""] * 15 + ["400"])
    assert "The model 'm-2' answers, but the answers so far in" in told
    assert "came from 'm-1'" in told
    assert fit("m-2") == []
    assert fit("m-3") == []  # it only reads what it has
    assert service.counts()["requests"] == 0
    with pytest.raises(ValueError, match="belongs to something else"):
        Journal(path, {})
    with closing(sqlite3.connect(path)) as database:
        ((header,),) = database.execute("SELECT content FROM header")
    assert json.loads(header)["facts"]["models"] == ["m-1", "m-2"]


ERRORS = {
    "spent": [429, {}, {"error": {"message": "no more", "type": "insufficient_quota", "code": "insufficient_quota"}}],
    "no": [503, {"x-should-retry": "false"}, {}],
    "yes": [400, {"x-should-retry": "true"}, {}],
    "soon": [503, {"retry-after-ms": "1", "retry-after": "9999"}, {}],
    "late": [503, {"retry-after-ms": "9999000"}, {}],
    "odd": [503, {"retry-after-ms": "soon", "retry-after": "0"}, {}],
    "filtered": [400, {}, {"error": {"code": "content_filter", "message": "indecent"}}],
}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("spent", "429 .*no more.* It lasts: is the quota spent"),
        ("no", "503 Service Unavailable"),
        ("late", "asks to wait 9999 s, but max_retry_after is 120 s"),
    ],
)
def test_an_error_that_is_said_to_last_is_not_tried_again(service, fault, message):
    service.control(script=[fault], errors=ERRORS)
    with pytest.raises(ServiceError, match=message):
        scorer_of(service)(make_images(1), PROMPTS)
    assert service.counts()["requests"] == 1


@pytest.mark.parametrize("fault", ["yes", "soon", "odd"])
def test_an_error_that_is_said_to_pass_is_tried_again(service, fault):
    service.control(script=[fault], errors=ERRORS)
    images = make_images(1)
    assert np.array_equal(scorer_of(service)(images, PROMPTS), stripe_scores(images, 3))


@pytest.mark.parametrize(
    ("body", "codes"),
    [
        ({"error": {"code": "a", "type": "b", "status": "c", "message": "d"}}, {"a", "b", "c"}),
        ({"error": {"code": 429, "status": "GONE"}}, {"429", "GONE"}),
        ([{"code": "a"}], set()),
        ({"success": False, "errors": [{"code": 3036}, "x"]}, {"3036"}),
        ({"code": "a", "error": "b"}, {"a"}),
        ({"code": True, "error": None, "errors": None}, set()),
        ("a", set()),
    ],
)
def test_codes_of_errors_are_found_where_services_have_them(body, codes):
    content = json.dumps(body).encode()
    assert error_codes(content) == codes
    assert error_codes(content[:-1]) == set()


class Refusing(Own):
    """It reads the errors of single images as refusals."""

    def scores(self, answer, class_prompts):
        return [row if isinstance(row, list) else Refusal(row["error"]) for row in answer["scores"]]


def test_refused_images_have_no_scores_and_are_counted(service):
    images = make_images(12) // 2
    images[[1, 7]] = [[[[200]]], [[[210]]]]
    expected = stripe_scores(images, 3)
    expected[[1, 7]] = np.nan
    service.control(refuse_bright="indecent")
    scorer = scorer_of(service, Refusing(), images_per_request=6)
    np.testing.assert_array_equal(scorer(images, PROMPTS), expected)
    service.control(script=["", "filtered", "", "", "", "", "", "filtered"], errors=ERRORS)
    by_status = scorer_of(service)
    scores = by_status(images, PROMPTS)
    is_refused = np.isnan(scores).all(axis=1)
    assert is_refused.sum() == 2
    assert np.array_equal(scores[~is_refused], stripe_scores(images[~is_refused], 3))
    assert scorer.n_refused_ == by_status.n_refused_ == 2
    assert scorer.n_retries_ == by_status.n_retries_ == 0
    # Refused images are left out of the money spent, unless their answers tell it.
    assert by_status.set_params(price_per_image=1.0).cost_ == 10


def test_own_labels_of_a_refused_image_are_missing(service):
    class Labels(Refusing):
        fixed_labels = True

    class Named(Labels):
        def scores(self, answer, class_prompts):
            return [row if isinstance(row, Refusal) else dict(zip("abc", row)) for row in super().scores(answer, ())]

    images = make_images(3) // 2
    images[1] = 200
    for adapter in (Labels(), Named()):
        service.control(refuse_bright="indecent")
        scores = scorer_of(service, adapter, images_per_request=2)(images, PROMPTS)
        if isinstance(scores, list):
            assert [len(row) for row in scores] == [3, 0, 3]
            assert scores[2] == dict(zip("abc", stripe_scores(images[2:], 3)[0].tolist()))
        else:
            assert np.array_equal(np.isnan(scores).all(axis=1), [False, True, False])


def test_too_many_refusals_are_an_error_that_keeps_what_was_answered(service):
    service.control(script=[*["", "filtered"] * 4, ""] * 2, errors=ERRORS)
    got = []
    scorer = scorer_of(service, n_concurrent=1)
    message = r"refused 5 of 1\d images; expected at most 10%.*The last refusal was: .*indecent"
    with pytest.raises(ServiceError, match=message):
        got.extend(scorer.answers(make_images(30), PROMPTS))
    rows = np.concatenate([rows for rows, _ in got])
    counts = service.counts()
    assert len(set(rows.tolist())) == len(rows) == counts["requests"] < 30
    assert np.isnan(np.concatenate([scores for _, scores in got])).all(axis=1).sum() == counts["filtered"]


def test_a_refused_request_of_several_images_says_what_to_do(service):
    service.control(script=["filtered"], errors=ERRORS)
    with pytest.raises(ServiceError, match="with 2 images; expected a refusal of one image. Set images_per_request=1"):
        scorer_of(service, images_per_request=2)(make_images(2), PROMPTS)


@pytest.mark.filterwarnings("ignore::blackvip.PromptNotUsedWarning")
@pytest.mark.parametrize(("score_type", "prompts"), [("logits", 1), ("probabilities", 2)])
def test_a_fit_survives_some_refusals(service, score_type, prompts):
    class Typed(Own):
        def scores(self, answer, class_prompts):
            rows = np.exp(5 * np.array(answer["scores"]))
            return np.log(rows) if score_type == "logits" else rows / rows.sum(axis=1, keepdims=True)

    Typed.score_type = score_type
    X, y = striped(24)
    service.control(rates={"filtered": 0.05}, errors=ERRORS, seed=3)
    scorer = scorer_of(service, Typed(), n_concurrent=1)
    texts = [[f"{name} {number}" for number in range(prompts)] for name in PROMPTS] if prompts > 1 else "{}"
    clf = BlackVIPClassifier(scorer, texts, prompter="basis", max_queries=300, random_state=0).fit(X, y)
    counts = service.counts()
    assert counts["filtered"] == scorer.n_refused_ > 3
    assert counts["images"] + scorer.n_refused_ == clf.n_queries_
    assert np.isfinite(clf.predict_proba(X)).all()


def test_several_images_without_scores_are_an_error_at_first_and_many_later():
    def service(images, class_prompts):
        scores = stripe_scores(images, 3)
        scores[images[:, 0, 0, 0] == 0] = np.nan
        return scores

    images = np.ones((20, 4, 4, 3), np.uint8)
    images[:10] = 0
    with pytest.raises(ScoreError, match="no score at all for 2 images"):
        Ledger(service, PROMPTS).scores(images[:2])
    ledger = Ledger(service, PROMPTS)
    ledger.scores(images[9:])
    assert np.isnan(ledger.scores(images[:8])).all()
    with pytest.raises(ScoreError, match="no score at all for 9 images"):
        ledger.scores(images[:9])


def test_more_prompts_than_the_service_takes_are_refused(service):
    class Two(Own):
        max_class_prompts = 2

    scorer = scorer_of(service, Two())
    for ask in (scorer, scorer.answers, scorer.estimate_price):
        with pytest.raises(ClassPromptError, match="3 class prompts, but Two takes 2 in a request; expected at most 2"):
            list(ask(make_images(1), PROMPTS))
    assert scorer.max_class_prompts == 2
    with pytest.raises(ClassPromptError, match="3 class prompts, but the score function takes 2"):
        Ledger(scorer, PROMPTS)
    assert scorer(make_images(1), PROMPTS[:2]).shape == (1, 2)
    assert service.counts()["requests"] == 1


class Prepared(Own):
    """It asks for something about the class prompts first, and needs it in each request."""

    def prepare(self, send, class_prompts):
        prepared = copy.copy(self)
        prepared.known_ = len(send({"images": [], "labels": class_prompts})["known"])
        assert send(Request("meta", method="GET"))["name"] == "m"
        return prepared

    def request(self, images, class_prompts):
        assert self.known_ == 2
        return super().request(images, class_prompts)


def test_an_adapter_prepares_once_for_each_list_of_prompts(service):
    service.control(tells=[{"known": [1, 2], "usage": {"input_tokens": 1}}], script=["500", "429"])
    adapter = Prepared()
    scorer = scorer_of(service, adapter)
    images = make_images(2)
    before = service_identity(scorer), pickle.dumps(adapter)
    threads = [threading.Thread(target=scorer, args=(images, PROMPTS)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert service.counts()["requests"] == 2 + 2 + 6
    assert service.counts()["images"] == 6
    assert scorer.n_tokens_ == 1 + 6
    scorer(images, PROMPTS[:2])
    scorer(images, PROMPTS)
    assert scorer.n_requests_ == service.counts()["requests"] == 10 + 4 + 2
    for number in range(9):  # the oldest are forgotten
        scorer(images[:1], [f"{number}"])
    n_before = scorer.n_requests_
    scorer(images[:1], PROMPTS)
    assert scorer.n_requests_ == n_before + 3
    assert (service_identity(scorer), pickle.dumps(adapter)) == before
    assert not hasattr(adapter, "known_")


def test_what_an_adapter_needs_first_and_does_not_get(service, monkeypatch):
    monkeypatch.setenv("A_KEY", "kaboom-secret")
    service.control(tells=[{"other": "kaboom-secret"}])
    scorer = scorer_of(service, Prepared(), key="A_KEY")
    with pytest.raises(
        ServiceError, match=r"Prepared found nothing to prepare with .*\(KeyError: 'known'\), .*\*\*\*"
    ) as e:
        scorer(make_images(1), PROMPTS)
    assert "kaboom" not in str(e.value)
    assert service.counts()["images"] == 0

    class Old(Own):
        def prepare(self, send, class_prompts):
            pass

    with pytest.raises(TypeError, match="Old.prepare returned a NoneType; expected an adapter"):
        scorer_of(service, Old())(make_images(1), PROMPTS)


def test_the_first_request_may_take_longer(service):
    class Slow(Own):
        first_timeout = 9.0

    images = make_images(1)
    service.control(latency=0.5)
    for adapter, parameters in ((Own(), {"first_timeout": 9.0}), (Slow(), {})):
        scorer = scorer_of(service, adapter, timeout=0.1, max_attempts=1, **parameters)
        assert np.array_equal(scorer(images, PROMPTS), stripe_scores(images, 3))
        with pytest.raises(ServiceError, match="did not answer within 0.1 s"):
            scorer(images, PROMPTS)
    with pytest.raises(ServiceError, match="did not answer within 0.1 s"):
        scorer_of(service, Slow(), timeout=9.0, first_timeout=0.1, max_attempts=1)(images, PROMPTS)
