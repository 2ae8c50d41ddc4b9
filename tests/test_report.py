"""The report: one file that says what is true, bills what it says, gives nothing away, and works in a browser."""

import base64
import html
import io
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import Browser, find_chromium
from conftest import ToyService, Undecided, make_stripes
from PIL import Image
from scipy.ndimage import uniform_filter
from scipy.stats import binomtest
from servers.running import running
from servers.shared import scorer_of
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import blackvip
from blackvip import BlackVIPClassifier, BudgetError, Coordinator, PersistenceError, SharedBudget
from blackvip.displays import report
from blackvip.displays.changes import change_in_words
from blackvip.displays.curves import BASELINE_NAMES
from blackvip.displays.findings import Results, recommendation
from blackvip.displays.tables import parameter_table
from blackvip.inputs.reading import pixel_batches

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

EVIL = ["<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "{{ 7 * 7 }}", "'&amp;<b>bold"]
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """A page's elements, in their order; each has its attributes, the texts within it and its ancestors' names."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.elements, self._open = [], []
        self.feed(self.source)
        self.close()
        assert not self._open, "an element is not closed"

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "attrs": dict(attrs), "text": "", "within": [e["tag"] for e in self._open]}
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag):
        assert self._open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def all(self, *tags):
        return [element for element in self.elements if element["tag"] in tags]

    def one(self, tag):
        (element,) = self.all(tag)
        return element

    def rows(self, caption):
        """The rows of cells of the table with this caption."""
        start = next(i for i, element in enumerate(self.elements) if element["attrs"].get("id") == caption)
        rows = []
        for element in self.elements[start + 1 :]:
            if element["tag"] == "h2":
                break
            if element["tag"] == "tr":
                rows.append([])
            elif element["tag"] in ("th", "td"):
                rows[-1].append(element["text"].strip())
        return rows


def recommendations(page):
    return [e["text"].strip() for e in page.all("p") if e["attrs"].get("class") == "recommendation"]


def named_stripes(seed=0, n=48, names=("a", "b", "c", "d")):
    X, y = make_stripes(n=n, n_classes=4, side=12, background=0.5, seed=seed)
    return X, np.array(names)[y]


def fitted_to(service, names=("a", "b", "c", "d"), **params):
    params = {"prompter": "basis", "max_queries": 700, "random_state": 0, "verbose": 0, **params}
    return BlackVIPClassifier(service, "{}", **params).fit(*named_stripes(names=names))


def with_service(clf, score_fn):
    """The fitted classifier with another score function."""
    twin = clf.__sklearn_clone__()
    vars(twin).update(vars(clf), score_fn=score_fn)
    return twin


@pytest.fixture(scope="module")
def clf():
    service = ToyService(glare=1.0)
    service.price_per_image = 0.002
    # With a head of its own, the local probe alone would do.
    clf = fitted_to(service, head="tempered")
    assert clf.prompt_used_
    return clf


@pytest.fixture(scope="module")
def test_data():
    return named_stripes(seed=7, n=40)


@pytest.fixture(scope="module")
def written(clf, test_data, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "fit.html"
    before = clf.score_fn.n_images
    found = report(clf, path, *test_data)
    return {"path": path, "found": found, "page": Page(path), "billed": clf.score_fn.n_images - before}


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """The report of a fit to classes whose names are attacks, none of which the prompt helps."""
    service = Undecided()
    with pytest.warns(UserWarning, match="The prompt did not help"):
        clf = fitted_to(service, names=EVIL, head="calibrated", max_queries=300)
    path = tmp_path_factory.mktemp("report") / "evil.html"
    before = service.n_images
    report(clf, path, *named_stripes(seed=7, n=40, names=EVIL))
    return {"path": path, "page": Page(path), "billed": service.n_images - before}


class TestContent:
    def test_accuracies_are_those_of_the_classifier(self, clf, written, test_data):
        X, y = test_data
        own = clf.score_fn(clf.coordinator_.transform(X), clf.class_prompts_).argmax(axis=1)
        expected = {
            **clf.score_baselines(X, y),
            "prompt": np.mean(clf.classes_[own] == y),
            "classifier": clf.score(X, y),
        }
        assert written["found"] == pytest.approx(expected)
        rows = written["page"].rows("accuracies-caption")[1:]
        assert [float(row[1]) for row in rows] == pytest.approx(list(expected.values()), abs=5e-4)
        for row, share in zip(rows, expected.values()):
            interval = binomtest(round(share * len(y)), len(y)).proportion_ci(method="wilson")
            assert row[2] == f"{interval.low:.3f}–{interval.high:.3f}"
        held_out = [result.accuracy for result in (*clf.baselines_.values(), clf.result_)]
        assert [float(row[3]) for row in rows if row[3]] == pytest.approx(held_out, abs=5e-4)
        assert [row[4] for row in rows if row[0] == "local probe"] == ["0"]

    def test_bills_two_images_each_and_says_so(self, clf, written, test_data):
        n = len(test_data[1])
        assert written["billed"] == 2 * n
        fit, report, predictions = written["page"].rows("cost-caption")[1:]
        assert fit[1] == f"{clf.n_queries_:,d}"
        assert report[1] == f"{2 * n:,d}"
        assert [row[3] for row in (fit, report, predictions)] == [
            f"{count * 0.002:,.2f}" for count in (clf.n_queries_, 2 * n, 1000)
        ]

    def test_without_a_prompt_one_image_each_and_a_warning(self, evil):
        assert evil["billed"] == 40
        warning = next(e for e in evil["page"].all("p") if e["attrs"].get("class") == "warning")
        assert "the prompt does not help" in warning["text"]
        assert "prompt alone" not in [row[0] for row in evil["page"].rows("accuracies-caption")]

    def test_a_prompt_that_helps_has_no_warning(self, written):
        assert [e for e in written["page"].all("p") if e["attrs"].get("class") == "warning"] == []

    def test_recommends_the_classifier_that_is_better_than_all_else(self, clf):
        y, right = np.repeat("a", 40), np.arange(40)
        shares = dict(zip(clf.baselines_, (10, 20, 24, 22))) | {"prompt": 30, "classifier": 38}
        text = recommendation(clf, Results(y, y, y, {name: right < n for name, n in shares.items()}))
        assert text.startswith(
            "Use this classifier: it sends images with the prompter PromptBasis, and needs no trained"
        )
        assert (
            "Accuracy 0.950 instead of 0.250, at one image per prediction. The local probe bills nothing, and reach"
            in text
        )
        assert "not clearly worse" not in text
        hits = {name: right < n for name, n in {**shares, "fused_zero_shot": 38}.items()}
        text = recommendation(clf, Results(y, y, y, hits))
        assert text.endswith("On these images, the baseline “fused zero-shot” is not clearly worse: 0.950.")

    def test_recommends_what_bills_nothing_where_it_is_as_good(self, clf, tmp_path):
        """On noise, whose labels are what the local probe says."""
        X = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 3), dtype=np.uint8)
        probe = clf.baselines_["local_probe"].head
        pixels = pixel_batches(clf.image_format_, clf._open_images(X))
        y = clf._labels_by(probe, np.empty((40, 0)), clf.probe_encoder_.encode_batches(pixels))
        found = report(clf, tmp_path / "fit.html", X, y)
        assert found["local_probe"] == 1 > found["classifier"]
        (text,) = recommendations(Page(tmp_path / "fit.html"))
        assert "Use the local probe, which runs on your machine and bills nothing: accuracy 1.000, against" in text

    def test_few_test_images_do_not_outweigh_the_training_images(self, clf):
        probe = clf.baselines_["local_probe"]
        twin = with_service(clf, clf.score_fn)
        twin.baselines_ = {**clf.baselines_, "local_probe": replace(probe, hits=np.zeros_like(probe.hits))}
        y, wrong = np.array(["a"]), np.array([False])
        text = recommendation(twin, Results(y, y, y, dict.fromkeys(clf.baselines_, wrong) | {"classifier": ~wrong}))
        assert text.startswith("Use this classifier")

    def test_tells_the_price_of_a_cascade(self, clf, test_data, tmp_path):
        curve = np.array([[1.0, 0.9, 0.2], [1.54, 0.9, 0.1]])
        cascade = with_service(clf, clf.score_fn)
        cascade._stages = replace(clf._stages, curve=curve, used=1)
        report(cascade, tmp_path / "fit.html", *test_data)
        page = Page(tmp_path / "fit.html")
        assert page.rows("accuracies-caption")[-1][4] == "1.5"
        assert any("then 1.5 images per prediction" in element["text"] for element in page.all("dd"))

    @pytest.mark.parametrize("best", ["zero_shot", "fused_zero_shot"])
    def test_recommends_a_baseline_that_is_clearly_better(self, clf, best):
        y = np.repeat("a", 40)
        some = np.arange(40) < 30
        hits = {**dict.fromkeys(clf.baselines_, some & False), "prompt": some, "classifier": some, best: some | True}
        text = recommendation(clf, Results(y, y, y, hits))
        assert text.startswith(f"Use the baseline “{BASELINE_NAMES[best]}”")
        assert "accuracy 1.000, against 0.750 of this classifier" in text

    def test_says_what_is_uncertain(self, clf, written):
        found = [element["text"] for element in written["page"].all("li")]
        hits = {name: written["found"][name] for name in ("classifier", "zero_shot")}
        gain = next(text for text in found if text.startswith("The gain over the service alone is"))
        assert f"{hits['classifier'] - hits['zero_shot']:+.3f}" in gain
        assert any(text.startswith("40 test images are few") for text in found)
        assert any(text.startswith("Scores were read as logits") for text in found)
        assert any("ended because its budget was spent" in text for text in found)

    def test_the_ladder_is_a_table_of_what_each_part_adds(self, test_data, tmp_path):
        clf = fitted_to(ToyService(glare=1.0), prompter="auto")
        report(clf, tmp_path / "fit.html", *test_data)
        page = Page(tmp_path / "fit.html")
        rows = page.rows("rungs-caption")
        assert rows[0] == ["prompt", "service alone", "with head", "log loss", "billed so far"]
        rungs = rows[1 : 1 + len(clf.rungs_)]
        assert [row[0] for row in rungs] == [rung["prompter"] for rung in clf.rungs_]
        assert float(rungs[0][1]) == pytest.approx(clf.baselines_["zero_shot"].accuracy, abs=5e-4)
        assert float(rungs[0][2]) == pytest.approx(clf.rungs_[0]["accuracy"], abs=5e-4)

    def test_warns_of_classes_that_were_not_trained(self, clf, test_data, tmp_path):
        X, y = test_data
        y = np.where(np.arange(len(y)) < 3, "zebra", y)
        report(clf, tmp_path / "fit.html", X, y)
        assert "3 test images of classes that were not trained" in (tmp_path / "fit.html").read_text()

    def test_parameters_with_the_defaults_of_those_that_differ(self, clf, written):
        rows = {row[0]: row[1:] for row in written["page"].rows("parameters-caption")[1:]}
        assert rows.keys() == clf.get_params(deep=False).keys()
        assert rows["max_queries"] == ["700", str(BlackVIPClassifier(None).max_queries)]
        assert rows["batch_size"] == ["16", ""]
        assert rows["score_fn"][0] == "conftest.ToyService"

    def test_four_pictures_with_words(self, clf, written):
        pictures = written["page"].all("img")
        assert len(pictures) == 4
        for picture in pictures:
            kind, _, data = picture["attrs"]["src"].partition(",")
            assert kind == "data:image/png;base64"
            image = Image.open(io.BytesIO(base64.b64decode(data)))
            width = int(picture["attrs"]["width"])
            assert image.width == pytest.approx(width * 200 / 96, abs=2)
            assert image.width / image.height == pytest.approx(width / int(picture["attrs"]["height"]), rel=0.01)
            assert np.asarray(image.convert("L")).std() > 5
        texts = [picture["attrs"]["alt"] for picture in pictures]
        assert texts[2] == blackvip.QueryCurveDisplay.from_estimator(clf).describe()
        assert texts[3] == blackvip.GainDisplay.from_estimator(clf).describe()
        assert re.match(r"4 images without and with prompts, .* Image 4 \(true class \w\): predicted as", texts[0])
        assert re.match(r"40 images: \d+ mistakes? repaired, \d+ made; correct before \d+, after \d+", texts[1])

    def test_pictures_have_the_callers_font_and_nothing_else_of_the_style(self, clf):
        import matplotlib.style
        from matplotlib import rcParams

        from blackvip import GainDisplay
        from blackvip.displays.report import _picture

        display = GainDisplay.from_estimator(clf)
        plain = _picture(display, "", "")["source"]
        with matplotlib.style.context("dark_background"):
            assert _picture(display, "", "")["source"] == plain
            assert rcParams["figure.facecolor"] == "black"
        with matplotlib.rc_context({"font.family": "DejaVu Serif"}):
            assert _picture(display, "", "")["source"] != plain

    def test_examples_are_of_all_kinds_in_turn(self):
        from blackvip.displays.report import _examples

        y = np.zeros(9, int)
        before, after = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 0, 0, 1, 0, 0, 1, 1])
        results = Results(y, before, after, {})
        assert list(_examples(results, 6)) == [5, 4, 7, 0, 6, 8]
        assert sorted(_examples(results, 20)) == list(range(9))

    def test_of_a_classifier_that_was_saved(self, clf, written, test_data, tmp_path):
        clf.save(tmp_path / "clf.blackvip")
        same = blackvip.load(tmp_path / "clf.blackvip", ToyService(glare=1.0))
        assert report(same, tmp_path / "fit.html", *test_data) == written["found"]
        assert "The service declares no price." in (tmp_path / "fit.html").read_text()

    def test_with_a_checkpoint_nothing_is_paid_for_twice(self, test_data, tmp_path):
        service = ToyService(glare=1.0)
        clf = fitted_to(service, checkpoint=tmp_path / "fit.journal", max_queries=300)
        report(clf, tmp_path / "one.html", *test_data)
        before = service.n_images
        report(clf, tmp_path / "two.html", *test_data)
        assert service.n_images == before
        assert Page(tmp_path / "two.html").rows("cost-caption")[2][:2] == ["this report", "0"]


class TestMarkup:
    @pytest.fixture(params=["written", "evil"])
    def page(self, request):
        return request.getfixturevalue(request.param)["page"]

    def test_structure(self, page):
        assert page.source.startswith("<!DOCTYPE html>\n")
        assert page.one("html")["attrs"]["lang"] == "en"
        assert page.one("title")["text"]
        for landmark in ("header", "nav", "main", "footer"):
            assert page.one(landmark)["text"].strip()
        levels = [int(element["tag"][1]) for element in page.all("h1", "h2", "h3", "h4")]
        assert levels.count(1) == 1
        assert levels[0] == 1
        assert (np.diff(levels) <= 1).all()  # no level is left out
        viewport = [e["attrs"]["content"] for e in page.all("meta") if e["attrs"].get("name") == "viewport"]
        assert viewport == ["width=device-width, initial-scale=1"]

    def test_references_within_the_page(self, page):
        ids = [element["attrs"]["id"] for element in page.elements if "id" in element["attrs"]]
        assert len(ids) == len(set(ids))
        used = [
            element["attrs"]["aria-labelledby"] for element in page.elements if "aria-labelledby" in element["attrs"]
        ]
        used += [link["attrs"]["href"].removeprefix("#") for link in page.all("a")]
        assert len(used) > 8
        assert set(used) <= set(ids)

    def test_tables_and_what_scrolls_can_be_reached(self, page):
        for table in page.all("table"):
            assert table["attrs"]["aria-labelledby"]
        assert all(cell["attrs"]["scope"] in ("col", "row") for cell in page.all("th"))
        scrolling = [e for e in page.elements if e["attrs"].get("class") == "scroll"]
        assert len(scrolling) == len(page.all("table", "img")) == 7
        for element in scrolling:
            assert element["attrs"]["tabindex"] == "0"
            assert element["attrs"]["role"] == "region"

    def test_nothing_is_loaded_or_run(self, page):
        assert not page.all("script", "link", "iframe", "object", "embed", "form", "base", "svg", "video", "audio")
        policies = [e["attrs"] for e in page.all("meta") if "http-equiv" in e["attrs"]]
        assert policies == [{"http-equiv": "Content-Security-Policy", "content": POLICY}]
        for element in page.elements:
            for name, value in element["attrs"].items():
                assert not name.startswith("on")
                if name in ("href", "src"):
                    assert re.match(r"#|data:image/png;base64,[A-Za-z0-9+/=]+\Z", value)
        style = page.one("style")["text"]
        assert not re.search(r"url\(|@import|expression|//", style)
        assert not re.search(r"https?:", re.sub(r'"data:[^"]*"', "", page.source))

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_contrast(self, page, scheme):
        """Of each text's colour on each ground that it stands on: 4.5 at least, by WCAG 2.2's formula."""
        blocks = re.findall(r":root \{([^}]*)\}", page.one("style")["text"])
        colours = dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[["light", "dark"].index(scheme)]))
        pairs = [(text, ground) for text in ("text", "soft", "accent") for ground in ("ground", "panel")]
        for text, ground in [*pairs, ("warning-text", "warning-ground")]:
            assert contrast(colours[text], colours[ground]) >= 4.5
        assert contrast(colours["accent"], colours["ground"]) >= 3  # of what shows the focus

    def test_other_colours_are_only_those_of_the_scheme(self, page):
        style = re.sub(r":root \{[^}]*\}", "", page.one("style")["text"])
        assert set(re.findall(r"#[0-9a-fA-F]{3,6}\b", style)) == {"#ffffff"}  # behind the pictures


def contrast(one, other):
    """WCAG 2.2's contrast of two colours ``#rrggbb``."""
    luminance = []
    for colour in (one, other):
        rgb = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        luminance.append(linear @ [0.2126, 0.7152, 0.0722])
    dark, light = sorted(luminance)
    return (light + 0.05) / (dark + 0.05)


class TestEscapes:
    def test_names_of_classes_are_text(self, evil):
        page = evil["page"]
        assert len(page.all("img")) == 4
        assert not page.all("script", "b")
        assert "49" not in html.unescape(page.all("img")[0]["attrs"]["alt"])
        texts = " ".join(picture["attrs"]["alt"] for picture in page.all("img"))
        assert any(name in texts for name in EVIL)
        for name in EVIL[:2]:
            assert name not in page.source

    def test_parameters_and_names_of_services_are_text(self, clf, test_data, tmp_path):
        inner = clf.score_fn

        def service(images, class_prompts):
            return inner(images, class_prompts)

        service.__qualname__ = EVIL[0]
        twin = with_service(clf, service).set_params(class_prompts=EVIL, checkpoint=None)
        report(twin, tmp_path / "fit.html", *test_data)
        page = Page(tmp_path / "fit.html")
        assert EVIL[0] in page.one("header")["text"]
        rows = {row[0]: row[1] for row in page.rows("parameters-caption")[1:]}
        assert rows["score_fn"].endswith(EVIL[0])
        assert rows["class_prompts"] == repr(EVIL)
        assert not page.all("script")


class ForeignHead(BaseEstimator):
    """An estimator of the user's own, with a parameter that may be a secret."""

    def __init__(self, place="https-with-a-password"):
        self.place = place


def test_a_foreign_estimator_within_a_pipeline_is_shown_by_name_only():
    clf = BlackVIPClassifier(ToyService(), "{}", head=make_pipeline(FunctionTransformer(), ForeignHead()))
    (cells,) = [row["cells"] for row in parameter_table(clf)["rows"] if row["cells"][0] == "head"]
    assert cells[1:] == ["sklearn.pipeline.Pipeline", "auto"]
    clf.set_params(head=make_pipeline(FunctionTransformer(), LogisticRegression()))
    assert "LogisticRegression(C=" in str(parameter_table(clf))


class Keyed(ToyService):
    """A service whose repr shows its key."""

    def __repr__(self):
        return f"Keyed({SECRET})"


SECRET = "kaboom-5f3a9b"


class TestSecrets:
    def test_the_key_of_a_service_over_http(self, tmp_path, monkeypatch):
        X, y = make_stripes(n=24, n_classes=3, side=9)
        with running() as remote:
            remote.control(key=SECRET)
            monkeypatch.setenv("A_KEY", SECRET)
            clf = BlackVIPClassifier(
                scorer_of(remote, key="A_KEY"),
                prompter="basis",
                max_queries=150,
                random_state=0,
                verbose=0,
                guard=False,
            )
            report(clf.fit(X, y), tmp_path / "fit.html", X, y)
        source = (tmp_path / "fit.html").read_text()
        assert "blackvip.scorers.http.scorer.HTTPScorer" in source
        for hidden in (SECRET, "A_KEY", "127.0.0.1"):
            assert hidden not in source

    def test_of_other_objects_only_their_names(self, clf, test_data, tmp_path):
        service = Keyed(glare=1.0)
        service.api_key = SECRET
        head = make_pipeline(FunctionTransformer(kw_args={"api_key": SECRET}), LogisticRegression(C=0.25))
        twin = with_service(clf, service).set_params(
            head=head, prompter=Coordinator("pca", src_dim=98), random_state=np.random.RandomState(0)
        )
        report(twin, tmp_path / "fit.html", *test_data)
        rows = {row[0]: row[1] for row in Page(tmp_path / "fit.html").rows("parameters-caption")[1:]}
        assert SECRET not in (tmp_path / "fit.html").read_text()
        assert rows["score_fn"] == "test_report.Keyed"
        assert rows["prompter"] == "Coordinator(encoder='pca', last_layer='zero', src_dim=98)"
        assert "LogisticRegression(C=0.25" in rows["head"]
        assert rows["random_state"] == "numpy.random.mtrand.RandomState"


class TestBeforeAnythingIsPaidFor:
    @pytest.fixture
    def free(self, clf):
        """The fitted classifier with a service that must not be asked."""
        service = ToyService(glare=1.0)
        yield with_service(clf, service)
        assert service.n_images == 0

    def test_paths(self, free, test_data, tmp_path):
        with pytest.raises(PersistenceError, match="is a folder; expected the path of a file"):
            report(free, tmp_path, *test_data)
        with pytest.raises(PersistenceError, match="there is no folder .*nowhere. Create it first"):
            report(free, tmp_path / "nowhere" / "fit.html", *test_data)

    def test_arguments(self, free, test_data, tmp_path):
        X, y = test_data
        with pytest.raises(ValueError, match="X has 40 images, but y has 39 labels"):
            report(free, tmp_path / "fit.html", X, y[1:])
        with pytest.raises(ValueError, match="n_examples=0; expected a whole number"):
            report(free, tmp_path / "fit.html", X, y, n_examples=0)
        with pytest.raises(ValueError, match="Found no images"):
            report(free, tmp_path / "fit.html", X[:0], y[:0])
        with pytest.raises(NotFittedError):
            report(BlackVIPClassifier(free.score_fn), tmp_path / "fit.html", X, y)
        assert list(tmp_path.iterdir()) == []

    def test_a_shared_budget_that_has_too_little(self, free, test_data, tmp_path):
        poor = with_service(free, SharedBudget(free.score_fn, 79))
        with pytest.raises(BudgetError):
            report(poor, tmp_path / "fit.html", *test_data)

    @pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
    def test_an_installation_without(self, free, test_data, tmp_path, monkeypatch, missing):
        monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(ImportError, match=f"{missing} is missing; install them with `pip install blackvip.plot.`"):
            report(free, tmp_path / "fit.html", *test_data)


def test_a_file_that_is_there_stays_until_the_new_one_is_whole(clf, test_data, tmp_path):
    path = tmp_path / "fit.html"
    path.write_text("an earlier report")
    service = ToyService(glare=1.0)
    service.fail_at = 2
    with pytest.raises(RuntimeError, match="the service is down"):
        report(with_service(clf, service), path, *test_data)
    assert path.read_text() == "an earlier report"
    report(clf, path, *test_data)
    assert [file.name for file in tmp_path.iterdir()] == ["fit.html"]
    assert path.read_text().startswith("<!DOCTYPE html>")


class TestChangesInWords:
    """Each kind of change, made by its own formula on a random image."""

    @pytest.fixture(scope="class")
    def image(self):
        return np.random.default_rng(0).integers(60, 180, (24, 24, 3), dtype=np.uint8)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda x: x, ["no visible change"]),
            (lambda x: x + 0.2, ["brighter by 20%"]),
            (lambda x: x - 0.1, ["darker by 10%"]),
            (lambda x: x.mean() + 0.5 * (x - x.mean()), ["contrast x 0.5"]),
            (lambda x: 1 - x, ["inverted"]),
            (lambda x: x + np.array([0.1, 0, 0]), ["brighter by 3%", "redder by 7%"]),
            (lambda x: x - np.array([0, 0, 0.1]), ["less blue by 9%"]),
            (lambda x: np.where(np.arange(24)[:, None, None] == 0, x + 0.1, x), ["single pixels by up to 10%"]),
            (lambda x: x + 0.03 * (-1.0) ** np.arange(24)[:, None, None], ["pixels by up to 3%"]),
            (lambda x: 0 * x + x.mean(), ["flat"]),
        ],
    )
    def test_of_one_kind(self, image, change, words):
        changed = np.round(255 * change(image / 255)).astype(np.uint8)
        found = change_in_words(image, changed)
        assert [word for word in found if word in words] == words
        assert len(found) == len(words) or words == ["inverted"]

    def test_blur_takes_detail_away(self, image):
        blurred = np.round(uniform_filter(image.astype(float), (3, 3, 1))).astype(np.uint8)
        assert any(re.fullmatch(r"detail x 0\.\d", word) for word in change_in_words(image, blurred))


