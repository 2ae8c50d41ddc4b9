"""Services that answer in odd ways: a prompt is learned through each of them."""

import io

import numpy as np
import pytest
from conftest import ToyService, make_stripes
from PIL import Image
from scipy.special import softmax

from blackvip import BlackVIPClassifier


def reencoded(images):
    """The images after JPEG compression on the way, at quality 85."""
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=85)
        yield np.asarray(Image.open(file))


def noisy(scores, images):
    """Answers that differ each time, by as much as the scores of two classes do."""
    return scores + noisy.rng.normal(0, 1, scores.shape)


def top_only(scores, images):
    probabilities = softmax(scores, axis=1)
    return np.where(probabilities == probabilities.max(axis=1, keepdims=True), probabilities, np.nan)


QUIRKS = {
    "none": lambda scores, images: scores,
    "JPEG": lambda scores, images: scores,
    "2 decimals": lambda scores, images: np.round(softmax(scores, axis=1), 2),
    "4 decimals": lambda scores, images: np.round(softmax(scores, axis=1), 4),
    "top 1": top_only,
    "noise": noisy,
}


@pytest.mark.parametrize("quirk", QUIRKS)
def test_a_prompt_is_learned_through_each_quirk(quirk):
    X, y = make_stripes(n=60, n_classes=3, side=24, background=0.6)
    X_test, y_test = make_stripes(n=90, n_classes=3, side=24, background=0.6, seed=1)
    blinded = ToyService(gain=10, glare=0.7)
    noisy.rng = np.random.default_rng(0)

    def service(images, class_prompts):
        arrived = np.stack(list(reencoded(images))) if quirk == "JPEG" else images
        return QUIRKS[quirk](blinded(arrived, class_prompts), images)

    clf = BlackVIPClassifier(
        service, "stripe {}", prompter="basis", head=None, max_queries=3_000, random_state=0, verbose=0
    ).fit(X, y)
    prompted = clf.coordinator_.transform(X_test)
    assert (blinded(X_test, clf.class_prompts_).argmax(axis=1) == y_test).mean() < 0.5
    assert (blinded(prompted, clf.class_prompts_).argmax(axis=1) == y_test).mean() > 0.9
