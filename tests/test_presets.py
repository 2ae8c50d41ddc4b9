"""The papers' settings against their tables, and that each method learns on a service of its own."""

import numpy as np
import pytest
import timm
import torch
from conftest import ToyService, make_stripes

from blackvip import (
    RGF,
    SPSA,
    SPSAGC,
    BlackVIPClassifier,
    Coordinator,
    PaddingFrame,
    ReprogrammingFrame,
    TimmEncoder,
    datasets,
    presets,
)
from blackvip.comparison.methods import make_method
from blackvip.encoders import timm as timm_encoder
from blackvip.optimizers import make_optimizer

#: Epochs, beta, gamma, c and p_eps as the paper's table has them.
TABLE = """
caltech101      5000 0.9  0.2 0.005 0.2
oxford_pets     5000 0.9  0.1 0.01  1.0
stanford_cars   2500 0.9  0.2 0.01  0.3
oxford_flowers  5000 0.5  0.2 0.02  1.0
food101         5000 0.9  0.1 0.01  0.3
fgvc_aircraft   5000 0.3  0.1 0.01  0.5
sun397          1000 0.5  0.1 0.01  1.0
dtd             5000 0.7  0.2 0.01  0.3
svhn            5000 0.9  0.2 0.005 1.0
eurosat         5000 0.9  0.2 0.005 0.4
resisc45        5000 0.95 0.1 0.01  0.3
clevr           5000 0.9  0.2 0.005 1.0
ucf101          5000 0.9  0.1 0.01  0.3
imagenet         500 0.9  0.2 0.005 0.3
"""
ROWS = {name: [float(number) for number in numbers] for name, *numbers in map(str.split, TABLE.strip().splitlines())}


class TensorService(ToyService):
    """A toy that takes pixels which nobody has rounded to 8 bits."""

    takes_tensors = True

    def __call__(self, images, class_prompts):
        return super().__call__(255 * images.permute(0, 2, 3, 1).numpy(), class_prompts)


@pytest.mark.parametrize("name", ROWS)
def test_hyperparameters_of_a_data_set(name):
    epochs, beta, gamma, c, p_eps = ROWS[name]
    for preset in (presets.cvpr2023, presets.blackvip_se):
        found = preset(name)
        optimizer = found["optimizer"]
        assert (found["a"], optimizer.alpha, optimizer.stability, optimizer.n_directions) == (0.01, 0.4, 1.0, 5)
        assert (optimizer.momentum, optimizer.gamma, found["c"]) == (beta, gamma, c)
        assert found["prompt_scale"] == pytest.approx(0.27 * p_eps)
    assert presets.paper_queries(name, 1280) == epochs * 10 * 1280 + 2 * 1280


def test_the_other_settings():
    assert (
        list(presets.SETTINGS) == datasets.list_datasets() == [*ROWS, "biased_0.8", "biased_0.9", "loc_1:1", "loc_1:4"]
    )
    assert presets.cvpr2023("biased_0.8")["c"] == 0.01
    biased, one, four = (presets.cvpr2023(name) for name in ("biased_0.9", "loc_1:1", "loc_1:4"))
    assert [(p["optimizer"].momentum, p["c"], p["optimizer"].alpha, p["a"]) for p in (biased, one, four)] == [
        (0.9, 0.01, 0.4, 0.01),
        (0.9, 0.005, 0.5, 0.01),
        (0.95, 0.01, 0.5, 0.02),
    ]
    assert presets.paper_queries("eurosat", 160) == 6_400_000 + 320  # ten classes, 16 shots: one batch an epoch
    assert (presets.SHOTS, presets.SEEDS, presets.BATCH_SIZE, presets.IMAGE_SIZE) == (16, (1, 2, 3), 128, (224, 224))
    for preset in (presets.cvpr2023, presets.blackvip_se, presets.vp, presets.bar):
        found = [preset(name)["augment"] for name in ("svhn", "imagenet", "biased_0.8", "loc_1:4", None)]
        assert found == ["crop-flip", "crop-flip", None, None, None]
    shared = presets.cvpr2023()
    assert (shared["c"], shared["optimizer"].gamma, shared["prompt_scale"]) == (0.01, 0.1, 0.27)
    assert (shared["batch_size"], shared["optimizer"].share_batch, shared["temperature"]) == (128, True, 1.0)
    assert (shared["loss"], shared["head"], shared["guard"], shared["optimizer"].clip) == (
        "cross-entropy",
        None,
        False,
        None,
    )


