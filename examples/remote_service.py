"""
A service over HTTP
===================

The demo's text reader runs as a local server in its own process, and is adapted to handwritten digits in form boxes.
This needs ``pip install "blackvip[http,ocr]"``. With a paid service, set ``checkpoint``: see the page on faults.
"""

# sphinx_gallery_thumbnail_path = "form_digits.png"

import argparse
import base64
import io
import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

from blackvip import BlackVIPClassifier
from blackvip.demo import load_forms, text_reader
from blackvip.scorers.http import Adapter, HTTPScorer

# %%
# An adapter defines the protocol: what to send, and where the response holds the scores.


class Reader(Adapter):
    images_per_request = 16
    score_type = "logits"

    def request(self, images, class_prompts):
        return {"images": list(images), "digits": class_prompts}

    def scores(self, answer, class_prompts):
        return answer["log_probabilities"]


# %%
# The server.


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep connections open
    disable_nagle_algorithm = True

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        files = [io.BytesIO(base64.b64decode(image)) for image in asked["images"]]
        images = np.stack([np.asarray(Image.open(file)) for file in files])
        body = json.dumps({"log_probabilities": self.read(images, asked["digits"]).tolist()}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args): ...


def serve():
    Handler.read = staticmethod(text_reader())
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)  # the system chooses a free port
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


# %%
# The client knows only the URL.


def adapt(url, queries):
    scorer = HTTPScorer(url, Reader(), n_concurrent=4)
    X, y, X_test, y_test = load_forms("box", seed=0)
    clf = BlackVIPClassifier(scorer, list("0123456789"), max_queries=queries, random_state=0, verbose=2)
    clf.fit(X, y)
    zero_shot = np.mean(scorer(X_test, clf.class_prompts_).argmax(axis=1) == y_test)
    print(f"Accuracy on 500 test images: zero-shot {zero_shot:.3f}, adapted {clf.score(X_test, y_test):.3f}")
    print(f"Training billed {clf.n_queries_} images; {scorer.n_requests_} requests in all, {scorer.n_retries_} retries")


def main():
    parser = argparse.ArgumentParser(description="Adapt a text reader behind a web service.")
    parser.add_argument("--queries", type=int, default=1000, help="images that training may bill (default: 1000)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve()
    with subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True) as server:
        try:
            adapt(server.stdout.readline().strip(), args.queries)
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
