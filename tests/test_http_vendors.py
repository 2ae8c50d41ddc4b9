"""Google Cloud Vision, Amazon Rekognition and Clarifai: against their own definitions, and services that speak so."""

import base64
import importlib
import io
import json
import pickle
from datetime import UTC, datetime
from urllib.request import Request

import numpy as np
import pytest
from PIL import Image
from servers.app import stripe_scores
from servers.running import DIRECT
from servers.shared import make_images, scorer_of
from servers.signatures import signature_by_hand
from servers.vendors import CLARIFAI, GOOGLE, KEY, LABELS, running_moto, running_vendors

from blackvip.scorers import Ledger
from blackvip.scorers.http import Clarifai, GoogleVision, HTTPScorer, Rekognition, ServiceError
from blackvip.scorers.labels.scorer import LabelMappedScorer

IMAGES = make_images(5)
EXPECTED = [dict(zip(LABELS, row)) for row in stripe_scores(IMAGES, len(LABELS)).tolist()]
PROMPTS = ["a photo of a dog.", "a photo of the sky."]


@pytest.fixture(scope="module")
def remote():
    with running_vendors() as service:
        yield service


@pytest.fixture
def service(remote, monkeypatch):
    monkeypatch.setenv("VENDOR_KEY", KEY)
    remote.control()
    return remote


def google(service, adapter=None, key="VENDOR_KEY", **parameters):
    return scorer_of(service, adapter or GoogleVision(), "/v1", **{"key": key, "images_per_request": 3, **parameters})


def clarifai(service, adapter=None, key="VENDOR_KEY", **parameters):
    return scorer_of(service, adapter or Clarifai(), "/v2", **{"key": key, "images_per_request": 3, **parameters})


def seen(service):
    return service.counts()["seen"]


def assert_same(rows, expected):
    assert len(rows) == len(expected)
    for row, wanted in zip(rows, expected):
        assert row == pytest.approx(wanted)


# what all have in common


@pytest.mark.parametrize("make", [google, clarifai])
def test_labels_and_their_confidences_come_for_each_image_in_order(service, make):
    scorer = make(service)
    assert_same(scorer(IMAGES, PROMPTS), EXPECTED)
    assert service.counts()["images"] == 5
    assert (scorer.score_type, scorer.n_requests_) == ("probabilities", 2)
    assert_same(make(service)(np.zeros_like(IMAGES[:1]), PROMPTS), [{} if make is google else dict.fromkeys(LABELS, 0)])


@pytest.mark.parametrize(("make", "passing", "final"), [(google, "14", "3"), (clarifai, "21354", "30002")])
def test_an_error_of_one_image_repeats_that_one_and_loses_no_other(service, make, passing, final):
    service.control(script=["", passing, "", passing])
    assert_same(make(service, n_concurrent=1)(IMAGES, PROMPTS), EXPECTED)
    assert service.counts()["most"] == 1  # nothing that was answered was asked for again
    service.control(script=["", final])
    with pytest.raises(ServiceError, match=f"answered with the error {final}: (Bad image data|Failure. of this image)"):
        make(service, n_concurrent=1)(IMAGES, PROMPTS)
    assert service.counts()["most"] == 1


@pytest.mark.parametrize(("make", "throttled"), [(google, "8"), (clarifai, "11005")])
def test_throttling_of_an_image_counts_as_no_attempt(service, make, throttled):
    service.control(script=["", throttled])
    assert_same(make(service, max_attempts=1)(IMAGES[:2], PROMPTS), EXPECTED[:2])


@pytest.mark.parametrize("make", [google, clarifai])
def test_a_key_that_is_refused_is_shown_nowhere(service, make, monkeypatch):
    monkeypatch.setenv("WRONG_KEY", "wr0ng-secret-key-42")
    with pytest.raises(ServiceError, match="answered with 40") as caught:
        make(service, key="WRONG_KEY")(IMAGES, PROMPTS)
    assert "***" in str(caught.value)
    assert "wr0ng-secret" not in str(caught.value)
    scorer = make(service)
    scorer(IMAGES[:1], PROMPTS)
    assert KEY.encode() not in pickle.dumps(scorer)
    assert KEY not in repr(scorer)


def test_a_whole_answer_that_is_an_error_is_raised():
    google_error = {"error": {"code": 7, "message": "Cloud Vision API has not been used in project 1 before"}}
    with pytest.raises(ServiceError, match="error 7: Cloud Vision API has not been used"):
        GoogleVision().scores(google_error, PROMPTS)
    with pytest.raises(ServiceError, match="error 21200: Model does not exist") as caught:
        Clarifai().scores({"status": {"code": 21200, "description": "Model does not exist"}}, PROMPTS)
    assert not caught.value.retry
    with pytest.raises(ServiceError, match="error 98004") as caught:
        Clarifai().scores({"status": {"code": 98004, "description": "Internal", "details": "x"}}, PROMPTS)
    assert caught.value.retry


