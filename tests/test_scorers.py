"""The contract of a score function, and the ledger that counts what is sent."""

import time

import numpy as np
import pytest
import torch
from conftest import ToyService, make_stripes
from scipy.special import softmax

import blackvip
from blackvip import BlackVIPClassifier, BudgetError, ScoreError
from blackvip.scorers import Ledger, ScoreFormat, ScoreReader, SharedBudget, check_scores, report_not_sent, score_noise

IMAGES = np.zeros((5, 2, 2, 3), np.uint8)
NAN = np.nan


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "returned None"),
        ("scores", "not an array of numbers"),
        ([[0.1, 0.2, 0.7], [0.1]], "not an array of numbers"),
        (np.zeros((4, 3)), r"shape \(4, 3\); expected numbers of shape \(5, 3\).* 5 images were sent"),
        (np.zeros((5, 2)), r"shape \(5, 2\).* 3 class prompts were sent"),
        (np.zeros(5), r"shape \(5,\)"),
        (np.where(np.arange(15).reshape(5, 3) == 7, np.inf, NAN), r"inf for image 2 and class prompt 1 \(1 of 15"),
        (np.full((5, 3), np.inf), "inf for image 0"),
        ({"a": 0.5}, "a dict that is not an array of numbers; .* or a list of dicts"),
        ([{"a": 0.5}] * 4, r"shape \(4, 3\).* 5 images were sent"),
        ([{"a": 0.5}] * 4 + [{"a photo of a": 0.1}], "'a photo of a' for image 4, which is not a class prompt; .*'a'"),
        ([{"a": 0.5}] * 4 + [[0.1, 0.2, 0.7]], "returned a list for image 4 in a list of dicts"),
        ([{"a": "high"}] * 5, "not an array of numbers"),
        ([{"a": np.inf}] * 5, "inf for image 0"),
    ],
)
def test_wrong_answers_are_explained(answer, message):
    with pytest.raises(ScoreError, match=message):
        check_scores(answer, 5, ["a", "b", "c"])


def test_lists_and_tensors_are_taken():
    for answer in ([[1, 2], [3, 4]], torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)):
        np.testing.assert_array_equal(check_scores(answer, 2, ["a", "b"]), [[1, 2], [3, 4]])


def test_scores_that_a_service_does_not_give():
    prompts = ["a", "b", "c"]
    expected = [[0.5, NAN, 0.2], [NAN, NAN, NAN]]
    for answer in (
        expected,
        [[0.5, None, 0.2], [None] * 3],  # as JSON has it
        [{"c": 0.2, "a": 0.5}, {}],
        ({"c": np.float32(0.2), "b": None, "a": torch.tensor(0.5)}, {"a": None}),
    ):
        np.testing.assert_allclose(check_scores(answer, 2, prompts), expected, rtol=1e-6)


def test_scores_that_are_no_probabilities_are_explained():
    with pytest.raises(
        ScoreError, match="returned -0.5, .* read as probabilities, which are from 0 to 1. Set score_type"
    ):
        check_scores([[0.5, -0.5, NAN]], 1, list("abc"), "probabilities")
    with pytest.raises(ScoreError, match="returned 1.2, .* from 0 to 1. "):
        check_scores([[0.5, 1.2]], 1, list("ab"), "probabilities")
    with pytest.raises(ScoreError, match="returned 120, .* read as percent, which are from 0 to 100. "):
        check_scores([[0.5, 120]], 1, list("ab"), "percent")
    assert check_scores([[0.5, -0.5]], 1, list("ab"), "logits").min() == -0.5


def random_probabilities(n_images=40, n_classes=10, sharpness=6):
    return softmax(sharpness * np.random.default_rng(0).normal(size=(n_images, n_classes)), axis=1)


def test_a_ledger_recognises_the_format_of_the_first_images_and_keeps_it():
    answers = iter([*np.round(random_probabilities(30), 2), *random_probabilities(5), *np.zeros((5, 10))])
    ledger = Ledger(lambda images, prompts: [next(answers)], list("abcdefghij"), images_per_call=1)
    images = np.zeros((30, 2, 2, 3), np.uint8)
    first = ledger.log_scores(images)
    assert ledger.score_format == ScoreFormat("probabilities", 0.005)
    assert first.min() == np.log(0.005)
    assert ledger.log_scores(images[:5]).min() == np.log(0.005)
    later = Ledger(
        lambda images, prompts: np.zeros((5, 10)),
        list("abcdefghij"),
        reader=ScoreReader(score_format=ledger.score_format),
    )
    np.testing.assert_array_equal(later.log_scores(images[:5]), ledger.log_scores(images[:5]))


