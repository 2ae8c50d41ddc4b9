"""A service's vectors: features of the fused head that cost no image, kept wherever scores are."""

import copy

import numpy as np
import pytest
from servers.shared import PROMPTS, make_images, scorer_of
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from blackvip import BlackVIPClassifier, FusedHead, load
from blackvip.comparison.baselines import ServiceBaselines
from blackvip.exceptions import ScoreError
from blackvip.heads.stack import Examples
from blackvip.heads.vector_probe import fit_vector_probe
from blackvip.scorers import CachedScorer, LabelMappedScorer, Ledger, ParallelScorer
from blackvip.scorers.contract import check_scores
from blackvip.scorers.http import EmbeddingCache, Embeddings, ImageVectors

NAMES = np.array(["a", "b", "c"])


class Embedder:
    """A service whose vector shows the class, in seven mixed numbers, and whose class prompts say little about it."""

    score_type = "logits"
    _mixture = np.linalg.qr(np.random.default_rng(7).normal(size=(7, 7)))[0]

    def __init__(self, vector_size=7, refused=()):
        self.vector_size = vector_size
        self.refused = set(refused)
        self.n_images = 0

    def __call__(self, images, class_prompts):
        numbers = self.n_images + np.arange(len(images))
        self.n_images += len(images)
        corner = images[:, :7, 0, 0].astype(float) / 255
        vectors = corner @ self._mixture
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        scores = 20 * vectors @ np.linspace(-1, 1, 7 * len(class_prompts)).reshape(7, -1)
        answer = np.hstack([scores, vectors]) if self.vector_size else scores
        answer[np.isin(numbers, list(self.refused))] = np.nan
        return answer


def images_of(n, seed=0):
    """Noise, which nothing local can classify, with the class in seven pixels."""
    rng, y = np.random.default_rng(seed), np.arange(n) % 3
    X = rng.integers(0, 256, (n, 12, 12, 3), dtype=np.uint8)
    centres = np.random.default_rng(3).uniform(60, 200, (3, 7))
    X[:, :7, 0, 0] = np.clip(centres[y] + 25 * rng.normal(size=(n, 7)), 0, 255)
    return X, NAMES[y]


X, Y = images_of(60)
X_TEST, Y_TEST = images_of(90, seed=1)


def fitted(service, **parameters):
    defaults = {"prompter": "autocontrast", "max_queries": 200, "random_state": 0, "verbose": 0}
    return BlackVIPClassifier(service, **{**defaults, **parameters}).fit(X, Y)


@pytest.fixture(scope="module")
def clf():
    return fitted(Embedder())


def test_the_probe_is_a_ridge_regression_judged_on_other_images():
    rng = np.random.default_rng(0)
    n, index = 45, np.arange(45) % 3
    vectors = rng.normal(size=(n + 20, 6)) + np.eye(6)[np.concatenate([index, index[:20]])]
    rows = np.concatenate([np.arange(n), np.arange(20)])  # some images have two vectors, which share their weight
    examples = Examples(np.empty(0), np.empty((len(rows), 0)), rows, index, np.ones(n))
    probe, held_out = fit_vector_probe(examples, vectors, 3)

    shares = 1 / np.bincount(rows)[rows]
    mean = np.average(vectors, axis=0, weights=shares)
    z = (vectors - mean) / np.sqrt(np.average(((vectors - mean) ** 2).sum(axis=1), weights=shares))

    def expected(train, test, C):
        model = LogisticRegression(C=C, tol=1e-10, max_iter=10_000)
        return model.fit(z[train], index[rows[train]], shares[train]).predict_log_proba(z[test])

    def of_folds(C):
        log_proba = np.empty((len(rows), 3))
        for train, test in StratifiedKFold(3, shuffle=True, random_state=0).split(index, index):
            others = np.isin(rows, test)
            log_proba[others] = expected(np.isin(rows, train), others, C)
        return log_proba

    strengths = (3.0, 10.0, 30.0, 100.0, 300.0)
    losses = [-of_folds(C)[:n][np.arange(n), index].mean() for C in strengths]
    C = strengths[int(np.argmin(losses))]
    np.testing.assert_allclose(held_out, of_folds(C), atol=1e-3)
    every = np.ones(len(rows), bool)
    np.testing.assert_allclose(probe.log_proba(vectors), expected(every, every, C), atol=1e-3)


