"""Labels in any container: the right classes, or an error before anything is sent."""

import datetime
import enum
import pathlib
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ToyService, make_stripes

from blackvip import BlackVIPClassifier, ClassPromptWarning, ConfusionChangeDisplay, PromptDisplay, compare, report
from blackvip.inputs.class_names import class_names
from blackvip.inputs.labels import check_classes, check_labels, class_indices, training_weights

NaT = np.datetime64("NaT")


class Pet(enum.Enum):
    CAT = "cat"
    DOG = "dog"


class Year(enum.IntEnum):
    FIRST_YEAR = 2019
    SECOND_YEAR = 2020


class Word(str):
    def __str__(self):
        return "something else"


def masked(values, mask):
    return np.ma.masked_array(values, mask)


GOOD = [
    (["cat", "dog"], ["cat", "dog"]),
    (("cat", "dog"), ["cat", "dog"]),
    (np.array(["cat", "dog"], dtype=object), ["cat", "dog"]),
    (pd.Series(["cat", "dog"]), ["cat", "dog"]),
    (pd.Series(["cat", "dog"], index=[7, 3]), ["cat", "dog"]),
    (pd.Series(["cat", "dog"], dtype="string"), ["cat", "dog"]),
    (pd.Series(["cat", "dog"], dtype="category"), ["cat", "dog"]),
    (pd.Categorical(["cat", "dog"]), ["cat", "dog"]),
    (pd.Index(["cat", "dog"]), ["cat", "dog"]),
    ([Pet.CAT, Pet.DOG], ["cat", "dog"]),
    (np.array([Pet.CAT, Pet.DOG]), ["cat", "dog"]),
    (pd.Series([Pet.CAT, Pet.DOG]), ["cat", "dog"]),
    ([Pet.CAT, "dog"], ["cat", "dog"]),
    ([Word("cat"), np.str_("dog")], ["cat", "dog"]),
    (["cat\0", "cat"], ["cat\0", "cat"]),
    ([Year.FIRST_YEAR, Year.SECOND_YEAR], [2019, 2020]),
    (pd.Series([2019, 2020], dtype="Int64"), [2019, 2020]),
    (pd.array([2019, 2020], dtype="Int16"), [2019, 2020]),
    (pd.Series([2019, 2020], dtype=object), [2019, 2020]),
    (pd.Series([2019, 2020], dtype="category"), [2019, 2020]),
    ([2019, 2020.0], [2019, 2020]),
    ([np.int8(1), 2], [1, 2]),
    ([torch.tensor(1), torch.tensor(2)], [1, 2]),
    ([np.array(1), 2], [1, 2]),
    (torch.tensor([1, 2]), [1, 2]),
    (range(2), [0, 1]),
    ([2**63, 1], [2**63, 1]),
    (np.array([1, 2], np.int8), [1, 2]),
    (np.array([1.0, 2.0], np.float32), [1.0, 2.0]),
    (pd.Series([1, 2], dtype="Float64"), [1.0, 2.0]),
    (pd.Series([True, False], dtype="boolean"), [True, False]),
    (np.array([True, False], dtype=object), [True, False]),
    ([np.True_, False], [True, False]),
    (masked([1, 2], False), [1, 2]),
    (masked(["a", "b"], [False, False]), ["a", "b"]),
]


@pytest.mark.parametrize(("y", "expected"), GOOD)
def test_labels_are_plain_values_of_one_type(y, expected):
    found = check_labels(y).tolist()
    assert found == expected
    assert [type(label) for label in found] == [type(label) for label in expected]


def test_the_type_of_an_array_is_kept():
    assert check_labels(np.array([1, 2], np.uint8)).dtype == np.uint8
    assert check_labels(pd.Series([1, 2], dtype="int16")).dtype == np.int16
    assert check_labels(np.array(["cat", "dog"])).dtype == "<U3"
    assert check_labels(["cat", "dog"]).dtype == "<U3"
    assert check_labels(pd.Series(["cat", "dog"])).dtype == object


