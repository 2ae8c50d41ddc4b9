"""The protocols, against a service that speaks them; and requests that other clients make alike."""

import json

import numpy as np
import pytest
import torch
from servers.app import LABELS, softmax, stripe_scores
from servers.shared import PROMPTS, make_images, scorer_of

from blackvip.exceptions import ScoreError
from blackvip.scorers.http import (
    HuggingFaceClassifier,
    HuggingFaceZeroShot,
    KServe,
    ServiceError,
    TFServing,
    TorchServe,
)

IMAGES = make_images(5)
SCORES = stripe_scores(IMAGES, 3)


@pytest.fixture
def service(remote):
    remote.control()
    return remote


def sent(service):
    """Path, headers and JSON body of the last request."""
    seen = service.counts()["seen"]
    return seen["path"], seen["headers"], json.loads(seen["body"])


# TensorFlow Serving


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({}, "/v1/models/m:predict"),
        ({"version": 7}, "/v1/models/m/versions/7:predict"),
        ({"version_label": "stable"}, "/v1/models/m/labels/stable:predict"),
    ],
)
def test_tf_serving_takes_files_as_b64(service, parameters, path):
    scorer = scorer_of(service, TFServing("m", **parameters), "", images_per_request=3)
    assert np.array_equal(scorer(IMAGES, PROMPTS), SCORES)
    assert service.counts()["requests"] == 2
    scorer(IMAGES[:1], PROMPTS)
    went, headers, body = sent(service)
    assert went == path
    assert headers["content-type"] == "application/json"
    assert list(body) == ["instances"]
    assert [list(instance) for instance in body["instances"]] == [["b64"]]


def test_tf_serving_takes_pixels(service):
    scorer = scorer_of(service, TFServing("m", image_format="raw", input="image"), "", images_per_request=None)
    assert np.array_equal(scorer(IMAGES, PROMPTS), SCORES)
    assert sent(service)[2]["instances"] == [{"image": image.tolist()} for image in IMAGES]


def test_tf_serving_scales_pixels():
    body = TFServing("m", image_format="raw", scaled=True).request(IMAGES[:1], PROMPTS).json
    assert np.array(body["instances"]) == pytest.approx(IMAGES[:1] / 255)


def test_tf_servings_outputs_are_told_by_name(service):
    adapter = TFServing("m", signature_name="two", output="scores")
    assert np.array_equal(scorer_of(service, adapter, "")(IMAGES, PROMPTS), SCORES)
    with pytest.raises(ServiceError, match=r"has the outputs \['other', 'scores'\]; set output"):
        scorer_of(service, TFServing("m", signature_name="two"), "")(IMAGES, PROMPTS)


def test_tf_serving_without_predictions():
    with pytest.raises(ServiceError, match="has no predictions"):
        TFServing("m").scores({"outputs": []}, PROMPTS)


# TorchServe


def test_torchserve_takes_a_file_and_gives_labels(service):
    scores = scorer_of(service, TorchServe("squeeze net"), "", n_concurrent=1)(IMAGES, PROMPTS)
    assert scores == [dict(zip(LABELS, row)) for row in softmax(SCORES).tolist()]
    seen = service.counts()["seen"]
    assert seen["path"] == "/predictions/squeeze%20net"
    assert seen["headers"]["content-type"] == "image/png"


def test_torchserve_with_class_prompts_for_labels(service):
    adapter = TorchServe("m", version="2.0", fixed_labels=False)
    scores = scorer_of(service, adapter, "", image_format="jpeg")(IMAGES, LABELS[:3])
    assert scores == pytest.approx(softmax(SCORES), abs=0.05)
    seen = service.counts()["seen"]
    assert seen["path"] == "/predictions/m/2.0"
    assert seen["headers"]["content-type"] == "image/jpeg"
    with pytest.raises(ScoreError, match="'alpha' for image 0, which is not a class prompt"):
        scorer_of(service, adapter, "")(IMAGES, PROMPTS)


