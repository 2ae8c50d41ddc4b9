"""Random resized crops and mirror images: what they are, and that a step of a fit is made of one view of each image."""

import json

import numpy as np
import pytest
import torch
from conftest import ToyService, make_stripes
from sklearn.base import clone

import blackvip
from blackvip import SPSAGC, BlackVIPClassifier, Coordinator, PaddingFrame, PCAEncoder
from blackvip.training.augmentation import _crop, crop_and_flip


def test_crops_are_as_large_and_as_wide_as_they_shall_be():
    rng = np.random.default_rng(0)
    crops = [_crop(200, 300, rng) for _ in range(3000)]
    heights, widths = ([part.stop - part.start for part in parts] for parts in zip(*crops))
    area = np.array(heights) * np.array(widths) / 60_000
    ratio = np.array(widths) / np.array(heights)
    assert 0.078 < area.min() < 0.1
    assert area.max() <= 1
    assert 0.74 < ratio.min() < 0.77
    assert 1.3 < ratio[area < 1].max() < 1.35
    small = area < 0.5  # such a crop always fits: its area is uniform, and so is the logarithm of its ratio
    np.testing.assert_allclose(np.quantile(area[small], [0.25, 0.5, 0.75]), [0.185, 0.29, 0.395], atol=0.02)
    np.testing.assert_allclose(np.quantile(np.log(ratio[small]), [0.25, 0.5, 0.75]), [-0.144, 0, 0.144], atol=0.03)
    for parts, side in zip(zip(*crops), (200, 300)):
        assert all(0 <= part.start < part.stop <= side for part in parts)
    tops = np.array([rows.start / max(1, 200 - rows.stop + rows.start) for rows, _ in crops])
    assert np.mean(tops) == pytest.approx(0.5, abs=0.03)


def test_views_show_a_part_of_the_image_at_its_size_half_of_them_mirrored():
    across = torch.linspace(0, 1, 64).expand(400, 3, 48, 64)  # darker on the left, unless it is mirrored
    down = torch.linspace(0, 1, 48)[:, None].expand(400, 3, 48, 64)
    views = crop_and_flip(across, np.random.default_rng(0))
    assert views.shape == across.shape
    assert views.min() >= 0
    assert views.max() <= 1
    rising = (views[:, :, :, -1] - views[:, :, :, 0]).mean(dim=(1, 2))
    assert (rising > 0).float().mean() == pytest.approx(0.5, abs=0.08)
    assert (rising.abs() < 0.95).float().mean() > 0.8  # a part
    upright = crop_and_flip(down, np.random.default_rng(0))
    assert ((upright[:, :, -1] - upright[:, :, 0]).mean(dim=(1, 2)) > 0).all()
    tiny = torch.rand(5, 3, 1, 3)
    assert crop_and_flip(tiny, np.random.default_rng(0)).shape == tiny.shape


def fitted(service, **parameters):
    X, y = make_stripes(n=8)
    defaults = dict(prompter=PaddingFrame(), a=1e-9, c=1e-9, max_queries=16 + 5 * 80, batch_size=8)
    defaults.update(
        optimizer=SPSAGC(n_directions=5, share_batch=True),
        head=None,
        guard=False,
        random_state=0,
        verbose=0,
        augment="crop-flip",
    )
    return BlackVIPClassifier(service, "{}", **{**defaults, **parameters}).fit(X, y), X


def test_all_candidates_of_a_step_get_the_same_views_and_each_step_others():
    service = ToyService()
    _, X = fitted(service)
    plain, *steps, after = np.split(
        np.concatenate([images for images, _ in service.calls]), [8, 88, 168, 248, 328, 408]
    )
    np.testing.assert_array_equal(plain, X)
    np.testing.assert_array_equal(after, X)  # the controls and the head see the images themselves
    views = [step.reshape(10, 8, 8, 8, 3) for step in steps]
    for step in views:
        assert (step == step[0]).all()  # such small perturbations move no pixel
        assert not (step[0] == X).all(axis=(1, 2, 3)).any()
    assert not (views[0][0] == views[1][0]).all()


def test_without_augmentation_a_step_has_the_images():
    service = ToyService()
    _, X = fitted(service, augment=None)
    images = np.concatenate([images for images, _ in service.calls])
    assert {image.tobytes() for image in images} == {image.tobytes() for image in X}


def test_features_are_computed_anew_for_the_views_alone(monkeypatch):
    encode, n_encoded, seen = PCAEncoder.encode, {}, []
    monkeypatch.setattr(PCAEncoder, "encode", lambda self, pixels: seen.append(len(pixels)) or encode(self, pixels))
    for augment in (None, "crop-flip"):
        seen.clear()
        fitted(ToyService(), prompter=Coordinator(last_layer="random"), max_queries=16 + 50 * 80, augment=augment)
        n_encoded[augment] = sum(seen)
    assert n_encoded["crop-flip"] - n_encoded[None] == 50 * 8


def test_a_fit_with_augmentation_can_be_repeated_resumed_and_saved(tmp_path):
    settings = dict(a=0.1, c=0.05, augment="crop-flip")
    clf, X = fitted(ToyService(), **settings)
    again, _ = fitted(ToyService(), **settings)
    np.testing.assert_array_equal(again.coordinator_.parameters_, clf.coordinator_.parameters_)
    broken = ToyService()
    broken.fail_at = 4
    with pytest.raises(RuntimeError):
        fitted(broken, checkpoint=tmp_path / "journal", **settings)
    service = ToyService()
    resumed, _ = fitted(service, checkpoint=tmp_path / "journal", **settings)
    np.testing.assert_array_equal(resumed.coordinator_.parameters_, clf.coordinator_.parameters_)
    assert service.n_images < clf.n_queries_
    clf.save(tmp_path / "clf")
    same = blackvip.load(tmp_path / "clf", ToyService())
    assert same.augment == "crop-flip"
    assert json.dumps(same.history_) == json.dumps(clf.history_)
    assert clone(same).augment == "crop-flip"


def test_another_augmentation_is_refused():
    with pytest.raises(ValueError, match="'augment' parameter of BlackVIPClassifier must be a str among"):
        fitted(ToyService(), augment="mixup")
