"""Networks on a GPU: passes that fit into its memory, and machines without one. Tests that need a GPU are skipped."""

import numpy as np
import pytest
import torch
from conftest import ToyService, make_stripes

from blackvip import BlackVIPClassifier, TimmEncoder, load
from blackvip.encoders import timm
from blackvip.process.devices import device_of, in_passes
from blackvip.scorers import TorchScorer

NETWORK = "test_resnet.r160_in1k"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def full_above(most, counts):
    """A hook of a module, as on a device whose memory holds so many images; `counts` gets those of each pass."""

    def check(module, inputs):
        counts.append(len(inputs[0]))
        if len(inputs[0]) > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    return check


def some_pixels(n=7, side=8):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def make_module():
    layers = torch.nn.AdaptiveAvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3)
    return torch.nn.Sequential(*layers).eval()


def test_images_go_through_a_network_in_smaller_passes_where_memory_is_short():
    module, counts = make_module(), []
    scorer = TorchScorer(module)
    expected = scorer(some_pixels(), list("abc"))
    module.register_forward_pre_hook(full_above(2, counts))
    np.testing.assert_allclose(scorer(some_pixels(), list("abc")), expected, atol=1e-6)
    assert counts == [7, 4, 2, 2, 2, 1]


def test_an_encoder_takes_smaller_passes_too():
    encoder, counts = TimmEncoder(NETWORK, pretrained=False).fit_pixels(some_pixels()), []
    expected = encoder.encode(some_pixels())
    hook = timm.network(NETWORK, False, "cpu")[0].register_forward_pre_hook(full_above(3, counts))
    torch.testing.assert_close(encoder.encode(some_pixels()), expected, rtol=1e-4, atol=1e-5)
    hook.remove()
    assert counts == [7, 4, 2, 2, 2, 1]
    assert encoder.encode(some_pixels(0)).shape == (0, expected.shape[1])


def test_a_single_image_that_does_not_fit_is_an_error():
    module = make_module()
    module.register_forward_pre_hook(full_above(0, []))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        TorchScorer(module)(some_pixels(), list("abc"))


def test_shapes_of_passes_on_a_device_without_numbers():
    images = torch.empty(5, 3, 8, 8, device="meta")
    outputs = in_passes(make_module().to("meta"), images, 2)
    assert [tuple(output.shape) for output in outputs] == [(2, 3), (2, 3), (1, 3)]


@pytest.fixture
def fitted():
    X, y = make_stripes(n=24, n_classes=3)
    encoder = TimmEncoder(NETWORK, pretrained=False)
    clf = BlackVIPClassifier(ToyService(), list("abc"), local_encoder=encoder, head="fused", max_queries=24)
    return clf.set_params(random_state=0, verbose=0).fit(X, y), X


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_was_fitted_on_a_gpu_loads_without_one_and_says_what_it_lacks(fitted, tmp_path):
    clf, X = fitted
    clf.probe_encoder_.device = "cuda:0"
    clf.save(tmp_path / "clf.safetensors")
    loaded, service = load(tmp_path / "clf.safetensors", ToyService()), ToyService()
    loaded.set_params(score_fn=service)
    with pytest.raises(ValueError, match="The device 'cuda:0' cannot be used on this machine; expected 'auto', 'cpu'"):
        loaded.predict(X)
    assert loaded.n_queries_predict_ == 0
    loaded.probe_encoder_.set_params(device="cpu")
    clf.probe_encoder_.device = "cpu"
    np.testing.assert_array_equal(loaded.predict_log_proba(X), clf.predict_log_proba(X))


def test_a_file_names_no_device_if_the_encoder_takes_what_there_is(fitted, tmp_path):
    clf, X = fitted
    clf.probe_encoder_.device = "auto"
    clf.save(tmp_path / "clf.safetensors")
    loaded = load(tmp_path / "clf.safetensors", ToyService())
    assert loaded.probe_encoder_.device == "auto"
    np.testing.assert_allclose(loaded.predict_log_proba(X), clf.predict_log_proba(X), atol=1e-6)


@needs_gpu
def test_features_on_a_gpu_are_those_of_the_processor():
    of_device = [TimmEncoder(NETWORK, pretrained=False, device=device) for device in ("cpu", "auto")]
    features = [encoder.fit_pixels(some_pixels()).encode(some_pixels()) for encoder in of_device]
    assert features[1].device.type == "cpu"
    torch.testing.assert_close(*features, rtol=1e-3, atol=1e-3)


@needs_gpu
def test_a_fit_on_a_gpu_is_saved_and_predicts_on_the_processor(tmp_path):
    X, y = make_stripes(n=24, n_classes=3, side=8)
    module = make_module()
    on_gpu = TorchScorer(module, device=str(device_of("auto")))
    assert on_gpu.tensor_device.startswith("cuda")
    clf = BlackVIPClassifier(on_gpu, list("abc"), prompter="basis", a=0.01, c=0.01, max_queries=200)
    clf.set_params(random_state=0, verbose=0, guard=False).fit(X, y).save(tmp_path / "clf.safetensors")
    loaded = load(tmp_path / "clf.safetensors", TorchScorer(module, device="cpu"))
    np.testing.assert_allclose(loaded.predict_proba(X), clf.predict_proba(X), atol=1e-2)


@needs_gpu
def test_a_full_gpu_gets_smaller_passes():
    module = make_module().to("cuda")
    scorer = TorchScorer(module, size=1024)  # 12 MB an image
    expected = scorer(some_pixels(1), list("abc"))
    torch.cuda.set_per_process_memory_fraction(200e6 / torch.cuda.get_device_properties(0).total_memory)
    try:
        np.testing.assert_allclose(scorer(some_pixels(1).expand(64, -1, -1, -1), list("abc"))[:1], expected, rtol=1e-3)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