def test_torchserves_own_forms_of_answers():
    adapter = TorchServe("m")
    assert adapter.scores([0.2, 0.8], PROMPTS) == [[0.2, 0.8]]
    assert adapter.scores([[0.2, 0.8]], PROMPTS) == [[0.2, 0.8]]
    assert adapter.scores({"cat": 1.0}, PROMPTS) == [{"cat": 1.0}]
    with pytest.raises(ServiceError, match="the error 507: out of memory") as caught:
        adapter.scores({"code": 507, "type": "x", "message": "out of memory"}, PROMPTS)
    assert caught.value.retry
    with pytest.raises(ServiceError, match="neither a dict nor a list"):
        adapter.scores("cat", PROMPTS)


# Hugging Face


def test_hugging_face_zero_shot(service):
    scorer = scorer_of(service, HuggingFaceZeroShot(), "/hf", n_concurrent=1)
    scores = scorer(IMAGES, PROMPTS)
    assert np.array_equal(scores, softmax(SCORES))
    assert scorer.score_type == "probabilities"
    assert sent(service)[2]["parameters"] == {"candidate_labels": PROMPTS, "hypothesis_template": "{}"}


def test_hugging_face_classification_gives_its_top_labels(service):
    scores = scorer_of(service, HuggingFaceClassifier(top_k=2), "/hf", n_concurrent=1)(IMAGES, PROMPTS)
    expected = softmax(stripe_scores(IMAGES, 4))
    assert [set(row) for row in scores] == [{LABELS[j] for j in np.argsort(row)[-2:]} for row in expected]
    assert sent(service)[2]["parameters"] == {"top_k": 2}
    scorer_of(service, HuggingFaceClassifier(), "/hf")(IMAGES[:1], PROMPTS)
    assert list(sent(service)[2]) == ["inputs"]


def test_hugging_faces_own_client_asks_alike(service):
    """Field for field the requests that huggingface_hub, which open_clip brings, makes of the same images."""
    hub = pytest.importorskip("huggingface_hub")
    from blackvip.scorers.http.encoding import encode_image

    # Uncompressed, as for every service on this machine.
    client = hub.InferenceClient(model=service.url + "/hf", token="none")
    file = encode_image(IMAGES[0], compressed=False)
    theirs = client.zero_shot_image_classification(file, candidate_labels=PROMPTS, hypothesis_template="{}")
    asked = sent(service)[2]
    ours = scorer_of(service, HuggingFaceZeroShot(), "/hf")(IMAGES[:1], PROMPTS)
    assert _plain(sent(service)[2]) == _plain(asked)
    assert dict(zip(PROMPTS, ours[0])) == {entry.label: entry.score for entry in theirs}
    theirs = client.image_classification(file, top_k=3, function_to_apply="softmax")
    asked = sent(service)[2]
    adapter = HuggingFaceClassifier(top_k=3, function_to_apply="softmax")
    ours = scorer_of(service, adapter, "/hf")(IMAGES[:1], PROMPTS)
    assert _plain(sent(service)[2]) == _plain(asked)
    assert ours == [{entry.label: entry.score for entry in theirs}]


def _plain(body):
    """Without what is not asked for; some releases send the image as a data url, and nulls."""
    parameters = {name: value for name, value in body["parameters"].items() if value is not None}
    return body["inputs"].split(",")[-1], parameters


def test_hugging_faces_errors_in_an_answer():
    with pytest.raises(ServiceError, match="answered with an error: no model"):
        HuggingFaceZeroShot().scores({"error": "no model"}, PROMPTS)
    with pytest.raises(ServiceError, match="not a list of labels"):
        HuggingFaceZeroShot().scores([1, 2], PROMPTS)
    with pytest.raises(ServiceError, match="has a label twice"):
        HuggingFaceZeroShot().scores([{"label": "one", "score": 0.5}, {"label": "one", "score": 0.5}], PROMPTS)


# Open Inference Protocol; by MLServer in test_http_mlserver.py


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    ("shape", "datatype"),
    [([-1, -1, -1, 3], "UINT8"), ([-1, 16, 16, 3], "UINT8"), ([-1, 3, 16, 16], "FP32"), ([1, 3, -1, -1], "FP32")],
)
def test_kserve_in_json_and_binary(service, binary, shape, datatype):
    service.control(input=[shape, datatype], extensions=["binary_tensor_data"] if binary else [])
    scorer = scorer_of(service, KServe("m"), "", images_per_request=None, n_concurrent=1)
    assert np.array_equal(scorer(IMAGES, PROMPTS), SCORES)
    counts = service.counts()
    assert ("inference-header-content-length" in counts["seen"]["headers"]) == binary
    assert counts["images"] == 5
    assert counts["requests"] == (5 if shape[0] == 1 else 1) + 2  # and metadata, of the model and the server
    assert counts["seen"]["path"] == "/v2/models/m/infer"