@pytest.mark.parametrize("images_per_call", [1, 3, 64])
def test_a_service_that_gives_nothing_at_all_is_an_error_and_an_image_without_scores_is_none(images_per_call):
    nothing = lambda images, prompts: [{} for _ in images]
    bright_ones = lambda images, prompts: [{"b": 0.5} if image.any() else {} for image in images]
    ledger = Ledger(nothing, ["a", "b"], images_per_call=images_per_call)
    with pytest.raises(ScoreError, match="no score at all for 5 images"):
        ledger.log_scores(IMAGES)
    np.testing.assert_array_equal(np.ptp(ledger.log_scores(IMAGES[:1])), 0)
    assert (ledger.reader.score_type, ledger.score_format) == (
        "auto",
        None,
    )  # which tells nothing of what it gives otherwise
    images = IMAGES.copy()
    images[3] = 255
    log_scores = Ledger(bright_ones, ["a", "b"], images_per_call=images_per_call).log_scores(images)
    assert (np.ptp(log_scores, axis=1) > 0).tolist() == [False, False, False, True, False]


def top_two(images, class_prompts):
    """A service of another make: its two best classes by name, with probabilities of two decimals."""
    scores = np.round(softmax(ToyService()(images, class_prompts), axis=1), 2)
    return [{class_prompts[k]: row[k] for k in np.argsort(row)[-2:]} for row in scores]


def test_a_truncating_and_rounding_service_is_adapted_and_read_in_the_same_way_later(tmp_path):
    X, y = make_stripes(n=60, n_classes=4, background=0.6)
    clf = BlackVIPClassifier(top_two, prompter="basis", max_queries=2000, random_state=0, verbose=0, head=None)
    clf.set_params(guard=False).fit(X, y)
    assert (clf.score_type_, clf.score_floor_) == ("probabilities", 0.005)
    proba = clf.predict_proba(X)
    assert np.isfinite(proba).all()
    np.testing.assert_array_equal(np.concatenate([clf.predict_proba(X[[k]]) for k in range(8)]), proba[:8])
    assert clf.score(X, y) > 0.9
    clf.save(tmp_path / "clf.blackvip")
    loaded = blackvip.load(tmp_path / "clf.blackvip", top_two)
    assert (loaded.score_floor_, loaded.seconds_per_image_) == (0.005, clf.seconds_per_image_)
    np.testing.assert_array_equal(loaded.predict_proba(X), proba)


def test_a_price_is_declared_and_checked(service):
    assert Ledger(service, ["a"]).price_per_image is None
    service.price_per_image = 0.0015
    assert Ledger(SharedBudget(service, 5), ["a"]).price_per_image == 0.0015
    for price in (-1, NAN, np.inf, "0.15 USD", True):
        service.price_per_image = price
        with pytest.raises(
            ValueError, match="price_per_image that the score function declares is .*; expected a finite"
        ):
            Ledger(service, ["a"])
    assert service.n_images == 0


def test_answers_are_timed(service):
    def slow(images, class_prompts):
        time.sleep(0.002 * len(images))
        return service(images, class_prompts)

    ledger = Ledger(slow, ["a", "b"], images_per_call=2)
    assert ledger.seconds_per_image is None
    ledger.log_scores(IMAGES)
    assert 0.01 <= ledger.seconds < 1
    assert ledger.seconds_per_image == ledger.seconds / 5
    service.fail_at = 1
    with pytest.raises(RuntimeError, match="down"):
        ledger.log_scores(IMAGES)
    assert ledger.seconds_per_image == ledger.seconds / 5  # of answers that came


def test_noise_is_that_of_one_answer():
    rng = np.random.default_rng(0)
    y = np.arange(4000) % 3
    scores = rng.normal(size=(4000, 3))
    assert score_noise(scores, scores, y) == 0
    two = np.repeat(np.log(0.5), 2)
    a, b = (two + 0.1 * np.stack([rng.normal(size=4000), np.zeros(4000)], axis=1) for _ in range(2))
    assert score_noise(a, b, np.zeros(4000, int)) == pytest.approx(
        0.1 / 2, rel=0.05
    )  # the loss's slope is a half there


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
    assert ScoreReader.of(Scorer(), "probabilities").score_type == "probabilities"
    Scorer.score_type = "odds"
    with pytest.raises(ValueError, match="declares score_type='odds'"):
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


# Answers as they come, and tensors


class Streaming(ToyService):
    """A service that answers in pieces of `sizes`, the last images first, and may break off."""

    def __init__(self, sizes=(2, 1, 2), break_after=None, tells=False):
        super().__init__()
        self.sizes = sizes
        self.break_after = break_after
        self.tells = tells
        self.asked = []

    def answers(self, images, class_prompts):
        self.asked.append(len(images))
        rows = np.arange(len(images))[::-1]
        for number, part in enumerate(np.split(rows, np.cumsum(self.sizes))):
            if number == self.break_after:
                if self.tells:
                    report_not_sent(len(images) - self.n_images)
                raise self.failure
            if len(part):
                yield part.tolist(), ToyService.__call__(self, images[part], class_prompts)


VARIED = np.random.default_rng(0).integers(0, 256, (5, 2, 2, 3), np.uint8)


def test_answers_are_taken_as_they_come_and_put_in_their_places():
    service, told = Streaming(), []
    ledger = Ledger(service, ["a", "b"], on_queries=told.append)
    log_scores = ledger.log_scores(VARIED)
    np.testing.assert_array_equal(log_scores, Ledger(ToyService(), ["a", "b"]).log_scores(VARIED))
    assert (service.asked, told) == ([5], [2, 1, 2])
    assert ledger.n_queries == service.n_images == 5
    assert ledger.seconds_per_image == ledger.seconds / 5
    many = np.zeros((200, 2, 2, 3), np.uint8)
    Ledger(service, ["a", "b"]).log_scores(many)
    Ledger(service, ["a", "b"], images_per_call=150).log_scores(many)
    assert service.asked == [5, 200, 150, 50]


