"""What a service's scores are: recognised from all plain scores together, and read accordingly."""

import logging
import re
import warnings

import numpy as np
import pytest
import torch
from conftest import ToyService, make_stripes
from scipy.special import expit, softmax

from blackvip import BlackVIPClassifier
from blackvip.exceptions import ScoreTypeWarning
from blackvip.scorers import LabelMappedScorer, ScoreFormat, ScoreReader
from blackvip.scorers.reader import warn_if_lower_is_better
from blackvip.scorers.recognition import recognise

NAN = np.nan
N_IMAGES, N_CLASSES = 80, 10


def believed(n_scores=N_CLASSES, sharpness=3.0, seed=0):
    """Logits (80, n_scores) of a service that is often right, and the class indices (80,)."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, N_CLASSES, N_IMAGES)
    logits = rng.normal(size=(N_IMAGES, n_scores))
    logits[np.arange(N_IMAGES), y] += 1.5
    return sharpness * logits, y


def top(probabilities, k, other=0.0):
    """The k highest scores of each image, and `other` for the rest."""
    return np.where(probabilities >= np.sort(probabilities, axis=1)[:, [-k]], probabilities, other)


def zeros_in_one_row(probabilities):
    changed = probabilities.copy()
    changed[3] = 0
    return changed


Z, Y = believed()
P = softmax(Z, axis=1)
PART = softmax(believed(30)[0], axis=1)[:, :N_CLASSES]  # ten of thirty labels


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (P, ScoreFormat("probabilities")),
        (P.astype(np.float32), ScoreFormat("probabilities")),
        (P.astype(np.float16), ScoreFormat("probabilities")),
        (torch.tensor(P).bfloat16().double().numpy(), ScoreFormat("probabilities")),
        (np.round(255 * P) / 255, ScoreFormat("probabilities", 0.5 / 255)),
        (np.round(P, 3), ScoreFormat("probabilities", 0.0005)),
        (zeros_in_one_row(P), ScoreFormat("probabilities")),
        (
            softmax(believed(1000)[0], axis=1).reshape(N_IMAGES, N_CLASSES, 100).sum(axis=2),
            ScoreFormat("probabilities"),
        ),
        (PART, ScoreFormat("probabilities")),
        (np.round(PART, 4), ScoreFormat("probabilities", 0.00005)),
        (torch.tensor(PART).bfloat16().double().numpy(), ScoreFormat("probabilities")),
        (expit(Z - 3), ScoreFormat("probabilities")),
        (top(P, 3), ScoreFormat("probabilities", 0.0, True)),
        (np.round(top(P, 3), 4), ScoreFormat("probabilities", 0.00005, True)),
        (top(P, 3, NAN), ScoreFormat("probabilities")),
        (top(PART, 3), ScoreFormat("probabilities", 0.0, True)),
        (np.eye(N_CLASSES)[Y], ScoreFormat("probabilities", 0.0, True)),
        (100 * P, ScoreFormat("percent")),
        (np.round(100 * P), ScoreFormat("percent", 0.005)),
        (100 * PART, ScoreFormat("percent")),
        (100 * top(P, 3), ScoreFormat("percent", 0.0, True)),
        (Z, ScoreFormat("logits")),
        (Z - Z.min(), ScoreFormat("logits")),
        (np.maximum(Z, 0), ScoreFormat("logits")),
        (0.25 + 0.01 * Z, ScoreFormat("logits")),  # cosine similarities
        (25 + Z, ScoreFormat("logits")),  # the same, scaled
        (np.where(Z > 0, Z / 20, -np.inf), ScoreFormat("logits")),
        (np.ceil(100 * P), ScoreFormat("percent", 0.005)),
        (torch.tensor(100 * P).to(torch.float8_e4m3fn).double().numpy(), ScoreFormat("percent")),
        (P - 1e-9, ScoreFormat("probabilities")),  # of which the smallest fell below zero by rounding
        (1e-7 * Z, ScoreFormat("logits")),
    ],
)
def test_the_format_is_recognised(scores, expected):
    found = recognise(np.asarray(scores, dtype=np.float64), y=Y)
    assert (found.score_type, found.zeros_missing) == (expected.score_type, expected.zeros_missing)
    assert found.floor == pytest.approx(expected.floor)
    assert found.certain
    assert np.isfinite(found.log_scores(np.asarray(scores, dtype=np.float64))).all()


@pytest.mark.parametrize(
    ("scores", "doubt"),
    [
        (np.round(255 * P), r"always sum to about 25\d; divide them by that"),
        (np.floor(127 * P), "always sum to about 12"),
        (1000 * P, r"always sum to about 1e\+03"),
        (np.where(P < 0.1, -1, P), "all negative scores are -1, as if it marked missing ones; return NaN"),
    ],
)
def test_scores_that_only_look_like_logits_are_called_a_guess(scores, doubt):
    found = recognise(scores, y=Y)
    assert (found.score_type, found.certain) == ("logits", False)
    assert re.search(f"which is a guess, since .*{doubt}", found.finding)
    assert recognise(scores, "logits", Y).certain


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (np.round(255 * PART), ScoreFormat("levels", 0.5 / 255)),
        (np.round(255 * top(PART, 3)), ScoreFormat("levels", 0.5 / 255)),
        (np.round(120 + 6 * Z), ScoreFormat("logits")),
    ],
)
def test_whole_numbers_up_to_255_are_levels_or_logits_as_the_labels_show(scores, expected):
    found = recognise(scores, y=Y)
    assert found == expected
    assert not found.certain
    other = "logits" if expected.score_type == "levels" else "levels"
    assert "a head that is calibrated to them has a cross-validated log loss of" in found.finding
    assert found.finding.endswith(f"If this is wrong, set score_type to '{other}'.")
    declared = recognise(scores, expected.score_type, Y)
    assert declared == expected
    assert declared.certain
    lowest, highest = declared.log_scores(np.array([[0.0, 255.0]]))[0]
    assert (lowest, highest) == ((np.log(0.5 / 255), 0) if other == "logits" else (0, 255))


@pytest.mark.parametrize("decimals", [1, 2, 3, 4, 5])
def test_rounding_is_found_whatever_carries_it(decimals):
    sharp = softmax(2 * Z, axis=1)
    for scores in (np.round(sharp, decimals), np.round(sharp, decimals).astype(np.float32).astype(float)):
        assert recognise(scores).floor == pytest.approx(0.5 * 10**-decimals)
        assert recognise(100 * scores).floor == pytest.approx(0.5 * 10**-decimals)


@pytest.mark.parametrize("scores", [P, np.full((40, 2), 0.5), np.array([[0.25, 0.75]]), np.eye(10)[Y]])
def test_scores_that_are_not_rounded_keep_their_precision(scores):
    assert recognise(scores).floor == 0
    tiny = np.array([[1 - 1e-30, 1e-30]])
    np.testing.assert_array_equal(recognise(scores).log_scores(tiny), np.log(tiny))


def test_scores_that_could_be_two_things_are_decided_by_the_labels_or_called_a_guess():
    cosines = 0.25 + 0.01 * Z
    decided, guessed = recognise(cosines, y=Y), recognise(cosines)
    assert (decided.score_type, decided.certain) == ("logits", True)
    assert "as the labels show: a head that is calibrated to them has a cross-validated log loss" in decided.finding
    assert (guessed.score_type, guessed.certain) == ("probabilities", False)
    assert recognise(cosines, y=np.arange(N_IMAGES)).certain is False  # an image of each class decides nothing
    alike = np.exp(cosines)[:, :2] / 10  # of which the logarithm tells just as much
    assert recognise(0.2 + alike / 100, y=Y % 2).certain is False


def test_what_was_found_is_said_with_the_range_the_sums_and_how_to_declare_it():
    found = recognise(np.round(100 * P, 1), y=Y).finding
    assert found.startswith("percent, as the sums show (values from 0 to 100, sums of an image's scores from 99.8 to 1")
    assert "rounded to 0.1). If this is wrong, set score_type to 'logits' or 'probabilities'." in found
    assert recognise(Z, "logits").finding.startswith("logits, as declared (values from ")


def test_a_declared_score_type_is_believed():
    scores = np.round(P, 2)
    assert recognise(scores, "logits") == ScoreFormat("logits")
    doubted = recognise(scores, "logits")
    assert doubted.finding.startswith("logits, as declared, although they sum like probabilities (values from ")
    assert not doubted.certain
    assert recognise(Z, "logits").certain
    assert recognise(expit(Z), "logits").certain
    # Multiples of 0.005, as means of two rounded numbers.
    assert recognise(scores / 2, "probabilities") == ScoreFormat("probabilities", 0.0025)
    with pytest.raises(
        ValueError, match="declares score_type='odds'; expected 'logits', 'probabilities', 'percent' or 'levels'"
    ):
        ScoreReader("odds")


def test_log_scores():
    probabilities, percent, logits = (ScoreFormat(name) for name in ("probabilities", "percent", "logits"))
    expected = np.log([[0.5, 1e-9]])
    np.testing.assert_allclose(probabilities.log_scores(np.array([[0.5, 1e-9]])), expected)
    np.testing.assert_allclose(percent.log_scores(np.array([[50, 1e-7]])), expected)
    np.testing.assert_array_equal(logits.log_scores(np.array([[3.0, -1.0]])), [[3.0, -1.0]])
    rounded = ScoreFormat("probabilities", 0.005)
    np.testing.assert_array_equal(rounded.log_scores(np.array([[1.0, 0.0]])), np.log([[1.0, 0.005]]))


@pytest.mark.parametrize("other", [NAN, 0.0])
def test_missing_scores_are_lower_than_all_that_were_given(other):
    scores = np.array(
        [
            [0.5, 0.1, other, other],
            [0.8, 0.16, other, other],  # the rest is less than half the smallest
            [0.6, 0.4, other, other],
            [1e-9, other, other, other],
            [0.9, 0.8, 0.4, other],  # of sigmoids, which leave no rest
            [0.4, 0.3, 0.2, 0.1],
        ]
    )
    expected = [
        [0.5, 0.1, 0.05, 0.05],
        [0.8, 0.16, 0.02, 0.02],
        [0.6, 0.4, 1e-6, 1e-6],
        [1e-9, 5e-10, 5e-10, 5e-10],
        [0.9, 0.8, 0.4, 0.2],
        [0.4, 0.3, 0.2, 0.1],
    ]
    np.testing.assert_allclose(np.exp(ScoreFormat("probabilities").log_scores(scores)), expected)
    np.testing.assert_allclose(np.exp(ScoreFormat("percent").log_scores(100 * scores)), expected)
    assert np.ptp(ScoreFormat("probabilities").log_scores(np.full((1, 4), other))) == 0
    logits = np.array([[3.0, NAN, 1.0], [-np.inf, -2.0, NAN], [NAN] * 3])
    half = np.log(2)
    expected = [[3, 1 - half, 1], [-2 - half, -2, -2 - half], [0] * 3]
    np.testing.assert_allclose(ScoreFormat("logits").log_scores(logits), expected)


class Undeclared:
    """A toy service whose softmax over forty labels is passed on in some form."""

    def __init__(self, form):
        self.form = form

    def __call__(self, images, class_prompts):
        logits = ToyService()(images, class_prompts)
        others = np.tile(np.linspace(-2, 1, 36), (len(logits), 1))
        return self.form(softmax(np.hstack([logits, others]), axis=1)[:, : len(class_prompts)])


@pytest.mark.parametrize(
    "form",
    [
        lambda p: p,
        lambda p: 100 * p,
        lambda p: torch.tensor(top(p, 2)).bfloat16(),
    ],
    ids=["part", "percent", "top-2 in bfloat16"],
)
def test_a_fit_is_the_same_without_a_declaration(form):
    X, y = make_stripes(n=60, n_classes=4, background=0.6)

    def fitted(score_type):
        clf = BlackVIPClassifier(
            Undeclared(form), prompter="basis", max_queries=400, score_type=score_type, random_state=0, verbose=0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("error", ScoreTypeWarning)
            return clf.fit(X, y)

    undeclared = fitted("auto")
    declared = fitted(undeclared.score_type_)
    assert undeclared.score_type_ == ("percent" if form(np.eye(4)).max() > 1 else "probabilities")
    np.testing.assert_array_equal(undeclared.predict_proba(X), declared.predict_proba(X))


def test_the_first_portion_does_not_decide(caplog):
    """Its images are all dark, and the service returns zeros for them, or a sum of 1."""
    X, y = make_stripes(n=60)
    X, y = X[np.argsort(y, kind="stable")], np.sort(y)
    n_seen = 0

    def service(images, class_prompts):
        nonlocal n_seen
        n_seen += len(images)
        scores = ToyService()(images, class_prompts)
        return 0 * scores + [1, 0, 0][: scores.shape[1]] if n_seen <= 16 else 30 * scores

    clf = BlackVIPClassifier(
        service, prompter="basis", max_queries=60, images_per_call=8, random_state=0, verbose=0, head=None
    )
    caplog.set_level(logging.INFO, "blackvip")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        clf.set_params(max_queries=200).fit(X, y)
    assert clf.score_type_ == "logits"
    assert caplog.text.count("Scores are read as logits, as the range shows (values from ") == 1


def test_a_guess_is_a_warning_that_says_how_to_declare_it():
    X, y = make_stripes(n=2)  # an image of each class decides nothing
    cosines = lambda images, prompts: 0.2 + ToyService()(images, prompts) / 50
    clf = BlackVIPClassifier(cosines, prompter="basis", max_queries=100, random_state=0, verbose=0)
    with pytest.warns(ScoreTypeWarning, match=r"which is a guess, .* set score_type to 'logits' or 'percent'"):
        clf.fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScoreTypeWarning)
        warnings.simplefilter("ignore", UserWarning)
        clf.set_params(score_type="probabilities").fit(X, y)


def test_a_mapping_of_labels_is_learned_from_scores_that_were_read_rightly():
    """Percent of forty labels, of which only part is returned."""
    X, y = make_stripes(n=80, n_classes=4, background=0.6)
    labels = [f"label {k}" for k in range(12)]

    def service(images, prompts):
        logits = ToyService()(images, list("abcd"))
        return 60 * softmax(np.repeat(logits, 3, axis=1) - [0, 1, 2] * 4, axis=1)

    clf = BlackVIPClassifier(
        LabelMappedScorer(service, labels), prompter="basis", max_queries=300, random_state=0, verbose=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        clf.fit(X, y)
    assert clf.score_type_ == "percent"
    learned = LabelMappedScorer(service, labels).learn(X, y, [f"a {label}" for label in np.unique(y)])
    assert learned.mapping.score_format.score_type == "percent"


@pytest.mark.parametrize("n_classes", [2, 4])
def test_distances_are_told_about_once_and_how_to_turn_them(n_classes):
    X, y = make_stripes(n=60, n_classes=n_classes, side=12)
    clf = BlackVIPClassifier(None, prompter="basis", head=None, max_queries=200, random_state=0, verbose=0)
    distances = lambda images, prompts: 10 - ToyService()(images, prompts)
    with pytest.warns(ScoreTypeWarning, match=r"right for 0% of .* below chance, .* 100%.* return -scores") as told:
        clf.set_params(score_fn=distances, score_type="logits").fit(X, y)
    (message,) = [str(warning.message) for warning in told if warning.category is ScoreTypeWarning]
    assert ("check the order of the class prompts" in message) == (n_classes == 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScoreTypeWarning)
        rng = np.random.default_rng(0)
        for scores in (Z, rng.normal(size=Z.shape), -np.eye(N_CLASSES)[np.zeros(N_IMAGES, int)]):
            warn_if_lower_is_better(scores, Y)
        warn_if_lower_is_better(-Z[:6], Y[:6])  # too few to tell