def test_labels_of_string_dtype():
    dtypes = pytest.importorskip("numpy.dtypes")
    if not hasattr(dtypes, "StringDType"):
        pytest.skip("NumPy 1")
    assert check_labels(np.array(["cat", "dog"], dtype=dtypes.StringDType())).tolist() == ["cat", "dog"]
    with pytest.raises(ValueError, match="1 of 2 labels are missing, the first in row 1"):
        check_labels(np.array(["cat", None], dtype=dtypes.StringDType(na_object=None)))


def test_labels_of_polars_and_arrow():
    polars, arrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    for make in (polars.Series, arrow.array, lambda values: arrow.chunked_array([values])):
        assert check_labels(make(["cat", "dog"])).tolist() == ["cat", "dog"]
        assert check_labels(make([2019, 2020])).tolist() == [2019, 2020]
        for values in (["cat", None], [2019, None], [True, None]):
            with pytest.raises(ValueError, match="1 of 2 labels are missing, the first in row 1"):
                check_labels(make(values))
        with pytest.raises(ValueError, match="dates or times"):
            check_labels(make([datetime.date(2019, 1, 1), datetime.date(2020, 1, 1)]))
    assert check_labels([arrow.scalar("cat"), arrow.scalar("dog")]).tolist() == ["cat", "dog"]
    assert check_labels(arrow.array(["cat", "dog"]).dictionary_encode()).tolist() == ["cat", "dog"]
    assert check_labels(pd.Series([2019, 2020], dtype="int64[pyarrow]")).tolist() == [2019, 2020]
    assert check_labels(polars.Series(["cat", "dog"], dtype=polars.Categorical)).tolist() == ["cat", "dog"]
    with pytest.warns(UserWarning, match="column-vector"):
        assert check_labels(polars.DataFrame({"y": ["cat", "dog"]})).tolist() == ["cat", "dog"]


