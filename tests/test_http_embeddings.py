"""Services that embed: vectors against independent ones, each vendor's own types, and what is not paid for twice."""

import base64
import copy
import json
import pickle
import threading
import urllib.request

import numpy as np
import pytest
from servers.app import stripe_scores
from servers.embeddings import N_DIMENSIONS, N_TOKENS, image_vectors, text_vector
from servers.running import DIRECT
from servers.shared import PROMPTS, make_images, scorer_of
from servers.signatures import signature_by_hand
from sklearn.base import clone

from blackvip import BlackVIPClassifier
from blackvip.exceptions import ClassPromptError
from blackvip.losses import fit_temperature
from blackvip.scorers import Ledger
from blackvip.scorers.http import (
    COSINE_FORMS,
    EMBEDDING_FORMS,
    CosineForm,
    CosineScore,
    EmbeddingCache,
    EmbeddingForm,
    Embeddings,
    ImageVectors,
    ServiceError,
)
from blackvip.scorers.http.protocols.embeddings.vectors import in_order, read_vectors

NOVA = "amazon.nova-2-multimodal-embeddings-v1:0"


@pytest.fixture
def service(remote, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE123")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t/example+key")
    remote.control()
    return remote


def embedding_scorer(service, form, model="m", path=None, scorer=None, **parameters):
    adapter = Embeddings(model, form, region="eu-west-1", **parameters)
    return scorer_of(service, adapter, path or f"/embed/{form}", **{"images_per_request": None, **(scorer or {})})


def cosines(images, prompts, n_dimensions=N_DIMENSIONS):
    """(n, n_prompts), by a formula that normalises at the end."""
    x = image_vectors(stripe_scores(images, n_dimensions)).astype(float)
    t = np.stack([text_vector(prompt, n_dimensions) for prompt in prompts]).astype(float)
    return x @ t.T / np.sqrt(np.outer((x**2).sum(axis=1), (t**2).sum(axis=1)))


