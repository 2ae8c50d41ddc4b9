"""Comparing methods: what is billed, what is the same for all, what is kept on disk."""

import json

import numpy as np
import pytest
import torch
from conftest import ToyService, make_stripes
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from blackvip import SPSAGC, AReSClassifier, BlackVIPClassifier, BlackVIPError, Comparison, compare
from blackvip.comparison.methods import METHODS, make_method
from blackvip.comparison.white_box import WhiteBoxClassifier
from blackvip.scorers.labels.scorer import LabelMappedScorer

FAST_ARES = AReSClassifier(None, local_encoder="pca", prime_epochs=20, epochs=2)
COLUMNS = {
    "method",
    "seed",
    "max_queries",
    "n_queries",
    "n_predict",
    "accuracy",
    "log_loss",
    "price",
    "seconds",
    "predict_seconds",
    "prompt_used",
    "refused",
}


@pytest.fixture
def data():
    return *make_stripes(24, seed=0), *make_stripes(30, seed=1)


@pytest.fixture
def service():
    return ToyService(glare=1.0)


def compared(methods, service, data, **kwargs):
    return compare(methods, service, *data, **{"class_prompts": "{}", "max_queries": 500, "seeds": [0], **kwargs})


def by_method(comparison):
    return {row["method"]: row for row in comparison.rows}


def test_baselines_come_from_one_fit(service, data):
    found = compared(["zero-shot", "calibrated", "local-probe", "fused"], service, data)
    assert service.n_images == 24 + 30  # each training and test image once, for all four
    rows = by_method(found)
    assert [rows[name]["n_queries"] for name in ("zero-shot", "calibrated", "local-probe", "fused")] == [0, 24, 0, 24]
    assert [rows[name]["n_predict"] for name in ("zero-shot", "calibrated", "local-probe", "fused")] == [30, 30, 0, 30]
    X_test, y_test = data[2:]
    scores = ToyService(glare=1.0)(X_test, ["0", "1"])
    assert rows["zero-shot"]["accuracy"] == (scores.argmax(axis=1) == y_test).mean()
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    assert rows["zero-shot"]["log_loss"] == pytest.approx(-log_p[np.arange(30), y_test].mean())


def test_baselines_are_those_of_the_classifier(service, data):
    X, y, X_test, y_test = data
    clf = BlackVIPClassifier(service, "{}", prompter="basis", max_queries=200, random_state=0, verbose=0).fit(X, y)
    expected = clf.score_baselines(X_test, y_test)
    rows = by_method(compared(["zero-shot", "calibrated", "local-probe", "fused"], service, data))
    names = {"zero-shot": "zero_shot", "calibrated": "calibrated_zero_shot", "fused": "fused_zero_shot"}
    assert {name: rows[name]["accuracy"] for name in names} == {name: expected[key] for name, key in names.items()}
    assert rows["local-probe"]["accuracy"] == expected["local_probe"]


def test_a_local_probe_alone_sends_no_test_image(service, data):
    compared(["local-probe"], service, data)
    assert service.n_images == 24


def test_figures_are_those_of_the_fit_by_itself(service, data):
    X, y, X_test, y_test = data
    settings = {"prompter": "basis", "optimizer": SPSAGC(n_directions=2)}
    row = compared({"mine": settings}, service, data, seeds=[3]).rows[0]
    counter = ToyService(glare=1.0)
    clf = BlackVIPClassifier(counter, "{}", **settings, max_queries=500, random_state=3, verbose=0).fit(X, y)
    assert row["n_queries"] == clf.n_queries_ == counter.n_images
    assert row["accuracy"] == clf.score(X_test, y_test)
    assert row["n_predict"] == 30
    assert row["prompt_used"] == clf.prompt_used_
    assert service.n_images == row["n_queries"] + row["n_predict"]


def test_each_budget_and_seed_is_a_row_and_none_is_passed(service, data):
    found = compared(["basis", "blm"], service, data, max_queries=[200, 400], seeds=[0, 1])
    runs = [(row["method"], row["max_queries"], row["seed"]) for row in found.rows]
    assert runs == [("basis", 200, 0), ("basis", 200, 1), ("basis", 400, 0), ("basis", 400, 1), ("blm", None, None)]
    assert all(row["n_queries"] <= row["max_queries"] for row in found.rows[:4])
    assert all(set(row) == COLUMNS for row in found.rows)


