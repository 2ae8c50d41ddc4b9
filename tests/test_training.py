"""The loop and its objective, on a toy service."""

import numpy as np
import pytest
import torch
from conftest import ToyService, make_stripes

from blackvip import PromptBasis
from blackvip.images import ImageFormat
from blackvip.losses import cross_entropy
from blackvip.scorers import Ledger
from blackvip.training import Batches, Objective


@pytest.fixture
def objective():
    X, y = make_stripes(n=30, n_classes=3, side=9)
    image_format, images = ImageFormat.learn(X)
    prompter = PromptBasis().fit_pixels(image_format.pixels(images[:]))
    return Objective(prompter, images, image_format, y, np.ones(30), Ledger(ToyService(), list("abc")), 0.8)


def test_losses_are_those_of_prompted_rounded_images(objective):
    rows = np.array([3, 8, 21, 22])
    candidates = np.random.default_rng(0).normal(0, 0.3, (5, 12))
    losses = objective.candidate_losses(candidates, rows)
    assert objective.ledger.n_queries == 20
    x = objective.image_format.pixels(objective.images[rows]).double()
    phi = objective.prompter.features(x)
    for candidate, loss in zip(candidates, losses):
        prompt = torch.einsum("j,njchw->nchw", torch.tensor(candidate), phi)
        sent = ((x + 0.8 * prompt).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
        expected = cross_entropy(ToyService()(sent, list("abc")), objective.y[rows]).mean()
        assert loss == pytest.approx(expected, abs=0.01)  # single precision may round a pixel the other way


def test_chunks_and_uncached_features_change_nothing(objective, monkeypatch):
    rows = np.arange(30)
    candidates = np.random.default_rng(0).normal(0, 0.3, (5, 12))
    whole = objective.candidate_losses(candidates, rows)
    monkeypatch.setattr("blackvip.training._CHUNK_BYTES", 1)
    monkeypatch.setattr("blackvip.training._CACHE_BYTES", 1)
    uncached = Objective(
        objective.prompter,
        objective.images,
        objective.image_format,
        objective.y,
        objective.weights,
        objective.ledger,
        0.8,
    )
    assert uncached._features is None
    np.testing.assert_allclose(uncached.candidate_losses(candidates, rows), whole, atol=0.01)


def test_start_costs_what_plain_images_cost(objective):
    plain = cross_entropy(objective.plain_log_scores(), objective.y).mean()
    assert objective.candidate_losses(np.zeros((1, 12)), np.arange(30))[0] == pytest.approx(plain)
    np.testing.assert_array_equal(objective.log_scores(np.zeros(12), np.arange(30)), objective.plain_log_scores())


def test_batches_use_every_image_once_before_any_twice():
    batches = Batches(np.arange(5, 15), 4, np.random.default_rng(0))
    seen = np.concatenate([batches.next() for _ in range(10)])
    assert len(seen) == 40
    for epoch in seen.reshape(4, 10):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(5, 15))
    assert (seen[:10] != seen[10:20]).any()
