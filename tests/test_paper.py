"""benchmarks/paper.py: end to end with an open_clip model from a configuration and a folder that the test makes."""

import json
import pathlib
import sys

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "benchmarks"))
import paper
import paper_smoke

from blackvip import datasets

SIDE = 32
CONFIG = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
NAMES = ("Forest", "River", "SeaLake")


@pytest.fixture
def model(tmp_path):
    """A configuration that open_clip does not list, and weights of it."""
    config, weights = tmp_path / "paper-clip.json", tmp_path / "weights.pt"
    config.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = open_clip.create_model("paper-clip")
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    torch.save(network.state_dict(), weights)
    return config, weights, network.eval()


@pytest.fixture
def folder(tmp_path):
    """EuroSAT in its public layout, three classes of it."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(NAMES):
        (tmp_path / "data" / "eurosat" / "2750" / name).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 120, (40, 40, 3))
            pixels[..., label] += 120
            path = tmp_path / "data" / "eurosat" / "2750" / name / f"{name}_{number}.jpg"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path / "data"


@pytest.fixture
def arguments(model, folder, tmp_path):
    config, weights, _ = model
    made = ["--dataset", "eurosat", "--data", folder, "--scorer", f"openclip:paper-clip/{weights}", "--shots", 4]
    made += ["--model-config", config, "--image-size", SIDE, "--device", "cpu", "--results", tmp_path / "results"]
    return [*map(str, made), "--verbose", "0"]


@pytest.mark.filterwarnings("ignore::blackvip.exceptions.DatasetIncompleteWarning")
def test_end_to_end(arguments, model, folder, tmp_path, capsys):
    methods = ["zero-shot", "calibrated", "blm+", "ares", "basis", "blackvip-se"]
    arguments += ["--seeds", "1", "2", "--queries", "600", "--ares-epochs", "2", "--methods", *methods]
    rows = paper.main(arguments)
    assert [(row["method"], row["seed"]) for row in rows] == [(name, seed) for seed in (1, 2) for name in methods]
    assert all(row["refused"] is None and row["n_queries"] <= 600 for row in rows)
    printed = capsys.readouterr().out
    assert "| zero-shot |  | 47.9 |" in printed  # the published figure beside the measured one

    # Zero-shot by open_clip itself, image by image.
    network = model[2]
    data = datasets.load("eurosat", folder, shots=4, seed=1)
    texts = network.encode_text(open_clip.get_tokenizer("paper-clip")(data.class_prompts), normalize=True)
    right = []
    for path, label in zip(data.X_test, data.y_test):
        pixels = np.asarray(Image.open(path).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32) / 255
        mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
        x = torch.tensor((pixels - np.float32(mean)) / np.float32(std)).permute(2, 0, 1)[None]
        with torch.no_grad():
            right.append((network.encode_image(x, normalize=True) @ texts.T).argmax().item() == label)
    assert rows[0]["accuracy"] == pytest.approx(
        np.mean(right), abs=1.5 / len(right)
    )  # resizing rounds in another place

    # What is on disk goes on: nothing is made again, and more is added.
    known = json.loads((tmp_path / "results" / "paper.json").read_text())
    assert known["rows"] == rows
    more = paper.main([*arguments, "local-probe"][:])
    shared = [row for row in more if row["method"] in ("blm+", "ares", "basis", "blackvip-se")]
    assert shared == [row for row in rows if row["method"] in ("blm+", "ares", "basis", "blackvip-se")]
    assert sum(row["method"] == "local-probe" for row in more) == 2


def test_settings_are_those_of_the_data_set():
    args = paper.parsed(["--encoder", "scratch"])
    made = paper.methods_for("eurosat", ["blackvip", "blackvip-se", "basis", "ares"], print, args)
    assert (made["blackvip"].c, made["blackvip"].optimizer.gamma) == (0.005, 0.2)
    assert made["blackvip"].prompter.encoder == "scratch"
    assert made["blackvip"].prompt_scale == pytest.approx(0.27 * 0.4)
    assert made["blackvip-se"].prompter.encoder == "pca"
    assert {estimator.image_shape for estimator in made.values()} == {(224, 224)}
    made = paper.methods_for("loc_1:4", ["blackvip"], print, args)
    assert (made["blackvip"].a, made["blackvip"].optimizer.alpha, made["blackvip"].image_shape) == (0.02, 0.5, None)


def test_table_2_has_the_average_of_all_only_where_all_are_there():
    rows = [
        {"dataset": name, "method": "zero-shot", "seed": 1, "max_queries": None, "accuracy": accuracy, "refused": None}
        | dict.fromkeys(("n_queries", "n_predict", "price", "seconds"), 0)
        for name, accuracy in (("eurosat", 0.5), ("svhn", 0.2))
    ]
    assert "| zero-shot | 50.0 (47.9) | 20.0 (18.1) | 35.0 (57.6) |" in paper.table_2(rows, ["eurosat", "svhn"])
    assert "| zero-shot | 50.0 (47.9) | – (18.1) | – (57.6) |" in paper.table_2(rows[:1], ["eurosat", "svhn"])


@pytest.mark.parametrize("spec", ["openclip:", "clip", "python:json"])
def test_unknown_scorers(spec):
    with pytest.raises(SystemExit, match="expected openclip:MODEL/WEIGHTS"):
        paper.make_scorer(spec)


@pytest.mark.parametrize(
    ("spec", "model_name", "weights"),
    [
        ("openclip:ViT-B-16/openai", "ViT-B-16", "openai"),
        ("openclip:ViT-B-16//tmp/w.pt", "ViT-B-16", "/tmp/w.pt"),
        ("openclip:ViT-B-16", "ViT-B-16", None),
        ("openclip:local-dir:/models/a", "local-dir:/models/a", None),
        ("openclip:hf-hub:org/name", "hf-hub:org/name", None),
    ],
)
def test_scorers_of_open_clip(spec, model_name, weights):
    scorer = paper.make_scorer(spec)
    assert (scorer.model_name, scorer.pretrained) == (model_name, weights)


def test_scorer_of_a_module():
    assert paper.make_scorer("python:paper_smoke:thumbnail_reader") is paper_smoke.thumbnail_reader


@pytest.mark.exhaustive
@pytest.mark.slow
def test_smoke_goes_through_every_method_and_loader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paper, "ENCODED", paper.ENCODED)  # which the smoke run changes
    rows = paper_smoke.main(["--verbose", "0"])
    assert {row["dataset"] for row in rows} == set(datasets.list_datasets())
    assert {row["method"] for row in rows} == set(paper.METHODS)
    assert not any(row["refused"] for row in rows)
    assert not list(tmp_path.iterdir())