BAD = [
    (["cat", None], "1 of 2 labels are missing, the first in row 1"),
    (["cat", np.nan], "1 of 2 labels are missing"),
    (["cat", np.float32("nan")], "1 of 2 labels are missing"),
    (["cat", pd.NA], "1 of 2 labels are missing"),
    (["cat", pd.NaT], "1 of 2 labels are missing"),
    ([1, None], "1 of 2 labels are missing"),
    ([True, None], "1 of 2 labels are missing"),
    ([1, np.ma.masked], "1 of 2 labels are missing"),
    (masked([1, 2], [True, False]), "1 of 2 labels are missing, the first in row 0"),
    (masked(["cat", "dog"], [True, False]), "1 of 2 labels are missing, the first in row 0"),
    (masked([[1], [2]], [[True], [False]]), "1 of 2 labels are missing"),
    (pd.Series(["cat", None], dtype="category"), "1 of 2 labels are missing"),
    (pd.Series([2019, None], dtype="Int64"), "1 of 2 labels are missing"),
    (pd.Series([True, None], dtype="boolean"), "1 of 2 labels are missing"),
    (np.array([1, None], dtype=object), "1 of 2 labels are missing"),
    (np.array([1.0, np.nan]), "contains NaN"),
    ([1, "cat"], "different types, int, str"),
    ([1.5, "cat"], "different types, float, str"),
    ([True, 1], "different types, bool, int"),
    ([True, 1.0], "different types, bool, float"),
    ([True, "True"], "different types, bool, str"),
    ([np.True_, np.int64(1)], "different types, bool, int"),
    ([Pet.CAT, Year.FIRST_YEAR], "different types, int, str"),
    (np.array([True, 1], dtype=object), "different types, bool, int"),
    (pd.Series([1, "cat"]), "different types, int, str"),
    ([b"cat", b"dog"], "are bytes; .*Decode them"),
    (np.array([b"cat", b"dog"]), "are bytes; .*Decode them"),
    ([pathlib.Path("cat"), pathlib.Path("dog")], r"are paths \(.*path.parent.name"),
    ([datetime.date(2019, 1, 1), datetime.date(2020, 1, 1)], r"dates or times \(date\)"),
    ([datetime.datetime(2019, 1, 1), datetime.datetime(2020, 1, 1)], r"dates or times \(datetime\)"),
    ([datetime.timedelta(1), datetime.timedelta(2)], r"dates or times \(timedelta\)"),
    (np.array(["2019", "2020"], dtype="datetime64[Y]"), "dates or times .datetime64"),
    (np.array([1, 2], dtype="timedelta64[ns]"), "dates or times .timedelta64"),
    ([np.datetime64("2019"), np.datetime64("2020")], "dates or times"),
    (pd.to_datetime(pd.Series(["2019-01-01", "2020-01-01"])), "dates or times"),
    (pd.to_datetime(pd.Series(["2019-01-01", "2020-01-01"])).dt.tz_localize("UTC"), "dates or times"),
    (pd.Series(pd.period_range("2019", periods=2, freq="Y")), "dates or times"),
    ([object(), object()], "are of type object; expected"),
    ([1j, 2j], "Complex data not supported: .* are complex"),
    (np.array([1j, 2j]), "Complex data not supported: .* are complex128"),
    ([{"a": 1}, {"a": 2}], "are of type dict"),
    ({"cat", "dog"}, "y is a set; expected"),
    ({"cat": 0, "dog": 1}, "y is a dict; expected"),
    ("cat", "y is a str; expected"),
    ((label for label in ["cat", "dog"]), "y is a generator; expected"),
    ([2**70, 1], "more than 64 bits"),
    ([2**63, -1], "more than 64 bits"),
    ([0.5, 0.7], "Unknown label type"),
    ([["cat", "dog"], ["cat", "cow"]], "1d array"),
    (np.array([["cat", "dog"], ["cat", "cow"]]), "1d array"),
    (pd.DataFrame({"a": [1, 2], "b": [1, 2]}), "1d array"),
    ([["cat"], ["cat", "cow"]], "1d array"),
    (["cat", ["dog"]], "1d array"),
    ([1.0, np.inf], "infinity"),
    ([1, np.inf], "infinity"),
    (None, "target y is None"),
]


@pytest.mark.parametrize(("y", "message"), BAD)
def test_what_cannot_be_labels_is_refused(y, message):
    with pytest.raises(ValueError, match=message):
        check_labels(y)


def test_a_column_vector_is_told_about():
    for y in (np.array([[1], [2]]), pd.DataFrame({"y": [1, 2]}), [[1], [2]], masked([[1], [2]], False)):
        with pytest.warns(UserWarning, match="A column-vector y was passed"):
            assert check_labels(y).tolist() == [1, 2]
    with pytest.warns(UserWarning, match="column-vector"), pytest.raises(ValueError, match="different types, int, str"):
        check_labels([["cat"], [1]])


def test_classes_are_told_apart_as_they_look():
    assert check_classes({"dog", "cat"}).tolist() == ["cat", "dog"]
    assert check_classes(np.array([1, 2], np.longdouble)).dtype == np.float64
    with pytest.raises(ValueError, match=r"'cafe\\u0301' and 'caf\\xe9' are the same text in two Unicode forms"):
        check_classes(np.array(["caf\u00e9", "cafe\u0301", "dog"]))
    with pytest.raises(ValueError, match=r"'\\udce9t' is not valid text"):
        check_classes(np.array(["\udce9t", "dog"]))
    with pytest.raises(ValueError, match=r"^classes=\['a', None\] is not a list of class labels"):
        check_classes(["a", None])


@pytest.mark.parametrize(
    "weight",
    [
        *({0: 1}, "balanced", ["x", "y"], np.array(["2020", "2021"], "M8[Y]"), [1j, 1], (1 for _ in "ab"), [1, None]),
        *(masked([1.0, 2.0], [True, False]), [1, np.ma.masked], [1, -1], [np.nan, 1], [1], np.ones((2, 2)), [0, 0]),
    ],
)
def test_what_cannot_be_sample_weights_is_refused(weight):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="(?i)sample.weight"):
            training_weights(weight, None, np.array([0, 1]))