def test_rivals_have_the_gains_of_the_authors_configuration():
    assert list(presets.RIVAL_SETTINGS) == list(presets.SETTINGS)
    for name, gains, rates, white in (
        ("clevr", (20.0, 0.01, 0.4, 0.9), (10.0, 0.1), (40.0, 1000)),
        ("eurosat", (10.0, 0.005, 0.4, 0.3), (5.0, 0.01), (40.0, 1000)),
        ("stanford_cars", (10.0, 0.01, 0.4, 0.5), (10.0, 0.1), (5.0, 1000)),
        ("imagenet", (20.0, 0.01, 0.4, 0.3), (10.0, 0.1), (1.0, 400)),
        ("biased_0.8", (10.0, 0.005, 0.4, 0.9), (5.0, 0.1), (40.0, 1000)),
        ("loc_1:1", (10.0, 0.01, 0.5, 0.9), (5.0, 0.5), (10.0, 1000)),
        (None, (10.0, 0.01, 0.4, 0.9), (10.0, 0.1), (40.0, 1000)),
    ):
        vp, bar = presets.vp(name), presets.bar(name)["optimizer"]
        assert (vp["a"], vp["c"], vp["optimizer"].alpha, vp["optimizer"].momentum) == gains
        assert (bar.a, bar.a_end) == rates
        white_box = make_method("vp-white-box", ToyService(), dataset=name)
        assert (white_box.learning_rate, white_box.n_epochs) == white
    other = presets.vp("eurosat", a=3.0, c=0.1, momentum=0.0)
    assert (other["a"], other["c"], other["optimizer"].momentum) == (3.0, 0.1, 0.0)


def test_bar_is_that_of_its_paper():
    parameters = presets.bar("caltech101")
    rgf, frame = parameters["optimizer"], parameters["prompter"]
    assert (rgf.a, rgf.a_end, rgf.c, rgf.power, rgf.n_directions, rgf.n_steps) == (10.0, 0.1, 0.01, 0.9, 5, "auto")
    assert (frame.inner, parameters["loss"], parameters["prompt_scale"]) == (64, "focal", 1.0)
    assert presets.bar(inner=194)["prompter"].inner == 194


def test_methods_are_pairs_of_a_prompter_and_an_optimizer():
    service = ToyService()
    for parameters, prompter, optimizer in (
        (presets.cvpr2023("dtd"), Coordinator, SPSAGC),
        (presets.cvpr2023(optimizer="spsa"), Coordinator, SPSA),
        (presets.blackvip_se(start="zero"), Coordinator, SPSAGC),
        (presets.vp(), PaddingFrame, SPSAGC),
        (presets.vp(optimizer="spsa"), PaddingFrame, SPSA),
        (presets.bar(), ReprogrammingFrame, RGF),
        (presets.bar(optimizer="spsa-gc"), ReprogrammingFrame, SPSAGC),
    ):
        clf = BlackVIPClassifier(service, **parameters)
        assert type(make_optimizer(clf.optimizer)) is optimizer
        assert type(clf.prompter) is prompter
    for encoder, name in (("vit-mae", "vit_base_patch16_224.mae"), ("gradients", "gradients"), ("scratch", "scratch")):
        coordinator = presets.cvpr2023(encoder=encoder)["prompter"]
        assert (coordinator.encoder, coordinator.last_layer) == (name, "random")
    assert presets.blackvip_se(start="zero")["prompter"].get_params() == Coordinator("pca").get_params()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: presets.cvpr2023("cifar"), "dataset='cifar' has no settings; expected one of caltech101, "),
        (lambda: presets.vp("cifar"), "dataset='cifar' has no settings"),
        (lambda: presets.bar("cifar"), "dataset='cifar' has no settings"),
        (lambda: presets.cvpr2023(optimizer="rgf"), "optimizer='rgf'; expected 'spsa-gc' or 'spsa'"),
        (lambda: presets.bar(optimizer="sgd"), "optimizer='sgd'; expected 'rgf', 'spsa-gc' or 'spsa'"),
        (lambda: presets.cvpr2023(start="mae"), "start='mae'; expected 'zero' or 'random'"),
        (lambda: presets.vp(start=1), "start=1; expected"),
    ],
)
def test_what_there_is_not(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("parameters", "service", "n_steps", "share_left"),
    [
        (presets.cvpr2023("loc_1:4"), ToyService, 600, 0.3),
        # Ten times the paper's step size: without momentum, 600 of its steps lead to 0.98 of the loss.
        ({**presets.cvpr2023("loc_1:4", optimizer="spsa"), "a": 0.2}, ToyService, 300, 0.9),
        (presets.cvpr2023(encoder="scratch"), ToyService, 100, 0.3),
        (presets.cvpr2023(encoder="scratch", optimizer="spsa"), ToyService, 100, 0.5),
        (presets.cvpr2023("loc_1:4", encoder=TimmEncoder("test_vit", pretrained=False)), ToyService, 200, 0.8),
        (presets.blackvip_se(), ToyService, 600, 0.85),
        (presets.vp(), ToyService, 200, 0.7),
        (presets.vp(optimizer="spsa"), ToyService, 200, 0.5),
        (presets.bar(), TensorService, 200, 0.3),
        (presets.bar(c="auto"), ToyService, 200, 0.3),
        (presets.bar(optimizer="spsa"), ToyService, 200, 0.3),
        (presets.bar(optimizer="spsa-gc"), ToyService, 200, 0.3),
    ],
)
def test_each_method_learns(parameters, service, n_steps, share_left):
    X, y = make_stripes(n=8)
    per_step = 8 * (6 if isinstance(parameters["optimizer"], RGF) else 10)
    clf = BlackVIPClassifier(
        service(gain=12, glare=1.0), "{}", **parameters, max_queries=16 + n_steps * per_step, random_state=0, verbose=0
    ).fit(X, y)
    assert clf.n_iter_ == n_steps
    assert clf.baselines_["zero_shot"].accuracy == 0.5
    loss = np.array([row["loss"] for row in clf.history_])
    assert loss[-20:].mean() < share_left * loss[:5].mean()


