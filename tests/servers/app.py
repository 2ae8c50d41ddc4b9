"""A small service that speaks several protocols, counts what it answers, and fails when it is told to.

``python -m servers.app`` listens on a port of the loopback that the system chooses, and prints it. The images' scores
are the brightness of vertical stripes, one for each class; so a test can compute them. Fakes of hosted services are in
fakes.py.

What it does can be set by POST /control, a JSON object:

- ``latency``: seconds that each answer takes; ``places``: requests that are worked on at a time, 0 for any number
- ``script``: faults of the next requests, in order, e.g. ``["500", "", "429 0.2"]``
- ``rates``: probability of each fault for every request; ``seed`` of the random numbers
- ``errors``: status, headers and body of faults that have names of their own, e.g. ``{"spent": [429, {}, {}]}``
- ``key``: what the header Authorization has to hold, or one of its kind
- ``tells``: what the answers of the tests' own protocol tell besides scores, a JSON object for each, the last for all
- ``refuse_bright``: the error that each bright image gets in place of scores, once
- ``quick``: an answer that is given without a look at the images, of which each request has one
- ``turns``: several such answers, given in turn

GET /counts tells what has happened since.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import gzip
import hashlib
import itertools
import json
import os
import random
import re
import signal
import socket
import struct
import sys
import time
from collections import Counter

import numpy as np

from servers.fakes import FAKES
from servers.images import NO_IMAGES, decoded

LABELS = ["alpha", "beta", "gamma", "delta"]
TRANSPORTS: dict[tuple, asyncio.Transport] = {}  # of the open connections
NUMBER = re.compile(rb"([\[:,]\s*)-?\d+(\.\d+)?(e[-+]?\d+)?")
KEY_HEADERS = ("authorization", "api-key", "x-goog-api-key", "x-api-key", "ocp-apim-subscription-key")


def stripe_scores(images: np.ndarray, n_classes: int) -> np.ndarray:
    """(n, h, w, 3), uint8, to scores (n, n_classes) between 0 and 1."""
    stripes = np.array_split(images.mean(axis=3) / 255, n_classes, axis=2)
    return np.stack([stripe.mean(axis=(1, 2)) for stripe in stripes], axis=1)


class Service:
    def __init__(self):
        self.reset({})

    def reset(self, settings: dict) -> None:
        self.settings = {"latency": 0.0, "places": 0, "script": [], "rates": {}, "seed": 0, "key": None, **settings}
        self.random = random.Random(self.settings["seed"])
        self.script = list(self.settings["script"])
        self.turns = itertools.cycle(self.settings.get("turns", [self.settings.get("quick")]))
        self.places = asyncio.Semaphore(self.settings["places"] or 10**6)
        self.counts = Counter()  # requests, answered images, and each fault
        self.answered = Counter()  # by image
        self.refused = set()  # bright images, once each
        self.unanswered = set()  # their places in the present request
        self.connections = set()
        self.in_flight = self.most_in_flight = 0
        self.busy = 0.0
        self.first = self.last = None
        self.starts = []
        self.seen = {}  # headers, path and body of the last request

    def report(self) -> dict:
        span = (self.last or 0) - (self.first or 0)
        return {
            **self.counts,
            "images": sum(self.answered.values()),
            "most_answers_of_an_image": max(self.answered.values(), default=0),
            "connections": len(self.connections),
            "most_in_flight": self.most_in_flight,
            "busy_share": self.busy / (span * self.settings["places"]) if span and self.settings["places"] else None,
            "starts": self.starts,
            "seen": self.seen,
        }

    def fault(self) -> str:
        if self.script:
            return self.script.pop(0)
        draw = self.random.random()
        for name, rate in self.settings["rates"].items():
            draw -= rate
            if draw < 0:
                return name
        return ""

    # -- protocols: (path, headers, body) -> images, and a function from their scores to a body

    def understood(self, path: str, headers: dict, body: bytes):
        if path in FAKES:
            return FAKES[path](headers, json.loads(body) if body else None)
        if path.startswith("/predictions/"):  # TorchServe
            names = LABELS[:3]
            return decoded(body)[None], lambda s: dict(zip(names, softmax(s)[0].tolist())), 3
        if path.endswith("/infer"):
            return self.inference(headers, body)
        data = json.loads(body)
        if path.endswith(":predict"):  # TensorFlow Serving
            rows = data["instances"]
            rows = [row["image"] if isinstance(row, dict) and "image" in row else row for row in rows]
            images = [
                decoded(base64.b64decode(row["b64"])) if isinstance(row, dict) else np.array(row, np.uint8)
                for row in rows
            ]
            two = data.get("signature_name") == "two"
            return (
                np.stack(images),
                lambda s: {"predictions": [{"scores": row, "other": 0} for row in s.tolist()] if two else s.tolist()},
                3,
            )
        if path == "/hf":
            image = decoded(base64.b64decode(data["inputs"]))[None]
            labels = data.get("parameters", {}).get("candidate_labels")
            names = labels or LABELS

            def ranked(s):
                pairs = sorted(zip(names, softmax(s)[0].tolist()), key=lambda pair: -pair[1])
                top = len(names) if labels else data.get("parameters", {}).get("top_k", 5)
                return [{"label": label, "score": score} for label, score in pairs[:top]]

            return image, ranked, len(names)
        files = data["images"]  # the tests' own protocol
        images = np.stack([decoded(base64.b64decode(file)) for file in files]) if files else NO_IMAGES
        refused = self.settings.get("refuse_bright")

        def rows(s):
            answer = s.tolist()
            if refused:
                for place, image in enumerate(images):
                    if digest(image) not in self.refused and image.mean() > 127:
                        self.refused.add(digest(image))
                        self.unanswered.add(place)
                        answer[place] = {"error": refused}
            tells = self.settings.get("tells", [{}])
            return {"scores": answer, **(tells.pop(0) if len(tells) > 1 else tells[0])}

        return images, rows, len(data["labels"])

    def inference(self, headers: dict, body: bytes):
        length = int(headers.get("inference-header-content-length", len(body)))
        data, rest = json.loads(body[:length]), body[length:]
        tensors = {}
        for entry in data["inputs"]:
            size = entry.get("parameters", {}).get("binary_data_size")
            raw, rest = (rest[:size], rest[size:]) if size is not None else (None, rest)
            if entry["datatype"] == "BYTES":
                items = entry.get("data") or []
                while raw:
                    count = int.from_bytes(raw[:4], "little")
                    items, raw = [*items, raw[4 : 4 + count]], raw[4 + count :]
                tensors[entry["name"]] = items
            else:
                dtype = {"UINT8": "u1", "FP32": "<f4", "FP16": "<f2"}[entry["datatype"]]
                flat = np.frombuffer(raw, dtype) if raw is not None else np.array(entry["data"], dtype)
                tensors[entry["name"]] = flat.reshape(entry["shape"])
        assert not rest
        image = tensors["image"]
        if isinstance(image, list):
            images = np.stack([decoded(file if isinstance(file, bytes) else base64.b64decode(file)) for file in image])
        else:
            images = np.moveaxis(image, 1, 3) if image.shape[1] == 3 else image
            if images.dtype != np.uint8:
                images = np.rint(images.astype(np.float64) * 255).astype(np.uint8)
        binary = data["outputs"][0].get("parameters", {}).get("binary_data", False)

        def answer(s):
            output = {"name": "scores", "shape": list(s.shape), "datatype": "FP64"}
            if not binary:
                return {"model_name": "m", "outputs": [{**output, "data": s.ravel().tolist()}]}
            blob = s.astype("<f8").tobytes()
            output["parameters"] = {"binary_data_size": len(blob)}
            return json.dumps({"model_name": "m", "outputs": [output]}).encode(), blob

        return images, answer, len(tensors["texts"]) if "texts" in tensors else 3

    def metadata(self, path: str):
        if path == "/v2":
            return {"name": "test", "version": "1", "extensions": self.settings.get("extensions", [])}
        shape, datatype = self.settings.get("input", ([-1, -1, -1, 3], "UINT8"))
        inputs = [{"name": "image", "datatype": datatype, "shape": shape}]
        if self.settings.get("texts"):
            inputs.append({"name": "texts", "datatype": "BYTES", "shape": [-1]})
        outputs = [{"name": "scores", "datatype": "FP64", "shape": [-1, -1]}]
        return {"name": "m", "platform": "", "inputs": inputs, "outputs": outputs}


def softmax(scores):
    exponentials = np.exp(scores)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def digest(image: np.ndarray) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()[:16]


SERVICE: Service | None = None


async def app(scope, receive, send):
    global SERVICE
    if scope["type"] != "http":
        return
    SERVICE = SERVICE or Service()
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
    path = scope["raw_path"].decode() if scope.get("raw_path") else scope["path"]
    if path == "/control":
        SERVICE.reset(json.loads(body))
        return await reply(send, b"{}")
    if path == "/counts":
        return await reply(send, json.dumps(SERVICE.report()).encode())
    SERVICE.counts["requests"] += 1
    SERVICE.connections.add(tuple(scope["client"]))
    SERVICE.starts.append(time.monotonic())
    SERVICE.in_flight += 1
    SERVICE.most_in_flight = max(SERVICE.most_in_flight, SERVICE.in_flight)
    text = body.decode("utf-8", "replace") if len(body) < 100_000 else ""
    SERVICE.seen = {"path": path, "headers": headers, "body": text, "method": scope["method"]}
    try:
        async with SERVICE.places:
            await answered(SERVICE, scope, path, headers, body, send)
    finally:
        SERVICE.in_flight -= 1


async def answered(service, scope, path, headers, body, send):
    fault = service.fault()
    service.counts[fault] += bool(fault)
    name, _, argument = fault.partition(" ")
    transport = TRANSPORTS.get(tuple(scope["client"]))
    key = service.settings["key"]
    given = " ".join(headers[name] for name in KEY_HEADERS if name in headers)
    if key and key not in given.split():
        return await reply(send, b'{"error": "no such key: %s"}' % given.encode(), 401)
    if name in service.settings.get("errors", {}):
        status, extra, told = service.settings["errors"][name]
        return await reply(send, json.dumps(told).encode(), status, extra)
    if name == "reset":
        return reset(transport)
    if name == "stall":
        await asyncio.sleep(float(argument or 5))
        return transport.abort()
    if name == "slow":
        await asyncio.sleep(float(argument or 0.5))
    if name.isdecimal():
        status = int(name)
        extra = {"retry-after": argument} if argument else {}
        if name == "429" and not argument:
            extra = {"retry-after": "0"}
        said = f'{{"error": "status {status}", "sent": "{given}"}}'
        return await reply(send, said.encode(), status, extra)
    if name == "redirect":
        return await reply(send, b"", 307, {"location": argument or path + "/moved"})
    if scope["method"] == "GET" and path not in FAKES:
        return await reply(send, json.dumps(service.metadata(path)).encode())
    if "quick" in service.settings or "turns" in service.settings:
        images, to_body, n_classes = np.zeros((1, 1, 1, 3)), lambda scores: next(service.turns), 1
    else:
        try:
            images, to_body, n_classes = service.understood(path.removesuffix("/moved"), headers, body)
        except AssertionError as error:
            return await reply(send, json.dumps({"error": f"not as documented: {error}"}).encode(), 400)
    begin = time.monotonic()
    service.first = service.first or begin
    if service.settings["latency"]:
        await asyncio.sleep(service.settings["latency"])
    service.last = time.monotonic()
    service.busy += service.last - begin
    service.unanswered.clear()
    scores = to_body(stripe_scores(images, n_classes))
    extra = {}
    if isinstance(scores, tuple):  # binary tensors
        extra = {"inference-header-content-length": str(len(scores[0]))}
        good = b"".join(scores)
    else:
        good = json.dumps(scores).encode()
    bad = {
        "html": b"<!DOCTYPE html><html><title>Log in</title></html>",
        "nan": NUMBER.sub(rb"\1NaN", good, count=1),
        "infinity": NUMBER.sub(rb"\1-Infinity", good, count=1),
        "huge": NUMBER.sub(rb"\g<1>1e999", good, count=1),
        "twice": good.replace(b"{", b'{"twice": 0, "twice": 0, ', 1),
        "deep": b"[" * 200_000,
        "digits": b"[" + b"9" * 10_000 + b"]",
        "latin": b'{"scores": "\xe9\xe8"}',
        "short": json.dumps({"scores": scores["scores"][:-1]}).encode() if name == "short" else b"",
        "other": b'{"status": "fine"}',
        "empty": b"",
        "cut": good[: len(good) // 2],  # a whole body, as HTTP sees it
        "bomb": bomb() if name == "bomb" else b"",
        "long": b"[" + b"0," * 20_000_000 + b"0]" if name == "long" else b"",
    }
    if name == "drip":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        for byte in good:
            await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
            await asyncio.sleep(float(argument or 0.1))
        return await send({"type": "http.response.body", "body": b""})
    if name == "torn":
        length = str(len(good)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": good[: len(good) // 2], "more_body": True})
        return transport.abort()
    if name == "torn-gzip":
        return await reply(send, gzip.compress(good)[:-6], extra={"content-encoding": "gzip"})
    if name == "br":
        return await reply(send, good, extra={"content-encoding": "br"})
    if name in bad:
        extra = {"content-encoding": "gzip"} if name == "bomb" else {}
        return await reply(send, bad[name], extra=extra)
    for place, image in enumerate(images):
        service.answered[digest(image)] += place not in service.unanswered
    if name == "gzip":
        good, extra = gzip.compress(good), {**extra, "content-encoding": "gzip"}
    await reply(send, good, extra=extra)


@functools.cache
def bomb() -> bytes:
    return gzip.compress(b"[" + b"0," * 40_000_000 + b"0]", 9)


async def reply(send, body: bytes, status: int = 200, extra: dict | None = None):
    headers = {"content-type": "application/json", "content-length": str(len(body)), **(extra or {})}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def reset(transport) -> None:
    """Close a connection by RST, not by FIN."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def main() -> None:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):
        def connection_made(self, transport):
            TRANSPORTS[transport.get_extra_info("peername")[:2]] = transport
            super().connection_made(transport)

    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio asks: TCP_NODELAY
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(app, http=Protocol, lifespan="off", log_level="critical", access_log=False)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    sys.exit(main())
