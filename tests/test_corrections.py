"""Image corrections against independent computations, and in a classifier; a trained prompt on corrected images."""

import pickle

import numpy as np
import pytest
import torch
from conftest import RowReader, ToyService, make_stripes
from PIL import Image, ImageFilter, ImageOps
from scipy import ndimage
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from blackvip import (  # fmt: skip
    BlackVIPClassifier,
    BudgetError,
    Coordinator,
    Correction,
    PaddingFrame,
    PromptBasis,
    PromptDisplay,
    QueryCurveDisplay,
    ReprogrammingFrame,
    Stacked,
    WhiteBoxClassifier,
    load,
)
from blackvip.exceptions import PersistenceError, PromptNotUsedWarning
from blackvip.inputs.images import to_uint8
from blackvip.prompters import CORRECTIONS, Learned, make_prompter
from blackvip.prompters.image_filters import each

SETTINGS = {"random_state": 0, "verbose": 0}
LEARNED = [name for name, correct in CORRECTIONS.items() if hasattr(correct, "learn")]


def photos(n=5, height=20, width=14, seed=0):
    """Smooth colours with edges and noise, uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (n, height // 3 + 1, width // 3 + 1, 3))
    images = coarse.repeat(3, axis=1).repeat(3, axis=2)[:, :height, :width] + rng.normal(0, 12, (n, height, width, 3))
    return np.clip(images, 0, 255).astype(np.uint8)


def corrected(name, images):
    correct = CORRECTIONS[name]
    return correct(images, correct.learn(images)) if hasattr(correct, "learn") else correct(images)


def grey_of(images):
    return np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])


def in_colour(grey):
    return np.repeat(grey[..., None], 3, axis=3)


def filtered(rank):
    return lambda images: ndimage.rank_filter(images, rank, size=(1, 3, 3, 1), mode="nearest")


def standardized(images):
    x = images.astype(float)
    spread = np.maximum(x.std((1, 2), keepdims=True), 1)
    return np.clip((x - x.mean((1, 2), keepdims=True)) / spread * 60 + 128, 0, 255).round()


def grey_world(images):
    means = images.mean((1, 2), keepdims=True)
    return np.clip(images * means.mean(3, keepdims=True) / means, 0, 255).round()


def blurred(sigma):
    return pil(lambda image: image.filter(ImageFilter.GaussianBlur(sigma)))


def autocontrast(images):
    """Each channel between its quantiles, less 1 % of the pixels at either end."""
    found = np.empty_like(images)
    for image, result in zip(images, found):
        for channel in range(3):
            values = np.sort(image[..., channel], axis=None)
            low, high = values[len(values) // 100], values[-1 - len(values) // 100]
            result[..., channel] = np.clip((image[..., channel] - float(low)) / (high - float(low)) * 255, 0, 255)
    return found


def otsu(images):
    """The threshold with the least sum of squares around the means of both sides, found by trying all."""
    grey = grey_of(images)
    found = []
    for image in grey:
        values = image.astype(float).ravel()
        sides = [(values[values <= t], values[values > t]) for t in range(256)]
        spread = [sum(((side - side.mean()) ** 2).sum() for side in pair if len(side)) for pair in sides]
        found.append(np.where(image > np.argmin(np.round(spread, 6)), 255, 0))
    return in_colour(np.array(found, dtype=np.uint8))


def weighted(images, radius, weigh):
    """Weighted means, pixel by pixel; `weigh` gets padded image, both pixels and the part in which both lie."""
    found = np.empty(images.shape)
    n, height, width, _ = images.shape
    for index, image in enumerate(images.astype(float)):
        for row, column in np.ndindex(height, width):
            total = weights = 0.0
            for r in range(max(0, row - radius), min(height, row + radius + 1)):
                for c in range(max(0, column - radius), min(width, column + radius + 1)):
                    weight = weigh(image, row, column, r, c)
                    total, weights = total + weight * image[r, c], weights + weight
            found[index, row, column] = total / weights
    return found.round()


def bilateral(image, row, column, r, c):
    distance = (row - r) ** 2 + (column - c) ** 2
    return np.exp(-distance / (2 * 1.5**2) - ((image[row, column] - image[r, c]) ** 2).sum() / (2 * 30**2))


def non_local(image, row, column, r, c):
    down, across = r - row, c - column
    height, width, _ = image.shape
    total = 0.0
    for i, j in np.ndindex(3, 3):
        # patches end where one of both pixels would leave the image
        i = np.clip(row + i - 1, max(0, -down), height - 1 - max(0, down))
        j = np.clip(column + j - 1, max(0, -across), width - 1 - max(0, across))
        total += ((image[i, j] - image[i + down, j + across]) ** 2).sum()
    return np.exp(-total / (27 * 20**2))


def less_background(images):
    background = np.median(images, axis=0)
    return np.clip(images - background + np.median(background, axis=(0, 1)), 0, 255)


def pil(correct):
    return lambda images: np.stack([np.asarray(correct(Image.fromarray(image))) for image in images])


def flat_field(images):
    light = blurred(20 / 6)(images)
    return np.clip(images * light.mean((1, 2), keepdims=True) / light, 0, 255)


def without_surroundings(images, first, then):
    side = min(images.shape[1:3]) // 3 // 2 * 2 + 1
    return pil(lambda image: image.filter(first(side)).filter(then(side)))(images).astype(int) - images


def white_top_hat(images):
    return autocontrast((-without_surroundings(images, ImageFilter.MinFilter, ImageFilter.MaxFilter)).astype(np.uint8))


def black_top_hat(images):
    hat = without_surroundings(images, ImageFilter.MaxFilter, ImageFilter.MinFilter)
    return autocontrast((255 - hat).astype(np.uint8))


#: Name to an independent computation, and the largest difference in grey levels.
EXPECTED = {
    "autocontrast": (autocontrast, 1),
    "standardize": (standardized, 1),
    "equalize": (pil(ImageOps.equalize), 0),
    "gamma-0.5": (lambda images: np.sqrt(images / 255) * 255, 0.51),
    "gamma-2": (lambda images: (images / 255) ** 2 * 255, 0.51),
    "invert": (lambda images: 255 - images.astype(int), 0),
    "greyscale": (lambda images: in_colour(grey_of(images)), 0),
    "white-balance": (grey_world, 1),
    "flatten": (lambda images: np.clip(images - blurred(20 / 6)(images).astype(int) + 128, 0, 255), 0),
    "flat-field": (flat_field, 0.51),
    "median": (filtered(4), 0),
    "minimum": (filtered(0), 0),
    "maximum": (filtered(8), 0),
    "opening": (lambda images: filtered(8)(filtered(0)(images)), 0),
    "closing": (lambda images: filtered(0)(filtered(8)(images)), 0),
    "bilateral": (lambda images: weighted(images, 2, bilateral), 1),
    "non-local-means": (lambda images: weighted(images, 3, non_local), 1),
    "blur": (lambda images: ndimage.gaussian_filter(images.astype(float), (0, 1, 1, 0), mode="nearest"), 5),
    "otsu": (otsu, 0),
    "less-background": (less_background, 0.51),
    "median-autocontrast": (lambda images: autocontrast(filtered(4)(images)), 1),
    "flatten-autocontrast": (lambda images: autocontrast(corrected("flatten", images)), 1),
    "white-top-hat": (white_top_hat, 1),
    "black-top-hat": (black_top_hat, 1),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_correction_equals_its_formula(name):
    images = photos(n=1 if name in ("bilateral", "non-local-means") else 5)
    expected, tolerance = EXPECTED[name]
    np.testing.assert_allclose(corrected(name, images).astype(float), expected(images), atol=tolerance)


def test_autocontrast_is_pillows():
    rng = np.random.default_rng(0)
    images = [
        rng.integers(low, 256, (2, *size, 3)) for low in (0, 200, 255) for size in [(1, 1), (3, 5), (10, 10), (40, 60)]
    ]
    images += [
        rng.normal(100, 5, (2, 30, 30, 3)).clip(0, 255),
        np.full((1, 20, 20, 3), 7),
        rng.integers(0, 2, (2, 20, 20, 3)),
    ]
    for batch in images:
        batch = batch.astype(np.uint8)
        expected = [np.asarray(ImageOps.autocontrast(Image.fromarray(image), cutoff=1)) for image in batch]
        np.testing.assert_array_equal(CORRECTIONS["autocontrast"](batch), expected)


@pytest.mark.parametrize("size", [(1, 1), (9, 1), (4, 4)])
def test_a_correction_of_single_images_keeps_their_size(size):
    with pytest.raises(ValueError, match="reshape"):
        each(lambda image: image.resize(size))(np.zeros((2, 9, 9, 3), np.uint8))


def test_drawing_is_correcting():
    images = np.random.default_rng(0).integers(0, 256, (70, 9, 8, 3)).astype(np.uint8)
    correction = Correction("gamma-2").fit(images)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    np.testing.assert_array_equal(to_uint8(correction.draw(pixels)), CORRECTIONS["gamma-2"](images))
    half = correction.freeze(np.zeros(0), prompt_scale=0.5).draw(pixels)
    np.testing.assert_allclose(half, (pixels + correction.freeze(np.zeros(0)).draw(pixels)) / 2, atol=1e-6)


def test_sharpen_moves_pixels_away_from_their_surroundings():
    step = np.full((1, 12, 12, 3), 100, np.uint8)
    step[:, :, 6:] = 160
    line = corrected("sharpen", step)[0, 6, :, 0].astype(int)
    assert line[5] < 90
    assert line[6] > 170
    assert (line[0], line[11]) == (100, 160)


def test_adaptive_threshold_finds_ink_in_any_light():
    ink = np.zeros((24, 24), bool)
    ink[5:19, 7] = ink[5:19, 16] = True
    light = np.linspace(40, 240, 24)[None, :] * np.ones((24, 1))
    page = np.where(ink, 0.5 * light, light).astype(np.uint8)
    np.testing.assert_array_equal(corrected("adaptive-threshold", in_colour(page[None]))[0, ..., 0] == 0, ink)
    # a service that looks at brightness alone cannot tell them apart
    assert not np.array_equal(corrected("otsu", in_colour(page[None]))[0, ..., 0] == 0, ink)


def clahe(grey, tiles, size, limit):
    """Luminance, pixel by pixel: the mappings of the four nearest tiles, weighted by distance."""

    def mapping(row, column, value):
        tile = grey[row * size : (row + 1) * size, column * size : (column + 1) * size]
        counts = np.minimum(np.bincount(tile.ravel(), minlength=256), limit)
        counts = counts + (tile.size - counts.sum()) / 256
        return 255 * counts[: value + 1].sum() / tile.size

    found = np.empty(grey.shape)
    for row, column in np.ndindex(grey.shape):
        y, x = np.clip([(row + 0.5) / size - 0.5, (column + 0.5) / size - 0.5], 0, tiles - 1)
        top, left = min(int(y), tiles - 2), min(int(x), tiles - 2)
        corners = [[mapping(top + i, left + j, grey[row, column]) for j in (0, 1)] for i in (0, 1)]
        found[row, column] = np.array([1 - y + top, y - top]) @ corners @ np.array([1 - x + left, x - left])
    return found


def test_clahe_equals_its_formula():
    image = photos(n=1, height=32, width=32)
    grey = grey_of(image)
    change = clahe(grey[0], 2, 16, int(2 * 256 / 256)) - grey[0]
    expected = np.clip(image[0] + change[..., None], 0, 255)
    np.testing.assert_allclose(corrected("clahe", image)[0].astype(float), expected, atol=0.51)


@pytest.mark.parametrize("name", CORRECTIONS)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2), (17, 40)])
def test_each_image_is_corrected_alone_whatever_its_size(name, size):
    images = np.concatenate(
        [photos(4, *size), np.zeros((1, *size, 3), np.uint8), np.full((1, *size, 3), 255, np.uint8)]
    )
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    correction = Correction(name).fit_pixels(pixels).freeze(np.zeros(0))
    together = correction.draw(pixels)
    as_sent = (together * 255).round()
    assert together.shape == pixels.shape
    torch.testing.assert_close(together * 255, as_sent, atol=1e-4, rtol=0)  # it is made of 8 bits
    assert as_sent.min() >= 0
    assert as_sent.max() <= 255
    alone = torch.cat([correction.draw(image[None]) for image in pixels])
    assert torch.equal((alone * 255).round(), as_sent)
    backwards = correction.draw(pixels.flip(0)).flip(0)
    assert torch.equal((backwards * 255).round(), as_sent)
    # constant images stay constant, and no correction writes into its images
    assert (as_sent[-2:].flatten(2).std(2, unbiased=False) == 0).all() or name in LEARNED
    np.testing.assert_array_equal((pixels * 255).round().permute(0, 2, 3, 1).numpy(), images)


def test_a_correction_is_a_prompt(tmp_path):
    X = photos()
    assert set(CORRECTIONS).isdisjoint(type(make_prompter("basis")).named)
    for name in ("median", "less-background"):
        correction = Correction(name).fit(X)
        assert (correction.n_parameters_, correction.parameters_.shape) == (0, (0,))
        expected = corrected(name, X)
        np.testing.assert_array_equal(correction.transform(X), expected)
        correction.save(tmp_path / "correction")
        for same in (load(tmp_path / "correction"), pickle.loads(pickle.dumps(correction))):
            np.testing.assert_array_equal(same.transform(X[:2]), expected[:2])
        # half of the change
        half = clone(correction).fit(X).freeze(np.zeros(0), prompt_scale=0.5).transform(X)
        np.testing.assert_allclose(half, (X + expected.astype(float)) / 2, atol=0.51)
    assert make_prompter("median").correction == "median"
    with pytest.raises(ValueError, match="'correction' parameter of Correction must be a str among"):
        Correction("magic").fit(X)


def test_corrections_of_ones_own(tmp_path, monkeypatch):
    X, y = make_stripes(n=24)
    monkeypatch.setitem(CORRECTIONS, "darken", lambda images: images // 2)
    brightest = Learned(
        lambda images: float(images.max()), lambda images, most: (images * (255 / most)).astype("uint8")
    )
    monkeypatch.setitem(CORRECTIONS, "stretch", brightest)
    np.testing.assert_array_equal(Correction("darken").fit(X).transform(X), X // 2)
    clf = BlackVIPClassifier(ToyService(), "{}", prompter="stretch", guard=False, **SETTINGS).fit(X, y)
    assert clf.prompter_.learned_ == X.max()
    assert clf.prompter_.transform(X).max() == 255
    clf.save(tmp_path / "clf")
    np.testing.assert_array_equal(load(tmp_path / "clf").prompter_.transform(X), clf.prompter_.transform(X))

    # What a correction returns is checked, and a file names a correction that must be there.
    for wrong, found in ((lambda images: images / 2, "float64"), (lambda images: images[:, 1:], "uint8 of shape")):
        monkeypatch.setitem(CORRECTIONS, "darken", wrong)
        with pytest.raises(ValueError, match=f"The correction 'darken' returned {found}.*expected uint8 of shape"):
            Correction("darken").fit(X).transform(X)
    monkeypatch.delitem(CORRECTIONS, "stretch")
    with pytest.raises(
        PersistenceError, match="prompter is .stretch.; expected the name of a prompter that is known here"
    ):
        load(tmp_path / "clf")


class Inverted(ToyService):
    """A service that reads negatives alone."""

    def __call__(self, images, class_prompts):
        return super().__call__(255 - images, class_prompts)


@pytest.mark.parametrize("optimizer", ["spsa-gc", "cma-es"])
def test_a_classifier_with_a_correction_trains_nothing(optimizer, tmp_path):
    X, y = make_stripes(n=24)
    service = Inverted()
    clf = BlackVIPClassifier(service, "{}", prompter="invert", optimizer=optimizer, head=None, **SETTINGS)
    plan = clf.plan(X, y)
    assert (plan.fit.images, plan.steps.images, plan.final.images) == (48, 0, 24)
    clf.fit(X, y)
    assert clf.n_queries_ == service.n_images == 48
    assert (clf.n_iter_, clf.history_, clf.termination_reason_) == (0, [], "nothing_to_train")
    assert clf.prompt_used_
    assert (clf.baselines_["zero_shot"].accuracy, clf.score(X, y)) == (0, 1)

    # It is saved and loaded, continues, and resumes.
    clf.save(tmp_path / "clf")
    same = load(tmp_path / "clf", service)
    np.testing.assert_array_equal(same.predict_proba(X), clf.predict_proba(X))
    assert same.set_params(warm_start=True).fit(X, y).n_queries_ == 48
    assert same.set_params(warm_start=False).partial_fit(X, y).n_queries_ == 96
    service.fail_at, resumed = len(service.calls) + 2, clone(clf).set_params(checkpoint=tmp_path / "journal")
    with pytest.raises(RuntimeError, match="the service is down"):
        resumed.fit(X, y)
    service.fail_at, before = None, service.n_images
    assert resumed.fit(X, y).n_queries_ == 48
    assert service.n_images == before + 24
    with pytest.raises(BudgetError, match="max_queries=47 does not pay for the scores.* works here is 48: 48 to score"):
        clone(clf).set_params(max_queries=47).fit(X, y)
    assert clone(clf).set_params(max_queries=48, patience=1, validation_fraction=0.5).fit(X, y).n_queries_ == 48


def test_a_white_box_has_nothing_to_train_either():
    X, y = make_stripes(n=24)
    clf = WhiteBoxClassifier(RowReader(), "{}", prompter="invert", prompt_scale=1.0).fit(X, y)
    assert (clf.n_queries_, clf.history_) == (0, [])
    np.testing.assert_array_equal(clf.coordinator_.transform(X), 255 - X)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_correction_that_does_not_help_is_dropped():
    X, y = make_stripes(n=24)
    clf = BlackVIPClassifier(ToyService(), "{}", prompter=Correction("invert"), **SETTINGS)
    with pytest.warns(PromptNotUsedWarning):
        clf.fit(X, y)
    assert not clf.prompt_used_
    assert clf.score(X, y) == 1
    np.testing.assert_array_equal(clf.prompter_.transform(X), X)
    search = GridSearchCV(clf, {"prompter": ["invert", "autocontrast"]}, cv=2, error_score="raise").fit(X, y)
    assert search.best_score_ == 1


@pytest.mark.parametrize("then", ["basis", Coordinator(), PaddingFrame(), ReprogrammingFrame(), Correction("median")])
def test_a_prompt_on_corrected_images(then, tmp_path):
    X = photos(6, 16, 16)
    stacked = Stacked("invert", then).fit(X)
    on_corrected = make_prompter(then).fit(255 - X)
    w = np.random.default_rng(0).normal(0, 0.1, stacked.n_parameters_)
    for prompter, images in ((stacked, X), (on_corrected, 255 - X)):
        features = prompter.features(prompter.image_format_.pixels(images)).double()
        prompter.freeze(w, prompter.batch_statistics(torch.as_tensor(w), lambda features=features: [features]))
    np.testing.assert_array_equal(stacked.transform(X), on_corrected.transform(255 - X))
    np.testing.assert_array_equal(stacked.then_.transform(255 - X), on_corrected.transform(255 - X))
    stacked.save(tmp_path / "stacked")
    for same in (load(tmp_path / "stacked"), pickle.loads(pickle.dumps(stacked))):
        np.testing.assert_array_equal(same.transform(X[:2]), stacked.transform(X[:2]))
    np.testing.assert_array_equal(clone(stacked).fit(X).freeze(w, None, 0.0).transform(X), X)


def test_what_is_below_a_stack_has_no_parameters():
    with pytest.raises(ValueError, match="first='basis' has 14 parameters; expected a prompter without any"):
        Stacked("basis", "basis").fit(photos())
    with pytest.raises(ValueError, match="prompter='magic'; expected one of 'basis', .*'autocontrast'"):
        Stacked("magic").fit(photos())


@pytest.mark.parametrize("as_paths", [False, True])
def test_training_on_corrected_images(as_paths, tmp_path, monkeypatch):
    X, y = make_stripes(n=24)
    dark = (X // 4).astype(np.uint8)
    service, calls = ToyService(glare=1.0, gain=30), []
    brighten = lambda images: calls.append(len(images)) or np.minimum(images * 4.0, 255).astype(np.uint8)
    monkeypatch.setitem(CORRECTIONS, "brighten", brighten)
    images = dark
    if as_paths:
        images = [tmp_path / f"{row}.png" for row in range(24)]
        for path, image in zip(images, dark):
            Image.fromarray(image).save(path)
    settings = {**SETTINGS, "head": None, "max_queries": 600, "guard": False, "temperature": 1.0}
    clf = BlackVIPClassifier(service, "{}", prompter=Stacked("brighten", "basis"), **settings).fit(images, y)
    # The training images are corrected once for the fit of the basis, once for training and once for the final scores.
    assert sum(calls) <= 3 * 24 + 1
    bright = BlackVIPClassifier(ToyService(glare=1.0, gain=30), "{}", prompter="basis", **settings).fit(
        brighten(dark), y
    )
    np.testing.assert_array_equal(clf.prompter_.parameters_, bright.prompter_.parameters_)
    assert clf.n_queries_ == service.n_images == bright.n_queries_
    np.testing.assert_array_equal(clf.predict_proba(images), bright.predict_proba(brighten(dark)))
    clf.save(tmp_path / "clf")
    np.testing.assert_array_equal(load(tmp_path / "clf", service).predict_proba(images), clf.predict_proba(images))
    if not as_paths:
        grid = [{"prompter__then__rms": [0.2]}, {"prompter__first": ["invert"]}]
        clf.set_params(prompter=Stacked("brighten", PromptBasis()), max_queries=150)
        search = GridSearchCV(clf, grid, cv=2, error_score="raise", refit=False).fit(images, y)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_displays_show_the_whole_change(tmp_path):
    plt = pytest.importorskip("matplotlib.pyplot")
    from blackvip import report

    X, y = make_stripes(n=24)
    settings = {**SETTINGS, "head": None, "guard": False, "max_queries": 400}
    for prompter in (Stacked("invert", "basis"), Correction("invert")):
        clf = BlackVIPClassifier(Inverted(), "{}", prompter=prompter, **settings).fit(X, y)
        display = PromptDisplay.from_estimator(clf, X[:3], y[:3])
        change = clf.prompter_.transform(X[:3]) / 255 - X[:3] / 255
        np.testing.assert_allclose(display.prompts, change, atol=0.003)
        assert np.abs(display.prompts).max() > 0.5
    report(clf, tmp_path / "fit.html", X, y)
    assert "the prompter has nothing to train" in (tmp_path / "fit.html").read_text()
    with pytest.raises(ValueError, match="The fit made no step"):
        QueryCurveDisplay.from_estimator(clf)
    plt.close("all")
