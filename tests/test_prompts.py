import numpy as np
import pytest

from blackvip import ClassPromptError
from blackvip.inputs.class_prompts import make_class_prompts


def test_sequence_is_taken_in_order():
    assert make_class_prompts(("zero", "one"), [0, 1]) == ["zero", "one"]
    assert make_class_prompts(np.array(["zero", "one"]), [0, 1]) == ["zero", "one"]


def test_labels_of_any_type_fill_a_template():
    assert make_class_prompts("digit {}!", np.array([3, 7])) == ["digit 3!", "digit 7!"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("a photo", "has no '{}'"),
        ({"cat": "a cat"}, r"no prompt for the classes \['dog'\]"),
        (["a cat"], "1 prompts, but y has 2 classes"),
        (["a cat", 3], "prompt of class 'dog' is a int"),
        (7, "is a int; expected"),
    ],
)
def test_errors(spec, message):
    with pytest.raises(ClassPromptError, match=message):
        make_class_prompts(spec, ["cat", "dog"])
