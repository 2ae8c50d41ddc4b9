"""Displays: they show the figures of a fit, bill what they say, and their texts can be read."""

import numpy as np
import pytest
from conftest import ToyService, Undecided, make_stripes
from scipy.optimize import minimize_scalar
from sklearn.exceptions import NotFittedError
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import GridSearchCV

from blackvip import (
    BlackVIPClassifier,
    BudgetError,
    ConfusionChangeDisplay,
    GainDisplay,
    PromptDisplay,
    QueryCurveDisplay,
    ReprogrammingFrame,
    ScoreError,
    SharedBudget,
)
from blackvip.displays.drawing import BETTER, NEUTRAL, WORSE

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

LONG = [
    "lesser spotted woodpecker of the northern forests",
    "greater bird-of-paradise with a very long tail",
    "a cost of $5 or $6",
    "two\nlines",
]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def service():
    return ToyService(glare=1.0)


@pytest.fixture(scope="module")
def data():
    X, y = make_stripes(n=48, n_classes=4, side=12, background=0.5)
    return X, np.array(["a", "b", "c", "d"])[y]


@pytest.fixture(scope="module")
def test_data():
    X, y = make_stripes(n=40, n_classes=4, side=12, background=0.5, seed=7)
    return X, np.array(["a", "b", "c", "d"])[y]


@pytest.fixture(scope="module")
def clf(service, data):
    clf = BlackVIPClassifier(
        service,
        "{}",
        prompter="basis",
        max_queries=1500,
        validation_fraction=0.25,
        head=None,  # heads need no prompt here
        random_state=0,
        verbose=0,
    )
    clf.fit(*data)
    assert clf.prompt_used_
    return clf


@pytest.fixture(scope="module")
def promptless(data):
    """A fit whose guard has found that there is nothing to gain."""
    clf = BlackVIPClassifier(
        Undecided(), "{}", prompter="basis", head="calibrated", max_queries=300, random_state=0, verbose=0
    )
    with pytest.warns(UserWarning, match="The prompt did not help"):
        clf.fit(*data)
    return clf


def rows_of(clf, name):
    return np.array([row[name] for row in clf.history_ if name in row])


def contrast(one, other):
    """WCAG 2.2's contrast of two sRGB colours."""

    def luminance(colour):
        rgb = np.array(matplotlib.colors.to_rgb(colour))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def assert_within_the_figure(figure):
    """No text is cut off at the figure's edges."""
    figure.canvas.draw()
    drawn, size = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.x0 >= 0, drawn
    assert drawn.y0 >= 0, drawn
    assert drawn.x1 <= size[0], drawn
    assert drawn.y1 <= size[1], drawn


