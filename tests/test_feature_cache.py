"""The feature cache: what goes through an encoder, and what comes out, with a real network and real searches."""

import joblib
import numpy as np
import pytest
import torch
from conftest import ToyService, make_stripes
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from blackvip import (
    SPSAGC,
    BlackVIPClassifier,
    CachedEncoder,
    Coordinator,
    PCAEncoder,
    PromptBasis,
    TimmEncoder,
)
from blackvip.encoders import cached as feature_cache
from blackvip.encoders import timm

NETWORK = TimmEncoder("test_resnet.r160_in1k", pretrained=False)


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    monkeypatch.setattr(feature_cache, "_in_memory", feature_cache._InMemory())


@pytest.fixture
def passes():
    """The number of images in each forward pass of the network."""
    NETWORK.fit_pixels(torch.zeros(1, 3, 8, 8))  # it is loaded
    model, _ = timm.network(NETWORK.model_name, NETWORK.pretrained, NETWORK.device)
    counts = []
    hook = model.register_forward_pre_hook(lambda module, inputs: counts.append(len(inputs[0])))
    yield counts
    hook.remove()


def some_pixels(n=6, side=8, seed=0):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("in_file", [False, True])
def test_an_image_goes_through_the_network_once_and_comes_out_the_same(passes, in_file, tmp_path):
    cached = CachedEncoder(NETWORK, path=tmp_path / "features" if in_file else None)
    pixels = some_pixels()
    first = clone(cached).fit_pixels(pixels[:2])
    features = first.features(pixels[[0, 1, 1, 0]])
    assert passes == [1, 1]
    other = clone(cached).fit_pixels(pixels[2:])  # a network learns nothing, so that its clones share
    torch.testing.assert_close(other.features(pixels)[:2], features[:2], rtol=0, atol=0)
    assert passes == [1] * 6
    expected = clone(NETWORK).fit_pixels(pixels).encode(pixels)
    torch.testing.assert_close(other.features(pixels).float(), expected, rtol=1e-4, atol=1e-5)
    assert other.features(pixels[:0]).shape == (0, expected.shape[1])
    before = len(passes)
    other.features(pixels.double())  # other numbers are other images
    assert len(passes) == before + 6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::blackvip.PromptNotUsedWarning")
@pytest.mark.parametrize("prompter", [PromptBasis(), Coordinator(CachedEncoder(NETWORK))])
def test_a_search_over_folds_and_candidates_encodes_each_image_once(passes, prompter):
    X, y = make_stripes(36)
    clf = BlackVIPClassifier(
        ToyService(glare=2), "{}", prompter=prompter, local_encoder=CachedEncoder(NETWORK), a=0.05, max_queries=500,
        batch_size=4, optimizer=SPSAGC(n_directions=2), random_state=0, verbose=0,
    )  # fmt: skip
    search = GridSearchCV(clf, {"prompt_scale": [0.3, 1.0], "c": [0.05, 0.1]}, cv=3).fit(X, y)
    search.score(X, y)
    assert sum(passes) == len(np.unique(X.reshape(36, -1), axis=0)) == 36


def test_what_is_fitted_to_a_fold_is_a_part_of_the_key():
    pixels = some_pixels(12)
    folds = pixels[:8], pixels[4:]
    for training in folds:
        cached = CachedEncoder(PCAEncoder(5)).fit_pixels(training)
        expected = PCAEncoder(5).fit_pixels(training).features(pixels)
        torch.testing.assert_close(cached.features(pixels), expected)
        torch.testing.assert_close(cached.features(pixels), expected)
    wider = CachedEncoder(PCAEncoder(6)).fit_pixels(folds[0])
    assert wider.features(pixels).shape == (12, 6)


def test_a_fit_with_a_cache_is_the_same_whether_the_cache_is_empty_or_full(passes):
    X, y = make_stripes(24)
    clf = BlackVIPClassifier(
        ToyService(glare=2), "{}", prompter=Coordinator(CachedEncoder(NETWORK)), a=0.05, c=0.05, max_queries=500,
        batch_size=4, optimizer=SPSAGC(n_directions=2), random_state=0, verbose=0,
    )  # fmt: skip
    CachedEncoder(NETWORK).fit(X).transform(X[5:15][::-1])
    half_full = clone(clf).fit(X, y)
    feature_cache._in_memory.__init__()
    empty = clone(clf).fit(X, y)
    assert sum(passes) == 10 + 14 + 24
    np.testing.assert_array_equal(half_full.coordinator_.parameters_, empty.coordinator_.parameters_)


def test_memory_is_bounded_and_what_was_asked_for_last_stays(passes):
    pixels = some_pixels()
    row = 8 * NETWORK.n_features_out_
    cached = CachedEncoder(NETWORK, max_bytes=3 * row + 1).fit_pixels(pixels)
    cached.features(pixels[:3])
    cached.features(pixels[:1])
    cached.features(pixels[3:4])  # instead of the second
    assert feature_cache._in_memory.n_bytes == 3 * row
    assert len(passes) == 4
    cached.features(pixels[[0, 2, 3]])
    assert len(passes) == 4
    cached.features(pixels[1:2])
    assert len(passes) == 5
    cached.set_params(max_bytes=0).features(pixels)
    assert feature_cache._in_memory.n_bytes == 0


def test_a_file_outlasts_the_process_and_serves_several(passes, tmp_path, programs):
    pixels = some_pixels(3, side=160)
    np.save(tmp_path / "pixels.npy", pixels.numpy())
    program = f"""
import sys, numpy as np, torch
from blackvip import CachedEncoder, TimmEncoder
folder = {str(tmp_path)!r}
pixels = torch.from_numpy(np.load(folder + "/pixels.npy"))
cached = CachedEncoder(TimmEncoder("test_resnet.r160_in1k", pretrained=False), folder + "/features").fit_pixels(pixels)
np.save(folder + "/first.npy", cached.features(pixels[:2]).numpy())
"""
    cached = CachedEncoder(NETWORK, tmp_path / "features").fit_pixels(pixels)
    cached.features(pixels[:1])  # the file is open here, while the other process adds to it
    done = programs.run("-c", program)
    assert done.returncode == 0, done.stderr
    features = cached.features(pixels)
    assert len(passes) == 2  # the first here and the third; the second was encoded there
    np.testing.assert_array_equal(features[:2].numpy(), np.load(tmp_path / "first.npy"))


def test_pickles_hold_no_features(passes, tmp_path):
    X, _ = make_stripes(10)
    cached = CachedEncoder(NETWORK).fit(X)
    features = cached.transform(X)
    joblib.dump(cached, tmp_path / "cached.joblib")
    assert (tmp_path / "cached.joblib").stat().st_size < 10_000
    np.testing.assert_array_equal(joblib.load(tmp_path / "cached.joblib").transform(X), features)
    assert len(passes) == 10


def test_a_trained_encoder_is_refused():
    with pytest.raises(ValueError, match="encoder='scratch' is trained together .* expected a frozen encoder"):
        CachedEncoder("scratch").fit_pixels(some_pixels())
    with pytest.raises(ValueError, match="The 'max_bytes' parameter"):
        CachedEncoder("pca", max_bytes=-1).fit_pixels(some_pixels())