def test_ares_with_and_without_the_service_is_one_fit(service, data):
    methods = {"local": FAST_ARES, "basis": "basis"}
    found = compared(methods, service, data)
    assert by_method(found)["local"]["n_predict"] == 0
    assert by_method(found)["local"]["n_queries"] == 24
    estimators = make_method("ares", service), make_method("ares-both", service)
    assert [estimator.inference for estimator in estimators] == ["local", "both"]


def test_white_box_is_a_reference_without_a_budget(service, data):
    class Network(torch.nn.Module):
        def forward(self, pixels):
            left, right = pixels[..., :4].mean(dim=(1, 2, 3)), pixels[..., 4:].mean(dim=(1, 2, 3))
            return 10 * torch.stack([left + 0.1, right], dim=1)

    class Service(Network):
        def __call__(self, images, *class_prompts):
            if not class_prompts:
                return self.forward(images)
            return self.forward(torch.from_numpy(np.array(images)).permute(0, 3, 1, 2) / 255)

    methods = {"white": WhiteBoxClassifier(None, n_epochs=3), "zero-shot": "zero-shot"}
    rows = by_method(compared(methods, Service(), data))
    assert rows["white"]["max_queries"] is None
    assert rows["white"]["n_queries"] == 3 * 24
    assert rows["white"]["n_predict"] == 30
    assert rows["white"]["refused"] is None
    refused = by_method(compared(["vp-white-box", "zero-shot"], service, data))
    assert "allows no gradients" in refused["vp-white-box"]["refused"]
    assert refused["zero-shot"]["refused"] is None


def test_estimators_under_their_own_names_share_a_fit(service, data):
    names = ["zero-shot", "calibrated", "ares", "ares-both"]
    methods = {name: make_method(name, service) for name in names}
    for name in names[2:]:
        methods[name].set_params(local_encoder="pca", epochs=2)
    found = compared(methods, service, data)
    assert service.n_images == 2 * (24 + 30)
    assert [row["method"] for row in found.rows] == names
    methods["ares-both"].set_params(epochs=3)  # another model then
    compared(methods, service, data)
    assert service.n_images == 4 * (24 + 30) + 24


@pytest.mark.slow
def test_registry_shares_the_fit_of_ares(service, data):
    found = compared(["ares", "ares-both"], service, data)
    assert service.n_images == 24 + 30
    assert [(row["n_queries"], row["n_predict"]) for row in found.rows] == [(24, 0), (24, 30)]


def test_runs_at_once_give_the_same(service, data, tmp_path):
    def figures(comparison):
        return [{key: value for key, value in row.items() if "seconds" not in key} for row in comparison.rows]

    methods = {"blm": "blm", "basis": "basis", "local": FAST_ARES, "other": {"optimizer": SPSAGC(n_directions=2)}}
    one = compared(methods, service, data, seeds=[0, 1])
    n_sent = service.n_images
    two = compared(methods, service, data, seeds=[0, 1], n_jobs=2, results=tmp_path / "r.jsonl")
    assert figures(two) == figures(one)
    assert service.n_images == 2 * n_sent
    assert len(Comparison.load(tmp_path / "r.jsonl").rows) == len(two.rows)


def test_summary_is_mean_and_spread():
    row = dict.fromkeys(COLUMNS) | {"method": "m", "max_queries": 10, "refused": None, "n_predict": 5, "seconds": 1.0}
    rows = [{**row, "seed": seed, "accuracy": a, "n_queries": 8 + seed} for seed, a in enumerate([0.5, 0.9, 0.7])]
    (summary,) = Comparison(rows).summary()
    assert summary["accuracy"] == pytest.approx(0.7)
    assert (summary["least"], summary["greatest"], summary["n_runs"]) == (0.5, 0.9, 3)
    assert (summary["n_queries"], summary["price"]) == (9, None)
    both = Comparison(rows[:1]) + Comparison(rows[1:])
    assert both.rows == rows
    assert "0.700" in repr(both)
    assert "<td>0.700</td>" in both._repr_html_()


def test_rows_make_a_table(service, data):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(compared(["zero-shot", "blm+"], service, data).rows)
    assert set(frame.columns) == COLUMNS
    assert frame.groupby("method").accuracy.mean().between(0, 1).all()


def test_price_is_what_the_service_declares(data):
    service = ToyService()
    service.price_per_image = 0.5
    rows = compared(["zero-shot", "calibrated"], service, data).rows
    assert [row["price"] for row in rows] == [0.0, 12.0]


def test_a_method_that_refuses_the_budget_has_a_row_that_says_so(service, data):
    found = compared(["blackvip", "zero-shot"], service, data, max_queries=120)
    refused, made = found.rows
    assert "smallest budget" in refused["refused"]
    assert refused["accuracy"] is None
    assert made["refused"] is None
    assert "refused" in repr(found)


