"""What something is, in JSON."""

import json

import numpy as np

from blackvip.journal.identity import describe, differences, is_secret, name_of


def test_descriptions_are_json_and_tell_values_apart():
    values = [
        *(None, True, 1, 1.5, np.nan, np.inf, "1", b"1", [1], {"a": 1}, {"a": "1"}, {1: "a"}),
        *(
            np.array([1.0]),
            np.array([1]),
            np.array(["a"], object),
            describe,
            name_of,
            np.ndarray,
            np.random.RandomState,
        ),
    ]
    texts = [json.dumps(describe(value), sort_keys=True, allow_nan=False) for value in values]
    assert len(set(texts)) == len(texts)
    assert describe((np.int64(3), np.float32(0.5), {"b", "a"})) == [3, 0.5, ["a", "b"]]


def test_secrets_are_known_by_their_names():
    for name in (
        "key",
        "api_key",
        "apiKey",
        "APIKey",
        "X-Api-Key",
        "access_token",
        "auth",
        "Authorization",
        "secret_2",
    ):
        assert is_secret(name), name
    for name in ("keyword", "tokenizer", "monkey", "author", "model_name", "pretrained", "passes"):
        assert not is_secret(name), name


def test_differences_are_limited_and_short():
    found = {str(n): n for n in range(20)}
    named = differences(found, {name: -1 - n for name, n in found.items()})
    assert len(named) == 9
    assert named[-1] == "and 12 more"
    assert len(differences({"a": "x" * 1000}, {"a": "y" * 1000})[0]) < 200
    assert differences({"a": [1, 2]}, {"a": [1, 3]}) == ["a[1] was 2 and is 3 now"]
    assert differences({"a": 1, "b": [{}]}, {"a": 1.0, "b": [{}]}) == []
    assert differences({"a": 1}, {"a": True}) == ["a was 1 and is True now"]
    assert differences({"a": {"sha256": "0" * 64}}, {"a": {"sha256": "1" * 64}}) == [
        "a differ (SHA-256 000000000000 then, 111111111111 now)"
    ]