@pytest.mark.parametrize("make", [google, clarifai])
def test_what_is_no_answer_of_the_service_is_an_error_that_shows_it(make):
    adapter = GoogleVision() if make is google else Clarifai()
    for answer in ({"status": "fine"}, [1, 2], {"responses": [{"labelAnnotations": [{"score": 1}]}], "outputs": 3}):
        with pytest.raises((KeyError, TypeError, AttributeError)):  # which the scorer turns into a ServiceError
            adapter.scores(answer, PROMPTS)


# Google Cloud Vision


def test_google_is_asked_as_its_documentation_says(service):
    adapter = GoogleVision(max_results=2, model="builtin/latest", project="my-project")
    rows = google(service, adapter)(IMAGES[:2], PROMPTS)
    assert_same(rows, [dict(sorted(row.items(), key=lambda pair: -pair[1])[:2]) for row in EXPECTED[:2]])
    request = seen(service)
    assert request["path"] == GOOGLE
    assert request["headers"]["x-goog-api-key"] == KEY
    assert request["headers"]["x-goog-user-project"] == "my-project"
    assert "authorization" not in request["headers"]
    feature = {"type": "LABEL_DETECTION", "maxResults": 2, "model": "builtin/latest"}
    assert [entry["features"] for entry in request["json"]["requests"]] == [[feature], [feature]]
    google(service, GoogleVision(oauth=True), key=lambda: KEY)(IMAGES[:1], PROMPTS)
    headers = seen(service)["headers"]
    assert headers["authorization"] == f"Bearer {KEY}"
    assert "x-goog-api-key" not in headers


def test_google_takes_sixteen_images_at_most(service):
    images = make_images(20)
    scorer = google(service, images_per_request=None, n_concurrent=1)
    assert len(scorer(images, PROMPTS)) == 20
    assert scorer.n_requests_ == 2
    with pytest.raises(ValueError, match="images_per_request=17 was given, but GoogleVision takes at most 16"):
        google(service, images_per_request=17)(images, PROMPTS)


def test_googles_own_message_definitions_accept_the_request_and_make_the_answer(service):
    vision = pytest.importorskip("google.cloud.vision_v1")
    google(service)(IMAGES[:2], PROMPTS)
    request = vision.BatchAnnotateImagesRequest.from_json(json.dumps(seen(service)["json"]))  # strict about names
    assert len(request.requests) == 2
    image = np.asarray(Image.open(io.BytesIO(request.requests[0].image.content)))
    np.testing.assert_array_equal(image, IMAGES[0])
    assert request.requests[0].features[0].type_ == vision.Feature.Type.LABEL_DETECTION
    assert request.requests[0].features[0].max_results == 50
    labels = [("Dog", 0.75), ("Pet", 0.5), ("Dog", 0.25), ("None", 0.0)]
    annotations = [vision.EntityAnnotation(mid="/m/1", description=name, score=score) for name, score in labels]
    error = {"code": 14, "message": "The service is currently unavailable."}
    answer = vision.BatchAnnotateImagesResponse(
        responses=[
            vision.AnnotateImageResponse(label_annotations=annotations),
            vision.AnnotateImageResponse(error=error),
            vision.AnnotateImageResponse(label_annotations=annotations[:1], error=error),
        ]
    )
    for all_fields in (False, True):  # as the REST interface leaves out what is zero, and as some proxies do not
        written = vision.BatchAnnotateImagesResponse.to_json(
            answer, **{"preserving_proto_field_name": False, "always_print_fields_with_no_presence": all_fields}
        )
        first, second, third = GoogleVision().scores(json.loads(written), PROMPTS)
        assert first == {"Dog": 0.75, "Pet": 0.5, "None": 0.0}
        assert isinstance(second, ServiceError)
        assert second.retry
        assert third == {"Dog": 0.75}


# Clarifai


def test_clarifai_is_asked_as_its_documentation_says(service):
    clarifai(service, Clarifai(max_concepts=2))(IMAGES[:2], PROMPTS)
    request = seen(service)
    assert request["path"] == CLARIFAI
    assert request["headers"]["authorization"] == f"Key {KEY}"
    assert request["json"]["model"] == {"output_info": {"output_config": {"max_concepts": 2}}}
    chosen = clarifai(service, Clarifai(concepts=["Sky", "Dog"]))(IMAGES, PROMPTS)
    assert_same(chosen, [{name: row[name] for name in ("Dog", "Sky")} for row in EXPECTED])
    path = Clarifai("a b", user="me", app="x/y", version="v1").request([b"\x89PNG"], PROMPTS).path
    assert path == "users/me/apps/x%2Fy/models/a%20b/versions/v1/outputs"


