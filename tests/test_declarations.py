"""What a score function declares is checked, and an object that answers to every name declares nothing."""

import warnings
from decimal import Decimal
from functools import partial
from unittest.mock import MagicMock, Mock

import numpy as np
import pytest
import torch
from conftest import ToyService, make_stripes

from blackvip import BlackVIPClassifier, CachedScorer, SharedBudget
from blackvip.scorers import LabelMappedScorer, Ledger, ParallelScorer
from blackvip.scorers.declarations import declared, method_of
from blackvip.scorers.wrappers import scorer_name

PROMPTS = ["a", "b"]


def fit(service, **parameters):
    X, y = make_stripes(20)
    return BlackVIPClassifier(
        service, "{}", prompter="basis", max_queries=300, random_state=0, verbose=0, **parameters
    ).fit(X, y)


WRONG = [
    *(("images_per_call", value) for value in (-1, 0, 2.5, True, "8", np.float64(8), [8], float("nan"))),
    *(("score_type", value) for value in ("softmax", 1, ["logits"])),
    *(("price_per_image", value) for value in (-1, "1", True, float("inf"), float("nan"))),
    *(("takes_tensors", value) for value in (1, "yes", "False")),
    *(("tensor_device", value) for value in ("gpu", 0, ["cpu"], "cuda:99")),
    *((name, value) for name in ("streams", "asks_concurrently") for value in (1, "no")),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
@pytest.mark.parametrize("wrap", [None, partial(SharedBudget, max_queries=1000)])
def test_a_wrong_declaration_is_named_and_nothing_is_sent(name, value, wrap):
    service = ToyService()
    if name == "tensor_device":
        service.takes_tensors = True
    setattr(service, name, value)
    scorer = service if wrap is None or name == "streams" else wrap(service)
    with pytest.raises(ValueError, match=f"{name}.*; expected"):
        fit(scorer)
    assert service.n_images == 0


def test_wrong_declarations_are_refused_by_wrappers_too(service, tmp_path):
    X, _ = make_stripes(4)
    service.images_per_call = -1
    budget = SharedBudget(service, 10)
    for scorer in (
        CachedScorer(service, tmp_path / "cache"),
        budget,
        ParallelScorer(service, n_jobs=1),
        LabelMappedScorer(service, PROMPTS, mapping="text"),
    ):
        with pytest.raises(ValueError, match="images_per_call that the score function declares is -1"):
            list(scorer.answers(X, PROMPTS))
    assert service.n_images == budget.n_queries == 0
    assert budget.remaining == 10


def test_right_declarations():
    service = ToyService()
    for name, value, expected in (
        ("images_per_call", np.int64(8), 8),
        ("images_per_call", None, 64),
        ("price_per_image", np.float32(0.5), 0.5),
        ("price_per_image", Decimal("0.5"), 0.5),
        ("takes_tensors", np.bool_(True), True),
        ("tensor_device", torch.device("cpu"), "cpu"),
        ("identity_params", ["gain"], ("gain",)),
    ):
        setattr(service, name, value)
        assert declared(service, name, 64) == expected


class Proxy:
    """A client of a remote service that answers to every name."""

    def __init__(self, service):
        self._service = service

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return Proxy(self._service)

    def __call__(self, images, prompts):
        return self._service(images, prompts)


class Broken(Proxy):
    def __getattr__(self, name):
        raise ConnectionError(name)


class Recorder(ToyService):
    """A service with attributes that are named like methods of the protocol."""

    def __init__(self):
        super().__init__()
        self.answers, self.lease, self.with_scorer, self.differentiable = [], {}, None, 3


def test_objects_that_answer_to_every_name_are_plain_callables(tmp_path):
    toy = ToyService()
    expected = fit(toy)._scored.plain
    X, _ = make_stripes(20)
    for service in (Mock(side_effect=toy), MagicMock(side_effect=toy), Proxy(toy), Broken(toy), Recorder()):
        np.testing.assert_array_equal(fit(service)._scored.plain, expected)
        assert method_of(service, "answers") is None
        for name in ("images_per_call", "takes_tensors", "learns", "identity", "price_per_image"):
            assert declared(service, name) is None
        assert declared(service, "score_type") == ("logits" if isinstance(service, Recorder) else None)
        budget = SharedBudget(service, 100)
        np.testing.assert_array_equal(budget(X, PROMPTS), toy(X, PROMPTS))
        assert isinstance(scorer_name(service), str)


def test_a_wrapper_that_passes_everything_on_declares_what_its_service_declares(service):
    class Forwards:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(object.__getattribute__(self, "inner"), name)

        def __call__(self, images, prompts):
            return self.inner(images, prompts)

    service.images_per_call, service.price_per_image = 7, 0.25
    ledger = Ledger(Forwards(service), PROMPTS)
    assert (ledger.images_per_call, ledger.price_per_image) == (7, 0.25)
    assert Ledger(service.__call__, PROMPTS).images_per_call == 64
    service.images_per_call = 0
    with pytest.raises(ValueError, match="images_per_call"):
        Ledger(Forwards(service), PROMPTS)


def test_functions_declare_by_attributes(service):
    def function(images, prompts):
        return service(images, prompts)

    function.images_per_call, function.score_type = 5, "logits"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clf = fit(function)
    assert clf.score_type_ == "logits"
    assert max(len(call[0]) for call in service.calls) == 5


@pytest.mark.parametrize("wrap", [lambda scorer: scorer, ParallelScorer, partial(SharedBudget, max_queries=1000)])
def test_a_class_instead_of_a_score_function_is_refused_before_anything(wrap):
    with pytest.raises(
        ValueError, match=r"'score_fn' parameter .* an instance, such as MyService\(\) instead of MyServ"
    ):
        fit(wrap(ToyService))
