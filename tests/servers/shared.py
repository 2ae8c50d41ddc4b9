"""What the tests of services over HTTP have in common."""

import numpy as np

from blackvip.scorers.http import Adapter, HTTPScorer, ServiceError

PROMPTS = ["one", "two", "three"]


class Own(Adapter):
    """The protocol that app.py has for the tests alone: any number of images, and errors of single ones."""

    images_per_request = None

    def request(self, images, class_prompts):
        return {"images": list(images), "labels": class_prompts}

    def scores(self, answer, class_prompts):
        return [row if isinstance(row, list) else ServiceError(row["error"], retry=True) for row in answer["scores"]]


def make_images(n, side=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def scorer_of(service, adapter=None, path="/own", **parameters):
    """Small requests and no patience with a service that is next door."""
    return HTTPScorer(service.url + path, adapter or Own(), **{"images_per_request": 1, "timeout": 5.0, **parameters})
