"""
A chat model as the service
===========================

A chat model with log-probabilities is a classifier: each class is an option with a letter. `ChatLogprobs` asks OpenAI,
Azure, vLLM, llama.cpp, Ollama and OpenRouter. Here a server on this machine speaks like them, and answers as an
ImageNet classifier would. With a paid service, only the address, the model and the key differ.
"""

import base64
import io
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from scipy.special import log_softmax

from blackvip import BlackVIPClassifier
from blackvip.demo import PICTURES, draw_sent, label_reader, load_pictures
from blackvip.scorers.http import ChatLogprobs, HTTPScorer

read = label_reader(labels for _, labels in PICTURES.values())

# %%
# The server. It gets an image and a question such as "Which option fits the image best? A: a photo of a balloon.", and
# answers with one letter and the log-probabilities of all letters.


class Chat(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep connections open
    disable_nagle_algorithm = True

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question, picture = asked["messages"][0]["content"]
        file = io.BytesIO(base64.b64decode(picture["image_url"]["url"].partition(",")[2]))
        image = np.array(Image.open(file).convert("RGB"))
        letters = re.findall(r"^(\w): ", question["text"], re.MULTILINE)
        told = zip(letters, log_softmax(read(image[None], [])[0]).tolist())
        top = [{"token": letter, "logprob": value} for letter, value in told]
        top.sort(key=lambda entry: -entry["logprob"])
        choice = {"message": {"content": top[0]["token"]}, "logprobs": {"content": [{**top[0], "top_logprobs": top}]}}
        usage = {"prompt_tokens": 340, "completion_tokens": 1}
        body = json.dumps({"choices": [choice], "usage": usage, "model": asked["model"]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Chat)  # the system chooses a free port
threading.Thread(target=server.serve_forever, daemon=True).start()

# %%
# The service, as a score function. For OpenAI it is ``HTTPScorer("https://api.openai.com/v1", ChatLogprobs(model),
# key="OPENAI_API_KEY")``. Prices are per million tokens; one image tells how many tokens it takes.

X, y, X_test, y_test = load_pictures(shots=8)
X_test, y_test = X_test[:60], y_test[:60]
url = f"http://127.0.0.1:{server.server_port}/v1"
service = HTTPScorer(url, ChatLogprobs("demo", "compatible"), n_concurrent=4, price_per_million_tokens=(0.20, 1.25))
prompts = [f"a photo of a {name}." for name in PICTURES]
service.set_params(price_per_image=service.estimate_price(X[0], prompts))

# %%
# What the fit costs at most, and the fit.

clf = BlackVIPClassifier(service, prompts, max_queries=450, random_state=0)
print(clf.plan(X, y, n_predict=len(X_test)))
clf.fit(X, y)
print(clf.leaderboard_)

# %%
# Test images, as they are sent today and as blackvip sends them.

before, after = clf.score_baselines(X_test, y_test)["zero_shot"], clf.score(X_test, y_test)
print(f"test images: {before:.2f} -> {after:.2f} for {clf.n_queries_} images")
figure = draw_sent(clf, X_test, y_test, (before, after))
plt.show()
print(f"{service.n_tokens_:,} tokens in all, for ${service.cost_:.3f}")
server.shutdown()