def test_clarifais_own_message_definitions_accept_the_request_and_make_the_answer(service):
    definitions = pytest.importorskip("clarifai_grpc.grpc.api.service_pb2")
    codes = importlib.import_module("clarifai_grpc.grpc.api.status.status_code_pb2").StatusCode
    formats = importlib.import_module("google.protobuf.json_format")
    clarifai(service)(IMAGES[:2], PROMPTS)
    request = formats.ParseDict(seen(service)["json"], definitions.PostModelOutputsRequest())
    image = np.asarray(Image.open(io.BytesIO(request.inputs[1].data.image.base64)))
    np.testing.assert_array_equal(image, IMAGES[1])
    assert request.model.output_info.output_config.max_concepts == 50
    written = formats.ParseDict(
        {
            "status": {"code": "MIXED_STATUS", "description": "Mixed Success"},
            "outputs": [
                {"status": {"code": "SUCCESS"}, "data": {"concepts": [{"id": "1", "name": "dog", "value": 0.5}]}},
                {"status": {"code": "SUCCESS"}},
                {"status": {"code": "MODEL_BUSY_PLEASE_RETRY", "description": "busy"}},
                {"status": {"code": "INPUT_DOWNLOAD_FAILED", "description": "no image"}},
            ],
        },
        definitions.MultiOutputResponse(),
    )
    answer = formats.MessageToDict(written, preserving_proto_field_name=True, use_integers_for_enums=True)
    first, second, third, fourth = Clarifai().scores(answer, PROMPTS)
    assert (first, second) == ({"dog": 0.5}, {})
    assert (third.retry, fourth.retry) == (True, False)
    passing = ["TRY_AGAIN", "CONN_THROTTLED", "MODEL_DEPLOYING", "MODEL_LOADING", "RPC_SERVER_UNAVAILABLE"]
    for name in [*passing, "CONN_EXCEED_MONTHLY_LIMIT", "MODEL_DOES_NOT_EXIST"]:
        body = json.dumps({"status": {"code": codes.Value(name)}}).encode()
        assert Clarifai().is_passing(400, body) == (name in passing)
    assert not Clarifai().is_passing(400, b"<html>")


# Amazon Rekognition


@pytest.fixture
def credentials(monkeypatch, tmp_path):
    """Nothing of this machine's AWS configuration, and credentials in the environment."""
    for name in ("PROFILE", "DEFAULT_PROFILE", "SESSION_TOKEN", "REGION", "DEFAULT_REGION"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE123")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t/example+key")
    return tmp_path


def rekognition(service, adapter=None, **parameters):
    return scorer_of(service, adapter or Rekognition(region="eu-west-1"), "", **parameters)


@pytest.fixture(scope="module")
def moto():
    pytest.importorskip("moto.server")
    with running_moto() as url:
        yield url


def moto_client(url, service, key_id="AKIAEXAMPLE123", secret="secret"):
    session = importlib.import_module("botocore.session").Session()
    credentials = {"aws_access_key_id": key_id, "aws_secret_access_key": secret}
    return session.create_client(service, "eu-west-1", endpoint_url=url, **credentials)


def test_amazon_as_moto_has_it_answers_our_request_and_our_signature_is_right(moto, credentials, monkeypatch):
    images = make_images(3)
    scorer = HTTPScorer(moto, Rekognition(region="eu-west-1"))
    assert scorer(images, PROMPTS) == [{"Mobile Phone": pytest.approx(0.999364013671875)}] * 3

    # moto checks signatures, with what it knows of users, as soon as it is told to
    iam = moto_client(moto, "iam")
    iam.create_user(UserName="someone")
    allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "rekognition:*", "Resource": "*"}]}
    iam.put_user_policy(UserName="someone", PolicyName="labels", PolicyDocument=json.dumps(allowed))
    key = iam.create_access_key(UserName="someone")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    require_signatures(moto, "0")
    try:
        assert len(HTTPScorer(moto, Rekognition(region="eu-west-1"))(images, PROMPTS)) == 3
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "an0ther-s3cret")
        with pytest.raises(ServiceError, match="answered with 40.*[Ss]ignature") as caught:
            HTTPScorer(moto, Rekognition(region="eu-west-1"))(images, PROMPTS)
        assert "an0ther" not in str(caught.value)
        assert key["AccessKeyId"] not in str(caught.value)
    finally:
        require_signatures(moto, "inf")


