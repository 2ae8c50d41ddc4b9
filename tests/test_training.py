"""The loop and its objective, on a toy service."""

import threading
import warnings

import numpy as np
import pytest
import torch
from conftest import ToyService, make_stripes

from blackvip import (
    CMAES,
    SPSA,
    SPSAGC,
    BlackVIPClassifier,
    Coordinator,
    PaddingFrame,
    PromptBasis,
    ReprogrammingFrame,
)
from blackvip.exceptions import ImageError, PromptNotUsedWarning
from blackvip.inputs.images import ImageFormat, to_uint8
from blackvip.inputs.training_set import TrainingSet
from blackvip.losses import Temperature, cross_entropy
from blackvip.scorers import Ledger
from blackvip.scorers.memory import AnswerMemory
from blackvip.scorers.scoring import score_columns_of
from blackvip.training.batches import Batches
from blackvip.training.features import TrainingFeatures
from blackvip.training.objective import LastAnswers, Objective
from blackvip.training.plan import RunBudget
from blackvip.training.prompted_images import PromptedImages


def make_objective(prompter=None, temperature=1.0, weights=None):
    X, y = make_stripes(n=30, n_classes=3, side=9)
    image_format, images = ImageFormat.learn(X)
    prompter = (prompter or PromptBasis()).fit_pixels(image_format.pixels(images[:]))
    weights = np.ones(30) if weights is None else weights
    ledger = Ledger(ToyService(), list("abc"))
    data = TrainingSet(images, y, weights, np.arange(3))
    return Objective(TrainingFeatures(prompter, images), data, ledger, AnswerMemory(), 0.8, Temperature(temperature))


