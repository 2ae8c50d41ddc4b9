"""The contract of a score function, and the ledger that counts what is sent."""

import numpy as np
import pytest
import torch

from blackvip import BudgetError, ScoreError
from blackvip.scorers import Ledger, SharedBudget, as_log_scores, check_scores, recognise_score_type

IMAGES = np.zeros((5, 2, 2, 3), np.uint8)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "returned None"),
        ("scores", "no array of numbers"),
        ([[0.1, 0.2, 0.7], [0.1]], "no array of numbers"),
        (np.zeros((4, 3)), r"shape \(4, 3\); expected numbers of shape \(5, 3\).* 5 images were sent"),
        (np.zeros((5, 2)), r"shape \(5, 2\).* 3 class prompts were sent"),
        (np.zeros(5), r"shape \(5,\)"),
        (np.where(np.arange(15).reshape(5, 3) == 7, np.nan, 0), r"nan for image 2 and class prompt 1 \(1 of 15"),
        (np.full((5, 3), np.inf), "inf for image 0"),
    ],
)
def test_wrong_answers_are_explained(answer, message):
    with pytest.raises(ScoreError, match=message):
        check_scores(answer, 5, 3)


def test_lists_and_tensors_are_taken():
    for answer in ([[1, 2], [3, 4]], torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)):
        np.testing.assert_array_equal(check_scores(answer, 2, 2), [[1, 2], [3, 4]])


def test_probabilities_are_recognised():
    assert recognise_score_type(np.array([[0.2, 0.8], [1.0, 0.0]])) == "probabilities"
    assert recognise_score_type(np.array([[0.2, 0.9], [1.0, 0.0]])) == "logits"
    assert recognise_score_type(np.array([[-0.2, 1.2]])) == "logits"


def test_log_scores():
    np.testing.assert_allclose(as_log_scores(np.array([[0.5, 0.0]]), "probabilities"), [np.log([0.5, 1e-6])])
    np.testing.assert_array_equal(as_log_scores(np.array([[3.0, -1.0]]), "logits"), [[3.0, -1.0]])
    with pytest.raises(ScoreError, match="score_type='logits'"):
        as_log_scores(np.array([[0.5, -0.5]]), "probabilities")


def test_ledger_splits_counts_and_hands_out_copies():
    sizes = []

    def score(images, class_prompts):
        sizes.append(len(images))
        assert images.flags.c_contiguous
        class_prompts.append("changed")
        return np.arange(len(images) * 2.0).reshape(-1, 2)

    ledger = Ledger(score, ["a", "b"], images_per_call=2)
    assert ledger.log_scores(IMAGES).shape == (5, 2)
    assert sizes == [2, 2, 1]
    assert ledger.n_queries == 5
    assert ledger.class_prompts == ("a", "b")


def test_declarations_of_a_scorer_are_used():
    class Scorer:
        images_per_call = 3
        score_type = "logits"

        def __call__(self, images, class_prompts):
            return np.tile([0.5, 0.5], (len(images), 1))

    ledger = Ledger(Scorer(), ["a", "b"])
    np.testing.assert_array_equal(ledger.log_scores(IMAGES), np.full((5, 2), 0.5))
    assert ledger.images_per_call == 3
    assert Ledger(Scorer(), ["a", "b"], images_per_call=1, score_type="probabilities").score_type == "probabilities"
    Scorer.score_type = "percent"
    with pytest.raises(ValueError, match="declares score_type='percent'"):
        Ledger(Scorer(), ["a", "b"])


def test_budget_is_never_passed_and_nothing_is_sent_beyond_it(service):
    ledger = Ledger(service, ["a", "b"], max_queries=8)
    ledger.log_scores(IMAGES)
    assert ledger.remaining == 3
    with pytest.raises(BudgetError, match="5 images were to be sent, but the budget of 8 leaves 3"):
        ledger.log_scores(IMAGES)
    assert service.n_images == ledger.n_queries == 5


def test_images_of_a_failed_call_count(service):
    service.fail_at = 1
    ledger = Ledger(service, ["a", "b"])
    with pytest.raises(RuntimeError, match="the service is down"):
        ledger.log_scores(IMAGES)
    assert service.n_images == ledger.n_queries == 5


def test_a_ledger_sets_its_budget_aside_where_it_is_shared(service):
    budget = SharedBudget(service, 20)
    ledger = Ledger(budget, ["a", "b"], max_queries=12)
    with ledger:
        assert budget.remaining == 8
        ledger.log_scores(IMAGES)
        assert (budget.n_queries, budget.remaining) == (5, 8)
    assert budget.remaining == 15
    ledger.log_scores(IMAGES)  # outside of a block each call sets aside its own
    assert budget.remaining == 10
    with ledger:
        assert budget.remaining == 8  # no more than its own budget leaves
    assert ledger.n_queries == service.n_images == 10
    with (
        pytest.raises(BudgetError, match="may need 12 images, but of the shared budget of 20 only 10 are left"),
        Ledger(budget, ["a", "b"], max_queries=12),
    ):
        pytest.fail("the block was entered")


def test_a_ledger_gives_back_after_an_error_and_is_a_block_without_a_shared_budget(service):
    service.fail_at = 2
    budget = SharedBudget(service, 20)
    failing = Ledger(budget, ["a", "b"], max_queries=12, images_per_call=3)
    with pytest.raises(RuntimeError, match="down"), failing:
        failing.log_scores(np.repeat(IMAGES, 2, axis=0))
    assert (budget.n_queries, budget.remaining) == (6, 14)
    service.fail_at = None
    for shared, max_queries in ((budget, None), (service, 5)):
        with Ledger(shared, ["a", "b"], max_queries=max_queries) as ledger:
            assert ledger.log_scores(IMAGES).shape == (5, 2)
    assert budget.n_queries == 11