def test_weights():
    y = np.array(["caf\u00e9", "dog"])
    weights = [[1, 2], (1, 2.0), torch.tensor([1.0, 2], requires_grad=True), torch.tensor([1, 2]).bfloat16()]
    for weight in (*weights, pd.Series([1, 2], dtype="Int64"), np.array([1, 2], object)):
        assert training_weights(weight, None, y).tolist() == [1, 2]
    for huge in (1e308, 1e-320):
        assert training_weights([huge, huge], None, y).tolist() == [1, 1]
    assert training_weights([2, 1e-31], None, y).tolist() == [2, 0]
    assert training_weights([2e40, 1e40], None, y).tolist() == [1, 0.5]
    assert training_weights(None, {"cafe\u0301": 3}, y).tolist() == [3, 1]
    assert training_weights(None, {Pet.CAT: 3, Pet.DOG: 2}, np.array(["cat", "dog"])).tolist() == [3, 2]
    assert training_weights(None, {0: 3, 1: 2}, np.array([False, True])).tolist() == [3, 2]
    for weight in ("2", None, 1j, (1,)):
        with pytest.raises(ValueError, match="class_weight has .* for class 'dog'; expected a number"):
            training_weights(None, {"dog": weight}, y)


@pytest.mark.parametrize(
    "y", [["left", None], ["left", 1], [True, 1], [b"left", b"right"], [Pet.CAT, None], masked([0, 1], [True, False])]
)
def test_nothing_is_sent_for_bad_labels(y):
    X, _ = make_stripes(n=2)
    service = ToyService()
    with pytest.raises(ValueError, match="labels"):
        BlackVIPClassifier(service, max_queries=300).fit(
            np.repeat(X, 10, axis=0), np.ma.repeat(y, 10) if hasattr(y, "mask") else y * 10
        )
    assert service.n_images == 0


def test_labels_of_an_enum_and_nullable_integers_in_a_fit():
    X, y = make_stripes()
    settings = dict(max_queries=300, head=None, random_state=0, verbose=0)
    clf = BlackVIPClassifier(ToyService(), **settings).fit(X, [(Pet.CAT, Pet.DOG)[label] for label in y])
    assert clf.classes_.tolist() == clf.class_prompts_ == ["cat", "dog"]
    assert clf.score(X, [(Pet.CAT, Pet.DOG)[label] for label in y]) == 1
    with pytest.warns(ClassPromptWarning, match="The labels are numbers, so the template '{}' makes .* such as '2019'"):
        clf = BlackVIPClassifier(ToyService(), **settings).fit(X, pd.Series(2019 + y, dtype="Int64"))
    assert (clf.classes_.tolist(), clf.class_prompts_) == ([2019, 2020], ["2019", "2020"])
    assert set(clf.predict(X).tolist()) == {2019, 2020}


# Names of classes


class Features(dict):
    pass


class Column(list):
    """A column of labels of Hugging Face."""

    def __init__(self, values, source, column_name):
        super().__init__(values)
        self.source, self.column_name = source, column_name


class DataSet:
    """A data set of Hugging Face."""

    def __init__(self, y, names):
        self.y, self.features = y, {"image": SimpleNamespace(), "label": SimpleNamespace(names=names)}

    def __getitem__(self, name):
        return Column(self.y, self, name)