def test_kserve_half_precision_is_sent_in_binary(service):
    service.control(input=[[-1, 3, 16, 16], "FP16"])
    scores = scorer_of(service, KServe("m", version="3"), "")(IMAGES, PROMPTS)
    assert scores == pytest.approx(SCORES, abs=1e-3)
    assert service.counts()["seen"]["path"] == "/v2/models/m/versions/3/infer"


@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize(("shape", "datatype"), [([], "UINT8"), ([3, 16, 16], "FP32"), ([], "BYTES")])
def test_kserve_fills_batches_of_a_fixed_size(service, n, shape, datatype):
    files = datatype == "BYTES"
    service.control(input=[[n, *([] if files else shape or [16, 16, 3])], datatype])
    adapter = KServe("m", image_format="png" if files else "raw")
    scorer = scorer_of(service, adapter, "", images_per_request=None, n_concurrent=1)
    assert np.array_equal(scorer(IMAGES, PROMPTS), SCORES)
    assert service.counts()["images"] == n * -(-len(IMAGES) // n)
    too_many = scorer_of(service, adapter, "", images_per_request=n + 1)
    with pytest.raises(ValueError, match=f"KServe takes at most {n} in a request"):
        too_many(IMAGES, PROMPTS)


def test_kserve_brain_floats_are_read_and_sent():
    tensor = {"name": "x", "datatype": "BF16", "shape": [-1, 8, 8, 3]}
    adapter = prepared(inputs=[tensor], outputs=[{"name": "y", "datatype": "BF16", "shape": [-1, 3]}])
    scores = torch.tensor([[0.1, -2.5, 3e38], [0, float("inf"), 1e-40]])
    blob = scores.bfloat16().view(torch.uint8).numpy().tobytes()
    head = json.dumps(output(datatype="BF16", shape=[2, 3], data=None, parameters={"binary_data_size": 12})).encode()
    answer = adapter.parse(head + blob, {"inference-header-content-length": str(len(head))})
    assert np.array_equal(adapter.scores(answer, PROMPTS), scores.bfloat16().double().numpy())
    images = make_images(2, side=8)
    request = adapter.request(images, PROMPTS)
    n_bytes = images.size * 2
    head = json.loads(request.content[:-n_bytes])
    assert (head["inputs"][0]["datatype"], head["inputs"][0]["shape"]) == ("BF16", [2, 8, 8, 3])
    expected = (torch.from_numpy(images).float() / 255).bfloat16().view(torch.uint8).numpy().tobytes()
    assert request.content[-n_bytes:] == expected


def test_kserve_answers_in_text_are_refused():
    with pytest.raises(TypeError, match="text, such as '0.1'"):
        prepared().scores(output(data=["0.1", "0.2", "0.7"]), PROMPTS)


@pytest.mark.parametrize("binary", [False, True])
def test_kserve_files_and_class_prompts(service, binary):
    service.control(input=[[-1], "BYTES"], texts=True)
    adapter = KServe("m", image_format="png", input="image", prompts_input="texts", binary=binary)
    scorer = scorer_of(service, adapter, "", images_per_request=3)
    assert np.array_equal(scorer(IMAGES, [*PROMPTS, "vier, ä"]), stripe_scores(IMAGES, 4))


def test_kserve_metadata_are_asked_for_once_and_again_by_a_copy(service):
    import pickle

    service.control(input=[[-1, -1, -1, 3], "UINT8"])
    scorer = scorer_of(service, KServe("m"), "", images_per_request=5)
    for _ in range(3):
        scorer(IMAGES, PROMPTS)
    assert service.counts()["requests"] == 2 + 3
    assert vars(scorer.adapter) == vars(KServe("m"))
    pickle.loads(pickle.dumps(scorer))(IMAGES, PROMPTS)
    assert service.counts()["requests"] == 2 + 3 + 2 + 1


def prepared(**parameters):
    """An adapter, and the metadata of its model with a part put in place of the usual one."""
    metadata = {
        "inputs": [{"name": "x", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
    }
    metadata |= {name: parameters.pop(name) for name in ("inputs", "outputs") if name in parameters}
    return KServe("m", **parameters).prepare(lambda request: metadata, PROMPTS)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"inputs": []}, r"list the inputs \[\]; expected only one"),
        ({"inputs": None, "input": "x"}, r"list the inputs \[\]; expected 'x'"),
        ({"outputs": [{"name": n, "datatype": "FP32", "shape": []} for n in "ab"]}, r"the outputs \['a', 'b'\]"),
        ({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [-1]}]}, "has the datatype BYTES"),
        ({"image_format": "png"}, "has the datatype UINT8"),
        ({"inputs": [{"name": "x", "datatype": "UINT8", "shape": [-1, -1, -1, -1]}]}, "Set layout"),
        ({"inputs": [{"name": "x", "datatype": "UINT8", "shape": [0, 8, 8, 3]}]}, "n is -1 for any number"),
        ({"inputs": [{"name": "x", "datatype": "UINT8", "shape": [-1, 10]}]}, "expected images"),
    ],
)
def test_kserve_metadata_that_do_not_fit_are_told(parameters, message):
    with pytest.raises(ServiceError, match=message):
        prepared(**parameters)


