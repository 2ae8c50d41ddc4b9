"""How busy a remote service is kept, and what its client costs.

A service of 100 ms latency that works on 32 requests at once runs as another process on this machine. 3,200 noisy
images of 224 x 224 pixels are scored, one in each request, as PNG, JPEG and, without encoding, pixels. PNG is not
compressed for a service on the same machine; the second row compresses it as for one elsewhere. The service itself
measures the share of its places' time, from the first request to the last answer, in which they work. The
client's cost is its processor time, all threads.

    python benchmarks/http_service.py
"""

import argparse
import pathlib
import sys
import time
from unittest import mock

import numpy as np

from blackvip.scorers.http import HTTPScorer, HuggingFaceZeroShot, KServe

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
from servers.running import running

PLACES, LATENCY, SIDE = 32, 0.1, 224
PROMPTS = ["a photo of a cat.", "a photo of a dog."]
RANKED = [{"label": prompt, "score": 0.5} for prompt in PROMPTS]
TENSOR = {"outputs": [{"name": "scores", "shape": [1, 2], "datatype": "FP64", "data": [0.5, 0.5]}]}


def make_images(n):
    """Waves with noise, as a prompted photo compresses: to two thirds as PNG."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE][..., None]
    waves = 127 + 60 * np.sin(x / 17) * np.cos(y / 23) * np.array([1, 0.8, 0.6])
    noise = rng.normal(0, 6, (16, SIDE, SIDE, 3))
    few = np.clip(waves + noise, 0, 255).astype(np.uint8)
    return few[np.arange(n) % len(few)]


def measured(service, name, adapter, path, answer, images, **parameters):
    service.control(latency=LATENCY, places=PLACES, quick=answer, extensions=["binary_tensor_data"])
    scorer = HTTPScorer(service.url + path, adapter, n_concurrent=PLACES, **parameters)
    begin, processor = time.perf_counter(), time.process_time()
    scores = scorer(images, PROMPTS)
    seconds, processor = time.perf_counter() - begin, time.process_time() - processor
    counts = service.counts()
    assert scores.shape == (len(images), 2)
    assert counts["images"] == len(images)
    print(
        f"{name:22s}{counts['busy_share']:12.1%}{1000 * processor / len(images):14.2f} ms{seconds:12.1f} s"
        f"{scorer.n_retries_:10d}{counts['connections']:13d}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3200)
    args = parser.parse_args()
    images = make_images(args.images)
    best = args.images * LATENCY / PLACES
    print(f"{args.images} images of {SIDE} x {SIDE}, {PLACES} places, {LATENCY * 1000:.0f} ms; at best {best:.1f} s")
    names = ("places busy", 12), ("CPU per image", 17), ("wall time", 14), ("retries", 10), ("connections", 13)
    print(f"{'sent as':22s}" + "".join(f"{name:>{width}s}" for name, width in names))
    with running() as service:
        zero_shot = HuggingFaceZeroShot(), "/hf", RANKED, images
        measured(service, "PNG in base64", *zero_shot)
        with mock.patch("blackvip.scorers.http.service.is_loopback", return_value=False):
            measured(service, "the same, compressed", *zero_shot)
        measured(service, "JPEG 95 in base64", *zero_shot, image_format="jpeg")
        measured(service, "binary tensor", KServe("m"), "", TENSOR, images, images_per_request=1)


if __name__ == "__main__":
    main()