def require_signatures(moto, after):
    DIRECT.open(Request(f"{moto}/moto-api/reset-auth", after.encode(), {"content-type": "text/plain"})).close()


def test_labels_of_amazon_come_for_each_image_which_is_large_enough(service, credentials):
    images = make_images(3, side=20)
    scorer = rekognition(service, n_concurrent=1)
    rows = scorer(images, PROMPTS)
    sent = base64.b64decode(seen(service)["json"]["Image"]["Bytes"])
    assert Image.open(io.BytesIO(sent)).size == (80, 80)
    expected = [dict(zip(LABELS, row)) for row in stripe_scores(images, len(LABELS)).tolist()]
    for row, wanted in zip(rows, expected):
        assert row == pytest.approx(wanted, abs=0.02)  # of enlarged images
    assert scorer.n_requests_ == 3


def test_amazons_own_definition_of_the_service_accepts_the_request(service, credentials):
    session = importlib.import_module("botocore.session").Session()
    operation = session.get_service_model("rekognition").operation_model("DetectLabels")
    rekognition(service, Rekognition(region="eu-west-1", max_labels=7, min_confidence=12.5))(IMAGES[:1], PROMPTS)
    request = seen(service)
    body = request["json"]
    assert (body["MaxLabels"], body["MinConfidence"]) == (7, 12.5)
    body["Image"]["Bytes"] = base64.b64decode(body["Image"]["Bytes"], validate=True)
    report = importlib.import_module("botocore.validate").ParamValidator().validate(body, operation.input_shape)
    assert not report.has_errors(), report.generate_report()
    metadata = operation.service_model.metadata
    assert request["headers"]["x-amz-target"] == f"{metadata['targetPrefix']}.{operation.name}"
    assert request["headers"]["content-type"] == f"application/x-amz-json-{metadata['jsonVersion']}"
    assert request["path"] == operation.http["requestUri"]


@pytest.mark.parametrize("token", [None, "t0ken=="])
def test_the_signature_is_that_of_the_documentation(credentials, monkeypatch, token):
    if token:
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)
    adapter = Rekognition()
    request = adapter.request([b"\x89PNG"], PROMPTS)
    body = json.dumps(request.json).encode()
    proof = adapter.authorize(request, "https://rekognition.us-east-2.amazonaws.com", body, None)
    headers = {name.lower(): value for name, value in {**request.headers, **proof}.items()}
    headers["host"] = "rekognition.us-east-2.amazonaws.com"
    signed = ["content-type", "host", "x-amz-date", *["x-amz-security-token"] * bool(token), "x-amz-target"]
    expected = signature_by_hand("s3cr3t/example+key", "POST", "/", headers, signed, body, "us-east-2", "rekognition")
    credential = f"AKIAEXAMPLE123/{headers['x-amz-date'][:8]}/us-east-2/rekognition/aws4_request"
    assert proof["Authorization"] == (
        f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={';'.join(signed)}, Signature={expected}"
    )
    assert headers.get("x-amz-security-token") == token
    age = datetime.now(UTC) - datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert abs(age.total_seconds()) < 60


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://rekognition.eu-west-1.amazonaws.com", "eu-west-1"),
        ("https://rekognition-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("https://rekognition.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("https://vpce-1a2b.rekognition.eu-west-1.vpce.amazonaws.com", "eu-west-1"),
        ("http://127.0.0.1:5000", "ap-south-1"),  # of the configuration
    ],
)
def test_the_region_is_that_of_the_url_or_of_the_configuration(credentials, url, region):
    (credentials / "config").write_text("[default]\nregion = ap-south-1\n")
    adapter = Rekognition()
    proof = adapter.authorize(adapter.request([b""], PROMPTS), url, b"{}", None)
    assert f"/{region}/rekognition/" in proof["Authorization"]
    adapter.set_params(region="ca-central-1")
    proof = adapter.authorize(adapter.request([b""], PROMPTS), url, b"{}", None)
    assert "/ca-central-1/rekognition/" in proof["Authorization"]


