"""What a score function may return: named scores, numbers of every kind, and what is refused."""

import datetime
import enum
import warnings
from collections import namedtuple
from decimal import Decimal
from unittest.mock import MagicMock, Mock

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from conftest import ToyService, make_stripes

from blackvip import BlackVIPClassifier, CachedScorer, ScoreError
from blackvip.scorers import LabelMappedScorer, ParallelScorer, check_scores
from blackvip.scorers.answers import collected, scores_of

PROMPTS = ["cat", "dog"]
EXPECTED = np.array([[0.1, 0.9], [0.75, 0.25], [0.5, 0.125]])
#: The same scores in the order dog, cat.
SWAPPED = EXPECTED[:, ::-1]
NAN = np.nan


class Animal(enum.Enum):
    CAT = "cat"
    DOG = "dog"


class Labelled:
    """An object with a label and a score, as clients of services return it."""

    def __init__(self, label, score):
        self.label, self.score = label, score


class DataArray:
    """The part of xarray's DataArray that is read."""

    def __init__(self, values, **coords):
        self._values, self._coords = np.asarray(values), coords

    dims = property(lambda self: ("image", "name")[: self.ndim])
    coords = property(lambda self: self._coords)
    values = property(lambda self: self._values)
    ndim = property(lambda self: self._values.ndim)


Pair = namedtuple("Pair", ["label", "score"])
Row = namedtuple("Row", ["dog", "cat"])


def pairs(make=lambda label, score: {"label": label, "score": score}):
    return [[make("dog", float(dog)), make("cat", float(cat))] for dog, cat in SWAPPED]


NAMED = {
    "frame": pd.DataFrame(SWAPPED, columns=["dog", "cat"]),
    "frame with names of images": pd.DataFrame(SWAPPED, columns=["dog", "cat"], index=["x", "y", "z"]),
    "frame of nullable numbers": pd.DataFrame(SWAPPED, columns=["dog", "cat"]).convert_dtypes(),
    "frame without names": pd.DataFrame(EXPECTED),
    "frame of members": pd.DataFrame(SWAPPED, columns=[Animal.DOG, Animal.CAT]),
    "frames of one row": [pd.DataFrame([row], columns=["dog", "cat"]) for row in SWAPPED],
    "structured array": np.rec.fromarrays(SWAPPED.T, names="dog,cat"),
    "Series": [pd.Series(row, index=["dog", "cat"]) for row in SWAPPED],
    "Series without names": [pd.Series(row) for row in EXPECTED],
    "Series of dicts": pd.Series([dict(zip(PROMPTS, row)) for row in EXPECTED]),
    "array of dicts": np.array([dict(zip(PROMPTS, row)) for row in EXPECTED]),
    "dicts": [{"dog": dog, "cat": cat} for dog, cat in SWAPPED],
    "dicts by member": [{Animal.DOG: dog, Animal.CAT: cat} for dog, cat in SWAPPED],
    "dict of columns": {"dog": SWAPPED[:, 0], "cat": SWAPPED[:, 1].tolist()},
    "dict of tensors": {"dog": torch.tensor(SWAPPED[:, 0]), "cat": torch.tensor(SWAPPED[:, 1], requires_grad=True)},
    "dict of Series": {"dog": pd.Series(SWAPPED[:, 0]), "cat": pd.Series(SWAPPED[:, 1])},
    "pipeline": pairs(),
    "pipeline, image by image": [[image] for image in pairs()],
    "pairs": pairs(lambda label, score: (label, score)),
    "named pairs": pairs(Pair),
    "objects": pairs(Labelled),
    "named tuples": [Row(*row) for row in SWAPPED],
    "labels and scores": [{"sequence": "x", "labels": ["dog", "cat"], "scores": row.tolist()} for row in SWAPPED],
    "DataArray": DataArray(SWAPPED, name=np.array(["dog", "cat"])),
    "DataArray by class": DataArray(SWAPPED.T, image=np.array(["dog", "cat"]), name=np.array(["x", "y", "z"])),
    "DataArrays": [DataArray(row, image=np.array(["dog", "cat"])) for row in SWAPPED],
}


@pytest.mark.parametrize("form", NAMED)
def test_named_scores_are_matched_by_name(form):
    np.testing.assert_array_equal(check_scores(NAMED[form], 3, PROMPTS), EXPECTED)