@pytest.mark.filterwarnings("ignore:.*fits failed", "ignore:One or more of the test scores")
def test_an_estimator_that_bills_more_than_allowed_is_stopped(service, data):
    search = GridSearchCV(
        BlackVIPClassifier(service, "{}", prompter="basis", max_queries=300, verbose=0), {"c": [0.05, 0.1]}, cv=2
    )
    with pytest.raises(ValueError, match="budget"):
        compared({"search": search}, service, data, max_queries=400)
    assert service.n_images <= 400


@pytest.mark.slow
def test_an_estimator_around_a_classifier_is_billed_whole(service, data):
    search = GridSearchCV(
        BlackVIPClassifier(None, "{}", prompter="basis", max_queries=200, verbose=0), {"c": [0.05, 0.1]}, cv=2
    )
    (row,) = compared({"search": search}, service, data, max_queries=2_000).rows
    assert row["n_queries"] + row["n_predict"] == service.n_images
    assert row["n_queries"] > 400


def test_errors_of_the_service_are_not_results(service, data, tmp_path):
    service.fail_at = 3
    with pytest.raises(RuntimeError, match="down"):
        compared(["basis"], service, data, results=tmp_path / "r.jsonl")
    assert Comparison.load(tmp_path / "r.jsonl").rows == []


def test_an_interrupted_fit_is_no_result(service, data, tmp_path):
    service.fail_at, service.failure = 4, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        compared(["basis"], service, data, results=tmp_path / "r.jsonl")
    assert Comparison.load(tmp_path / "r.jsonl").rows == []


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ([], "methods is empty"),
        (["nonsense"], "no method 'nonsense'"),
        ("basis", "methods is 'basis'"),
        ({"probe": LogisticRegression()}, "without a parameter score_fn"),
        ({"probe": FrozenEstimator(LogisticRegression())}, "without a parameter score_fn"),
    ],
)
def test_unusable_methods(methods, message, service, data):
    with pytest.raises((ValueError, TypeError), match=message):
        compared(methods, service, data)
    assert service.n_images == 0


@pytest.mark.parametrize("kwargs", [{"seeds": []}, {"seeds": [-1]}, {"max_queries": 0}, {"max_queries": [1.5]}])
def test_unusable_numbers(kwargs, service, data):
    with pytest.raises(ValueError, match="expected whole numbers"):
        compared(["zero-shot"], service, data, **kwargs)


@pytest.mark.parametrize("name", METHODS)
def test_every_name_is_an_estimator(name, service):
    estimator = make_method(name, service, "{}")
    assert estimator.score_fn is service


def test_label_mappings_of_a_service_with_labels(data):
    """Labels b and c mean class 1, a means class 0: by frequency one of them, by BLM both."""

    def labelled(images, labels):
        right = images[:, :, 4:].mean(axis=(1, 2, 3)) > images[:, :, :4].mean(axis=(1, 2, 3))
        noisy = images[:, 0, 0, 0] % 2 == 0
        scores = np.zeros((len(images), 3))
        scores[np.arange(len(images)), np.where(right, 1 + noisy, 0)] = 5.0
        return scores

    scorer = LabelMappedScorer(labelled, ["a", "b", "c"], "blm+", text_weight=0)
    rows = by_method(compared(["blm", "blm+", "frequency"], scorer, data, class_prompts=["zero", "one"]))
    assert rows["blm"]["accuracy"] == rows["blm+"]["accuracy"] == 1.0
    X_test, y_test = data[2:]
    first = labelled(X_test, None).argmax(axis=1)
    most = np.bincount(labelled(data[0], None).argmax(axis=1), minlength=3)[1:].argmax() + 1
    # An image with the other label of class 1 has the same probability of both.
    assert rows["frequency"]["accuracy"] == pytest.approx(((y_test == 0) | (first == most)).mean())


def test_label_mapping_of_class_prompts_undoes_a_permutation(data):
    def swapped(images, class_prompts):
        return ToyService()(images, class_prompts)[:, ::-1]

    rows = by_method(compared(["zero-shot", "frequency", "blm+"], swapped, data))
    assert rows["zero-shot"]["accuracy"] == 0.0
    assert rows["frequency"]["accuracy"] == rows["blm+"]["accuracy"] == 1.0


