"""Services with labels of their own: the mappings against their definitions, and scores for classes from them."""

import pickle
import warnings

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression

from blackvip import BlackVIPClassifier
from blackvip.exceptions import ClassPromptError, PromptNotUsedWarning, ScoreError
from blackvip.scorers import Ledger, SharedBudget
from blackvip.scorers.answers import scores_of
from blackvip.scorers.cached import CachedScorer
from blackvip.scorers.labels.mapping import LabelMapping, bayesian_weights, frequency_weights, label_counts
from blackvip.scorers.labels.scorer import LabelMappedScorer, learning_scorer
from blackvip.scorers.labels.texts import text_matches

NAN = np.nan


def random_answers(n=60, n_labels=12, n_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, n_labels)) * 2, rng.integers(0, n_classes, n)


# --- the mappings ---


@pytest.mark.parametrize("n_top", [None, 1, 3, 12])
@pytest.mark.parametrize("weighted", [False, True])
def test_counts_are_those_of_the_definition(n_top, weighted):
    log_scores, y = random_answers()
    log_scores[7] = 0.3  # nothing was recognised
    weights = np.random.default_rng(1).uniform(size=len(y)) if weighted else None
    expected = np.zeros((12, 4))
    for i, (row, target) in enumerate(zip(log_scores, y)):
        probabilities = np.exp(row) / np.exp(row).sum()
        for label in range(12):
            rank = int((row > row[label]).sum())
            if i != 7 and rank < (n_top or 1):
                expected[label, target] += (weights[i] if weighted else 1) * (
                    1 if n_top is None else probabilities[label]
                )
    np.testing.assert_allclose(label_counts(log_scores, y, 4, n_top, weights), expected, atol=1e-12)


def test_bayesian_weights_are_those_of_the_definition():
    log_scores, y = random_answers()
    counts = label_counts(log_scores, y, 4)
    for smoothing in (0.0, 1.0, 2.5):
        weights = bayesian_weights(counts, smoothing)
        expected = np.zeros_like(counts)
        for s in range(12):
            for t in range(4):
                if counts[s].sum():
                    expected[s, t] = counts[s, t] / (sum(counts[s, u] for u in range(4)) + smoothing)
        for t in range(4):
            expected[:, t] /= sum(expected[s, t] for s in range(12))
        np.testing.assert_allclose(weights, expected, atol=1e-12)
    counts[:, 2] = 0  # a class without images
    np.testing.assert_allclose(bayesian_weights(counts)[:, 2], 1 / 12)
    np.testing.assert_allclose(bayesian_weights(counts).sum(axis=0), 1)