def test_frames_of_other_packages():
    polars, pyarrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    columns = {"dog": SWAPPED[:, 0], "cat": SWAPPED[:, 1]}
    rows = [{"dog": dog, "cat": cat} for dog, cat in SWAPPED]
    frames = [polars.DataFrame(columns), polars.DataFrame(EXPECTED), polars.Series(rows), pyarrow.table(columns)]
    for frame in (*frames, pyarrow.record_batch(columns), polars.Series(EXPECTED.tolist())):
        np.testing.assert_array_equal(check_scores(frame, 3, PROMPTS), EXPECTED)
    for frame in (polars.DataFrame({"cat": [1, None]}), pyarrow.table({"cat": [1, None]})):
        np.testing.assert_array_equal(check_scores(frame, 2, PROMPTS), [[1, NAN], [NAN, NAN]])


@pytest.mark.parametrize(
    "one",
    [
        pd.Series([0.9, 0.1], index=["dog", "cat"]),
        {"dog": 0.9, "cat": 0.1},
        [{"label": "dog", "score": 0.9}, {"label": "cat", "score": 0.1}],
        [[{"label": "dog", "score": 0.9}, {"label": "cat", "score": 0.1}]],
        [("dog", 0.9), ("cat", 0.1)],
    ],
)
def test_scores_of_a_single_image(one):
    np.testing.assert_array_equal(check_scores(one, 1, PROMPTS), EXPECTED[:1])


def test_names_without_a_score_are_missing():
    for given in (
        pd.DataFrame({"dog": [0.9, 0.2]}),
        {"dog": [0.9, 0.2]},
        [[{"label": "dog", "score": 0.9}], [{"label": "dog", "score": 0.2}]],
        [{"label": "dog", "score": 0.9}, {"label": "dog", "score": 0.2}],
    ):
        np.testing.assert_array_equal(check_scores(given, 2, PROMPTS), [[NAN, 0.9], [NAN, 0.2]])
    for given in ([[{"label": "dog", "score": 1}], []], [{"dog": 1}, None], [{"dog": 1}, {"dog": pd.NA}]):
        np.testing.assert_array_equal(check_scores(given, 2, PROMPTS), [[NAN, 1], [NAN, NAN]])
    assert np.isnan(check_scores([[], []], 2, PROMPTS)).all()


def test_names_are_compared_as_they_look():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for name, prompt in ((composed, decomposed), (decomposed, composed)):
        np.testing.assert_array_equal(check_scores([{"dog": 1, name: 2}], 1, [prompt, "dog"]), [[2, 1]])
    with pytest.raises(ScoreError, match="two scores for"):
        check_scores([{composed: 1, decomposed: 2}], 1, [composed, "dog"])


OWN = "wrap it in LabelMappedScorer"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (pd.DataFrame(np.ones((3, 3)), columns=["dog", "cat", "tabby"]), "'tabby' for image 0.* Leave out all others"),
        (pd.DataFrame(EXPECTED, columns=["tabby", "sofa"]), OWN),
        ([[{"label": "LABEL_0", "score": 1.0}]] * 3, OWN),
        ({"tabby": [1, 2, 3], "sofa": [1, 2, 3]}, OWN),
        ([{"cat": 1}, {"cat": 1}, {"tabby": 1, "cat": 1}], "'tabby' for image 2"),
        (pd.DataFrame(EXPECTED, columns=[1, 0]), "'1' for image 0"),
        (pd.DataFrame(EXPECTED, columns=["dog", "dog"]), "two scores for 'dog'"),
        ([[{"label": "cat", "score": 0.5}] * 2] * 3, "two scores for 'cat'"),
        (pd.DataFrame(EXPECTED[:2].T, index=PROMPTS), "Return its transpose"),
        (pd.DataFrame(EXPECTED.T, index=PROMPTS, columns=["x", "y", "z"]), "Return its transpose"),
        (pd.DataFrame(SWAPPED, columns=["dog", "cat"]).sort_values("cat"), "index .*in their order"),
        ({"cat": pd.Series([1, 2, 3])[::-1], "dog": [1, 2, 3]}, "index .*in their order"),
        (pd.Series([1, 2], index=PROMPTS), "one Series of 2 scores for 3 images"),
        ([{"label": "cat", "score": 0.9}, {"label": "dog", "score": 0.1}], "labels with scores for 3 images"),
        ({"dog": [1, 2, 3], "cat": [1, 2]}, "not an array of numbers"),
        ({"dog": 1, "cat": 2}, "not an array of numbers"),
        (pd.DataFrame({"file": ["x", "y", "z"], "cat": [1, 2, 3]}), "For 'file', it contains text, such as 'x'"),
        (pd.DataFrame(EXPECTED[:2], columns=PROMPTS), "3 images were sent"),
        ([{"x" * 1000: 1}] * 3, "xxx \\.\\.\\. for image 0"),
    ],
)
def test_wrong_names_are_explained(answer, message):
    with pytest.raises(ScoreError, match=message) as error:
        check_scores(answer, 3, PROMPTS)
    assert len(str(error.value)) < 400