class TestResults:
    METHODS = ("zero-shot", "basis")

    def test_goes_on_without_sending_anything(self, service, data, tmp_path):
        path = tmp_path / "r.jsonl"
        first = compared(self.METHODS, service, data, results=path)
        n_sent = service.n_images
        again = compared(self.METHODS, service, data, results=path)
        assert service.n_images == n_sent
        assert again.rows == first.rows == Comparison.load(path).rows
        more = compared([*self.METHODS, "blm"], service, data, results=path)
        assert service.n_images == n_sent + 24 + 30
        assert more.rows[:2] == first.rows

    def test_some_of_what_one_fit_has_given_is_not_made_again(self, service, data, tmp_path):
        path = tmp_path / "r.jsonl"
        compared(["zero-shot", "calibrated", "local-probe"], service, data, results=path)
        n_sent = service.n_images
        compared(["local-probe", "zero-shot"], service, data, results=path)
        assert service.n_images == n_sent
        compared(["zero-shot", "fused"], service, data, results=path)
        assert [row["method"] for row in Comparison.load(path).rows] == [
            "zero-shot",
            "calibrated",
            "local-probe",
            "fused",
        ]

    def test_a_torn_line_is_made_again(self, service, data, tmp_path):
        path = tmp_path / "r.jsonl"
        first = compared(self.METHODS, service, data, results=path)
        path.write_bytes(path.read_bytes()[:-20])
        assert len(Comparison.load(path).rows) == 1
        again = compared(self.METHODS, service, data, results=path)
        strip = [{k: v for k, v in row.items() if "seconds" not in k} for row in first.rows]
        assert [{k: v for k, v in row.items() if "seconds" not in k} for row in again.rows] == strip
        assert [json.loads(line) for line in path.read_text().splitlines()][-1]["rows"] == again.rows[-1:]

    def test_a_torn_header_is_made_again(self, service, data, tmp_path):
        path = tmp_path / "r.jsonl"
        first = compared(["zero-shot"], service, data, results=path)
        path.write_bytes(path.read_bytes()[:30])
        again = compared(["zero-shot"], service, data, results=path)
        assert again.rows[0]["accuracy"] == first.rows[0]["accuracy"]
        assert Comparison.load(path).rows == again.rows

    def test_other_data_are_refused(self, service, data, tmp_path):
        path = tmp_path / "r.jsonl"
        compared(self.METHODS, service, data, results=path)
        X, y, X_test, y_test = data
        changed = X_test.copy()
        changed[0, 0, 0, 0] += 1
        with pytest.raises(BlackVIPError, match="test images differ"):
            compared(self.METHODS, service, (X, y, changed, y_test), results=path)
        with pytest.raises(BlackVIPError, match="training labels differ"):
            compared(self.METHODS, service, (X, np.roll(y, 1), X_test, y_test), results=path)
        with pytest.raises(BlackVIPError, match="class_prompts was '{}' and is 'a {}' now"):
            compared(self.METHODS, service, data, results=path, class_prompts="a {}")

    def test_other_parameters_are_refused(self, service, data, tmp_path):
        path = tmp_path / "r.jsonl"
        compared({"mine": {"optimizer": SPSAGC(n_directions=2)}}, service, data, results=path)
        with pytest.raises(
            BlackVIPError, match="'mine' with other parameters: optimizer.n_directions was 2 and is 3 now"
        ):
            compared({"mine": {"optimizer": SPSAGC(n_directions=3)}}, service, data, results=path)

    def test_another_file_stays_as_it_is(self, service, data, tmp_path):
        path = tmp_path / "notes.txt"
        for text in ("my notes\n", "my notes", "[]\n"):
            path.write_text(text)
            with pytest.raises(BlackVIPError, match="is not a results file of a comparison"):
                compared(self.METHODS, service, data, results=path)
            assert path.read_text() == text
        assert service.n_images == 0

    def test_one_comparison_at_a_time(self, service, data, tmp_path):
        from blackvip.comparison.results import ResultsFile

        with ResultsFile(tmp_path / "r.jsonl", {}), pytest.raises(BlackVIPError, match="in use"):
            compared(self.METHODS, service, data, results=tmp_path / "r.jsonl")


def test_plot_shows_every_method(service, data):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    found = compared(["zero-shot", "calibrated", "basis"], service, data, max_queries=[200, 400])
    ax = found.plot()
    labels = ax.get_legend_handles_labels()[1]
    assert sorted(labels) == ["basis", "calibrated", "zero-shot"]
    (line,) = [container for container in ax.containers if container.get_label() == "basis"]
    x, accuracy = line[0].get_data()
    rows = found.summary()[2:]
    assert list(x) == [row["n_queries"] for row in rows]
    assert list(accuracy) == [row["accuracy"] for row in rows]
    matplotlib.pyplot.close(ax.figure)