@pytest.fixture
def objective():
    return make_objective()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_losses_are_those_of_prompted_rounded_images(temperature):
    objective = make_objective(temperature=temperature)
    rows = np.array([3, 8, 21, 22])
    candidates = np.random.default_rng(0).normal(0, 0.3, (5, 14))
    losses = objective.candidate_losses(candidates, rows)
    assert objective.ledger.n_queries == 20
    x = objective.features.images.pixels(rows).double()
    basis = objective.features.prompter
    same = torch.from_numpy(basis.images_).expand(4, -1, -1, -1, -1)
    phi = torch.cat([same, basis.features(x)], dim=1) * torch.from_numpy(basis.scale_)[:, None, None, None]
    for candidate, loss in zip(candidates, losses):
        prompt = torch.einsum("j,njchw->nchw", torch.tensor(candidate), phi)
        sent = ((x + 0.8 * prompt).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
        expected = cross_entropy(ToyService()(sent, list("abc")) / temperature, objective.y[rows]).mean()
        assert loss == pytest.approx(expected, abs=0.01)  # single precision may round a pixel the other way


@pytest.mark.parametrize("prompter", [PromptBasis(), Coordinator(last_layer="random")])
def test_candidates_with_rows_of_their_own_lose_as_if_each_were_scored_alone(prompter):
    """The Coordinator's prompts depend on what else is in the batch."""
    weights = np.random.default_rng(1).uniform(0.5, 2, 30)
    objective = make_objective(prompter, weights=weights)
    rng = np.random.default_rng(0)
    start = objective.features.prompter.initial_parameters(rng)
    candidates = start + rng.normal(0, 0.1, (6, len(start)))
    rows = np.array([[3, 8, 21, 22], [9, 1, 2, 0], [3, 8, 21, 22], [0, 1, 2, 9], [9, 1, 2, 0], [29, 5, 17, 8]])
    together = objective.candidate_losses(candidates, rows)
    assert objective.ledger.n_queries == 6 * 4
    alone = [objective.candidate_losses(candidates[k : k + 1], rows[k])[0] for k in range(6)]
    np.testing.assert_allclose(together, alone, atol=1e-3)  # a pixel may be rounded the other way
    assert np.ptp(together) > 0.01
    same = objective.candidate_losses(candidates, np.tile(rows[0], (6, 1)))
    np.testing.assert_array_equal(same, objective.candidate_losses(candidates, rows[0]))


def test_losses_are_taken_at_the_temperature_before_they_teach_it():
    objective, fixed = make_objective(temperature=None), make_objective(temperature=1.0)
    candidates, rows = np.random.default_rng(0).normal(0, 0.3, (2, 14)), np.arange(30)
    np.testing.assert_array_equal(
        objective.candidate_losses(candidates, rows), fixed.candidate_losses(candidates, rows)
    )
    learned = objective.temperature.value
    assert learned != 1
    second, third = (one.candidate_losses(candidates, rows) for one in (objective, make_objective(temperature=learned)))
    np.testing.assert_array_equal(second, third)


def test_chunks_and_uncached_features_change_nothing(objective, monkeypatch):
    rows = np.arange(30)
    candidates = np.random.default_rng(0).normal(0, 0.3, (5, 14))
    whole = objective.candidate_losses(candidates, rows)
    monkeypatch.setattr("blackvip.training.step_images._CHUNK_BYTES", 1)
    monkeypatch.setattr("blackvip.training.features._CACHE_BYTES", 1)
    uncached = make_objective()
    assert objective.features.kept
    assert not uncached.features.kept
    np.testing.assert_allclose(uncached.candidate_losses(candidates, rows), whole, atol=0.01)


class FilesOnDisk:
    """Images that are not in memory, and the threads that read them."""

    def __init__(self, images):
        self.images, self.size, self.reads, self.broken_after = images, images.size, [], 100

    def __len__(self):
        return len(self.images)

    def pixels(self, rows):
        self.reads.append((threading.current_thread().name, rows.tolist()))
        if len(self.reads) > self.broken_after:
            raise ImageError("Image 3 cannot be read.")
        return self.images.pixels(rows)


def test_the_next_images_are_read_while_the_service_answers():
    objective = make_objective()
    candidates, batches = np.random.default_rng(0).normal(0, 0.3, (2, 14)), np.array([[[3, 8]] * 2, [[21, 4]] * 2])
    expected = [objective.candidate_losses(candidates, rows) for rows in batches]
    objective.features.images = files = FilesOnDisk(objective.features.images)
    first = objective.candidate_losses(candidates, batches[0], batches[1])
    objective.reader._ahead[1].result()  # whatever the service takes
    assert [rows for _, rows in files.reads] == [[3, 8], [21, 4]]
    assert files.reads[1][0] != threading.current_thread().name
    second = objective.candidate_losses(candidates, batches[1], batches[0])
    objective.reader._ahead[1].result()
    other = objective.candidate_losses(candidates, batches[1])  # not what was read ahead
    np.testing.assert_array_equal([first, second, other], [*expected, expected[1]])
    # The thread reads the one, this thread the other, in any order.
    assert sorted(rows for _, rows in files.reads[2:]) == [[3, 8], [21, 4]]


def test_what_cannot_be_read_ahead_ends_the_step_that_needs_it():
    objective = make_objective()
    candidates, rows = np.zeros((2, 14)), np.array([[3, 8]] * 2)
    objective.features.of(rows[0])  # all are computed once
    objective.features.images = files = FilesOnDisk(objective.features.images)
    files.broken_after = 1
    objective.candidate_losses(candidates, rows, rows)
    with pytest.raises(ImageError, match="Image 3"):
        objective.candidate_losses(candidates, rows)
    assert objective.ledger.n_queries == 4  # those of the first step


def test_features_that_cannot_be_computed_are_an_error_each_time_and_never_waited_for():
    features = make_objective().features
    features.images = files = FilesOnDisk(features.images)
    files.broken_after = 0
    for _ in range(2):
        with pytest.raises(ImageError, match="Image 3"):
            features.of(np.arange(2))


def test_start_costs_what_plain_images_cost(objective):
    rows = np.arange(30)
    plain = score_columns_of(objective.ledger, objective.features.images, rows)
    loss = cross_entropy(plain, objective.y).mean()
    assert objective.candidate_losses(np.zeros((1, 14)), rows)[0] == pytest.approx(loss)
    prompted = PromptedImages(objective.features, objective.ledger, 0.8)
    np.testing.assert_array_equal(prompted.score_columns(np.zeros(14), rows), plain)


@pytest.mark.parametrize(
    ("n_images", "n_columns", "most"), [(50, 10, 500), (16_000, 10, 4_000), (16_000, 1_000, 2_000)]
)
def test_of_the_answers_of_training_the_last_few_are_kept(n_images, n_columns, most):
    kept = LastAnswers(n_images)
    assert [part.shape for part in kept.get(n_columns)] == [(0,), (0, n_columns)]
    for step in range(200):
        kept.add(np.full(32, step), np.full((32, n_columns), float(step)))
    rows, columns = kept.get(n_columns)
    assert len(rows) == most // 32 * 32
    np.testing.assert_array_equal(rows, np.repeat(np.arange(200 - most // 32, 200), 32))
    np.testing.assert_array_equal(columns[:, 0], rows)
    assert sum(len(rows) for rows, _ in kept._steps) == len(rows)


def test_batches_use_every_image_once_before_any_twice():
    batches = Batches(np.arange(5, 15), 4, np.random.default_rng(0))
    seen = np.concatenate([batches.next(n) for n in (4, 1, 7, 8, 10, 3, 7)])
    assert len(seen) == 40
    for epoch in seen.reshape(4, 10):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(5, 15))
    assert (seen[:10] != seen[10:20]).any()


class OnMeta(ToyService):
    """A model on a device from which nothing can be copied: a round trip of images is an error."""

    takes_tensors, tensor_device = True, "meta"
    n_on_device = 0

    def __call__(self, images, class_prompts):
        if images.device.type == "cpu":
            return super().__call__(to_uint8(images), class_prompts)
        self.n_on_device += len(images)
        assert images.dtype == torch.float32
        return np.random.default_rng(len(images)).normal(size=(len(images), len(class_prompts)))


@pytest.mark.parametrize(
    ("prompter", "optimizer"),
    [
        (PromptBasis(), SPSAGC(a=0.01, c=0.01)),
        (PromptBasis(), CMAES()),
        (Coordinator(), SPSAGC(a=0.01, c=0.01)),
        (PaddingFrame(), SPSAGC(a=0.01, c=0.01)),
        (ReprogrammingFrame(), SPSAGC(a=0.01, c=0.01)),
    ],
)
def test_images_of_a_step_are_drawn_on_the_scorers_device(prompter, optimizer):
    X, y = make_stripes(n=24, n_classes=3)
    service = OnMeta()
    clf = BlackVIPClassifier(
        service, list("abc"), prompter=prompter, optimizer=optimizer, max_queries=500, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptNotUsedWarning)
        clf.fit(X, y)
    assert service.n_on_device > 200
    assert clf.predict(X[:3]).shape == (3,)


def test_the_next_rows_are_known_until_an_order_ends():
    batches, optimizer = Batches(np.arange(5, 15), 4, np.random.default_rng(0)), SPSAGC(n_directions=4)
    known = []
    for _ in range(10):
        upcoming = batches.upcoming(optimizer)
        rows = batches.for_step(optimizer)
        known.append(upcoming is not None)
        if upcoming is not None:
            np.testing.assert_array_equal(upcoming, rows)
    assert known == [False, True, False, True, True] * 2


def test_both_sides_of_a_direction_get_the_same_rows_and_other_directions_others():
    batches = Batches(np.arange(100, 124), 8, np.random.default_rng(0))
    optimizer = SPSAGC(n_directions=4)
    assert batches.n_rows_each(optimizer) == 2
    seen = []
    for _ in range(6):  # two passes
        rows = batches.for_step(optimizer)
        assert rows.shape == (8, 2)
        np.testing.assert_array_equal(rows[:4], rows[4:])  # `ask` gives the one sides, then the others
        assert len(np.unique(rows[:4])) == 8
        seen.append(rows[:4].ravel())
    for one_pass in np.concatenate(seen).reshape(2, 24):
        np.testing.assert_array_equal(np.sort(one_pass), np.arange(100, 124))


@pytest.mark.parametrize(
    ("optimizer", "shape"),
    [
        (SPSAGC(n_directions=4, share_batch=True), (8, 8)),
        (SPSA(n_directions=4, sides=1), (5, 8)),  # all are compared with the same candidate
        (CMAES(population_size=6), (6, 8)),
    ],
)
def test_what_is_compared_with_all_others_gets_all_rows(optimizer, shape):
    batches = Batches(np.arange(100, 124), 8, np.random.default_rng(0))
    assert batches.n_rows_each(optimizer) == 8
    steps = [batches.for_step(optimizer) for _ in range(3)]
    for rows in steps:
        assert rows.shape == shape
        assert (rows == rows[0]).all()
    np.testing.assert_array_equal(np.sort(np.concatenate([rows[0] for rows in steps])), np.arange(100, 124))


@pytest.mark.parametrize(("batch_size", "each"), [(2, 1), (4, 1), (11, 2), (24, 6)])
def test_a_step_bills_what_the_plan_says(batch_size, each):
    optimizer = SPSA(a=0.1, c=0.1, n_directions=4)
    batches = Batches(np.arange(24), batch_size, np.random.default_rng(0))
    assert batches.n_rows_each(optimizer) == each  # a row for each direction at least
    plan = RunBudget.of(optimizer, 14, batches, 970)
    assert plan.step == batches.for_step(optimizer).size == 8 * each
    assert (plan.n_steps, plan.gains, plan.total) == (970 // plan.step, 0, 970)
    assert RunBudget.of(optimizer, 14, batches, 970, max_steps=3).n_steps == 3
