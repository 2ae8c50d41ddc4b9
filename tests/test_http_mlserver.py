"""Requests that a server by somebody else accepts: MLServer, for the Open Inference Protocol."""

import json
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.error

import numpy as np
import pytest
from servers.app import stripe_scores
from servers.running import DIRECT
from servers.shared import PROMPTS, make_images

from blackvip.scorers.http import HTTPScorer, KServe, ServiceError
from blackvip.scorers.http.protocols.kserve import _Tensor

ROOT = pathlib.Path(__file__).parents[1]
PYTHON = ROOT / ".venv" / "mlserver" / "bin" / "python"  # of its own: it wants other releases than ours

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="MLServer is not installed; `make test` does it"),
]
INPUTS = {  # of each model, as its metadata say
    "pixels": ("UINT8", [-1, 20, 24, 3]),
    "floats": ("FP32", [-1, 3, -1, -1]),
    "files": ("BYTES", [-1, 1]),
    "texts": ("UINT8", [-1, -1, -1, 3]),
}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    ports = {f"{name}_port": free_port() for name in ("http", "grpc", "metrics")}
    settings = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, "use_structured_logging": False, **ports}
    (folder / "settings.json").write_text(json.dumps(settings))
    for name, (datatype, shape) in INPUTS.items():
        model = folder / name
        model.mkdir()
        shutil.copy(ROOT / "tests" / "servers" / "mlserver_runtime.py", model)
        inputs = [{"name": "image", "datatype": datatype, "shape": shape}]
        if name == "texts":
            inputs.append({"name": "texts", "datatype": "BYTES", "shape": [-1]})
        outputs = [{"name": "scores", "datatype": "FP64", "shape": [-1, -1]}]
        described = {"name": name, "implementation": "mlserver_runtime.Stripes", "inputs": inputs, "outputs": outputs}
        (model / "model-settings.json").write_text(json.dumps(described))
    url = f"http://127.0.0.1:{ports['http_port']}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([PYTHON.with_name("mlserver"), "start", folder], stdout=log, stderr=log)
        try:
            wait_until_ready(url, process, folder / "log")
            yield url
        finally:
            process.terminate()
            process.wait(30)


def wait_until_ready(url, process, log):
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            for name in INPUTS:
                DIRECT.open(f"{url}/v2/models/{name}/ready").close()
            return
        except urllib.error.URLError:
            time.sleep(0.1)
    pytest.fail(f"MLServer did not become ready: {log.read_text()}")


def test_pixels_are_resized_to_the_size_in_the_metadata(mlserver):
    images = make_images(5, side=24)[:, :20]
    assert np.array_equal(HTTPScorer(mlserver, KServe("pixels"))(images, PROMPTS), stripe_scores(images, 3))
    other = HTTPScorer(mlserver, KServe("pixels"))(make_images(5, side=30), PROMPTS)
    assert other.shape == (5, 3)


def test_floats_in_channels_first(mlserver):
    images = make_images(5)
    scores = HTTPScorer(mlserver, KServe("floats"), images_per_request=2)(images, PROMPTS)
    assert np.array_equal(scores, stripe_scores(images, 3))


def test_files(mlserver):
    images = make_images(5)
    scores = HTTPScorer(mlserver, KServe("files", image_format="png"), images_per_request=2)(images, PROMPTS)
    assert np.array_equal(scores, stripe_scores(images, 3))


def test_class_prompts_as_a_second_input(mlserver):
    images = make_images(4)
    scorer = HTTPScorer(mlserver, KServe("texts", input="image", prompts_input="texts"))
    assert np.array_equal(scorer(images, ["ä", "b", "c", "d"]), stripe_scores(images, 4))


def test_a_model_that_is_not_there_is_named(mlserver):
    with pytest.raises(ServiceError, match="404 Not Found.*Model nothing not found"):
        HTTPScorer(mlserver, KServe("nothing"))(make_images(1), PROMPTS)


def test_an_input_of_another_kind_is_named(mlserver):
    with pytest.raises(ServiceError, match="'image' of the model 'files' has the datatype BYTES"):
        HTTPScorer(mlserver, KServe("files"))(make_images(1), PROMPTS)


TRITON_CLIENT = """
import base64, json, sys
import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
pixels = np.frombuffer(base64.b64decode(sys.stdin.read()), np.uint8).reshape(2, 4, 4, 3)
image, texts = InferInput("image", [2, 4, 4, 3], "UINT8"), InferInput("texts", [2], "BYTES")
image.set_data_from_numpy(pixels, binary_data=True)
texts.set_data_from_numpy(np.array([b"one", b"three"], dtype=object), binary_data=True)
output = InferRequestedOutput("scores", binary_data=True)
body, length = InferenceServerClient.generate_request_body([image, texts], outputs=[output])
print(json.dumps([base64.b64encode(body).decode(), length]))
"""


def test_binary_tensors_are_those_of_tritons_own_client():
    import base64

    images = make_images(2, side=4)
    tensors = [{"name": "image", "datatype": "UINT8", "shape": [-1, 4, 4, 3]}]
    metadata = {"inputs": tensors, "outputs": [{"name": "scores", "datatype": "FP32", "shape": []}]}
    adapter = KServe("m", prompts_input="texts", binary=True).prepare(lambda request: metadata, ["one", "three"])
    ours = adapter.request(images, ["one", "three"])
    text = base64.b64encode(images.tobytes())
    theirs = subprocess.run([PYTHON, "-c", TRITON_CLIENT], input=text, capture_output=True, check=True)
    body, length = json.loads(theirs.stdout)
    body = base64.b64decode(body)
    split = int(ours.headers["Inference-Header-Content-Length"])
    assert ours.content[split:] == body[length:]
    assert json.loads(ours.content[:split]) == json.loads(body[:length])
    assert adapter.input_ == _Tensor("image", "UINT8", (-1, 4, 4, 3))