def test_what_was_asked_for_counts_unless_the_service_says_that_it_was_not_sent():
    for tells, n_counted in ((False, 5), (True, 3)):
        service = Streaming(break_after=2, tells=tells)
        budget = SharedBudget(service, 20)
        ledgers = Ledger(service, ["a", "b"], max_queries=9), Ledger(budget, ["a", "b"], max_queries=9)
        for ledger in ledgers:
            service.n_images = 0
            with pytest.raises(RuntimeError, match="down"), ledger:
                ledger.log_scores(VARIED)
            assert service.n_images == 3
            assert ledger.n_queries == n_counted
        assert (budget.n_queries, budget.remaining) == (n_counted, 20 - n_counted)


def test_calls_that_were_not_made_after_an_error_do_not_count(service):
    service.fail_at = 2
    budget = SharedBudget(service, 20)
    service.images_per_call = 2
    with pytest.raises(RuntimeError, match="down"), Ledger(budget, ["a", "b"], max_queries=12) as ledger:
        ledger.log_scores(VARIED)
    assert ledger.n_queries == service.n_images == budget.n_queries == 4


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([([0, 1], 2), ([1], 1)], r"with the rows \[1\]; expected indices of the 5 images"),
        ([([0, 5], 2)], r"rows \[0, 5\]; expected"),
        ([([-1], 1)], r"rows \[-1\]; expected"),
        ([([0.0], 1)], r"rows \[0.0\]; expected"),
        ([(3, 1)], "rows 3; expected"),
        ([([], 0)], r"rows \[\]; expected"),
        ([([0, 2], 2)], "without those of 3 of 5 images, the first of them 1; expected one for each"),
        ([([0, 1], 1)], r"array of shape \(1, 2\); expected numbers of shape \(2, 2\)"),
    ],
)
def test_answers_that_are_not_one_for_each_image_are_explained(pieces, message):
    class Wrong:
        closed = False

        def __call__(self, images, class_prompts):
            raise AssertionError("it has answers")

        def answers(self, images, class_prompts):
            try:
                for rows, n in pieces:
                    yield rows, np.zeros((n, 2))
            finally:
                self.closed = True

    wrong = Wrong()
    with pytest.raises(ScoreError, match=message):
        Ledger(wrong, ["a", "b"]).log_scores(VARIED)
    assert wrong.closed


def test_a_shared_budget_passes_answers_on(service):
    streaming = Streaming()
    budget = SharedBudget(streaming, 12)
    with Ledger(budget, ["a", "b"], max_queries=8) as ledger:
        np.testing.assert_array_equal(ledger.log_scores(VARIED), Ledger(service, ["a", "b"]).log_scores(VARIED))
        assert (budget.n_queries, budget.remaining) == (5, 4)
    assert budget.remaining == 7
    budget.score_fn = service
    ledger = Ledger(budget, ["a", "b"])
    assert ledger.log_scores(np.repeat(VARIED, 1, axis=0)).shape == (5, 2)
    assert budget.remaining == 2


def test_images_are_made_as_the_score_function_takes_them(service):
    pixels = torch.rand(4, 3, 5, 6, dtype=torch.float64)
    plain = Ledger(service, ["a", "b"])
    images = plain.as_sent(pixels)
    assert (images.dtype, images.shape) == (np.uint8, (4, 5, 6, 3))
    assert plain.joined([images, images]).shape == (8, 5, 6, 3)
    assert len(plain.joined([])) == 0
    service.takes_tensors = True
    for score_fn in (service, SharedBudget(service, 5)):
        ledger = Ledger(score_fn, ["a", "b"])
        tensors = ledger.as_sent(2 * pixels - 0.5)
        assert (tensors.dtype, tensors.shape) == (torch.float32, pixels.shape)
        assert (tensors.min(), tensors.max()) == (0, 1)
        assert ledger.joined([tensors, tensors[:1]]).shape == (5, 3, 5, 6)
        assert len(ledger.joined([])) == 0


def test_a_score_function_of_tensors_predicts():
    class OnTensors(ToyService):
        takes_tensors, images_per_call = True, 10

        def __call__(self, images, class_prompts):
            assert images.dtype == torch.float32
            return super().__call__(images.permute(0, 2, 3, 1).numpy() * 255, class_prompts)

    X, y = make_stripes()
    clf = BlackVIPClassifier(ToyService(), prompter="basis", max_queries=500, random_state=0, verbose=0).fit(X, y)
    expected = clf.predict_proba(X)
    service = OnTensors()
    np.testing.assert_allclose(clf.set_params(score_fn=service).predict_proba(X), expected, atol=0.05)
    assert [len(call[0]) for call in service.calls] == [10] * 4
    assert clf.plan(X, y, measure=True).fit.images