def test_no_prompt_at_all_is_where_8_bits_hide_the_paper_s_perturbations():
    X, y = make_stripes(n=8)
    spread = {}
    for start in ("zero", "random"):
        parameters = presets.cvpr2023(start=start)
        clf = BlackVIPClassifier(ToyService(), **parameters, max_queries=16 + 20 * 80, random_state=0, verbose=0)
        spread[start] = np.ptp([row["loss"] for row in clf.fit(X, y).history_])
    assert spread["zero"] == 0
    assert spread["random"] > 0


def test_the_step_size_of_bar_falls_until_the_budget_ends():
    X, y = make_stripes(n=8)
    clf = BlackVIPClassifier(ToyService(), **presets.bar(), max_queries=16 + 10 * 48, random_state=0, verbose=0)
    clf.fit(X, y)
    expected = [0.1 + 9.9 * (1 - k / 10) ** 0.9 for k in range(10)]
    np.testing.assert_allclose([row["a_k"] for row in clf.history_], expected)
    assert clf.get_params()["optimizer"].n_steps == "auto"


def test_bar_as_published_is_hardly_seen_through_8_bits():
    """A direction of length 0.01 in 180 parameters moves a pixel by a twentieth of a level."""
    X, y = make_stripes(n=8)
    service = ToyService()
    parameters = presets.bar()
    clf = BlackVIPClassifier(service, **parameters, max_queries=16 + 48, random_state=0, verbose=0).fit(X, y)
    candidates = service.calls[1][0].astype(int).reshape(6, 8, 8, 8, 3)
    changed = candidates[1:] != candidates[0]
    assert 0 < changed.mean() < 0.1
    assert clf.n_iter_ == 1


def test_bar_can_be_told_to_move_pixels_by_one_level():
    X, y = make_stripes(n=8)
    parameters = presets.bar(c="auto", start="zero")
    clf = BlackVIPClassifier(ToyService(), **parameters, max_queries=16 + 48, random_state=0, verbose=0)
    assert clf.plan(X, y).gains.images == 0
    clf.fit(X, y)
    # A direction of length 1 in d parameters moves each by d^-1/2, and a sigmoid at 0 a quarter as far; of 192 pixels
    # of three colours d are in the frame.
    d = clf.coordinator_.n_parameters_
    expected = 4 / 255 * d**0.5 * (192 / d) ** 0.5
    assert clf.c_ == clf.optimizer_.c_ == pytest.approx(expected, rel=0.01)
    assert clf.get_params()["optimizer"].c == "auto"


def test_weights_of_the_dino_resnet_come_from_their_authors_and_give_the_decoder_of_the_paper(tmp_path, monkeypatch):
    network = timm.create_model("resnet50", num_classes=0).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    name = presets.ENCODERS["dino-resnet50"]
    assert timm_encoder._ELSEWHERE[name].startswith("https://dl.fbaipublicfiles.com/dino/dino_resnet50_pretrain/")
    monkeypatch.setitem(timm_encoder._ELSEWHERE, name, (tmp_path / "weights.pth").as_uri())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    timm_encoder.network.cache_clear()
    pixels = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    coordinator = presets.cvpr2023(encoder="dino-resnet50")["prompter"].fit_pixels(pixels)
    timm_encoder.network.cache_clear()
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = network((pixels - mean) / std)
    torch.testing.assert_close(coordinator.encoder_.encode(pixels), expected, atol=1e-4, rtol=1e-4)
    assert coordinator.n_trigger_ == 3136 - 2048
    assert coordinator.decoder_.layers[0].shape[0] == 32  # groups
    timm_encoder.network.cache_clear()