@pytest.mark.parametrize("form", EMBEDDING_FORMS)
def test_scores_are_scaled_cosines_and_texts_are_requested_once_per_list(service, form):
    images = make_images(3)
    scorer = embedding_scorer(service, form)
    n_for_images = -(-len(images) // EMBEDDING_FORMS[form].images_per_request)
    n_for_texts = -(-len(PROMPTS) // EMBEDDING_FORMS[form].texts_per_request)
    np.testing.assert_allclose(scorer(images, PROMPTS), 100 * cosines(images, PROMPTS), rtol=0, atol=1e-10)
    assert service.counts()["requests"] == n_for_images + n_for_texts
    assert service.counts()["images"] == len(images)
    assert scorer.score_type == "logits"
    # Nova tells no tokens, and Titan only those of texts.
    n_with_tokens = {"nova": 0, "titan": n_for_texts}.get(form, n_for_texts + n_for_images)
    assert scorer.n_tokens_ == N_TOKENS * n_with_tokens

    # Other images with these prompts cost no text, and other prompts some texts but no more of an image.
    scorer(images, PROMPTS)
    assert service.counts()["requests"] == 2 * n_for_images + n_for_texts
    more = [*PROMPTS, "another {model}", "two"]
    np.testing.assert_allclose(scorer(images, more), 100 * cosines(images, more), rtol=0, atol=1e-10)
    n_for_more = -(-4 // EMBEDDING_FORMS[form].texts_per_request)
    assert service.counts()["requests"] == 3 * n_for_images + n_for_texts + n_for_more


def test_texts_are_sent_in_portions_that_the_service_takes(service):
    prompts = [f"class {index}" for index in range(70)]
    images = make_images(1)
    scores = embedding_scorer(service, "infinity", scale=1.0)(images, prompts)
    assert service.counts()["requests"] == 3 + 1
    np.testing.assert_allclose(scores, cosines(images, prompts), rtol=0, atol=1e-12)


def test_scale_dimensions_prefix_and_further_fields_reach_the_request(service):
    images = make_images(2)
    for form in EMBEDDING_FORMS:
        scorer = embedding_scorer(service, form, scale=3, dimensions=5, text_prefix="this is ")
        prompts = [f"this is {prompt}" for prompt in PROMPTS]
        np.testing.assert_allclose(scorer(images, PROMPTS), 3 * cosines(images, prompts, 5), rtol=0, atol=1e-12)
    body = lambda: json.loads(service.counts()["seen"]["body"])
    embedding_scorer(service, "openai", extra={"dimensions": 4})(images, PROMPTS)
    assert body()["dimensions"] == 4
    embedding_scorer(service, "openai", extra={"encoding_format": None})(images, PROMPTS)
    assert "encoding_format" not in body()


def test_an_image_within_a_longer_text_is_in_base64():
    url = "data:{media_type};base64,{image}"
    form = EmbeddingForm({"input": ["{text}"]}, {"input": [{"url": url}]})
    image = b"\x89PNG\r\n\x1a\n and more"
    (item,) = Embeddings("any", form).request([image], ["a cat"]).json["input"]
    assert item == {"url": f"data:image/png;base64,{base64.b64encode(image).decode()}"}


def test_a_service_without_a_form_is_a_form_of_a_few_lines(service):
    fields = {"model": "{model}"}
    newcomer = EmbeddingForm(
        {**fields, "input": ["{text}"]}, {**fields, "input": [{"png": "{image}"}]}, path="vectors", images_per_request=2
    )
    images = make_images(3)
    scorer = embedding_scorer(service, newcomer, path="/embed/newcomer")
    np.testing.assert_allclose(scorer(images, PROMPTS), 100 * cosines(images, PROMPTS), rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match=r"texts has the placeholders \['caption'\]; expected at least one of"):
        EmbeddingForm({"input": "{caption}"}, newcomer.images)
    with pytest.raises(ValueError, match=r"images_per_request=2 was given, but \['image'\] are in no list"):
        EmbeddingForm(newcomer.texts, {"input": {"png": "{image}"}}, images_per_request=2)
    with pytest.raises(ValueError, match="There is no preset 'nobody'; expected 'openai'"):
        embedding_scorer(service, "nobody")(images, PROMPTS)
    with pytest.raises(ValueError, match="dimensions=8 was given, but the form has no field for it"):
        embedding_scorer(service, newcomer, path="/embed/newcomer", dimensions=8)(images, PROMPTS)
    with pytest.raises(ValueError, match="model='' and text_prefix=None were given; expected a text that"):
        embedding_scorer(service, "openai", "", path="/embed/openai", text_prefix=None)(images, PROMPTS)
    for wrong in ({"scale": 0}, {"scale": "auto"}, {"scale": True}, {"dimensions": 0}, {"dimensions": 2.5}):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"{name}=.* was given; expected a positive"):
            embedding_scorer(service, "openai", **wrong)(images, PROMPTS)


BAD = {
    "no vectors at 'data.*.embedding'": {"object": "list"},
    "answered with 2 vectors; expected 3": {"data": [{"embedding": [1.0]}, {"embedding": [1.0]}]},
    "have the places .0, 0, 1.": {"data": [{"index": place, "embedding": [1.0]} for place in (0, 0, 1)]},
    "vector of 2 dimensions; expected 1": {"data": [{"embedding": [1.0]}, {"embedding": [1.0, 2]}, {"embedding": [1]}]},
    r"begins \[0.0, 0.0\]; expected finite": {"data": [{"embedding": [0.0, 0.0]}] * 3},
    r"begins \[inf\]; expected finite": {"data": [{"embedding": [1e300]}] * 3},
    "vector is None": {"data": [{"embedding": None}] * 3},
    r"vector is \[True\]": {"data": [{"embedding": [True]}] * 3},
    r"vector is \['1'\]": {"data": [{"embedding": ["1"]}] * 3},
    r"vector is \[\[1.0\]\]": {"data": [{"embedding": [[1.0]]}] * 3},
    "vector of 0 numbers": {"data": [{"embedding": []}] * 3},
    "'AAA' is not 32-bit floats in base64": {"data": [{"embedding": "AAA"}] * 3},
    "'AAAA' is not 32-bit floats": {"data": [{"embedding": "AAAA"}] * 3},
}


@pytest.mark.parametrize("message", BAD)
def test_vectors_that_are_none_are_errors_that_say_so(message):
    with pytest.raises(ServiceError, match=message):
        read_vectors(BAD[message], "data.*.embedding", 3, None)


def test_vectors_are_ordered_by_their_index_and_read_from_base64():
    vectors = np.array([[0.1, -2], [3, 4], [5e-20, 6]], "<f4")
    texts = [base64.b64encode(vector.tobytes()).decode() for vector in vectors]
    items = [{"index": place, "embedding": texts[place]} for place in (2, 0, 1)]
    assert np.array_equal(read_vectors({"data": items}, "data.*.embedding", 3, 2), vectors)
    assert in_order({"a": {"b": 7}}, "a.b", 1, "numbers") == [7]


def test_images_and_texts_of_other_dimensions_are_an_error_before_any_score(service):
    """As behind a name of two models."""
    scorer = embedding_scorer(service, "openai")
    scorer(make_images(1), PROMPTS)
    service.control(quick={"data": [{"embedding": [1.0] * 5}]})
    with pytest.raises(ServiceError, match="vector of 5 dimensions; expected 8"):
        scorer(make_images(1), PROMPTS)
    with pytest.raises(ServiceError, match="vector of 5 dimensions; expected 6"):
        embedding_scorer(service, "openai", dimensions=6)(make_images(1), PROMPTS[:1])


def test_titans_message_is_an_error_although_its_status_is_200(service):
    bright = np.full((1, 8, 8, 3), 255, np.uint8)
    with pytest.raises(ServiceError, match="answered with an error: The input is too bright"):
        embedding_scorer(service, "titan")(bright, PROMPTS)


def test_a_daily_quota_of_gemini_is_not_waited_for(service):
    service.control(script=["spent"], errors={"spent": [429, {}, {"error": {"details": [{"quotaId": "XPerDayY"}]}}]})
    with pytest.raises(ServiceError, match="429"):
        embedding_scorer(service, "gemini")(make_images(1), PROMPTS)
    assert service.counts()["requests"] == 1


# What vendors' own types say


def sent_and_answered(service, path):
    """The body of the last request, and what the fake answers to it."""
    body = service.counts()["seen"]["body"]
    with DIRECT.open(urllib.request.Request(service.url + path, body.encode())) as answer:
        return json.loads(body), json.load(answer)


def test_openais_types_accept_requests_and_answers(service):
    pydantic, types = pytest.importorskip("pydantic"), pytest.importorskip("openai.types")
    accepts = pydantic.TypeAdapter(types.EmbeddingCreateParams)
    for prepares in (True, False):
        scorer = embedding_scorer(service, "openai", dimensions=8)
        scorer.prepared(PROMPTS)
        if not prepares:
            scorer(make_images(2), PROMPTS)
        body, answer = sent_and_answered(service, "/embed/openai/embeddings")
        assert list(accepts.validate_python(body)["input"]) == body["input"]
        assert len(types.CreateEmbeddingResponse.model_validate(answer).data) == len(body["input"])


def test_googles_types_accept_requests_and_answers(service):
    types = pytest.importorskip("google.genai.types")
    scorer = embedding_scorer(service, "gemini", dimensions=8)
    for ask in (scorer.prepared, lambda prompts: scorer(make_images(2), prompts)):
        ask(PROMPTS)
        body, answer = sent_and_answered(service, "/embed/gemini/models/m:batchEmbedContents")
        for request in body["requests"]:
            types.Content.model_validate(request["content"])
            types.EmbedContentConfig.model_validate({"outputDimensionality": request["outputDimensionality"]})
        told = types.EmbedContentResponse.model_validate({"embeddings": answer["embeddings"]})
        assert [len(each.values) for each in told.embeddings] == [8] * len(body["requests"])


@pytest.mark.parametrize("form", ["titan", "nova"])
def test_botocores_own_request_to_bedrock_has_our_path_and_signature(service, monkeypatch, form):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t0ken==")
    model = NOVA if form == "nova" else "m"
    session = pytest.importorskip("botocore.session").Session()
    client = session.create_client("bedrock-runtime", "eu-west-1", endpoint_url=service.url + f"/embed/{form}")
    embedding_scorer(service, form, model)(make_images(1), PROMPTS)
    ours = service.counts()["seen"]
    # botocore validates and serializes it.
    answer = client.invoke_model(modelId=model, body=ours["body"].encode(), contentType="application/json")
    assert json.loads(answer["body"].read())
    theirs = service.counts()["seen"]
    assert (theirs["path"], theirs["method"], theirs["body"]) == (ours["path"], ours["method"], ours["body"])
    scope = f"{ours['headers']['x-amz-date'][:8]}/eu-west-1/bedrock/aws4_request"
    assert f"Credential=AKIAEXAMPLE123/{scope}" in theirs["headers"]["authorization"]
    # The path is percent-encoded once more in what is signed.
    signed = ["host", "x-amz-date", "x-amz-security-token"]
    path = ours["path"].replace("%", "%25")
    signature = signature_by_hand(
        "s3cr3t/example+key", "POST", path, ours["headers"], signed, ours["body"].encode(), "eu-west-1", "bedrock"
    )
    assert ours["headers"]["authorization"] == (
        f"AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE123/{scope}, SignedHeaders={';'.join(signed)}, Signature={signature}"
    )
    assert ours["headers"]["x-amz-security-token"] == "t0ken=="


def test_bedrock_takes_an_api_key_too_and_needs_encryption(service, monkeypatch):
    monkeypatch.setenv("BEDROCK_KEY", "bedrock-0123456789")
    embedding_scorer(service, "titan", scorer={"key": "BEDROCK_KEY"})(make_images(1), PROMPTS)
    assert service.counts()["seen"]["headers"]["authorization"] == "Bearer bedrock-0123456789"
    adapter = Embeddings("m", "titan")
    request = adapter.request([b"\x89PNG\r\n\x1a\n"], PROMPTS)
    with pytest.raises(ServiceError, match="would go to aws.example without encryption"):
        adapter.authorize(request, "http://aws.example/model/m/invoke", b"{}", None)
    proof = adapter.authorize(request, "https://bedrock-runtime.us-west-2.amazonaws.com/model/m/invoke", b"{}", None)
    assert "/us-west-2/bedrock/aws4_request" in proof["Authorization"]


def test_copies_hold_parameters_alone(service):
    scorer = embedding_scorer(service, "titan")
    scores = scorer(make_images(1), PROMPTS)
    for twin in (pickle.loads(pickle.dumps(scorer)), clone(scorer)):
        assert vars(twin.adapter).keys() <= {*scorer.adapter.get_params(), "_sklearn_version"}
        assert np.array_equal(twin(make_images(1), PROMPTS), scores)
    assert b"AKIAEXAMPLE123" not in pickle.dumps(scorer)


# Services that compare themselves


@pytest.mark.parametrize("form", COSINE_FORMS)
def test_cosines_of_a_service_are_scaled_and_in_the_order_of_the_prompts(service, form):
    images = make_images(3)
    for n_prompts in (1, 3, 8):
        prompts = [f"class {index}" for index in range(n_prompts)]
        scorer = scorer_of(service, CosineScore("m", form), f"/embed/{form}", images_per_request=None)
        np.testing.assert_allclose(scorer(images, prompts), 100 * cosines(images, prompts), rtol=0, atol=1e-10)
    assert service.counts()["requests"] == service.counts()["images"] == 9
    fitted = scorer_of(service, CosineScore("m", form, scale="fit"), f"/embed/{form}")
    np.testing.assert_allclose(fitted(images, prompts), cosines(images, prompts), rtol=0, atol=1e-12)


def test_what_cosine_score_refuses(service):
    roboflow = scorer_of(service, CosineScore("ViT-B-16", "roboflow"), "/embed/roboflow")
    with pytest.raises(ClassPromptError, match="9 class prompts.*CosineScore takes 8 in a request"):
        roboflow(make_images(1), [f"class {index}" for index in range(9)])
    with pytest.raises(ValueError, match="scale=-1 was given; expected a positive number"):
        scorer_of(service, CosineScore("m", scale=-1), "/embed/vllm")(make_images(1), PROMPTS)
    with pytest.raises(ValueError, match=r"body has the placeholders \['model'\]; expected 'prompts', and 'image'"):
        CosineForm({"model": "{model}"}, "scores.*", "compare")
    assert service.counts()["requests"] == 0
    for wrong in (1.5, None, True, "0.5"):
        service.control(quick={"similarity": [0.1, wrong, 0.2]})
        with pytest.raises(ServiceError, match=f"cosine is '?{wrong}'?; expected a number from -1 to 1"):
            roboflow(make_images(1), PROMPTS)
    service.control(quick={"similarity": [0.1, 0.2]})
    with pytest.raises(ServiceError, match="answered with 2 cosines; expected 3"):
        roboflow(make_images(1), PROMPTS)


# Vectors that are kept


def cache_of(service, form="jina", **parameters):
    adapter = ImageVectors("m", form, **parameters)
    return EmbeddingCache(scorer_of(service, adapter, f"/embed/{form}", images_per_request=2))


def test_a_cache_answers_other_prompts_without_an_image(service):
    images = make_images(5)
    cached = cache_of(service)
    plain = embedding_scorer(service, "jina")
    assert np.array_equal(cached(images[[0, 1, 2, 0]], PROMPTS), plain(images[[0, 1, 2, 0]], PROMPTS))
    service.control()
    others = ["a photo of one", "a drawing of one", "something else", "two"]
    ledger = Ledger(cached, others, max_queries=100)
    scores = ledger.scores(images[[4, 0, 1, 4, 2]])
    assert service.counts()["images"] == ledger.n_queries == cached.score_fn.n_requests_ - 4 == 1
    assert np.array_equal(scores, plain(images[[4, 0, 1, 4, 2]], others))
    assert cached.n_images_ == 4
    assert cached.score_type == "logits"
    # Another scale is another service.
    service.control()
    twin = copy.copy(cached).set_params(score_fn=clone(cached.score_fn).set_params(adapter__scale=1.0))
    np.testing.assert_allclose(twin(images[:1], PROMPTS), cosines(images[:1], PROMPTS), rtol=0, atol=1e-12)
    assert service.counts()["images"] == 1
    cached.clear()
    assert cached.n_images_ == 0


def test_clones_share_vectors_and_pickles_leave_them_out(service):
    images = make_images(3)
    cached = cache_of(service)
    scores = cached(images, PROMPTS)
    assert clone(cached).n_images_ == 3
    again = pickle.loads(pickle.dumps(cached))
    assert again.n_images_ == copy.deepcopy(cached).n_images_ == 0
    assert len(pickle.dumps(cached)) < 2000
    assert np.array_equal(again(images, PROMPTS), scores)


def test_an_image_that_is_refused_has_no_vector_and_an_error_keeps_the_others(service):
    images = make_images(3)
    cached = cache_of(service, "vllm").set_params(score_fn__images_per_request=1, score_fn__n_concurrent=1)
    service.control(script=["", "no"], errors={"no": [400, {}, {"error": {"code": "content_filter"}}]})
    scores = cached(images[:2], PROMPTS)
    refused = np.isnan(scores).all(axis=1)
    assert refused.sum() == cached.score_fn.n_refused_ == cached.n_images_ == 1
    assert np.isfinite(scores[~refused]).all()
    service.control(script=["", "400"])
    with pytest.raises(ServiceError, match="400 Bad Request"):
        cached(np.concatenate([images[:2][refused], images[2:]]), PROMPTS)
    assert cached.n_images_ == 2


@pytest.mark.parametrize("fails", [False, True])
def test_threads_that_have_the_same_new_images_pay_once_even_if_one_fails(service, fails):
    images = make_images(5)
    cached = cache_of(service)
    expected = embedding_scorer(service, "jina")(images, PROMPTS)
    cached.score_fn.prepared(PROMPTS)
    service.control(latency=0.2, script=["400"] * fails)
    begin, scores, errors = threading.Barrier(4), [], []

    def score(rows):
        begin.wait()
        try:
            scores.append((rows, cached(images[rows], PROMPTS)))
        except ServiceError as error:
            errors.append(error)

    all_rows = [np.arange(5), np.arange(5), np.arange(5)[::-1], np.array([0, 1, 2, 3, 4, 0])]
    threads = [threading.Thread(target=score, args=(rows,)) for rows in all_rows]
    [*map(threading.Thread.start, threads), *map(threading.Thread.join, threads)]
    assert len(errors) == fails
    assert len(scores) == 4 - fails
    for rows, found in scores:
        assert np.array_equal(found, expected[rows])
    assert service.counts()["images"] == cached.n_images_ == 5


def test_a_cache_that_is_left_early_lets_others_send_the_rest(service):
    images = make_images(5)
    cached = cache_of(service).set_params(score_fn__n_concurrent=1)
    some = cached.answers(images, PROMPTS)
    next(some)
    some.close()
    assert 1 <= cached.n_images_ < 5
    assert np.isfinite(cached(images, PROMPTS)).all()
    assert cached.n_images_ == 5


def test_a_cache_needs_vectors(service):
    cached = EmbeddingCache(embedding_scorer(service, "jina"))
    with pytest.raises(TypeError, match="The adapter is Embeddings, which returns no vectors; expected ImageVectors"):
        cached(make_images(1), PROMPTS)
    with pytest.raises(ValueError, match="'score_fn' parameter of EmbeddingCache must be an instance of 'blackvip"):
        EmbeddingCache(len)(make_images(1), PROMPTS)
    assert service.counts()["requests"] == 0


# The scale, and a whole fit


def test_a_scale_that_is_fitted_is_the_inverse_of_the_temperature():
    """Of vectors whose cosines lie in a narrow band, as those of Cohere do."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 400)
    cosines = 0.3 + 0.02 * rng.standard_normal((400, 5)) + 0.03 * np.eye(5)[y]
    scales = np.arange(30, 150)
    losses = [np.logaddexp.reduce(s * cosines, axis=1) - s * cosines[np.arange(400), y] for s in scales]
    best = scales[np.argmin(np.mean(losses, axis=1))]
    assert 1 / fit_temperature(cosines, y) == pytest.approx(best, rel=0.05)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::blackvip.PromptNotUsedWarning")
@pytest.mark.filterwarnings("ignore::blackvip.exceptions.HeadNotHelpfulWarning")
def test_a_fit_with_several_prompts_per_class_bills_one_image_each_and_fits_the_scale(service):
    X = make_images(16, side=12) // 3
    y = np.arange(16) % 2
    X[y == 1, :, 6:] += 90
    fitted = []
    for scale in (100.0, "fit"):
        service.control()
        prompts = [["one", "a photo of one"], ["two", "a photo of two"]]
        scorer = embedding_scorer(service, "jina", scale=scale)
        clf = BlackVIPClassifier(scorer, prompts, prompter="basis", max_queries=120, random_state=0)
        fitted.append(clf.fit(X, y))
        assert service.counts()["images"] == clf.n_queries_ > 80
    assert fitted[1].n_queries_ == fitted[0].n_queries_
    # Only the weak penalty of the temperature, which keeps it finite, depends on the scale.
    proba = [clf.predict_proba(X) for clf in fitted]
    np.testing.assert_allclose(proba[0], proba[1], atol=0.05)
