"""White-box training: on a small network, against the descent written out, and through OpenCLIP."""

import json

import numpy as np
import pytest
import torch
from conftest import RowReader
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from blackvip import Coordinator, PaddingFrame, PromptBasis, ReprogrammingFrame, WhiteBoxClassifier
from blackvip.comparison.white_box import differentiable
from blackvip.scorers.open_clip import OpenCLIPScorer


class StripeReader(torch.nn.Module):
    """The toy service of conftest as a network: its logits are the brightness of stripes, glare the first class's."""

    def __init__(self, gain=12.0, glare=1.0, n_classes=2):
        super().__init__()
        self.gain, self.glare, self.n_classes = gain, glare, n_classes

    def forward(self, pixels):
        grey = pixels.mean(dim=1)
        stripes = torch.tensor_split(grey, self.n_classes, dim=2)
        scores = torch.stack([stripe.mean(dim=(1, 2)) for stripe in stripes], dim=1)
        glare = torch.nn.functional.pad(self.glare * grey.mean(dim=(1, 2))[:, None], (0, self.n_classes - 1))
        return self.gain * (scores + glare)


@parametrize_with_checks(
    [WhiteBoxClassifier(RowReader(), "{}", prompter="basis", learning_rate=0.01, prompt_scale=1.0, n_epochs=20)],
    expected_failed_checks=lambda estimator: {
        "check_classifiers_train": "there is no head that learns what the service's scores say of these points"
    },
)
def test_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    ("prompter", "settings"),
    [
        (None, {}),
        (ReprogrammingFrame(), {"learning_rate": 5.0, "prompt_scale": 1.0}),
        ("basis", {"learning_rate": 0.01, "prompt_scale": 1.0}),
        (Coordinator(last_layer="random"), {"learning_rate": 0.3}),
        (Coordinator("scratch", last_layer="random"), {"learning_rate": 0.3}),
    ],
)
def test_each_prompter_learns_by_gradients(prompter, settings, stripes):
    X, y = stripes
    network = StripeReader()
    before = (network(torch.from_numpy(X).permute(0, 3, 1, 2) / 255).argmax(1).numpy() == y).mean()
    assert before == 0.5
    labels = np.array(["left", "right"])[y]
    clf = WhiteBoxClassifier(network, prompter=prompter, n_epochs=60, batch_size=20, random_state=0, **settings)
    clf.fit(X, labels)
    assert clf.score(X, labels) > 0.9
    assert len(clf.history_) == 120
    assert clf.n_queries_ == 2400
    np.testing.assert_allclose(clf.predict_proba(X).sum(axis=1), 1)
    again = clone(clf).fit(X, labels)
    np.testing.assert_array_equal(again.coordinator_.parameters_, clf.coordinator_.parameters_)
    assert again.score_fn is network


def test_vp_is_descent_with_momentum_and_a_cosine_schedule(stripes):
    X, y = stripes
    network = StripeReader()
    clf = WhiteBoxClassifier(network, n_epochs=5, random_state=0).fit(X, y)  # all images in a batch: no order
    pixels = torch.from_numpy(X).permute(0, 3, 1, 2).double() / 255
    w = torch.zeros(3, 8, 8, dtype=torch.float64, requires_grad=True)
    inside = torch.zeros(3, 8, 8, dtype=torch.float64)
    inside[:, 1:7, 1:7] = 1  # of a frame of one pixel: 30 / 224 * 8 = 1.07
    optimizer = torch.optim.SGD([w], lr=40, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(
            network((pixels + 0.27 * (1 - inside) * w).clamp(0, 1)), torch.as_tensor(y)
        )
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert [row["loss"] for row in clf.history_] == pytest.approx(losses, rel=1e-4)
    assert losses[-1] < losses[0]
    expected = w.detach()[inside == 0].numpy()
    np.testing.assert_allclose(clf.coordinator_.parameters_, expected, atol=1e-3 * np.abs(expected).max())
    sent = torch.from_numpy(clf.coordinator_.transform(X)).permute(0, 3, 1, 2) / 255
    np.testing.assert_allclose(clf.predict_proba(X), network(sent).softmax(1).numpy(), atol=1e-6)


def test_what_gives_no_gradients_is_refused(service, stripes):
    with pytest.raises(
        TypeError, match="ToyService allows no gradients; expected an OpenCLIPScorer, a torch.nn.Module"
    ):
        WhiteBoxClassifier(service).fit(*stripes)


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    """The name of a small open_clip model with random weights."""
    import open_clip

    folder = tmp_path_factory.mktemp("models")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    (folder / "tiny-white-box.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    return "tiny-white-box"


def test_gradients_through_open_clip(tiny_clip):
    scorer = OpenCLIPScorer(tiny_clip, device="cpu", templates=["a {}.", "the {}."])
    rng = np.random.default_rng(0)
    X, prompts = rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8), ["cat", "dog"]
    network = differentiable(scorer, prompts)
    pixels = (torch.from_numpy(X).permute(0, 3, 1, 2).float() / 255).requires_grad_()
    logits = network(pixels)
    np.testing.assert_allclose(logits.detach().numpy(), scorer(X, prompts), atol=1e-4)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), pixels)
    assert gradient.abs().max() > 0
    y = np.arange(8) % 2
    clf = WhiteBoxClassifier(scorer, ["cat", "dog"], prompter=PromptBasis(), learning_rate=0.01, n_epochs=30)
    clf.set_params(prompt_scale=1.0, momentum=0.0).fit(X, y)
    losses = [row["loss"] for row in clf.history_]
    assert losses[-1] < losses[0]
    frame = WhiteBoxClassifier(scorer, ["cat", "dog"], prompter=PaddingFrame(), n_epochs=1).fit(X, y)
    assert frame.coordinator_.parameters_.any()