def test_vectors_teach_what_class_prompts_do_not_say_and_cost_no_image(clf):
    alone = fitted(Embedder(vector_size=None))
    # What a user could do with them in one line of scikit-learn.
    answers = Embedder()(X, NAMES)[:, 3:], Embedder()(X_TEST, NAMES)[:, 3:]
    by_hand = LogisticRegression(C=100).fit(answers[0], Y).score(answers[1], Y_TEST)
    assert clf.score(X_TEST, Y_TEST) >= by_hand - 0.03 > 0.85
    assert alone.score(X_TEST, Y_TEST) < by_hand - 0.1
    assert clf.n_queries_ == clf.score_fn.n_images - len(X_TEST) == alone.n_queries_
    assert clf.vector_size_ == 7
    assert isinstance(clf.head_, FusedHead)
    assert clf.head_.vector_expert_.coef.shape == (3, 7)
    assert alone.vector_size_ == 0
    assert alone.head_.vector_size == 0
    # Heads that use no vector see the scores alone.
    assert clf.baselines_["calibrated_zero_shot"].accuracy == alone.baselines_["calibrated_zero_shot"].accuracy


def test_estimators_with_vectors_are_saved_and_scored_like_others(clf, tmp_path):
    expected = clf.predict_proba(X_TEST)
    clf.save(tmp_path / "model")
    again = load(tmp_path / "model", Embedder())
    np.testing.assert_array_equal(again.predict_proba(X_TEST), expected)
    np.testing.assert_array_equal(copy.deepcopy(clf).predict_proba(X_TEST), expected)
    assert again.score_baselines(X_TEST, Y_TEST) == clf.score_baselines(X_TEST, Y_TEST)
    given = [Embedder()(images, NAMES) for images in (X_TEST, clf.prompter_.transform(X_TEST))]
    comparison = clf.compare_prompt(X_TEST, Y_TEST, scores=given, heads=True)
    assert comparison.plain.shape == (90, 3)
    np.testing.assert_array_equal(comparison.labels["classifier"], clf.predict(X_TEST))
    with pytest.raises(ScoreError, match=r"expected numbers of shape \(90, 10\).* and then 7 for its vector"):
        clf.compare_prompt(X_TEST, scores=[part[:, :3] for part in given])


@pytest.mark.parametrize("size", [None, 6])
def test_another_size_is_refused_before_anything_is_sent(clf, size):
    twin, service = copy.copy(clf), Embedder(size)
    twin.set_params(score_fn=service)
    with pytest.raises(ValueError, match=rf"vectors of {size or 0} numbers \(vector_size\); expected 7, as in fit"):
        twin.predict(X_TEST)
    assert service.n_images == 0


def test_a_wrong_number_of_columns_says_what_belongs_there():
    with pytest.raises(ScoreError, match=r"shape \(60, 10\); expected numbers of shape \(60, 12\).* then 9 for its"):
        fitted(Embedder(vector_size=9))
    with pytest.raises(ValueError, match="vector_size that the score function declares is 0; expected a whole number"):
        fitted(Embedder(vector_size=0))


def test_an_infinite_number_of_a_vector_is_an_error():
    answer = np.ones((2, 10))
    answer[1, 5] = np.inf
    with pytest.raises(ScoreError, match="inf for image 1 and number 2 of its vector"):
        check_scores(answer, 2, NAMES, vector_size=7)


def test_images_without_an_answer_have_no_vector():
    clf = fitted(Embedder(refused=[3, 40]))
    further = clf.scored_images_.plain_further
    assert not further[[3, 40]].any()
    np.testing.assert_allclose(np.linalg.norm(np.delete(further, [3, 40], axis=0), axis=1), 1)
    assert clf.score(X_TEST, Y_TEST) > 0.85