@pytest.fixture(scope="module")
def browser():
    with Browser(find_chromium()) as browser:
        yield browser


@pytest.mark.slow
@pytest.mark.skipif(find_chromium() is None, reason="needs Chromium: apt-get install chromium")
class TestInABrowser:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [360, 1440])
    @pytest.mark.parametrize("which", ["written", "evil"])
    def test_renders_without_a_complaint(self, request, browser, which, width, scheme, tmp_path):
        url = request.getfixturevalue(which)["path"].as_uri()
        browser.open(url, width, scheme)
        assert browser.complaints() == []
        assert browser.requests() == [url]  # the file, and nothing else
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        # No column of a table is cut off.
        cut_off = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length"
        assert browser.evaluate(cut_off) == 0
        assert browser.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        assert browser.evaluate("document.querySelectorAll('script').length") == 0
        ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 27)"}[scheme]
        browser.screenshot(tmp_path / "page.png")
        page = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
        assert page.shape[1] <= width
        assert page.std() > 10

    @pytest.mark.parametrize("which", ["written", "evil"])
    def test_a_screen_reader_is_told_all_of_it_in_order(self, request, browser, which):
        browser.open(request.getfixturevalue(which)["path"].as_uri(), 360)
        spoken = browser.spoken()
        of_role = lambda role: [node[1:] for node in spoken if node[0] == role]
        levels = [level for _, level in of_role("heading")]
        assert levels[0] == 1
        assert max(np.diff(levels)) == 1  # none is skipped
        assert levels.count(1) == 1
        headings = [name for name, _ in of_role("heading")]
        assert [name for (name,) in of_role("link")] == [name for name, level in of_role("heading") if level == 2]
        assert len(of_role("image")) == 4
        assert all(len(name) > 40 for (name,) in of_role("image"))  # words in place of the picture
        for role in ("main", "navigation", "contentinfo"):
            assert len(of_role(role)) == 1
        for role in ("table", "region", "columnheader", "rowheader"):
            assert all(name for (name,) in of_role(role))
        places = [spoken.index(("heading", name, level)) for name, level in of_role("heading")]
        pictures = [place for place, node in enumerate(spoken) if node[0] == "image"]
        first = places[headings.index("Pictures") + 1]
        assert all(first < place < places[headings.index("Cost")] for place in pictures)

    def test_its_policy_stops_a_script_that_got_in(self, browser, written, tmp_path):
        path = tmp_path / "broken.html"
        source = written["path"].read_text()
        path.write_text(source.replace("<main>", "<main><script>document.title = 'run'</script>"))
        browser.open(path.as_uri(), 360)
        assert browser.evaluate("document.title") == "Report of a fit"
        assert any("violates the following Content Security Policy" in text for text in browser.complaints())
