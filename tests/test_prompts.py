"""Class prompts: a text for each class, or an error before anything is sent."""

import pickle
import warnings
from decimal import Decimal
from enum import Enum

import numpy as np
import pandas as pd
import pytest
from conftest import ToyService, make_stripes
from sklearn.base import clone
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier, OutputCodeClassifier

from blackvip import BlackVIPClassifier, ClassPromptError, ClassPromptWarning, EncodedClassPrompts, compare, load
from blackvip.inputs.class_prompts import make_class_prompts

PETS = {"dog": "a dog", "cat": "a cat"}


class Pet(Enum):
    CAT = "cat"
    DOG = "dog"


class Prompt(Enum):
    CAT = "a cat"
    DOG = "a dog"


def make_classifier(service, class_prompts, **parameters):
    defaults = {"prompter": "basis", "head": None, "max_queries": 300, "random_state": 0, "verbose": 0}
    return BlackVIPClassifier(service, class_prompts, **{**defaults, **parameters})


def test_sequence_is_taken_in_order():
    for make in (tuple, list, np.array, pd.Index, pd.Categorical, lambda texts: np.array(texts, dtype=object)):
        assert make_class_prompts(make(["zero", "one"]), [0, 1]) == ["zero", "one"]


def test_sequences_of_polars_and_arrow():
    polars, arrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    for make in (polars.Series, arrow.array):
        assert make_class_prompts(make(["zero", "one"]), [0, 1]) == ["zero", "one"]


def test_labels_of_any_type_fill_a_template():
    assert make_class_prompts("digit {}!", np.array([3, 7])) == ["digit 3!", "digit 7!"]
    assert make_class_prompts("{}", np.array([2019.0, 2020.5])) == ["2019", "2020.5"]
    assert make_class_prompts(np.array("a {}"), ["cat", "dog"]) == ["a cat", "a dog"]
    assert make_class_prompts("{} or {}", ["cat", "dog"]) == ["cat or cat", "dog or dog"]


@pytest.mark.parametrize(
    ("spec", "labels", "expected"),
    [
        (PETS, ["cat", "dog"], ["a cat", "a dog"]),
        (PETS, np.array(["cat"]), ["a cat"]),
        ({1: "a", 0: "b"}, np.array([0, 1]), ["b", "a"]),
        ({np.int64(1): "a", np.int8(0): "b"}, [0, 1], ["b", "a"]),
        ({1: "a", 0: "b"}, np.array([0.0, 1.0]), ["b", "a"]),
        ({True: "a", False: "b"}, np.array([False, True]), ["b", "a"]),
        ({Pet.DOG: "a dog", Pet.CAT: "a cat"}, ["cat", "dog"], ["a cat", "a dog"]),
        ({"caf\u00e9": "a", "bar": "b"}, ["cafe\u0301", "bar"], ["a", "b"]),
        ({0: "a", 1: "b", 2: "c"}, [0, 1], ["a", "b"]),
        (pd.Series(PETS), ["cat", "dog"], ["a cat", "a dog"]),
        (pd.Series(["a", "b", "c"], index=[7, 5, 3]), [3, 7], ["c", "a"]),
        (pd.Series(["a", "b"]), [0, 1], ["a", "b"]),
        (EncodedClassPrompts(PETS), ["cat", "dog"], ["a cat", "a dog"]),
        (EncodedClassPrompts(PETS), [0, 1], ["a cat", "a dog"]),
        (EncodedClassPrompts({30: "c", 1: "a", 2: "b"}), np.arange(3), ["a", "b", "c"]),
        (EncodedClassPrompts({30: "c", 1: "a", 2: "b"}), [1, 2], ["a", "b"]),
        (EncodedClassPrompts(pd.Series(PETS)), [0, 1], ["a cat", "a dog"]),
        ([Pet.CAT, Pet.DOG], [0, 1], ["cat", "dog"]),
    ],
)
def test_labels_are_looked_up(spec, labels, expected):
    assert make_class_prompts(spec, labels) == expected


TWO = ["cat", "dog"]