class TestQueryCurve:
    def test_shows_the_history_and_the_baselines_and_bills_nothing(self, clf, service):
        before = service.n_images
        display = QueryCurveDisplay.from_estimator(clf)
        assert service.n_images == before
        window = max(1, len(clf.history_) // 20)
        for metric in ("accuracy", "loss"):
            values = rows_of(clf, metric)
            x, mean = display.lines_[metric].get_data()
            expected = [values[max(0, end - window) : end].mean() for end in range(1, len(values) + 1)]
            assert list(x) == list(rows_of(clf, "n_queries"))
            np.testing.assert_allclose(mean, expected)
            checked = [line for line in display.axes_[int(metric == "loss")].get_lines() if line.get_ls() == "None"][-1]
            assert list(checked.get_ydata()) == list(rows_of(clf, f"validation_{metric}"))
        drawn = {name: line.get_ydata()[0] for name, line in display.baseline_lines_["accuracy"].items()}
        assert drawn == {name: baseline.accuracy for name, baseline in clf.baselines_.items()}
        assert_within_the_figure(display.figure_)

    def test_the_zero_shot_loss_is_the_lowest_over_temperatures(self, clf, service, data):
        X, y = data
        scores, index = service(X, clf.class_prompts_), np.searchsorted(clf.classes_, y)

        def loss(log_t):
            scaled = scores / np.exp(log_t)
            return np.mean(np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(y)), index])

        expected = minimize_scalar(loss, bounds=(-5, 5), method="bounded").fun
        (line,) = QueryCurveDisplay.from_estimator(clf).baseline_lines_["loss"].values()
        assert line.get_ydata()[0] == pytest.approx(expected, rel=0.01)  # of which a weak prior costs a little

    def test_several_fits_share_axes(self, clf):
        first = QueryCurveDisplay.from_estimator(clf, name="one")
        second = QueryCurveDisplay.from_estimator(clf, name="two", ax=first.axes_)
        assert second.figure_ is first.figure_
        assert first.lines_["loss"].get_color() != second.lines_["loss"].get_color()
        assert first.lines_["loss"].get_marker() != second.lines_["loss"].get_marker()
        texts = [text.get_text() for text in first.axes_[0].get_legend().get_texts()]
        assert len(texts) == len(set(texts)) == 4 + 2 * 2  # the baselines once
        assert_within_the_figure(first.figure_)

    def test_one_panel_in_given_axes(self, clf):
        figure, axes = plt.subplots(1, 2, layout="constrained")
        display = QueryCurveDisplay.from_estimator(clf, metrics=["loss"], baselines=False, ax=axes[1])
        assert display.figure_ is figure
        assert display.baseline_lines_ == {"loss": {}}
        assert list(display.axes_) == [axis for axis in figure.axes if axis not in list(axes)]

    def test_words(self, clf):
        text = QueryCurveDisplay.from_estimator(clf).describe()
        assert text.startswith(f"{clf.n_iter_} steps, up to {clf.history_[-1]['n_queries']:,d} billed images.")
        assert f"zero-shot {clf.baselines_['zero_shot'].accuracy:.2f}" in text
        assert f"on held-out images, it goes from {rows_of(clf, 'validation_loss')[0]:.2f}" in text

    def test_refuses_what_it_cannot_show(self, clf, service, data):
        with pytest.raises(ValueError, match="metrics=.'f1'.; expected some of accuracy, loss"):
            QueryCurveDisplay.from_estimator(clf, metrics=["f1"])
        with pytest.raises(ValueError, match="ax has 3 axes; expected one, or 2 x 1"):
            QueryCurveDisplay.from_estimator(clf, ax=plt.subplots(3)[1])
        with pytest.raises(NotFittedError):
            QueryCurveDisplay.from_estimator(BlackVIPClassifier(service))
        with pytest.raises(TypeError, match="given a GridSearchCV; expected a fitted BlackVIPClassifier. For a search"):
            QueryCurveDisplay.from_estimator(GridSearchCV(clf, {"a": [0.1]}))

    def test_a_fit_without_a_step(self, data):
        service = ToyService()
        service.fail_at = 2  # the plain images are scored, then nothing more
        clf = BlackVIPClassifier(service, "{}", prompter="basis", max_queries=500, random_state=0, verbose=0)
        with pytest.raises(RuntimeError, match="the service is down"):
            clf.fit(*data)
        with pytest.raises(ValueError, match="made no step"):
            QueryCurveDisplay.from_estimator(clf)
        with pytest.raises(ValueError, match="history_ has 0 steps and no gains"):
            GainDisplay.from_estimator(clf)


class TestGains:
    def test_shows_the_history_and_bills_nothing(self, clf, service):
        before = service.n_images
        display = GainDisplay.from_estimator(clf)
        assert service.n_images == before
        assert display.lines_.keys() == {"a_k", "c_k", "estimate_norm", "step_norm"}
        for name, line in display.lines_.items():
            assert list(line.get_ydata()) == list(rows_of(clf, name))
            assert list(line.get_xdata()) == list(range(1, clf.n_iter_ + 1))
        assert_within_the_figure(display.figure_)
        first, last = rows_of(clf, "a_k")[[0, -1]]
        assert f"The step size a_k goes from {first:.3g} to {last:.3g}." in display.describe()

    def test_of_cma_es(self, service, data):
        clf = BlackVIPClassifier(
            service, "{}", prompter="basis", optimizer="cma-es", max_queries=900, random_state=0, verbose=0
        )
        display = GainDisplay.from_estimator(clf.fit(*data))
        assert display.lines_.keys() == {"sigma", "step_norm"}
        assert list(display.lines_["sigma"].get_ydata()) == list(rows_of(clf, "sigma"))

    def test_an_estimate_of_zero_is_left_out(self):
        display = GainDisplay({"estimate_norm": np.array([1.0, 0.0, 100.0])}).plot()
        np.testing.assert_array_equal(display.lines_["estimate_norm"].get_ydata(), [1, np.nan, 100])
        assert display.axes_[1].get_yscale() == "log"