def test_vectors_are_kept_with_the_scores(clf, tmp_path):
    """By journals, caches, workers and memory."""
    journal, service = tmp_path / "fit.sqlite", Embedder()
    first = fitted(service, checkpoint=journal)
    n_images = service.n_images
    again = fitted(service, checkpoint=journal)
    cached = fitted(CachedScorer(Embedder(), tmp_path / "cache.sqlite"))
    spread = fitted(ParallelScorer(Embedder(), n_jobs=1))
    for other in (first, again, cached, spread):
        np.testing.assert_array_equal(other.predict_proba(X_TEST), clf.predict_proba(X_TEST))
    assert service.n_images == n_images + len(X_TEST)
    ledger = Ledger(Embedder(), NAMES)
    assert ledger.score_columns(X[:2]).shape == (2, ledger.n_columns) == (2, 10)
    assert ledger.log_scores(X[:2]).shape == (2, 3)
    # A second prediction of the same images comes from the memory.
    n_before = clf.n_queries_predict_
    np.testing.assert_array_equal(clf.predict(X_TEST), clf.predict(X_TEST))
    assert clf.n_queries_predict_ == n_before


def test_several_prompts_per_class_and_further_images():
    clf = fitted(Embedder(), class_prompts=["one {}", "two {}"], max_queries=400)
    assert clf.scored_images_.plain_further.shape == (60, 6 + 7)
    assert clf.score(X_TEST, Y_TEST) > 0.85
    clf.partial_fit(X_TEST, Y_TEST)
    assert clf.scored_images_.plain_further.shape == (150, 6 + 7)
    assert clf.score(*images_of(90, seed=2)) > 0.85


def test_answers_of_training_steps_teach_the_probe_too():
    clf = fitted(Embedder(), prompter="basis", max_queries=400, guard=False)
    assert clf.prompt_used_
    assert clf.head_.vector_expert_ is not None
    assert clf.score(X_TEST, Y_TEST) > 0.85


def test_baselines_use_vectors_and_label_mappings_do_not():
    baselines = ServiceBaselines(Embedder()).fit(X, Y)
    log_proba = baselines.log_probas(X_TEST, ["fused_zero_shot"])["fused_zero_shot"]
    assert (NAMES[log_proba.argmax(axis=1)] == Y_TEST).mean() > 0.85
    mapped = LabelMappedScorer(Embedder(), labels=["u", "v", "w", "x"])
    with pytest.raises(ScoreError, match="shape"):
        fitted(mapped)


# Over HTTP


def embedder(remote, make=Embeddings, **parameters):
    return scorer_of(remote, make("m", "jina", **parameters), "/embed/jina", images_per_request=2)


def test_embeddings_return_their_vectors_if_they_are_asked_for(remote):
    remote.control()
    images = make_images(3)
    plain, scorer = embedder(remote), embedder(remote, vector_size=8)
    answer = scorer(images, PROMPTS)
    np.testing.assert_array_equal(answer[:, : len(PROMPTS)], plain(images, PROMPTS))
    np.testing.assert_allclose(np.linalg.norm(answer[:, len(PROMPTS) :], axis=1), 1)
    assert scorer.vector_size == 8
    assert plain.vector_size is None
    cached = EmbeddingCache(embedder(remote, ImageVectors, vector_size=8))
    np.testing.assert_array_equal(cached(images, PROMPTS), answer)
    remote.control()
    np.testing.assert_array_equal(Ledger(cached, PROMPTS).scores(images), answer)
    assert remote.counts()["images"] == 0


def test_a_wrong_vector_size_is_told_before_an_image_is_sent(remote):
    remote.control()
    with pytest.raises(ValueError, match="vector_size=5 was given; expected 8, the size of the service's vectors"):
        embedder(remote, vector_size=5)(make_images(2), PROMPTS)
    assert remote.counts()["images"] == 0
    with pytest.raises(ValueError, match="vector_size=True was given; expected a positive whole number"):
        embedder(remote, vector_size=True)(make_images(2), PROMPTS)


def test_images_that_are_refused_leave_a_row_of_the_right_length(remote):
    refusal = [400, {}, {"error": {"code": "content_filter"}}]
    for make in (Embeddings, ImageVectors):
        scorer = embedder(remote, make, vector_size=8).set_params(images_per_request=1, n_concurrent=1)
        scorer = EmbeddingCache(scorer) if make is ImageVectors else scorer
        remote.control(script=["", "no"], errors={"no": refusal})
        scores = Ledger(scorer, PROMPTS).scores(make_images(3))
        assert scores.shape == (3, len(PROMPTS) + 8)
        assert np.isnan(scores).all(axis=1).sum() == 1