def test_kserve_layouts_that_the_shape_leaves_open():
    open_shape = [{"name": "x", "datatype": "UINT8", "shape": [-1, -1, -1, -1]}]
    images = make_images(2, side=8)
    for layout, shape in (("NHWC", [2, 8, 8, 3]), ("NCHW", [2, 3, 8, 8])):
        adapter = prepared(inputs=open_shape, layout=layout, binary=False)
        assert adapter.request(images, PROMPTS).json["inputs"][0]["shape"] == shape
    single = prepared(inputs=[{"name": "x", "datatype": "UINT8", "shape": [3, 8, 8]}], binary=False)
    assert single.images_per_request == 1
    assert single.request(images[:1], PROMPTS).json["inputs"][0]["shape"] == [3, 8, 8]


def test_kserve_normalizes_floats():
    inputs = [{"name": "x", "datatype": "FP32", "shape": [-1, 3, 8, 8]}]
    adapter = prepared(inputs=inputs, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3), binary=False)
    images = make_images(1, side=8)
    data = np.array(adapter.request(images, PROMPTS).json["inputs"][0]["data"]).reshape(3, 8, 8)
    for channel in range(3):
        expected = (images[0, :, :, channel] / 255 - (0.5, 0.4, 0.3)[channel]) / (0.1, 0.2, 0.3)[channel]
        assert data[channel] == pytest.approx(expected, abs=1e-5)


def output(**changes):
    return {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3], **changes}]}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (output(name="z"), r"has the outputs \['z'\]; expected 'y'"),
        (output(shape=[2, 3]), r"has 3 numbers, but its shape is \(2, 3\)"),
        ({"error": "out of order"}, "answered with an error: out of order"),
    ],
)
def test_kserve_answers_that_do_not_fit(answer, message):
    with pytest.raises(ServiceError, match=message):
        prepared().scores(answer, PROMPTS)


def test_kserve_answers_in_nested_lists():
    assert np.array_equal(prepared().scores(output(data=[[1, 2, 3]]), PROMPTS), [[1, 2, 3]])
    assert np.array_equal(prepared().scores(output(shape=[3]), PROMPTS), [[1, 2, 3]])


@pytest.mark.parametrize(
    ("size", "rest", "length"),
    [(12, b"0" * 11, None), (12, b"0" * 13, None), (-1, b"", None), ("12", b"0" * 12, None), (12, b"0" * 12, "999")],
)
def test_kserve_binary_answers_of_the_wrong_length(size, rest, length):
    head = json.dumps(output(data=None, parameters={"binary_data_size": size})).encode()
    with pytest.raises(ServiceError, match="bytes"):
        prepared().parse(head + rest, {"inference-header-content-length": length or str(len(head))})
