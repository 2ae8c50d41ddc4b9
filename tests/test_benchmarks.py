"""What the benchmarks share, and the data and the services that they make."""

import json
import pathlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ToyService, make_stripes
from PIL import Image
from sklearn.datasets import load_digits

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "benchmarks"))
import class_counts
import http_service
import large_runs
import long_run
import optimizers
import query_economy
import reports
import robustness
import services
import small_clip
import speed
import synthetic

from blackvip import SPSA, compare, datasets
from blackvip.prompters import CORRECTIONS

START = np.tile([-1.2, 1.0], 6)


def test_all_http_libraries_send_the_same_request():
    body = json.dumps({"inputs": "x" * 90_000}).encode()
    told = {"accept": "*/*", "accept-encoding": "gzip", "user-agent": "blackvip", "content-type": "application/json"}
    with http_service.running() as service:
        service.control(quick=http_service.RANKED)
        for connect in http_service.THREADED.values():
            assert json.loads(connect(f"{service.url}/hf", body)()) == http_service.RANKED
            seen = service.counts()["seen"]
            assert seen["headers"].items() >= {**told, "content-length": str(len(body))}.items()
            assert json.loads(seen["body"]) == json.loads(body)


def test_a_loss_curve_has_a_loss_for_each_step_and_ends_where_a_run_goes_astray():
    function = optimizers.rosenbrock
    assert function(np.ones(12)) == 0
    assert function(np.array([0.0, 2.0])) == (100 * 4 + 1) / 2
    losses = list(optimizers.loss_curve(SPSA(0.003, 0.05, n_directions=5), function, START, 0.0, 1000, 0))
    assert len(losses) == 100  # ten evaluations a step
    assert losses[-1] < losses[0] < function(START)
    assert losses[-1] == optimizers.final_loss(SPSA(0.003, 0.05, n_directions=5), function, START, 0.0, 1000, seed=0)
    astray = list(optimizers.loss_curve(SPSA(10.0, 0.05, n_directions=5), function, START, 0.0, 1000, 0))
    assert astray[-1] == np.inf
    assert len(astray) < 100


def test_more_classes_than_characters_are_refused(monkeypatch, capsys):
    assert len(set(class_counts.CHARACTERS)) == 95
    monkeypatch.setattr(sys, "argv", ["class_counts.py", "--classes", "10", "100"])
    with pytest.raises(SystemExit):
        class_counts.main()
    assert "--classes has [10, 100]; expected numbers from 2 to 95" in capsys.readouterr().err


def test_step_sizes_are_chosen_on_other_seeds_than_those_that_are_shown():
    rows = list(robustness.measure([0.0], 200, range(2)))
    assert min(robustness.TUNING_SEEDS) > 100
    grids = {name: [optimizer.a for optimizer in grid] for name, grid in robustness.OPTIMIZERS.items()}
    assert grids["SPSA"] == grids["SPSA-GC"]
    for row in robustness.rows_of(rows, kind="final"):
        optimizer = next(one for one in robustness.OPTIMIZERS[row["optimizer"]] if one.a == row["a"])
        problem = (robustness.rosenbrock, robustness.START, 0.0, 200)
        expected = [robustness.final_loss(optimizer, *problem, seed=seed) for seed in range(2)]
        np.testing.assert_allclose(row["losses"], expected, rtol=1e-4)