class TestConfusionChange:
    def test_bills_two_images_each_and_shows_the_difference(self, clf, service, test_data):
        X, y = test_data
        before = service.n_images
        display = ConfusionChangeDisplay.from_estimator(clf, X, y)
        assert service.n_images - before == 2 * len(y)
        plain, prompted = (
            clf.classes_[service(images, clf.class_prompts_).argmax(axis=1)]
            for images in (X, clf.coordinator_.transform(X))
        )
        expected = confusion_matrix(y, prompted) - confusion_matrix(y, plain)
        assert expected.any()
        np.testing.assert_array_equal(display.change, expected)
        assert display.n_repaired == np.sum((plain != y) & (prompted == y))
        assert display.n_made == np.sum((plain == y) & (prompted != y))
        for (row, column), text in np.ndenumerate(display.text_):
            assert (text is None) == (expected[row, column] == 0)
            if text is not None:
                assert int(text.get_text().replace("−", "-")) == expected[row, column]
        assert_within_the_figure(display.figure_)

    def test_without_a_prompt_one_image_each(self, promptless, test_data):
        before = promptless.score_fn.n_images
        display = ConfusionChangeDisplay.from_estimator(promptless, *test_data)
        assert promptless.score_fn.n_images - before == len(test_data[1])
        assert not display.change.any()

    def test_blue_is_better_and_orange_is_worse(self):
        display = ConfusionChangeDisplay.from_predictions(list("aabb"), list("bbbb"), list("aaab"))
        colours = display.im_.to_rgba(display.im_.get_array())
        red, blue = colours[..., 0], colours[..., 2]
        np.testing.assert_array_equal(display.change, [[2, -2], [1, -1]])
        assert ((blue > red) == [[True, True], [False, False]]).all()
        assert ((blue < red) == [[False, False], [True, True]]).all()

    def test_numbers_can_be_read_on_every_colour(self):
        n = 11
        change = np.arange(n * n).reshape(n, n) - n * n // 2
        display = ConfusionChangeDisplay(np.zeros((n, n), int), change).plot()
        colours = display.im_.to_rgba(display.im_.get_array())
        for place, text in np.ndenumerate(display.text_):
            if text is not None:
                assert contrast(text.get_color(), colours[place][:3]) >= 4.5

    def test_of_many_classes_those_whose_mistakes_change_most(self):
        rng = np.random.default_rng(0)
        names = np.array([f"{LONG[k % 4]} {k}" for k in range(60)])
        y = np.repeat(np.arange(60), 5)
        before, after = y.copy(), y.copy()
        before[y == 7] = 41  # all five repaired
        after[y == 12] = 13  # all five made
        wrong = rng.permutation(len(y))[:40]
        before[wrong] = (before[wrong] + 1) % 60
        display = ConfusionChangeDisplay.from_predictions(names[y], names[before], names[after], max_classes=6)
        assert len(display.shown) == 6
        assert {7, 41, 12, 13} <= {int(display.names[row].rpartition(" ")[2]) for row in display.shown}
        assert "6 of 60 classes shown" in display.ax_.get_title(loc="left")
        assert display.change.sum() == 0
        assert_within_the_figure(display.figure_)
        everything = ConfusionChangeDisplay.from_predictions(names[y], names[before], names[after], max_classes=60)
        assert all(text is None for text in everything.text_.flat)  # no room for numbers
        assert_within_the_figure(everything.figure_)

    def test_labels_that_the_classes_lack(self):
        display = ConfusionChangeDisplay.from_predictions(["x", "a"], ["a", "a"], ["b", "a"], classes=["a", "b"])
        assert display.names == ["a", "b", "x"]
        assert (display.n_repaired, display.n_made) == (0, 0)
        assert (
            "Fewer mistakes: x predicted as a (1 fewer). More mistakes: x predicted as b (1 more)."
            in display.describe()
        )

    def test_refuses(self, clf, test_data):
        X, y = test_data
        with pytest.raises(ValueError, match="max_classes=0; expected 1 or more"):
            ConfusionChangeDisplay.from_predictions(y, y, y, max_classes=0)
        with pytest.raises(ValueError, match="X has 40 images, but y has 3 labels"):
            ConfusionChangeDisplay.from_estimator(clf, X, y[:3])

    def test_a_shared_budget_pays_for_all_or_nothing(self, clf, test_data):
        service = ToyService(glare=1.0)
        X, y = test_data
        poor = clf.__sklearn_clone__()
        vars(poor).update(vars(clf), score_fn=SharedBudget(service, 2 * len(y) - 1))
        with pytest.raises(BudgetError):
            ConfusionChangeDisplay.from_estimator(poor, X, y)
        assert service.n_images == 0