@pytest.mark.parametrize(
    ("spec", "labels", "message"),
    [
        ("a photo", TWO, "has no '{}'"),
        ("a {name}", TWO, "has no '{}'"),
        ({"cat": "a cat"}, TWO, r"no prompt for the classes \['dog'\]"),
        (["a cat"], TWO, "1 prompts, but y has 2 classes"),
        (["a cat", 3], TWO, "prompt of class 'dog' is a int"),
        (7, TWO, "is a int; expected"),
        # Keys that are not the labels.
        (PETS, [0, 1], r"for the classes \[0, 1\]; .*Meta-estimators such as .* pass blackvip.EncodedClassPrompts"),
        ({"cat": "a", "dog": "b", "cow": "c"}, [0, 1], "of the dict must be the class labels.* without the meta-estim"),
        (PETS, [-1, 1], "must be the class labels in y, of the same type. Meta-estimators"),
        (PETS, [False, True], r"for the classes \[False, True\]; .*of the same type.$"),
        ({"0": "a", "1": "b"}, [0, 1], r"has prompts for \['0', '1'\]"),
        ({0: "a", 1: "b"}, ["0", "1"], r"has prompts for \[0, 1\]"),
        ({0: "a", 1: "b"}, [False, True], r"for the classes \[False, True\]; it has prompts for \[0, 1\]"),
        ({False: "a", True: "b"}, [0, 1], r"for the classes \[0, 1\]; it has prompts for \[False, True\]"),
        ({1: "a", 2: "b"}, [0, 1], r"for the classes \[0\]"),
        (pd.Series(["a cat", "a dog"]), TWO, "the index of the Series must be the class labels"),
        (pd.Series(PETS), [0, 1], "the index of the Series must be the class labels"),
        (pd.Series(["a", "b", "c"], index=["cat", "cat", "dog"]), TWO, "two prompts for the class 'cat'"),
        (pd.DataFrame({"p": ["a", "b"]}), TWO, "is a DataFrame; pass the column"),
        # Opted in, but it does not fit.
        (EncodedClassPrompts(PETS), [0, 1, 2], "no prompt for the classes"),
        (EncodedClassPrompts({**PETS, "cow": "a cow"}), [0, 1], "no prompt for the classes"),
        (EncodedClassPrompts(PETS), [1, 2], "no prompt for the classes"),
        (EncodedClassPrompts(PETS), [False, True], "no prompt for the classes"),
        (EncodedClassPrompts({False: "a", True: "b"}), [0, 1], "no prompt for the classes"),
        (EncodedClassPrompts({0: "a", 1: "b"}), [False, True], "no prompt for the classes"),
        (EncodedClassPrompts({"cat": "a", True: "b"}), [0, 1], "no prompt for the classes"),
        (EncodedClassPrompts({"cat": "a", 3: "b"}), [0, 1], "no prompt for the classes"),
        # Prompts that a service cannot tell apart or read.
        (["a {}", "b {}"], TWO, "has several prompts for a class; expected one for each"),
        (["a {}", "b"], TWO, "class 'cat', 'a {}', still has a '{}'.*nothing but templates"),
        (["a { }", "b"], TWO, "still has a '{}'"),
        (["a { }", "b {}"], TWO, "template 'a { }' has no '{}'"),
        (["a photo of a {}.", "b", "c"], TWO, "3 prompts, but .* If these are templates, each must have a '{}'"),
        # Several prompts for a class.
        (["a {}", "a  {}"], TWO, "class 'cat' has the prompt 'a  cat' twice"),
        ({"cat": ["a", "b"], "dog": ["c", "a"]}, TWO, "classes 'cat' and 'dog' have the same prompt, 'a'"),
        ({"cat": ["a", 3], "dog": "b"}, TWO, "prompt of class 'cat' is a int"),
        ({"cat": [], "dog": "b"}, TWO, "class 'cat' has an empty list of prompts"),
        ({"cat": {"a", "b"}, "dog": "c"}, TWO, "prompt of class 'cat' is a set"),
        ({"cat": ["a {}"], "dog": "b"}, TWO, "class 'cat', 'a {}', still has a '{}'"),
        ({"cat": "a {}", "dog": "a dog"}, TWO, "still has a '{}'"),
        ("a {}", ["{}", "dog"], "still has a '{}'. Rename the class"),
        (["a", "a"], TWO, "classes 'cat' and 'dog' have the same prompt, 'a'"),
        (["a", " a\n"], TWO, "have the same prompt"),
        (["a  b", "a\u00a0b"], TWO, "have the same prompt"),
        (["caf\u00e9", "cafe\u0301"], TWO, "have the same prompt"),
        ("a {}", ["cat", "cat "], "'cat' and 'cat ' have the same prompt"),
        (["a", ""], TWO, "class 'dog' is blank"),
        (["a", " \t"], TWO, "class 'dog' is blank"),
        (["a", "\u200b\u00a0\ufeff"], TWO, "class 'dog' is blank"),
        ("{}", ["", "dog"], "class '' is blank"),
        ("a photo of a {}.", [" ", "dog"], "name of class ' ' is blank"),
        ("a {{}}", TWO, "has no '{}'"),
        (["a", "b\udce9"], TWO, "class 'dog', .* is not valid text"),
        (["a", None], TWO, "is a NoneType"),
        (["a", np.nan], TWO, "is a float"),
        (pd.Series(["a", None], index=TWO), TWO, "class 'dog' is a "),
        (np.ma.masked_array(["a", "b"], [False, True]), TWO, "is a NoneType"),
        ([b"a", b"b"], TWO, "is a bytes"),
        (b"ab", TWO, "is a bytes; expected"),
        ({"a", "b"}, TWO, "is a set; expected"),
        (np.array([["a", "b"]]), TWO, "1 prompts, but y has 2"),
    ],
)
def test_errors(spec, labels, message):
    with pytest.raises(ClassPromptError, match=message):
        make_class_prompts(spec, labels)


