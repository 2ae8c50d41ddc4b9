"""What answers on disk belong to: instances, closures, lambdas and partials of one thing are different services."""

import dataclasses
import functools
import json
import runpy
import sys
import threading
import warnings

import httpx
import numpy as np
import pytest
import torch
from conftest import ToyService, make_stripes
from sklearn.linear_model import LogisticRegression

from blackvip import BlackVIPClassifier, CachedScorer, JournalError, SharedBudget
from blackvip.scorers import LabelMappedScorer, ParallelScorer
from blackvip.scorers.identity import service_identity
from blackvip.scorers.wrappers import ScorerWrapper

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
PROMPTS = ["a", "b"]


def answer(images, offset):
    return images.mean(axis=(1, 2))[:, :2] / 255 + offset


class Service:
    def __init__(self, offset, key=None):
        self.offset, self._key = offset, key
        self.n_images, self.sizes = 0, []

    def __call__(self, images, prompts):
        self.n_images += len(images)
        self.sizes.append(len(images))
        return answer(images, self.offset)

    def score(self, images, prompts):
        return self(images, prompts)


@dataclasses.dataclass
class Record:
    offset: float
    n_images: int = 0
    options: dict = dataclasses.field(default_factory=dict)

    def __call__(self, images, prompts):
        self.n_images += len(images)
        return answer(images, self.offset)


class Derived:
    """It keeps something else than its parameter."""

    def __init__(self, offset):
        self.twice = 2 * offset

    def __call__(self, images, prompts):
        return answer(images, self.twice / 2)


class Bare:
    def __call__(self, images, prompts):
        return answer(images, self.offset)


class Slots:
    __slots__ = ("offset",)

    def __init__(self, offset):
        self.offset = offset

    def __call__(self, images, prompts):
        return answer(images, self.offset)


def bare(offset):
    service = Bare()
    service.offset = offset
    return service


def closure(offset):
    lock, sizes, n_images = threading.Lock(), [], 0

    def service(images, prompts):
        nonlocal n_images
        with lock:
            n_images += len(images)
            sizes.append(len(images))
        return answer(images, offset)

    return service


def with_helper(offset):
    n_calls = 0

    def count():
        nonlocal n_calls
        n_calls += 1

    def service(images, prompts):
        count()
        return answer(images, offset + 0 * n_calls)

    return service


def function(images, prompts, offset=0.0, api_key=None):
    return answer(images, offset)


def decorated(offset):
    def decorate(score_fn):
        @functools.wraps(score_fn)
        def service(images, prompts):
            return score_fn(images, prompts) + offset

        return service

    return decorate(function)


def buffered(offset):
    out = np.zeros((6, 2))

    def service(images, prompts):
        out[: len(images)] = answer(images, offset)
        return out[: len(images)]

    return service


def defaults(offset):
    def service(images, prompts, offset=offset):
        return answer(images, offset)

    return service


