"""The response cache: what was answered once is not asked for again."""

import os

import joblib
import numpy as np
import pytest
import torch
from conftest import ToyService, make_stripes
from sklearn.base import BaseEstimator, clone

from blackvip import BlackVIPClassifier, CachedScorer, SharedBudget
from blackvip.scorers import report_not_sent

pytestmark = pytest.mark.filterwarnings("ignore::blackvip.PromptNotUsedWarning")


def make_classifier(service, **parameters):
    defaults = dict(prompter="basis", head="calibrated", max_queries=500, random_state=0, verbose=0)
    return BlackVIPClassifier(service, "stripe {}", **{**defaults, **parameters})


class OfAddress(BaseEstimator, ToyService):
    """A service with a parameter."""

    def __init__(self, url):
        ToyService.__init__(self)
        self.url = url


IMAGES = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), np.uint8)
PROMPTS = ["a", "b"]


def test_a_cache_asks_for_each_image_once(service, tmp_path):
    cached = CachedScorer(service, tmp_path / "cache")
    expected = service(IMAGES, PROMPTS)
    images = IMAGES[[0, 1, 1, 2, 0]]
    np.testing.assert_array_equal(cached(images, PROMPTS), expected[[0, 1, 1, 2, 0]])
    assert service.n_images == 10 + 3
    np.testing.assert_array_equal(cached(IMAGES[:4], PROMPTS), expected[:4])
    assert service.n_images == 10 + 4
    cached(IMAGES[:1], ["a", "c"])  # other prompts, and the same pixels in another shape, are other questions
    cached(IMAGES[:1].reshape(1, 2, 8, 3), PROMPTS)
    assert service.n_images == 10 + 6
    again = CachedScorer(service, str(tmp_path / "cache"))
    np.testing.assert_array_equal(again(images, PROMPTS), expected[[0, 1, 1, 2, 0]])
    two = [OfAddress("http://a"), OfAddress("http://b")]
    for other in (*two, *two):
        CachedScorer(other, tmp_path / "cache")(IMAGES[:1], PROMPTS)
    assert [other.n_images for other in two] == [1, 1]
    assert service.n_images == 10 + 6
    assert cached(IMAGES[:0], PROMPTS).shape == (0, 2)


def test_a_cache_passes_on_what_is_declared_and_keeps_its_file_out_of_copies(service, tmp_path):
    service.images_per_call, service.score_type, service.price_per_image = 7, "logits", 0.5
    cached = CachedScorer(service, tmp_path / "cache")
    cached(IMAGES, PROMPTS)
    assert (cached.images_per_call, cached.score_type, cached.price_per_image) == (7, "logits", 0.5)
    assert [len(call[0]) for call in service.calls] == [7, 3]
    assert cached.takes_tensors is False
    assert repr(cached) == f"CachedScorer(ToyService, path='{tmp_path / 'cache'}')"
    twin = clone(cached)
    assert twin.score_fn is service
    joblib.dump(cached, tmp_path / "cached.joblib")
    loaded = joblib.load(tmp_path / "cached.joblib")
    loaded(IMAGES, PROMPTS)
    assert loaded.score_fn.n_images == 10
    cached.close()
    cached(IMAGES, PROMPTS)
    assert service.n_images == 10


def test_what_a_cache_answers_is_not_counted_and_a_journal_remembers_that(tmp_path):
    data, journal, service = (
        make_stripes(n=24, n_classes=3, background=0.6),
        tmp_path / "run.journal",
        ToyService(glare=0.7),
    )
    cached = CachedScorer(service, tmp_path / "cache")
    cached(data[0], ["stripe 0", "stripe 1", "stripe 2"])
    first = make_classifier(cached).fit(*data)
    assert first.n_queries_ == service.n_images - 24
    n_sent = service.n_images
    second = make_classifier(cached, checkpoint=journal).fit(*data)
    assert (second.n_queries_, service.n_images) == (0, n_sent)
    assert np.array_equal(first.coordinator_.parameters_, second.coordinator_.parameters_)
    partly = CachedScorer(service, tmp_path / "other")
    partly(data[0], ["stripe 0", "stripe 1", "stripe 2"])
    third = make_classifier(partly, checkpoint=tmp_path / "third").fit(*data)
    (tmp_path / "other").unlink()
    fourth = make_classifier(CachedScorer(service, tmp_path / "other"), checkpoint=tmp_path / "third").fit(*data)
    assert third.n_queries_ == fourth.n_queries_ == first.n_queries_


def test_a_shared_budget_around_a_cache_pays_for_what_is_sent(service, tmp_path):
    budget = SharedBudget(CachedScorer(service, tmp_path / "cache"), 20)
    assert len(budget(IMAGES, PROMPTS)) == 10
    for _ in range(3):
        for rows, scores in budget.answers(IMAGES, PROMPTS):
            assert len(rows) == len(scores)
    assert budget.n_queries == service.n_images == 10
    inside = CachedScorer(SharedBudget(service, 11), tmp_path / "cache")
    inside(IMAGES, PROMPTS)
    assert inside.score_fn.n_queries == 0


def test_a_cache_after_an_error_has_what_came_before(service, tmp_path):
    service.images_per_call, service.fail_at = 3, 3
    cached = CachedScorer(service, tmp_path / "cache")
    with pytest.raises(RuntimeError, match="down"):
        cached(IMAGES, PROMPTS)
    service.fail_at = None
    cached(IMAGES, PROMPTS)
    assert [len(call[0]) for call in service.calls] == [3, 3, 3, 3, 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_cache_goes_on_in_a_forked_process(service, tmp_path):
    cached = CachedScorer(service, tmp_path / "cache")
    cached(IMAGES[:5], PROMPTS)
    child = os.fork()
    if not child:
        cached(IMAGES, PROMPTS)
        os._exit(service.n_images)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10
    cached(IMAGES, PROMPTS)
    assert service.n_images == 5


def test_tensors_are_kept_too(tmp_path):
    class OnTensors(ToyService):
        takes_tensors = True

        def __call__(self, images, class_prompts):
            assert images.dtype == torch.float32
            assert images.min() >= 0
            assert images.max() <= 1
            return super().__call__(images.permute(0, 2, 3, 1).numpy() * 255, class_prompts)

    service = OnTensors(glare=0.7)
    images = torch.rand(5, 3, 4, 4)
    cached = CachedScorer(service, tmp_path / "cache")
    np.testing.assert_array_equal(cached(images, PROMPTS), service(images, PROMPTS))
    assert cached.takes_tensors
    cached(images, PROMPTS)
    assert service.n_images == 10


def test_not_sent_is_told_to_nobody_outside_of_a_ledger():
    report_not_sent(5)