class TestPrompt:
    def test_bills_two_images_each_and_shows_what_is_sent(self, clf, service, test_data):
        X, y = test_data[0][:3], test_data[1][:3]
        before = service.n_images
        display = PromptDisplay.from_estimator(clf, X, y)
        assert service.n_images - before == display.n_queries_ == 6
        sent = [images for images, _ in service.calls[-2:]]
        np.testing.assert_array_equal(display.images, sent[0])
        np.testing.assert_array_equal(display.prompted, sent[1])
        np.testing.assert_array_equal(display.images, X)
        np.testing.assert_allclose(display.prompts, (sent[1].astype(float) - X) / 255, atol=0.51 / 255)
        for row in range(3):
            np.testing.assert_array_equal(display.im_[row, 0].get_array(), X[row])
            np.testing.assert_array_equal(display.im_[row, 2].get_array(), sent[1][row])
            grey = display.im_[row, 1].get_array()
            np.testing.assert_allclose(grey, 0.5 + display.prompts[row] / 2 / np.abs(display.prompts).max())
        assert_within_the_figure(display.figure_)

    def test_answers_are_the_services_own(self, clf, service, test_data):
        X, y = test_data[0][:4], test_data[1][:4]
        display = PromptDisplay.from_estimator(clf, X, y)
        scores = service(X, clf.class_prompts_)
        proba = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        colours = set()
        for row, label in enumerate(y):
            text = display.axes_[row, 0].get_xlabel().strip()
            best = clf.classes_[proba[row].argmax()]
            expected = f"{best}  {proba[row].max():.0%}"
            if best == label:
                assert text == f"✓ {expected}"
            else:
                assert text == f"✗ {expected}\ntrue class  {proba[row, list(clf.classes_).index(label)]:.0%}"
            colours.add(display.axes_[row, 0].xaxis.label.get_color())
        assert colours == {BETTER, WORSE}  # so that both were seen
        assert f"Image 1 (true class {y[0]}): predicted as" in display.describe()

    def test_words_are_those_of_the_prompt_and_not_of_the_canvas(self):
        """As of a frame, within which the image is smaller."""
        image = np.tile(np.arange(0, 256, 16, dtype=np.uint8)[:, None, None], (1, 1, 16, 3))
        display = PromptDisplay(image, np.zeros(image.shape), image // 2).plot()
        assert display.axes_[0, 1].get_xlabel() == "no visible change"

    def test_given_scores_bill_nothing_and_give_the_same_picture(self, clf, service, test_data):
        X, y = test_data[0][:3], test_data[1][:3]
        asked = PromptDisplay.from_estimator(clf, X, y)
        scores = [service(images, clf.class_prompts_) for images in (X, clf.coordinator_.transform(X))]
        before = service.n_images
        given = PromptDisplay.from_estimator(clf, X, y, scores=scores)
        without = PromptDisplay.from_estimator(clf, X, y, scores=None)
        assert service.n_images == before
        assert given.n_queries_ == without.n_queries_ == 0
        pictures = []
        for display in (asked, given, without):
            display.figure_.canvas.draw()
            pictures.append(np.asarray(display.figure_.canvas.buffer_rgba()))
        np.testing.assert_array_equal(pictures[0], pictures[1])
        assert without.axes_[0, 0].get_xlabel() == ""
        with pytest.raises(ScoreError, match="expected numbers of shape"):
            PromptDisplay.from_estimator(clf, X, y, scores=[scores[0], scores[1][:, :2]])
        with pytest.raises(ValueError, match="scores='tell'; expected 'ask', None"):
            PromptDisplay.from_estimator(clf, X, y, scores="tell")

    def test_without_a_prompt_all_is_neutral(self, promptless, test_data):
        X, before = 255 - test_data[0][:2], promptless.score_fn.n_images
        display = PromptDisplay.from_estimator(promptless, X)
        assert promptless.score_fn.n_images - before == 2
        assert not display.prompts.any()
        assert (display.im_[0, 1].get_array() == 0.5).all()
        assert display.axes_[0, 1].get_xlabel() == "no visible change"
        assert not display.axes_[0, 1].child_axes  # no scale
        assert display.axes_[0, 0].xaxis.label.get_color() == NEUTRAL  # nobody knows whether it is right

    def test_a_frame_is_shown_as_what_it_adds_to_its_canvas(self, service, data):
        clf = BlackVIPClassifier(
            service, "{}", prompter=ReprogrammingFrame(), a=0.1, c=0.1, guard=False, max_queries=400, verbose=0
        )
        clf.fit(*data)
        display = PromptDisplay.from_estimator(clf, data[0][:1], scores=None)
        assert not display.prompts[:, 5:7, 5:7].any()  # where the small copy is
        assert (display.prompts[:, 0] > 0).all()

    @pytest.mark.parametrize("shape", [(28, 28), (224, 224), (1, 784), (90, 20)])
    def test_names_and_shapes_of_any_kind(self, shape):
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (4, *shape, 3), dtype=np.uint8)
        proba = rng.dirichlet(np.ones(4), size=4)
        display = PromptDisplay(
            images, rng.uniform(-1, 1, images.shape), images, plain_proba=proba, prompted_proba=proba[::-1],
            classes=LONG, y_true=LONG,
        ).plot()  # fmt: skip
        assert display.axes_[2, 1].get_xlabel().splitlines()[0] == r"true: a cost of \$…"
        assert [text.get_text() for text in display.axes_[3, 1].child_axes[0].get_xticklabels()][1] == "0"
        assert_within_the_figure(display.figure_)


def test_texts_can_be_read_on_white():
    for colour in (BETTER, WORSE, NEUTRAL):
        assert contrast(colour, "white") >= 4.5


def test_nothing_is_loaded_before_something_is_drawn(programs):
    found = programs.run("-c", "import sys, blackvip; print('matplotlib' in sys.modules)")
    assert (found.returncode, found.stdout.strip()) == (0, "False"), found.stderr


def test_an_installation_without_matplotlib_says_what_to_do(programs):
    script = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import blackvip, numpy as np\n"
        "for draw in (blackvip.GainDisplay({'a_k': np.ones(3)}).plot, blackvip.Comparison([]).plot):\n"
        "    try: draw()\n"
        "    except ImportError as error: print(error)\n"
    )
    found = programs.run("-c", script)
    assert found.returncode == 0, found.stderr
    advice = "needs matplotlib; install it with `pip install blackvip[plot]`."
    assert found.stdout.splitlines() == [f"GainDisplay.plot {advice}", f"Comparison.plot {advice}"]
