"""
A chat model on vLLM
====================

A chat model that sees images classifies them by the log-probabilities of letters. This example adapts a model on vLLM,
if the environment variable ``VLLM_URL`` has its address. Otherwise a stand-in in this process answers in the same form.
To start a vLLM on a machine with a GPU::

    pip install vllm
    vllm serve Qwen/Qwen2.5-VL-3B-Instruct --limit-mm-per-prompt '{"image": 1}'
    VLLM_URL=http://localhost:8000 python examples/chat_on_vllm.py
"""

import base64
import io
import json
import os
import re
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from blackvip import BlackVIPClassifier, PromptDisplay
from blackvip.scorers.http import ChatLogprobs, HTTPScorer

# %%
# The stand-in tells the time of day from the brightness of a picture, and answers with the letter of an option. It
# returns log-probabilities of tokens, as vLLM does, but knows no token ids, with which vLLM returns those of any token.

BRIGHTNESS = {"night": 0.2, "dusk": 0.5, "day": 0.8}


class StandIn(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = self.path == "/v1/chat/completions"
        answer = json.dumps(self.complete(body) if known else {"error": {"message": "Not Found"}}).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def complete(self, body):
        question, picture = body["messages"][0]["content"]
        options = re.findall(r"^(\w): .* (\w+)$", question["text"], re.MULTILINE)
        file = base64.b64decode(picture["image_url"]["url"].partition(",")[2])
        light = np.asarray(Image.open(io.BytesIO(file))).mean() / 255
        logits = np.array([-20 * abs(light - BRIGHTNESS[name]) for _, name in options])
        logprobs = np.log(0.9) + logits - np.logaddexp.reduce(logits)
        top = [{"token": letter, "logprob": logprob} for (letter, _), logprob in zip(options, logprobs.tolist())]
        first = {**max(top, key=lambda entry: entry["logprob"]), "top_logprobs": top}
        choice = {"message": {"content": first["token"]}, "logprobs": {"content": [first]}}
        return {"model": body["model"], "choices": [choice], "usage": {"prompt_tokens": 120, "completion_tokens": 1}}

    def log_message(self, *args): ...


url, model = os.environ.get("VLLM_URL"), "stand-in"
if url:
    with urllib.request.urlopen(f"{url}/v1/models") as answer:
        model = json.load(answer)["data"][0]["id"]
else:
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
print(f"The model {model!r} answers.")

# %%
# Pictures of a camera that captures only half of the light.

rng = np.random.default_rng(0)
y = np.tile(list(BRIGHTNESS), 20)
light = np.array([BRIGHTNESS[name] for name in y]) + rng.uniform(-0.1, 0.1, len(y))
X = np.clip(light[:, None, None] + rng.normal(0, 0.05, (len(y), 56, 56)), 0, 1) / 2
X, X_test, y, y_test = X[:30], X[30:], y[:30], y[30:]

# %%
# The preset ``"vllm"`` asks for the exact log-probability of each letter. Without a head, the prompt alone has to make
# the model see better.

service = HTTPScorer(f"{url}/v1", ChatLogprobs(model, "vllm"), price_per_million_tokens=0.05)
clf = BlackVIPClassifier(service, "a photo taken at {}", prompter="basis", head=None, max_queries=400, random_state=0)
clf.fit(X, y)
print(f"zero-shot {clf.baselines_['zero_shot'].accuracy:.3f}, prompted {clf.score(X_test, y_test):.3f}")
print(f"billed: {clf.n_queries_} images to fit, {service.n_requests_} requests and {service.n_tokens_} tokens in all")

# %%
# Pictures without and with the prompt. Without the model's answers, this bills nothing.

PromptDisplay.from_estimator(clf, X_test[:3], y_test[:3], scores=None)
plt.show()
