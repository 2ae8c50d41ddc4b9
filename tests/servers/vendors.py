"""Google Cloud Vision and Clarifai as their documentation has them, in a small service; and moto, which is Amazon.

``python -m servers.vendors`` listens on a port of the loopback that the system chooses, and prints it. An image's
labels are `LABELS`, by the brightness of its vertical stripes. A request that is not as documented is an error.
``POST /control`` with a JSON object sets ``script``: faults of the next images, in order, "" for none; and forgets what
was counted. ``GET /counts`` tells the last request, and how many images were answered.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import contextmanager

from servers.app import digest, reply, stripe_scores
from servers.images import decoded
from servers.running import DIRECT, TestService

LABELS = ["Dog", "Carnivore", "Street dog", "Sky"]
KEY = "sk-vendor-0123456789"
GOOGLE = "/v1/images:annotate"
CLARIFAI = "/v2/users/clarifai/apps/main/models/general-image-recognition/outputs"


class Vendors:
    def __init__(self):
        self.reset({})

    def reset(self, settings: dict) -> None:
        self.script = list(settings.get("script", []))
        self.answered = Counter()
        self.seen = {}

    def fault(self) -> str:
        return self.script.pop(0) if self.script else ""

    def labels_of(self, file: str) -> list[tuple[str, float]]:
        """Labels of a file in base64, the most confident first."""
        image = decoded(base64.b64decode(file, validate=True))
        self.answered[digest(image)] += 1
        scores = stripe_scores(image[None], len(LABELS))[0].tolist()
        return sorted(zip(LABELS, scores), key=lambda pair: -pair[1])

    def google(self, headers: dict, data: dict) -> tuple[int, dict]:
        if headers.get("x-goog-api-key") != KEY and headers.get("authorization") != f"Bearer {KEY}":
            said = f"API key not valid: {headers.get('x-goog-api-key')}. Please pass a valid API key."
            return 400, {"error": {"code": 400, "message": said, "status": "INVALID_ARGUMENT"}}
        if len(data["requests"]) > 16:
            said = "Too many images per request"
            return 400, {"error": {"code": 400, "message": said, "status": "INVALID_ARGUMENT"}}
        return 200, {"responses": [self.google_image(request) for request in data["requests"]]}

    def google_image(self, request: dict) -> dict:
        assert set(request) <= {"image", "features", "imageContext"}
        (feature,) = request["features"]
        assert feature["type"] == "LABEL_DETECTION"
        assert set(feature) <= {"type", "maxResults", "model"}
        fault = self.fault()
        if fault:
            return {"error": {"code": int(fault), "message": "Bad image data." if fault == "3" else "Try later."}}
        labels = self.labels_of(request["image"]["content"])[: feature["maxResults"]]
        annotations = [
            {"mid": f"/m/{index}", "description": name, "score": score, "topicality": score}
            for index, (name, score) in enumerate(labels)
            if score
        ]
        return {"labelAnnotations": annotations} if annotations else {}

    def clarifai(self, headers: dict, data: dict) -> tuple[int, dict]:
        if headers.get("authorization") != f"Key {KEY}":
            said = {"code": 11009, "description": "API key not found", "details": headers.get("authorization")}
            return 401, {"status": said, "outputs": []}
        if self.script and self.script[0].startswith("all "):
            status, code = self.script.pop(0).split()[1:]
            return int(status), {"status": {"code": int(code), "description": "Failure"}, "outputs": []}
        assert set(data) == {"inputs", "model"}
        config = data["model"]["output_info"]["output_config"]
        assert set(config) in ({"max_concepts"}, {"select_concepts"})
        outputs = [self.clarifai_image(entry["data"]["image"]["base64"], config) for entry in data["inputs"]]
        codes = {output["status"]["code"] for output in outputs}
        code = codes.pop() if len(codes) == 1 else 10010
        status = {"code": code, "description": {10000: "Ok", 10010: "Mixed Success"}.get(code, "Failure")}
        return (200 if code in (10000, 10010) else 400), {"status": {**status, "req_id": "1"}, "outputs": outputs}

    def clarifai_image(self, file: str, config: dict) -> dict:
        fault = self.fault()
        if fault:
            return {"id": "1", "status": {"code": int(fault), "description": "Failure", "details": "of this image"}}
        concepts = [
            {"id": f"ai_{name}", "name": name, "value": value, "app_id": "main"}
            for name, value in self.labels_of(file)
            if name in [concept["name"] for concept in config.get("select_concepts", [])] or "max_concepts" in config
        ][: config.get("max_concepts")]
        data = {"concepts": concepts} if concepts else {}
        return {"id": "1", "status": {"code": 10000, "description": "Ok"}, "model": {"id": "m"}, "data": data}

    def amazon(self, data: dict) -> tuple[int, dict]:
        """What moto does not: labels of the image, and throttling."""
        fault = self.fault()
        if fault:
            said = {"__type": fault, "Code": fault, "Message": "Rate exceeded"}
            return 400, said
        labels = self.labels_of(data["Image"]["Bytes"])[: data["MaxLabels"]]
        found = [{"Name": name, "Confidence": 100 * score, "Instances": [], "Parents": []} for name, score in labels]
        return 200, {"LabelModelVersion": "3.0", "Labels": found}


VENDORS = Vendors()


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
    path = scope["raw_path"].decode()
    if path == "/control":
        VENDORS.reset(json.loads(body))
        return await reply(send, b"{}")
    if path == "/counts":
        answered = VENDORS.answered
        counts = {"images": sum(answered.values()), "most": max(answered.values(), default=0), "seen": VENDORS.seen}
        return await reply(send, json.dumps(counts).encode())
    VENDORS.seen = {"path": path, "headers": headers, "json": json.loads(body)}
    status, answer = 404, {"error": {"code": 404, "message": f"There is no {path}.", "status": "NOT_FOUND"}}
    if path == GOOGLE:
        status, answer = VENDORS.google(headers, json.loads(body))
    elif headers.get("x-amz-target") == "RekognitionService.DetectLabels":
        status, answer = VENDORS.amazon(json.loads(body))
    elif path == CLARIFAI:
        status, answer = VENDORS.clarifai(headers, json.loads(body))
    await asyncio.sleep(0)
    await reply(send, json.dumps(answer).encode(), status)


def main() -> None:
    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(app, lifespan="off", log_level="critical", access_log=False)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    uvicorn.Server(config).run(sockets=[listening])


@contextmanager
def running_vendors():
    """The service of this file as a process of its own; it ends with the block."""
    command, folder = [sys.executable, "-m", "servers.vendors"], pathlib.Path(__file__).parents[1]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder)
    try:
        port = process.stdout.readline()
        assert port, f"The service did not start, it ended with {process.wait(10)}."
        yield TestService(int(port))
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


@contextmanager
def running_moto():
    """The url of moto's server, which stands in for all of Amazon; it ends with the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, f"moto's server ended with {process.returncode}."
            try:
                DIRECT.open(url + "/moto-api/data.json").close()
                break
            except urllib.request.URLError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(10)


if __name__ == "__main__":
    main()