def test_names_of_classes():
    X, y = [0, 1], DataSet([0, 1], ["cat", "dog"])["label"]
    expected = {0: "cat", 1: "dog"}
    assert class_names(X, y) == expected
    assert class_names(y.source, [0, 1]) == class_names(y.source, np.array([0, 1])) == expected
    assert class_names(y.source["image"], [0, 1]) == expected
    assert class_names(y.source, [1, 0]) == class_names(X, [0, 1]) == class_names(X, ["a", "b"]) == {}
    folder = SimpleNamespace(classes=["cat", "dog"], targets=[0, 1, 1])
    assert class_names(folder, [0, 1, 1]) == class_names(folder, torch.tensor([0, 1, 1])) == expected
    assert class_names(SimpleNamespace(dataset=folder, indices=[2, 0]), [1, 0]) == expected
    assert class_names(folder, [0, 1, 0]) == class_names(pd.DataFrame({"classes": [0], "targets": [1]}), [1]) == {}
    assert class_names(X, list(Year)) == {2019: "first year", 2020: "second year"}
    assert class_names(X, list(Pet)) == {}
    with pytest.raises(ValueError, match="1 of 2 labels are missing"):
        check_labels(DataSet([0, -1], ["cat", "dog"])["label"])


def test_columns_of_hugging_face():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"label": datasets.ClassLabel(names=["cat", "dog"])})
    data = datasets.Dataset.from_dict({"label": [0, 1, 1]}, features=features)
    assert class_names(None, data["label"]) == class_names(data, [0, 1, 1]) == {0: "cat", 1: "dog"}
    assert check_labels(data["label"]).tolist() == [0, 1, 1]


def test_names_fill_a_template_and_are_kept(tmp_path, recwarn):
    X, y = make_stripes()
    service = ToyService()
    settings = dict(max_queries=300, head=None, random_state=0, verbose=0)
    clf = BlackVIPClassifier(service, "a {}", **settings).partial_fit(X, DataSet(y.tolist(), ["cat", "dog"])["label"])
    assert service.calls[-1][1] == clf.class_prompts_ == ["a cat", "a dog"]
    assert clf.classes_.tolist() == [0, 1]
    clf.save(tmp_path / "clf")
    from blackvip import load

    for fitted in (clf, load(tmp_path / "clf", service)):
        assert fitted.partial_fit(X[:4], y[:4]).class_prompts_ == ["a cat", "a dog"]
    assert not [warning for warning in recwarn if issubclass(warning.category, ClassPromptWarning)]


# Labels of other images, against the classes


@pytest.fixture(scope="module")
def fitted():
    X, y = make_stripes()
    names = np.array(["caf\u00e9", "dog"])
    return BlackVIPClassifier(ToyService(), max_queries=300, random_state=0, verbose=0).fit(X, names[y]), X, names[y]


CALLS = {
    "score_baselines": lambda clf, X, y, path: clf.score_baselines(X, y),
    "compare_prompt": lambda clf, X, y, path: clf.compare_prompt(X, y),
    "report": lambda clf, X, y, path: report(clf, path / "fit.html", X, y),
    "confusion": lambda clf, X, y, path: ConfusionChangeDisplay.from_estimator(clf, X, y),
    "prompts": lambda clf, X, y, path: PromptDisplay.from_estimator(clf, X, y),
    "score": lambda clf, X, y, path: clf.score(X, y),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: np.where(y == "dog", 1, 0), "labels in y are numbers, such as .*, but the classes are texts"),
        (lambda y: y == "dog", "labels in y are booleans, such as .*, but the classes are texts"),
        (lambda y: np.where(y == "dog", "fox", y), r"the labels \['fox'\], which are not among the classes"),
        (lambda y: [None, *y[1:]], "1 of 40 labels are missing"),
        (lambda y: [1, *y[1:]], "different types"),
        (lambda y: y[:-1], "40.* 39"),
    ],
)
def test_labels_are_checked_before_anything_is_sent(call, change, message, fitted, tmp_path):
    clf, X, y = fitted
    before = clf.score_fn.n_images
    if call in ("score", "report") and "fox" in message:
        # Cross-validation may have classes that a fold's training images lack. A report tells of them.
        assert call == "report" or clf.score(X, change(y)) == 0.5
        if call == "score":
            with pytest.raises(ValueError, match=r"the labels \['DOG'\], which are not among"):
                clf.score(X, np.full(len(y), "DOG"))
        return
    with pytest.raises(ValueError, match=message):
        CALLS[call](clf, X, change(y), tmp_path)
    assert clf.score_fn.n_images == before