KINDS = {
    "instance": Service,
    "dataclass": Record,
    "instance that keeps something else": Derived,
    "instance without parameters": bare,
    "slots": Slots,
    "bound method": lambda offset: Service(offset).score,
    "closure": closure,
    "closure over a function": with_helper,
    "closure over an instance": lambda offset: (lambda service: lambda images, prompts: service(images, prompts))(
        Service(offset)
    ),
    "lambda": lambda offset: lambda images, prompts: answer(images, offset),
    "lambda with a default": lambda offset: lambda images, prompts, offset=offset: answer(images, offset),
    "lambda of other code": lambda offset: eval(f"lambda images, prompts: answer(images, {offset})", globals()),
    "partial": lambda offset: functools.partial(function, offset=offset),
    "partial of an instance": lambda offset: functools.partial(Service(offset)),
    "partial of a lambda": lambda offset: functools.partial(lambda c, images, prompts: answer(images, c), offset),
    "decorated": decorated,
    "default": defaults,
    "output buffer": buffered,
    "inside another scorer": lambda offset: LabelMappedScorer(closure(offset), PROMPTS, mapping="text"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_services_of_one_kind_do_not_share_answers_and_equal_ones_do(kind, tmp_path):
    make = KINDS[kind]
    for offset in (0.25, 0.5):
        for _ in range(2):
            service = make(offset)
            cached = CachedScorer(service, tmp_path / "cache")
            before = service_identity(service)
            for _ in range(2):
                np.testing.assert_allclose(cached(IMAGES, PROMPTS), answer(IMAGES, offset))
            # A service's counters and buffers do not belong to it.
            assert service_identity(service) == before
            for wrapper in (SharedBudget(service, 9), ParallelScorer(service)):
                assert service_identity(wrapper) == before
    # A new service of the same kind is answered by the file.
    nothing = Counting(make(0.25))
    CachedScorer(nothing, tmp_path / "cache")(IMAGES, PROMPTS)
    assert nothing.n_images == 0


class Counting(ScorerWrapper):
    """A wrapper that counts what the service inside is sent."""

    def __init__(self, score_fn):
        self.score_fn, self.n_images = score_fn, 0

    def __call__(self, images, prompts):
        self.n_images += len(images)
        return self.score_fn(images, prompts)


def test_a_parameter_that_is_set_later_counts_and_so_does_a_network():
    service = Service(1)
    before = service_identity(service)
    service.offset = 2
    assert service_identity(service) == service_identity(Service(2)) != before
    of = lambda model: lambda images, prompts: model(images)
    network, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert service_identity(of(network)) == service_identity(of(network)) != service_identity(of(other))
    sizes = [service_identity(of(torch.nn.Sequential(torch.nn.MaxPool2d(size)))) for size in (2, 2, 3)]
    assert sizes[0] == sizes[1] != sizes[2]
    before = service_identity(network)
    network.eval()
    assert service_identity(network) == before
    with torch.no_grad():
        network.weight += 1
    assert service_identity(network) != before
    X, y = np.arange(8.0).reshape(4, 2), [0, 1, 0, 1]
    fits = [LogisticRegression().fit(X, labels) for labels in (y, y, y[::-1])]
    first, again, third = (json.dumps(service_identity(of(model))) for model in fits)
    assert first == again != third


def test_a_service_may_say_what_it_is(tmp_path):
    first, second = closure(1), closure(2)
    first.identity = second.identity = "toy 1"
    assert service_identity(first) == service_identity(second) == {"identity": "toy 1"}

    class Declared(Service):
        identity_params = ("name",)

        def __init__(self, name, offset):
            super().__init__(offset)
            self.name = name

    class Other(Declared):
        pass

    def answer_of_class(cls, images, prompts):
        raise AssertionError

    assert service_identity(Declared("x", 1)) == service_identity(Declared("x", 2))
    assert service_identity(Declared("x", 1)) != service_identity(Declared("y", 1))
    Declared.identity_params = ("nothing",)
    with pytest.raises(JournalError, match="names 'nothing' in its identity_params, but has no such"):
        service_identity(Declared("x", 1))
    Declared.answer, Other.answer = classmethod(answer_of_class), classmethod(answer_of_class)
    assert service_identity(Declared.answer) == service_identity(Declared.answer) != service_identity(Other.answer)
    for wrong in ("", 3, ["x"]):
        first.identity = wrong
        with pytest.raises(ValueError, match="identity that the score function declares"):
            CachedScorer(first, tmp_path / "cache")(IMAGES, PROMPTS)


def test_what_cannot_be_described_is_refused_before_anything_is_sent(tmp_path):
    sent = []
    with httpx.Client() as client:

        def service(images, prompts):
            sent.append((client, len(images)))
            return answer(images, 0)

        X, y = make_stripes(20)
        clf = BlackVIPClassifier(service, "{}", prompter="basis", max_queries=300, random_state=0, verbose=0)
        clf.set_params(checkpoint=tmp_path / "journal")
        for use in (lambda: CachedScorer(service, tmp_path / "cache")(IMAGES, PROMPTS), lambda: clf.fit(X, y)):
            with pytest.raises(JournalError, match="service keeps 'client', a Client, .* attribute `identity`"):
                use()
        assert not sent
        service.identity = "service 1"
        CachedScorer(service, tmp_path / "cache")(IMAGES, PROMPTS)
        assert len(sent) == 1


def test_a_checkpoint_belongs_to_one_closure_and_names_what_differs(tmp_path):
    X, y = make_stripes(20)

    def scaled(gain, url):
        return lambda images, prompts: gain * ToyService()(images, prompts) + 0 * len(url)

    parameters = dict(prompter="basis", max_queries=300, random_state=0, verbose=0, checkpoint=tmp_path / "journal")
    fit = lambda service: BlackVIPClassifier(service, "{}", **parameters).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(scaled(1.0, "http://user:hush@one"))
        fit(scaled(1.0, "http://user:hush@one"))
    with pytest.raises(JournalError, match=r"score_fn.gain was 1.0 and is 2.0 now; score_fn.url differ"):
        fit(scaled(2.0, "http://user:hush@two"))
    assert b"hush" not in (tmp_path / "journal").read_bytes()
    secret = functools.partial(function, api_key="hush")
    assert service_identity(secret) == service_identity(functools.partial(function, api_key="other"))
    assert "hush" not in json.dumps(service_identity(secret))


def test_new_code_is_told_once_and_loses_nothing(tmp_path):
    def made(code):
        scope = {"answer": answer, "__name__": "made"}
        exec(f"def service(images, prompts):\n    return {code}", scope)
        return scope["service"]

    first, second = made("answer(images, 0)"), made("answer(images, 1)")
    CachedScorer(first, tmp_path / "cache")(IMAGES, PROMPTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CachedScorer(made("answer(images, 0)"), tmp_path / "cache")(IMAGES, PROMPTS)
    cached = CachedScorer(second, tmp_path / "cache")
    with pytest.warns(UserWarning, match="code of the score function service has changed") as told:
        scores = cached(IMAGES, PROMPTS) + cached(IMAGES, PROMPTS)
    np.testing.assert_array_equal(scores, 2 * answer(IMAGES, 0))
    assert len(told) == 1
    X, y = make_stripes(20)
    clf = BlackVIPClassifier(first, "{}", prompter="basis", head=None, max_queries=300, random_state=0, verbose=0)
    clf.set_params(checkpoint=tmp_path / "journal")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        clf.fit(X, y)
    with pytest.warns(UserWarning, match="code of the score function service has changed"):
        clf.set_params(score_fn=second).fit(X, y)


SCRIPT = """
import sys
import numpy as np
from blackvip import CachedScorer

def make(offset, names):
    sizes = []
    def service(images, prompts):
        sizes.append(len(images))
        print("received", len(images), flush=True)
        return images.mean(axis=(1, 2))[:, :2] / 255 + offset + ("x" in {"x", "y", "z"})
    return service

class Service:
    def __init__(self, offset):
        self.offset, self.n = offset, 0
    def __call__(self, images, prompts):
        self.n += 1
        return make(self.offset, set())(images, prompts)

services = [
    make(1, {"a", "b", "c"}),
    Service(1),
    lambda images, prompts: make(2, {})(images, prompts) + ("a" in {"a", "b"}),
]
images = np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3)
for service in services:
    CachedScorer(service, sys.argv[1])(images, ["a", "b"])
"""


def test_a_script_that_runs_again_finds_its_answers(tmp_path, monkeypatch, capsys, programs):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)

    monkeypatch.setattr(sys, "argv", ["script.py", str(tmp_path / "cache")])
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out == "received 2\n" * 3
    again = programs.run(path, tmp_path / "cache")  # with another seed of hashes
    assert (again.returncode, again.stdout) == (0, ""), again.stderr