def test_what_is_missing_for_a_signature_is_an_error_that_says_so(service, credentials, monkeypatch):
    ask = lambda scorer: scorer(IMAGES[:1], PROMPTS)
    with pytest.raises(ServiceError, match="The url 'http://127.0.0.1"):
        ask(rekognition(service, Rekognition()))
    with pytest.raises(ServiceError, match="was given a key, but its requests are signed with AWS credentials"):
        ask(rekognition(service, key="VENDOR_KEY"))
    with pytest.raises(ServiceError, match="AWS credentials cannot be loaded: .*nobody"):
        ask(rekognition(service, Rekognition(profile="nobody")))
    with pytest.raises(ServiceError, match="would go to aws.example without encryption; expected an https url"):
        Rekognition().authorize(Rekognition().request([b""], PROMPTS), "http://aws.example/", b"{}", None)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(ServiceError, match="no AWS credentials; expected AWS_ACCESS_KEY_ID and AWS_SECRET"):
        ask(rekognition(service))
    assert service.counts()["images"] == 0
    (credentials / "credentials").write_text(
        "[default]\naws_access_key_id = AKIAFILE\naws_secret_access_key = of-a-file\n"
        "[other]\naws_access_key_id = AKIAOTHER\naws_secret_access_key = of-another\n"
    )
    ask(rekognition(service))
    assert "Credential=AKIAFILE/" in seen(service)["headers"]["authorization"]
    ask(rekognition(service, Rekognition(region="eu-west-1", profile="other")))
    assert "Credential=AKIAOTHER/" in seen(service)["headers"]["authorization"]


def test_credentials_are_in_no_pickle_and_no_repr(service, credentials):
    scorer = rekognition(service)
    scorer(IMAGES[:1], PROMPTS)
    for secret in ("AKIAEXAMPLE123", "s3cr3t"):
        assert secret.encode() not in pickle.dumps(scorer)
        assert secret not in repr(scorer) + repr(vars(pickle.loads(pickle.dumps(scorer.adapter))))
    assert pickle.loads(pickle.dumps(scorer))(IMAGES[:1], PROMPTS) == scorer(IMAGES[:1], PROMPTS)


@pytest.mark.parametrize("fault", ["ThrottlingException", "ProvisionedThroughputExceededException"])
def test_amazons_throttling_is_told_by_its_body(fault):
    said = {"__type": fault, "Code": fault, "Message": "Rate exceeded"}
    assert Rekognition().is_passing(400, json.dumps(said).encode())
    assert Rekognition().is_passing(400, json.dumps({"__type": f"com.amazonaws.rekognition#{fault}"}).encode())
    for other in (b'{"__type": "InvalidImageFormatException"}', b"<html>", b"[]", b'{"__type": 3}', b"{}"):
        assert not Rekognition().is_passing(400, other)


@pytest.mark.parametrize("vendor", ["amazon", "clarifai"])
def test_an_error_that_passes_is_asked_again_although_its_status_is_final(service, credentials, vendor):
    if vendor == "amazon":
        service.control(script=["ThrottlingException"] * 2)
        rows = rekognition(service, max_attempts=1)(make_images(1, side=96), PROMPTS)
        assert rows[0].keys() == set(LABELS)
        service.control(script=["InvalidImageFormatException"])
        with pytest.raises(ServiceError, match="answered with 400 .*InvalidImageFormatException"):
            rekognition(service)(IMAGES[:1], PROMPTS)
    else:
        service.control(script=["all 400 10030", "all 400 21351"])
        assert_same(clarifai(service)(IMAGES[:2], PROMPTS), EXPECTED[:2])
        service.control(script=["all 400 21200"])
        with pytest.raises(ServiceError, match="answered with 400 .*21200"):
            clarifai(service)(IMAGES[:1], PROMPTS)


# with a label mapping


@pytest.mark.parametrize("make", [google, clarifai])
def test_labels_of_a_vendor_become_scores_for_classes_that_a_ledger_counts(service, make):
    scorer = LabelMappedScorer(make(service), mapping="text")
    ledger = Ledger(scorer, PROMPTS, max_queries=10)
    log_scores = ledger.log_scores(IMAGES)
    expected = np.array([[row["Dog"], row["Sky"]] for row in EXPECTED])
    np.testing.assert_allclose(np.exp(log_scores), expected, rtol=1e-6)
    assert service.counts()["images"] == ledger.n_queries == 5


def test_a_mapping_is_learned_from_a_vendors_labels(service):
    dark, bright = (np.full((6, 16, 16, 3), level, np.uint8) for level in (10, 10))
    dark[:, :, :4], bright[:, :, 12:] = 250, 250  # a dog; sky
    X, y = np.concatenate([dark, bright]), ["indoors"] * 6 + ["outdoors"] * 6
    learned = LabelMappedScorer(google(service)).learn(X, y, "{}")
    assert service.counts()["images"] == 12
    assert learned.labels == sorted(LABELS)
    assert learned(X, ["indoors", "outdoors"]).argmax(axis=1).tolist() == [0] * 6 + [1] * 6