def test_a_report_of_unknown_classes_alone_is_refused(fitted, tmp_path):
    clf, X, y = fitted
    before = clf.score_fn.n_images
    with pytest.raises(ValueError, match=r"the labels \['cow', 'fox'\], which are not among the classes"):
        report(clf, tmp_path / "fit.html", X, np.where(y == "dog", "fox", "cow"))
    assert clf.score_fn.n_images == before


def test_labels_in_another_form_are_those_of_the_fit(fitted):
    clf, X, y = fitted
    for form in (
        pd.Series(y, dtype="category"),
        np.where(y == "dog", y, "cafe\u0301"),
        list(y),
        masked(y, False),
    ):
        assert clf.score(X, form) == 1
        assert clf.score_baselines(X, form) == clf.score_baselines(X, y)
        assert clf.compare_prompt(X, form, scores=None).y.tolist() == y.tolist()
    weights = np.where(y == "dog", 1, 0)
    assert clf.score(X, np.where(y == "dog", y, "fox"), sample_weight=weights) == 1


def test_compare_refuses_test_labels_of_another_type():
    X, y = make_stripes()
    service = ToyService()
    with pytest.raises(ValueError, match="labels in y_test are texts, such as '0', but the classes are numbers"):
        compare(["zero-shot"], service, X, y, X, y.astype(str), max_queries=300, verbose=0)
    assert service.n_images == 0


def test_labels_of_two_displays_are_of_one_type():
    with pytest.raises(ValueError, match="labels in y_after are numbers, such as 1, but the classes are texts"):
        ConfusionChangeDisplay.from_predictions(["a", "b"], ["a", "a"], [1, 0])


def test_class_indices():
    classes = np.array([1, 5, 7])
    np.testing.assert_array_equal(class_indices(np.array([7.0, 1.0]), classes), [2, 0])
    np.testing.assert_array_equal(class_indices(np.array([7, 9]), classes, unknown="ignore"), [2, -1])
    for y in (np.array([True, False]), np.array(["1", "5"])):
        with pytest.raises(ValueError, match="but the classes are numbers, such as 1"):
            class_indices(y, classes)


def test_labels_of_a_later_batch_are_of_the_same_type():
    X, y = make_stripes()
    clf = BlackVIPClassifier(ToyService(), max_queries=600, head=None, random_state=0, verbose=0).partial_fit(X, y)
    before = clf.score_fn.n_images
    for later in (y.astype(str), y.astype(bool)):
        with pytest.raises(ValueError, match="but the classes are numbers"):
            clf.partial_fit(X, later)
    assert clf.score_fn.n_images == before


@pytest.mark.parametrize(
    ("parameters", "weights", "message"),
    [
        ({}, masked(np.ones(40), np.arange(40) == 3), "sample_weight has masked values"),
        ({}, [None] * 40, "NaN|None"),
        ({"class_weight": {0: 1, 1: -1}}, None, "negative or not finite"),
        ({"class_weight": {0: 1, 1: np.nan}}, None, "negative or not finite"),
        ({"class_weight": {"0": 1, "1": 2}}, None, "not in class_weight"),
    ],
)
def test_nothing_is_sent_for_bad_weights(parameters, weights, message):
    service = ToyService()
    clf = BlackVIPClassifier(service, ["left", "right"], max_queries=300, **parameters)
    with pytest.raises((TypeError, ValueError), match=message):
        clf.fit(*make_stripes(), sample_weight=weights)
    assert service.n_images == 0


def test_messages_stay_short():
    classes = np.array([f"a class with a rather long name {number}" * 5 for number in range(1000)])
    with pytest.raises(ValueError, match=r"\(1000 in all\)") as error:
        class_indices(np.array(["x" * 10_000]), classes)
    assert len(str(error.value)) < 1000