def test_a_list_of_one_images_labels_is_not_one_of_two_images():
    answer = [{"label": "cat", "score": 0.9}, {"label": "dog", "score": 0.1}]
    with pytest.raises(ScoreError, match="as of one image"):
        check_scores(answer, 2, PROMPTS)
    answer[1]["score"] = 0.8
    np.testing.assert_array_equal(check_scores(answer, 2, PROMPTS), [[0.9, NAN], [NAN, 0.8]])


async def asynchronous():
    return EXPECTED


async def asynchronous_rows():
    yield EXPECTED


NUMBERS = {
    "masked": np.ma.array([[0.5, 9], [2, 9]], mask=[[0, 1], [0, 1]]),
    "masked integers": np.ma.array([[1, 9], [4, 9]], mask=[[0, 1], [0, 1]]),
    "masked rows": [np.ma.array([0.5, 9], mask=[0, 1]), np.ma.array([2, 9], mask=[0, 1])],
    "masked constant": [[0.5, np.ma.masked], [2, np.ma.masked]],
    "masked columns": {"cat": [0.5, 2], "dog": np.ma.array([1, 2], mask=True)},
    "None": [[0.5, None], [2, None]],
    "None in an array": np.array([[0.5, None], [2, None]]),
    "NA": pd.DataFrame({"cat": [0.5, 2], "dog": [pd.NA, pd.NA]}),
    "decimals": [[Decimal("0.5"), None], [Decimal(2), Decimal("sNaN")]],
    "rows of an array with names": list(np.array([(0.5, NAN), (2, NAN)], dtype=[("cat", "f8"), ("dog", "f8")])),
    "tensors in dicts": [{"cat": torch.tensor(0.5, requires_grad=True)}, {"cat": torch.tensor([2], dtype=torch.int8)}],
}


@pytest.mark.parametrize("form", NUMBERS)
def test_masked_and_other_missing_scores(form):
    cat = [1, 4] if form == "masked integers" else [0.5, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(check_scores(NUMBERS[form], 2, PROMPTS), np.array([cat, [NAN, NAN]]).T)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool])
def test_tensors_of_any_dtype(dtype):
    tensor = torch.tensor([[1, 0], [0, 1]], dtype=dtype)
    forms = [tensor, list(tensor), [list(row) for row in tensor], tensor.T.T, tensor.to_sparse()]
    if dtype.is_floating_point:
        forms += [tensor.requires_grad_(), list(tensor * 1)]
    for form in forms:
        np.testing.assert_array_equal(check_scores(form, 2, PROMPTS), [[1, 0], [0, 1]])


def test_async_functions_have_to_be_awaited():
    with warnings.catch_warnings():
        # Python's own warning would come on top.
        warnings.simplefilter("error")
        for make in (asynchronous, asynchronous_rows):
            with pytest.raises(ScoreError, match="async function has to be awaited, as in .* asyncio.run"):
                check_scores(make(), 2, PROMPTS)


def test_a_tensor_that_is_negated_later():
    lazy = torch.complex(torch.zeros(2, 2), torch.tensor([[-1.0, 0], [0, -1]])).conj().imag
    np.testing.assert_array_equal(check_scores(lazy, 2, PROMPTS), [[1, 0], [0, 1]])


def test_images_without_an_answer():
    for n_images in (1, 2):
        assert np.isnan(check_scores([None] * n_images, n_images, PROMPTS)).all()
    found = collected(iter([(np.array([1]), [None]), (np.array([0]), [[0.5, 2]])]), 2, 2)
    np.testing.assert_array_equal(found, [[0.5, 2], [NAN, NAN]])
    with pytest.raises(ScoreError, match=r"rows of the shapes \(1,\) and \(2,\) in different calls"):
        collected(iter([(np.array([1]), [[1]]), (np.array([0]), [[0.5, 2]])]), 2, 2)