def test_words_above_the_marker_stay(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A page\n\nWords.\n")
    reports.write_below_marker(page, "script.py", ["old figures"])
    reports.write_below_marker(page, "script.py", reports.table(["a", "b"], [["1", reports.cell([0.5, 1.0])]]))
    text = page.read_text()
    assert text.startswith("# A page\n\nWords.\n\n<!--")
    assert "old figures" not in text
    assert text.endswith("| a | b |\n| --- | --- |\n| 1 | 0.750 (0.500-1.000) |\n")


def test_no_digit_is_for_two_of_reader_shots_and_test():
    parts = small_clip.split_digits()
    images = load_digits().images
    assert sum(len(labels) for _, labels in parts.values()) == len(images)
    whole = np.concatenate([part for part, _ in parts.values()])
    as_bytes = lambda digits: sorted(digit.tobytes() for digit in digits)
    assert as_bytes(whole) == as_bytes(np.rint(images * (255 / 16)).astype(np.uint8))


def test_plain_digits_are_of_the_given_size_and_on_black():
    images, _ = small_clip.split_digits().reader
    pages = small_clip.draw_plain(np.full_like(images[:20], 255), np.full(20, 14), np.random.default_rng(0))
    assert pages.shape == (20, 3, small_clip.SIDE, small_clip.SIDE)
    np.testing.assert_allclose(pages * (1 - pages), 0, atol=1e-6)
    np.testing.assert_allclose(pages.sum(dim=(2, 3)), 14**2, rtol=1e-5)
    corners = (pages[:, 0] > 0.5).flatten(1).int().argmax(dim=1)
    assert len(corners.unique()) > 10


@pytest.mark.parametrize("name", synthetic.SETS)
def test_test_images_are_the_same_for_all_seeds_and_no_shots(name):
    side = 24
    (X, y, X_test, y_test), (other, _, again, _) = (synthetic.load(name, side, seed, "test") for seed in (1, 2))
    assert X.shape == (160, side, side, 3)
    assert np.bincount(y).tolist() == [16] * 10
    np.testing.assert_array_equal(X_test, again)
    assert not np.array_equal(X, other)
    *_, y_development = synthetic.load(name, side, 1, "development")
    assert len(y_test) == len(small_clip.split_digits().test[1])
    assert len(y_development) + len(y) == len(small_clip.split_digits().pool[1])


def test_biased_colours_tell_the_class_in_training_only():
    _, y, X_test, y_test = synthetic.load("biased_0.9", 24, 1, "test")
    X = synthetic.load("biased_0.9", 24, 1, "test")[0]
    agrees = lambda images, labels: (images[:, 0, 0] == datasets.digits.COLOURS[labels]).all(axis=1).mean()
    assert agrees(X, y) > 0.5 > 0.2 > agrees(X_test, y_test)


def test_a_factor_multiplies_every_step_size_of_a_method():
    for method in synthetic.STEPPED:
        whole, tenth = (
            synthetic.estimator_of(method, "loc_1:1", lambda images, prompts: None, ["0", "1"], factor)
            for factor in (1.0, 0.1)
        )
        gains = [one.optimizer if method == "bar" else one for one in (whole, tenth)]
        assert gains[1].a == pytest.approx(0.1 * gains[0].a)
        assert gains[1].c == gains[0].c
        if method == "bar":
            assert gains[1].a_end == pytest.approx(0.1 * gains[0].a_end)
            assert whole.prompter.inner == 194


def test_fewer_shots_are_the_first_of_each_class_and_the_test_images_stay():
    images, labels = np.arange(64), np.arange(64) % 4
    task = services.Task("", None, "{}", lambda seed, split: (images, labels, images + 100, labels))
    X, y, X_test, _ = task.load(0, "test", shots=2)
    np.testing.assert_array_equal(X, np.arange(8))
    np.testing.assert_array_equal(y, np.arange(8) % 4)
    np.testing.assert_array_equal(X_test, images + 100)
    np.testing.assert_array_equal(task.load(0, "test")[0], images)
    with pytest.raises(ValueError, match="expected 1 to 16"):
        task.load(0, "test", shots=17)


def test_every_task_is_a_line_of_the_tables_and_of_the_picture(tmp_path):
    rows = []
    for name in services.tasks():
        for seed, accuracy in enumerate((0.6, 0.8)):
            key = {"task": name, "shots": 16, "seed": seed, "split": "test", "billed": 160, "own_answers": 0.5}
            baselines = {**dict.fromkeys(query_economy.BASELINES, 0.4), "fused_zero_shot": accuracy - 0.1}
            rows.append({**key, **baselines, "method": "baselines", "queries": 0, "chosen": "fused_zero_shot"})
            rows.append({**key, "method": "corrections", "queries": 0, "accuracy": accuracy})
            default = {**key, "method": "default", "per_prediction": 1.0}
            rows += [{**default, "queries": n, "accuracy": accuracy + n / 1e5} for n in (4000, 16000)]
            rows.append({**key, "method": "paper", "queries": 4000, "refused": "max_queries=4000 is too small"})
    text = "\n".join(query_economy.tables(rows))
    assert "| `small-fog` | 16 | 0.400 (0.400-0.400) |" in text
    line = "| clip art in fog, EfficientNet-Lite0 | 16 | default | 4,000 | 160 (160-160) | 2 | 0.500 (0.500-0.500) |"
    assert f"{line} 1.000 (1.000-1.000) | 0.740 (0.640-0.840) | +0.140 |" in text
    assert "paper" not in text
    for name, title in services.titles().items():
        assert text.count(f"| {title} |") == 4
        assert query_economy.dots_of(rows, name) == pytest.approx(
            {"plain service": 0.4, "best baseline": 0.6, "best image correction": 0.7, "default": 0.74}
        )
    pytest.importorskip("matplotlib")
    query_economy.draw_picture(rows, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width == 1440  # twice the width at which it is shown


@pytest.mark.skipif(not services.CLIPART.exists(), reason="needs Debian's openclipart-png")
def test_clip_art_is_damaged_by_seed_and_no_shot_is_tested(monkeypatch):
    monkeypatch.setattr(services, "_N_POOL", 20)
    monkeypatch.setattr(services, "PICTURES", {"animals/birds": "7-24", "plants/flowers": "985-986"})
    monkeypatch.setattr(services, "label_reader", lambda classes: SimpleNamespace(labels=list(map(list, classes))))
    monkeypatch.setattr(services, "clipart", services.cache(services.clipart.__wrapped__))
    task = services.clipart_task("clipart-fog")
    assert task.class_prompts == ["birds", "flowers"]
    assert task.score_fn.labels == [list(range(7, 25)), [985, 986]]
    assert task.score_fn.takes_any_size
    X, y, X_test, y_test = task.load(0, "test")
    assert X.shape == (32, 128, 128, 3)
    assert (X.std(axis=(1, 2, 3)) < 0.26 * 128).all()  # at least three quarters of each are fog
    assert np.bincount(y).tolist() == [16, 16]
    np.testing.assert_array_equal(X, task.load(0, "test")[0])
    np.testing.assert_array_equal(X_test, task.load(1, "test")[2])
    plain = services.clipart_task("clipart")
    keys = [{image.tobytes() for image in plain.load(0, "test")[part]} for part in (0, 2)]
    assert not keys[0] & keys[1]
    assert len(keys[1]) == len(y_test) == len(services.clipart()[0]) - 40


def test_pictures_of_other_folders_are_for_development_alone(monkeypatch):
    monkeypatch.setattr(services, "OTHER_PICTURES", {"animals/bugs": "300-326", "tools": "587"})
    monkeypatch.setattr(services, "label_reader", lambda classes: SimpleNamespace(labels=list(map(list, classes))))
    monkeypatch.setattr(services, "clipart", services.cache(services.clipart.__wrapped__))
    task = services.tasks()["other-clipart-dark"]()
    assert (task.class_prompts, task.score_fn.labels) == (["bugs", "tools"], [list(range(300, 327)), [587]])
    X, y, X_test, y_test = task.load(0, "development")
    assert np.bincount(y).tolist() == [16, 16]
    assert len(y) + len(y_test) == len(services.clipart(True)[0])
    assert not {image.tobytes() for image in X} & {image.tobytes() for image in X_test}
    assert max(X.max(), X_test.max()) <= 26  # a tenth of the light at most
    with pytest.raises(ValueError, match="--split development"):
        task.load(0, "test")


@pytest.mark.slow
def test_the_small_clip_reads_plain_digits_by_their_class_prompts(tmp_path, monkeypatch):
    # Digits of one size need few steps, and short ones: 0.91 to 0.94 of them are read after this, with any of 8 seeds.
    monkeypatch.setattr(small_clip, "_SIZES", (28,))
    monkeypatch.setattr(small_clip, "_N_STEPS", 200)
    monkeypatch.setattr(small_clip, "_BATCH_SIZE", 32)
    monkeypatch.setattr(small_clip, "_LEARNING_RATE", 1e-3)
    scorer = small_clip.digit_clip(tmp_path / "digit_clip.pt")
    prompts = [small_clip.TEMPLATE.format(digit) for digit in range(10)]
    images, labels = small_clip.split_digits().pool
    pages = small_clip.draw_plain(images, np.full(len(labels), 28), np.random.default_rng(1))
    logits = scorer(pages, prompts)
    assert (logits.argmax(axis=1) == labels).mean() > 0.7
    np.testing.assert_allclose(scorer(pages, prompts[::-1]), logits[:, ::-1], rtol=1e-4, atol=1e-4)
    weights = (tmp_path / "digit_clip.pt").read_bytes()
    assert small_clip.digit_clip(tmp_path / "digit_clip.pt") is not scorer
    assert (tmp_path / "digit_clip.pt").read_bytes() == weights  # it was not trained again


@pytest.mark.slow
def test_our_step_and_one_like_the_references_have_the_same_losses(monkeypatch):
    monkeypatch.setattr(speed, "MODEL", "ViT-S-32")
    monkeypatch.setattr(speed, "ENCODER", "vit_tiny_patch16_224")
    (row,) = speed.step(SimpleNamespace(batch=1, repetitions=1, device="cpu"))
    assert row["largest_difference_of_losses"] < 1e-4 < row["spread_of_losses"]
    assert row["candidates"] == 10


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_fit_under_faults_that_is_killed_twice_is_the_same(tmp_path):
    processes, found, expected, counts = long_run.long_run(600, 0.05, tmp_path, interval=0.02)
    assert len(processes) == 3
    for samples, kill_at in zip(processes, (200, 400)):
        assert kill_at <= samples[-1].images < 500
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    assert sum(counts.get(name, 0) for name in long_run.FAULTS) > 0
    assert 0 <= counts["images"] - found["n_queries"] <= 2 * long_run.N_CONCURRENT
    samples = [one for process in processes for one in process]
    assert 1 <= max(one.sockets for one in samples) <= long_run.N_CONCURRENT
    assert all(one.megabytes > 0 for one in samples)
    assert samples[-1].journal_megabytes > 0


def test_growth_measures_a_step_without_a_service():
    case = {"images": 4, "classes": 3, "candidates": 2, "side": 12}
    found = speed.step_alone(speed.PromptBasis(), case, SimpleNamespace(repetitions=1))
    assert found["cpu_ms_per_sent_image"] > 0


def test_runs_take_the_place_of_those_that_the_page_has(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "DOCS", tmp_path)
    monkeypatch.setattr(synthetic, "RESULTS", tmp_path)
    key = {"service": "clip", "set": "biased_0.9", "method": "zero-shot", "kind": "test", "accuracy": 0.123}
    choice = {"service": "clip", "set": "biased_0.9", "method": "bar", "kind": "choice"}
    older = [{**key, "shots_seed": 1}, {**key, "shots_seed": 2}]
    older += [{**choice, "factor": factor, "accuracy": accuracy} for factor, accuracy in ((0.1, 0.5), (1.0, 0.4))]
    (tmp_path / "synthetic.jsonl").write_text("".join(json.dumps(row) + "\n" for row in older))
    X, y = make_stripes(n=12, n_classes=3)
    results = synthetic.results_file("clip", "biased_0.9", 1)
    found = compare(
        ["zero-shot"], ToyService(), X, y, X, y, class_prompts=list("abc"), max_queries=100, seeds=[1], results=results
    )
    rows = synthetic.known_rows()
    assert len(rows) == 4
    assert [row["accuracy"] for row in synthetic.some(rows, shots_seed=1)] == [found.rows[0]["accuracy"]]
    assert [row["accuracy"] for row in synthetic.some(rows, shots_seed=2)] == [0.123]
    assert synthetic.chosen("clip", "biased_0.8", "bar") == 0.1  # of the family's development split
    assert synthetic.chosen("clip", "loc_1:1", "bar") == 1


def test_files_of_a_large_run_differ_and_their_service_sees_them_in_more_contrast(tmp_path):
    large_runs.write_files(tmp_path, 30, 64)
    pages = np.stack([np.asarray(Image.open(path)) for path in sorted(tmp_path.iterdir())])
    assert len({page.tobytes() for page in pages}) == 30
    service = large_runs.StripeReader(0.1)
    hits = lambda images: (service(images, []).argmax(axis=1) == np.arange(30) % 10).mean()
    assert hits(pages) < 0.5 < hits(CORRECTIONS["autocontrast"](pages))
    assert service.n_images == 60
    assert service.cpu >= 60 * 0.1e-3


def test_a_correction_restores_the_patterns_of_a_large_run():
    images, y, patterns = large_runs.pattern_images(300, 1, np.random.default_rng(0))
    service = large_runs.PatternReader(patterns)
    plain, corrected = (service(each, []).argmax(axis=1) for each in (images, CORRECTIONS["autocontrast"](images)))
    assert (plain == y).mean() < 0.7 < 0.9 < (corrected == y).mean()


def test_memory_is_sampled_with_the_images_that_a_service_has_had():
    service = SimpleNamespace(n_images=5)
    with large_runs.Memory(service) as memory:
        memory.sample()
        service.n_images = 20
    assert [n for n, _ in memory.samples] == [5, 20]
    assert memory.after(6) == memory.samples[1][1] > 50