def test_texts_that_only_look_alike_to_a_program_are_different():
    codes = "gbeng", "gbsct"
    england, scotland = ("\U0001f3f4" + "".join(chr(0xE0000 + ord(char)) for char in code) for code in codes)
    assert make_class_prompts([england, scotland], TWO) == [england, scotland]
    assert make_class_prompts(["Polish", "polish"], TWO) == ["Polish", "polish"]


def test_many_classes_are_not_all_told():
    with pytest.raises(ClassPromptError) as error:
        make_class_prompts({str(label): "a" for label in range(5000)}, np.arange(5000))
    assert len(str(error.value)) < 800


def test_a_template_of_numbers_or_booleans_warns_and_a_list_does_not():
    with pytest.warns(ClassPromptWarning, match="labels are numbers.*'a photo of a 0.'.*Pass a dict .*{0: 'a cat'"):
        make_class_prompts("a photo of a {}.", [0, 1])
    with pytest.warns(ClassPromptWarning, match="labels are booleans.*'False'"):
        make_class_prompts("{}", np.array([False, True]))
    with pytest.warns(ClassPromptWarning, match="'1'"):
        assert make_class_prompts("{}", [0, 1], {0: "cat"}) == ["cat", "1"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make_class_prompts("a {}", [0, 1], {0: "cat", 1: "dog"}) == ["a cat", "a dog"]
        assert make_class_prompts("a {}", ["0", "1"]) == ["a 0", "a 1"]
        assert make_class_prompts(["0", "1"], [0, 1]) == ["0", "1"]


def test_the_default_is_the_name_alone():
    X, y = make_stripes(n=16)
    service = ToyService()
    clf = BlackVIPClassifier(service, prompter="basis", head=None, max_queries=200, random_state=0, verbose=0)
    assert clf.fit(X, np.array(["cat", "dog"])[y]).class_prompts_ == service.calls[0][1] == ["cat", "dog"]


@pytest.mark.parametrize(
    "spec",
    [
        *(PETS, EncodedClassPrompts(PETS), pd.Series(PETS), ("a cat", "a dog"), "a {}"),
        *({Pet.DOG: "a dog", Pet.CAT: "a cat"}, list(Prompt)),
    ],
)
def test_the_parameter_is_left_alone_and_saved(spec, tmp_path):
    X, y = make_stripes(n=16)
    before = pickle.dumps(spec)
    clf = make_classifier(ToyService(), spec, max_queries=200, class_weight={Pet.CAT: 1, Pet.DOG: Decimal(1)})
    copies = clone(clf), clone(clone(clf))
    clf.fit(X, np.array(["cat", "dog"])[y])
    clf.save(tmp_path / "clf")
    assert clf.get_params()["class_prompts"] is spec
    assert pickle.dumps(spec) == before
    loaded = load(tmp_path / "clf", ToyService())
    assert loaded.class_weight == {"cat": 1, "dog": 1}
    for other in (*copies, clone(loaded)):
        given = other.get_params()["class_prompts"]
        assert isinstance(given, type(spec)) or (isinstance(spec, pd.Series) and given == PETS)
        assert make_class_prompts(given, TWO) == ["a cat", "a dog"]
    assert repr(EncodedClassPrompts(PETS)) == f"EncodedClassPrompts({PETS})"


def test_a_series_of_prompts_belongs_to_a_comparison(tmp_path):
    X, y = make_stripes(n=16)
    names = np.array(["cat", "dog"])[y]
    run = lambda prompts: compare(
        ["zero-shot"], ToyService(), X, names, X, names, class_prompts=prompts, max_queries=99, results=tmp_path / "r"
    )
    run(pd.Series(PETS))
    with pytest.raises(ValueError, match="another|other"):
        run(pd.Series({"cat": "one", "dog": "two"}))


# Meta-estimators that replace labels by numbers


@pytest.fixture(scope="module")
def three():
    X, y = make_stripes(n=36, n_classes=3, side=9)
    return X.reshape(len(X), -1), y


def metas(clf):
    yield OneVsRestClassifier(clf)
    yield OneVsOneClassifier(clf)
    yield OutputCodeClassifier(clf, random_state=0)
    yield VotingClassifier([("one", clf)])
    yield StackingClassifier([("one", clf)], cv=2)
    yield BaggingClassifier(clf, n_estimators=1, random_state=0)


@pytest.mark.parametrize("number", range(6))
def test_a_dict_of_prompts_in_a_meta_estimator_is_an_error_that_bills_nothing(number, three):
    X, y = three
    numbers, names = {0: "a", 1: "b", 2: "c"}, {"x": "a", "y": "b", "z": "c"}
    cases = [(np.array(["x", "y", "z"])[y], names), (np.array(["x", "y", "z"])[y], pd.Series(names))]
    # One class against another has the labels 0 and 1, which are among the keys.
    cases += [(y, numbers)] if number < 3 else [(np.array([1, 2, 3])[y], {**numbers, 3: "d"})]
    for labels, prompts in cases:
        service = ToyService()
        meta = list(metas(make_classifier(service, prompts, image_shape=(9, 9, 3))))[number]
        with pytest.raises(ClassPromptError, match="[Mm]eta-estimator"):
            meta.fit(X, labels)
        assert service.n_images == 0


def test_codes_are_not_labels(three):
    X, y = three
    service = ToyService()
    clf = make_classifier(service, {-1: "a", 1: "b"}, image_shape=(9, 9, 3), max_queries=200)
    with pytest.raises(ClassPromptError, match="meta-estimator"):
        OutputCodeClassifier(clf, code_size=3, random_state=0).fit(X[y < 2], np.where(y[y < 2], 1, -1))
    assert service.n_images == 0
    assert make_class_prompts({-1: "a", 1: "b"}, [-1, 1]) == ["a", "b"]


def test_prompts_that_are_meant_for_numbered_labels(three):
    X, y = three
    labels = np.array(["x", "y", "z"])[y]
    prompts = EncodedClassPrompts({"z": "c", "y": "b", "x": "a"})
    service = ToyService()
    clf = make_classifier(service, prompts, image_shape=(9, 9, 3), max_queries=200)
    vote = VotingClassifier([("one", clf)]).fit(X, labels)
    assert vote.estimators_[0].class_prompts_ == ["a", "b", "c"]
    assert vote.score(X, labels) == 1
    # Numbers that are the labels stay the labels.
    vote = VotingClassifier([("one", clone(clf).set_params(class_prompts={0: "a", 1: "b", 2: "c"}))]).fit(X, y)
    assert vote.estimators_[0].class_prompts_ == ["a", "b", "c"]
    before = service.n_images
    with pytest.raises(ClassPromptError, match="Meta-estimators"):
        OneVsRestClassifier(clf).fit(X, labels)
    assert service.n_images == before
    with pytest.warns(ClassPromptWarning, match="such as VotingClassifier and OneVsRestClassifier replace labels"):
        VotingClassifier([("one", clone(clf).set_params(class_prompts="{}"))]).fit(X, labels)