@pytest.mark.parametrize("answers", [None, 3, np.eye(2), [(1, 2, 3)], "asynchronous"])
def test_answers_that_are_no_pairs(answers):
    class Service:
        def __call__(self, images, class_prompts):
            raise AssertionError

        def answers(self, images, class_prompts):
            return asynchronous() if isinstance(answers, str) else answers

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ScoreError, match=r"answers (are a|came as) .*; expected .*pairs \(rows, scores\)"):
            list(scores_of(Service(), np.zeros((2, 4, 4, 3), np.uint8), PROMPTS))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.full((2, 2), 1e101), "1e\\+101 for image 0 and class prompt 0"),
        ([[0, -1e300], [0, 1]], "-1e\\+300 for image 0 and class prompt 1"),
        ([[0, 10**400], [0, 1]], "inf for image 0"),
        ([[0, np.inf], [0, 1]], "inf for image 0"),
        (np.zeros((2, 2), complex), "complex numbers"),
        (torch.zeros(2, 2, dtype=torch.complex64), "complex numbers"),
        ([[0.5, 1j]] * 2, "complex numbers"),
        (np.array([["0.1", "0.9"]] * 2), "text, such as '0.1'"),
        ([["0.1", "0.9"]] * 2, "text, such as '0.1'"),
        ([[0.1, "0.9"]] * 2, "text, such as '0.9'"),
        (np.array([["0.1", "0.9"]] * 2, object), "text, such as '0.1'"),
        ([[b"1", b"0"]] * 2, "text"),
        (np.zeros((2, 2), "M8[s]"), "dates"),
        ([[datetime.date(2020, 1, 1), 0]] * 2, "a date"),
        ([[np.timedelta64(1, "s"), 0]] * 2, "durations"),
        (np.full((2, 2), object()), "an? object"),
        (torch.zeros(2, 2, device="meta"), "tensor that cannot be read"),
        (Mock(), "a Mock"),
        (MagicMock(), "shape"),
        ((row for row in EXPECTED), "a generator .* all at once, as a list"),
    ],
)
def test_what_is_not_a_score_is_refused(answer, message):
    with pytest.raises(ScoreError, match=message):
        check_scores(answer, 2, PROMPTS)


def test_a_logit_may_be_minus_infinity_and_a_matrix_sparse():
    np.testing.assert_array_equal(check_scores([[0, -np.inf]], 1, PROMPTS), [[0, -np.inf]])
    np.testing.assert_array_equal(check_scores(scipy.sparse.csr_array(EXPECTED), 3, PROMPTS), EXPECTED)
    np.testing.assert_array_equal(check_scores([[1, 2], None], 2, PROMPTS), [[1, 2], [NAN, NAN]])


class OneBuffer(ToyService):
    """A service that writes every answer into the same array."""

    def __init__(self):
        super().__init__()
        self.buffer = np.full((1000, 2), NAN)

    def __call__(self, images, class_prompts):
        self.buffer[:] = NAN
        self.buffer[: len(images)] = super().__call__(images, class_prompts)
        return self.buffer[: len(images)]


class Streaming(OneBuffer):
    """It yields its answers one by one, all of them in the same array."""

    def answers(self, images, class_prompts):
        for row in range(len(images)):
            yield np.array([row]), self(images[row : row + 1], class_prompts)


@pytest.mark.parametrize("service_class", [OneBuffer, Streaming])
def test_answers_are_copied_since_a_service_may_reuse_its_buffer(service_class, tmp_path):
    X, y = make_stripes(20)
    expected = ToyService()(X, PROMPTS)
    service = service_class()
    service.images_per_call = 3
    cached = CachedScorer(service, tmp_path / "cache")
    for scorer in (cached, cached, ParallelScorer(service, n_jobs=1), ParallelScorer(service, images_per_part=4)):
        np.testing.assert_array_equal(scorer(X, PROMPTS), expected)
    fits = [
        BlackVIPClassifier(service, "{}", prompter="basis", max_queries=300, random_state=0, verbose=0).fit(X, y)
        for service in (ToyService(), service)
    ]
    np.testing.assert_array_equal(*(clf._scored.plain for clf in fits))


def test_wrappers_take_frames():
    X, _ = make_stripes(6)
    service = lambda images, prompts: pd.DataFrame(ToyService()(images, PROMPTS)[:, ::-1], columns=["dog", "cat"])
    expected = ToyService()(X, PROMPTS)
    rows = ParallelScorer(service, n_jobs=1)(X, PROMPTS)
    np.testing.assert_array_equal(check_scores(rows, 6, PROMPTS), expected)
    scorer = LabelMappedScorer(service, mapping="text")
    np.testing.assert_array_equal(scorer(X, ["a photo of a cat", "a photo of a dog"]), expected)
    known = LabelMappedScorer(service, ["cat"], mapping="text")
    np.testing.assert_array_equal(known(X, ["cat"]), expected[:, :1])
    learned = LabelMappedScorer(service).learn(X, np.arange(6) % 2, "stripe {}")
    assert learned.labels == ["cat", "dog"]


def test_a_service_that_ignores_its_images_is_refused_after_the_plain_scores():
    X, y = make_stripes(20)
    sent = []

    def service(images, prompts):
        sent.append(len(images))
        return np.tile([0.3, 0.7], (len(images), 1))

    clf = BlackVIPClassifier(service, "{}", prompter="basis", max_queries=400, random_state=0, verbose=0)
    with pytest.raises(ScoreError, match="all 20 training images the same scores"):
        clf.fit(X, y)
    assert sum(sent) == clf.n_queries_ == 20
    # Equal images do have equal scores.
    clf.fit(np.repeat(X[:1], 20, axis=0), y)