def test_frequency_weights_take_the_greatest_counts_first_and_no_label_twice():
    counts = np.array([[5, 4, 0], [3, 4, 1], [0, 2, 1], [0, 0, 0]], float)
    tie_break = np.array([[0, 0, 0], [0, 0, 0.2], [0, 0, 0.7], [0, 0, 0]])
    np.testing.assert_array_equal(frequency_weights(counts, tie_break), [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    rng = np.random.default_rng(0)
    for _ in range(20):
        counts = rng.permutation(30).reshape(6, 5).astype(float)
        left, expected = counts.copy(), np.zeros_like(counts)
        for _ in range(5):
            place = np.unravel_index(left.argmax(), left.shape)
            expected[place] = 1
            left[place[0]], left[:, place[1]] = -1, -1
        np.testing.assert_array_equal(frequency_weights(counts), expected)
    with pytest.raises(
        ValueError, match="each of 5 classes a label of its own, but there are only 4 labels; use mapping"
    ):
        frequency_weights(np.zeros((4, 5)))


def test_a_mapping_mixes_probabilities():
    weights = np.array([[0.5, 0], [0.5, 0.2], [0, 0.8]])
    mapping = LabelMapping(["x", "y", "z"], ["one", "two"], weights)
    log_scores = np.log([[0.6, 0.3, 0.1], [1, 1, 1], [1e-30, 1e-30, 1]]) + [[5], [0], [-2]]  # logits have any offset
    mixed = np.array([[0.45, 0.14], [0.5 / 3 * 2, 1 / 3], [0, 0.8]])
    expected = np.maximum(mixed / mixed.sum(axis=1, keepdims=True), 1e-6)
    np.testing.assert_allclose(np.exp(mapping.log_scores(log_scores)), expected, rtol=1e-9)
    assert mapping.top_labels(2) == {"one": {"x": 0.5, "y": 0.5}, "two": {"z": 0.8, "y": 0.2}}


# --- labels' texts ---


def matched(labels, class_prompts):
    """The labels of each class prompt."""
    matches = text_matches(labels, class_prompts)
    return {prompt: [labels[row] for row in np.flatnonzero(column)] for prompt, column in zip(class_prompts, matches.T)}


def test_texts_match_from_the_same_to_contained_words():
    cat, dog = "a photo of a cat.", "a photo of a dog."
    assert matched(["Cat", "cats", "tiger cat", "photo", "DOG!", "sofa"], [cat, dog]) == {
        cat: ["Cat", "cats"],
        dog: ["DOG!"],
    }
    assert matched(["tiger cat", "sofa", "guide dog, service dog"], [cat, dog]) == {
        cat: ["tiger cat"],
        dog: ["guide dog, service dog"],
    }
    assert matched(["a photo of a cat.", "cat"], [cat, dog])[cat] == ["a photo of a cat."]
    assert matched(["bear", "ice bear, polar bear"], ["polar bear", "brown bear"]) == {
        "polar bear": ["ice bear, polar bear"],
        "brown bear": [],  # "bear" may be either
    }
    assert matched(["café", "Streetcar/tram"], ["the Cafe", "tram_"]) == {
        "the Cafe": ["café"],
        "tram_": ["Streetcar/tram"],
    }
    assert matched(["Owl", "Ape"], ["this is an owl here", "this is an ape here"]) == {
        "this is an owl here": ["Owl"],
        "this is an ape here": ["Ape"],
    }
    assert matched(["dog", "hot dog"], ["a dog", "a hot dog"]) == {"a dog": ["dog"], "a hot dog": ["hot dog"]}
    assert matched(["犬", "猫", "☆"], ["猫", "犬の写真", "★"]) == {"猫": ["猫"], "犬の写真": [], "★": []}
    assert matched(["cat"], ["a cat in the photo"]) == {"a cat in the photo": ["cat"]}


def test_a_class_without_any_matching_text_is_an_error_that_names_near_labels():
    service = lambda images, labels: np.zeros((len(images), 3))
    scorer = LabelMappedScorer(service, ["Persian cat", "beagle", "tabby"], mapping="text")
    with pytest.raises(ClassPromptError, match="No label's text matches .*'a photo of a dog.'; the closest are .*blm"):
        scorer(IMAGES, ["a photo of a cat.", "a photo of a dog."])


# --- the scorer ---

LABELS = ["tabby cat", "Persian cat", "beagle", "dalmatian", "sofa"]
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
CAT, DOG = "a photo of a cat.", "a photo of a dog."


class LabelService:
    """A service of a few labels: which of its labels an image's brightness is nearest to."""

    score_type = "probabilities"
    images_per_call = 4
    price_per_image = 0.01

    def __init__(self, as_dicts=False, n_top=None):
        self.as_dicts = as_dicts
        self.n_top = n_top or len(LABELS)
        self.n_images = 0
        self.asked = None

    def __call__(self, images, labels):
        self.n_images += len(images)
        self.asked = labels
        assert len(images) <= 4
        brightness = images.mean(axis=(1, 2, 3)) / 255
        centres = np.linspace(0, 1, len(LABELS))
        probabilities = softmax(-20 * np.abs(brightness[:, None] - centres), axis=1)
        if not self.as_dicts:
            return probabilities
        return [{LABELS[k]: row[k] for k in np.argsort(-row)[: self.n_top]} for row in probabilities]


def bright_images(n=40, seed=0):
    """Images of two classes: a cat's brightness is near that of the first two labels, a dog's near the next two."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    level = np.where(y == 0, rng.uniform(0.0, 0.3, n), rng.uniform(0.45, 0.8, n))
    X = np.clip(level[:, None, None, None] + rng.normal(0, 0.02, (n, 6, 6, 3)), 0, 1)
    return np.round(255 * X).astype(np.uint8), np.array(["cat", "dog"])[y]


@pytest.mark.parametrize("as_dicts", [False, True])
def test_asked_for_its_labels_it_gives_the_services_scores_for_them(as_dicts):
    service = LabelService(as_dicts)
    scorer = LabelMappedScorer(service, LABELS[:4] if as_dicts else LABELS)
    scores = scorer(IMAGES, scorer.service_labels)
    expected = LabelService()(IMAGES[:4], LABELS)
    np.testing.assert_array_equal(scores[:4], expected[:, :4] if as_dicts else expected)
    assert service.asked == scorer.service_labels
    assert (scorer.images_per_call, scorer.price_per_image, scorer.score_type) == (4, 0.01, "probabilities")
    numbered = LabelMappedScorer(LabelService(), labels=5)
    np.testing.assert_array_equal(numbered(IMAGES, ["0", "1", "2", "3", "4"]), scorer_scores(IMAGES))
    with pytest.raises(ScoreError, match="array of shape"):
        LabelMappedScorer(LabelService(), labels=4)(IMAGES, ["0", "1", "2", "3"])


def scorer_scores(images):
    return LabelMappedScorer(LabelService(), LABELS)(images, LABELS)


def test_text_gives_the_highest_score_of_the_labels_that_mean_a_class():
    raw = scorer_scores(IMAGES)
    scorer = LabelMappedScorer(LabelService(), [*LABELS[:3], "spotted dog", "sofa"], mapping="text")
    scores = scorer(IMAGES, [CAT, DOG])
    np.testing.assert_array_equal(scores, np.stack([raw[:, :2].max(axis=1), raw[:, 3]], axis=1))
    unknown = LabelMappedScorer(LabelService(as_dicts=True, n_top=2), mapping="text")
    prompts = ["cat", "beagle"]
    scores = unknown(IMAGES, prompts)
    top = np.where(raw >= np.sort(raw, axis=1)[:, [-2]], raw, NAN)
    np.testing.assert_array_equal(scores, np.stack([np.fmax(top[:, 0], top[:, 1]), top[:, 2]], axis=1))
    each = [unknown(IMAGES[[k]], prompts)[0] for k in range(6)]
    np.testing.assert_array_equal(each, scores)  # whatever comes with it
    with pytest.raises(ScoreError, match="returned a ndarray of scores without names; .*labels=None"):
        LabelMappedScorer(LabelService(), mapping="text")(IMAGES, prompts)


@pytest.mark.parametrize("mapping", ["frequency", "blm", "blm+"])
@pytest.mark.parametrize("text_weight", [0, 2.0])
def test_fit_labels_learns_what_its_parts_say_and_changes_nothing(mapping, text_weight):
    log_scores, y = random_answers(n_labels=5, n_classes=2)
    weights = np.random.default_rng(3).uniform(size=len(y))
    scorer = LabelMappedScorer(LabelService(), LABELS, mapping, smoothing=0.5, n_top=2, text_weight=text_weight)
    before = pickle.dumps(scorer.get_params())
    learned = scorer.fit_labels(log_scores, y, [CAT, DOG], weights)
    assert pickle.dumps(scorer.get_params()) == before
    assert scorer.learns
    counts = label_counts(log_scores, y, 2, 2 if mapping == "blm+" else None, weights)
    counts[:2, 0] += text_weight
    if mapping == "frequency":
        expected = frequency_weights(counts, label_counts(log_scores, y, 2, 5, weights))
    else:
        expected = bayesian_weights(counts, 0.5)
    np.testing.assert_allclose(learned.weights, expected)
    assert (learned.labels, learned.class_prompts) == (LABELS, [CAT, DOG])


def test_a_text_counts_for_a_class_that_has_no_images_yet():
    log_scores, y = random_answers(n_labels=5, n_classes=2)
    y[:] = 1
    learned = LabelMappedScorer(LabelService(), LABELS).fit_labels(log_scores, y, [CAT, DOG])
    assert learned.top_labels()[CAT].keys() == {"tabby cat", "Persian cat"}


@pytest.mark.parametrize("as_dicts", [False, True])
@pytest.mark.parametrize("mapping", ["frequency", "blm", "blm+"])
def test_learn_finds_the_labels_and_the_mapping_and_bills_each_image_once(as_dicts, mapping):
    X, y = bright_images()
    service = LabelService(as_dicts, n_top=3 if as_dicts else None)
    scorer = LabelMappedScorer(service, mapping=mapping)
    learned = scorer.learn(X, y, "a photo of a {}.")
    assert service.n_images == len(X)
    assert (scorer.labels, scorer.mapping) == (None, mapping)
    assert learned.labels == (sorted(LABELS) if as_dicts else ["0", "1", "2", "3", "4"])
    assert not learned.learns
    X_new, y_new = bright_images(seed=1)
    for fitted in (learned, clone(learned), pickle.loads(pickle.dumps(learned))):
        scores = fitted(X_new, [CAT, DOG])
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
        assert (np.array(["cat", "dog"])[scores.argmax(axis=1)] == y_new).mean() >= (
            0.6 if mapping == "frequency" else 1
        )
    with pytest.raises(ClassPromptError, match="was learned for .*cat.* but the class prompts are .*bird"):
        learned(X_new, [CAT, "a photo of a bird."])


def test_images_for_which_nothing_is_recognised_have_no_scores():
    def service(images, labels):
        return [{} if image.mean() < 128 else {"sofa": 0.9, "lamp": 0.1} for image in images]

    X = np.repeat(np.array([0, 255, 0, 255], np.uint8), 48).reshape(4, 4, 4, 3)
    scorer = LabelMappedScorer(service, mapping="blm").learn(X, ["bed", "lamp", "bed", "lamp"])
    scores = scorer(X, scorer.mapping.class_prompts)
    np.testing.assert_array_equal(np.isnan(scores).all(axis=1), [True, False, True, False])
    with pytest.raises(ScoreError, match="no score at all for 4 images"):
        LabelMappedScorer(lambda images, labels: [{} for _ in images], ["sofa"]).learn(X, [0, 1, 0, 1])
    with pytest.raises(ScoreError, match="returned 3 answers for 4 images"):
        LabelMappedScorer(lambda images, labels: np.zeros((3, 2))).learn(X, [0, 1, 0, 1])


def test_errors_say_what_to_do():
    scorer = LabelMappedScorer(LabelService(), LABELS)
    with pytest.raises(
        NotFittedError, match="mapping='blm.', which must first be learned from labelled images. BlackVIPClassifier"
    ):
        scorer(IMAGES, [CAT, DOG])
    with pytest.raises(ValueError, match="labels=None, but the mapping is learned from scores for known labels"):
        LabelMappedScorer(LabelService()).service_labels  # noqa: B018
    for wrong in ({"mapping": "best"}, {"labels": 0}, {"smoothing": -1}, {"n_top": 0}, {"text_weight": -1}):
        with pytest.raises(ValueError, match=f"The {next(iter(wrong))!r} parameter of LabelMappedScorer must be"):
            LabelMappedScorer(LabelService(), LABELS).set_params(**wrong)(IMAGES, LABELS)


class Halves:
    """A label service that answers in two pieces, the second half first."""

    def __call__(self, images, labels):
        raise AssertionError("it has answers")

    def answers(self, images, labels):
        half = len(images) // 2
        for rows in (np.arange(half, len(images)), np.arange(half)):
            yield rows, [{LABELS[0]: image.mean() / 255, "else": 0.1} for image in images[rows]]


def test_answers_are_passed_on_as_they_come():
    scorer = LabelMappedScorer(Halves(), mapping="text")
    pieces = list(scores_of(scorer, IMAGES, [CAT, DOG]))
    assert [rows.tolist() for rows, _ in pieces] == [[3, 4, 5], [0, 1, 2]]
    scores = scorer(IMAGES, [CAT, DOG])
    np.testing.assert_allclose(scores[:, 0], IMAGES.mean(axis=(1, 2, 3)) / 255)
    assert np.isnan(scores[:, 1]).all()


def test_a_budget_and_a_cache_around_it_count_what_is_sent(tmp_path):
    service = LabelService(as_dicts=True)
    mapped = LabelMappedScorer(service, LABELS)
    scorer = SharedBudget(CachedScorer(mapped, tmp_path / "cache"), 100)
    assert learning_scorer(scorer) is mapped
    assert learning_scorer(service) is learning_scorer(clone(mapped).set_params(mapping="text")) is None
    ledger = Ledger(scorer, LABELS, max_queries=20)
    first = ledger.log_scores(IMAGES)
    np.testing.assert_array_equal(ledger.log_scores(IMAGES), first)
    assert service.n_images == ledger.n_queries == scorer.n_queries == 6


# --- what it is good for ---


def digits(n_shots, seed, noise=4.0):
    """Log scores of a service that knows three shapes of each digit, for noisy digits that are named otherwise."""
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(X))
    X, y = X[order], y[order]
    shapes = np.zeros(800, int)
    for digit in range(10):
        rows = np.flatnonzero(y[:800] == digit)
        shapes[rows] = 3 * digit + KMeans(3, n_init=1, random_state=seed).fit_predict(X[rows])
    service = LogisticRegression(C=0.01, max_iter=3000).fit(X[:800], shapes)
    logits = service.decision_function(np.clip(X[800:] + rng.normal(0, noise, X[800:].shape), 0, 16))
    return split(log_softmax(logits, axis=1), rng.permutation(10)[y[800:]], n_shots)


def random_concepts(n_shots, seed):
    """Log scores of a service of 100 concepts, for ten classes that are five of them each."""
    rng = np.random.default_rng(seed)
    concepts = rng.normal(size=(100, 30))
    members = [rng.choice(100, 5, replace=False) for _ in range(10)]
    y = np.arange(400) % 10
    features = 0.7 * np.stack([concepts[rng.choice(members[target])] for target in y]) + rng.normal(0, 0.8, (400, 30))
    return split(log_softmax(features @ concepts.T / 2, axis=1), y, n_shots)


def split(log_scores, y, n_shots):
    train = np.concatenate([np.flatnonzero(y == target)[:n_shots] for target in range(10)])
    test = np.setdiff1d(np.arange(len(y)), train)
    return log_scores[train], y[train], log_scores[test], y[test]


@pytest.mark.parametrize(("task", "ahead", "of_logits"), [(digits, 0.1, 0.02), (random_concepts, 0.15, 0.05)])
@pytest.mark.parametrize("n_shots", [4, 16])
def test_bayesian_mappings_are_better_than_one_label_each_and_probabilities_mix_better(task, ahead, of_logits, n_shots):
    accuracy = {name: [] for name in ("frequency", "blm", "blm+", "logits")}
    for seed in range(4):
        train, y, test, y_test = task(n_shots, seed)
        names = [str(label) for label in range(train.shape[1])]
        for mapping in ("frequency", "blm", "blm+"):
            learned = LabelMappedScorer(len, names, mapping).fit_labels(train, y, list("abcdefghij"))
            accuracy[mapping].append((learned.log_scores(test).argmax(axis=1) == y_test).mean())
        logits = np.maximum(test, np.log(1e-6)) @ learned.weights
        accuracy["logits"].append((logits.argmax(axis=1) == y_test).mean())
    means = {name: np.mean(values) for name, values in accuracy.items()}
    assert means["blm"] > means["frequency"] + ahead
    assert means["blm+"] > means["blm"] - 0.02
    assert means["blm+"] > means["logits"] + of_logits


@pytest.mark.parametrize("how", ["text", "learned"])
def test_a_classifier_is_trained_on_it(how):
    X, y = bright_images(60)
    service = LabelService(as_dicts=True, n_top=3)
    if how == "text":
        names = {"cat": "cat", "dog": "beagle"}
        scorer = LabelMappedScorer(service, LABELS, mapping="text")
    else:
        names = {"cat": CAT, "dog": DOG}
        scorer = LabelMappedScorer(service).learn(X, y, names)
    n_before = service.n_images
    clf = BlackVIPClassifier(scorer, names, prompter="basis", max_queries=500, random_state=0, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptNotUsedWarning)
        clf.fit(X, y)
    assert service.n_images - n_before == clf.n_queries_ <= 500
    assert clf.score_type_ == "probabilities"
    assert clf.baselines_["zero_shot"].accuracy > 0.6
    assert clf.score(*bright_images(seed=1)) > 0.9


def test_within_a_fit_a_ledger_asks_for_labels_and_what_is_learned_maps_what_it_gives():
    """As `BlackVIPClassifier` is to call it: the answers that are paid for first are also those that it learns from."""
    X, y = bright_images()
    classes, index = np.unique(y, return_inverse=True)
    service = LabelService(as_dicts=True, n_top=3)
    scorer = LabelMappedScorer(service, LABELS)
    ledger = Ledger(scorer, scorer.service_labels, max_queries=100)
    raw = ledger.log_scores(X)
    mapping = scorer.fit_labels(raw, index, [CAT, DOG])
    assert service.n_images == ledger.n_queries == len(X)
    assert ledger.score_format.score_type == "probabilities"
    assert (classes[mapping.log_scores(raw).argmax(axis=1)] == y).all()
    X_new, y_new = bright_images(seed=1)
    assert (classes[mapping.log_scores(ledger.log_scores(X_new)).argmax(axis=1)] == y_new).all()


@pytest.mark.parametrize("labels", [[], {"x", "y"}, {"x": 0, "y": 1}, ["x", None], ["x", np.nan]])
def test_labels_without_an_order_or_a_name_are_refused(labels):
    with pytest.raises(ValueError, match=r"^labels(\[1\] is missing| is .*; expected a list)"):
        _ = LabelMappedScorer(LabelService(), labels).service_labels
