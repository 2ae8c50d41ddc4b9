"""Prompters against independent formulas; encoders; what both promise the training loop."""

import io

import joblib
import numpy as np
import pytest
import timm
import torch
from scipy import ndimage

from blackvip import Coordinator, PaddingFrame, PCAEncoder, PromptBasis, ScratchEncoder, TimmEncoder
from blackvip.encoders import make_encoder
from blackvip.prompters import make_prompter, prompted


@pytest.fixture
def pixels():
    return torch.rand(12, 3, 20, 16, generator=torch.Generator().manual_seed(0))


def candidates(prompter, p=3, spread=0.2):
    rng = np.random.default_rng(0)
    start = prompter.initial_parameters(rng)
    return torch.tensor(start + rng.normal(0, spread, (p, len(start))), dtype=torch.float32)


@pytest.mark.parametrize("prompter", [Coordinator(), Coordinator("scratch"), PromptBasis()])
def test_contract_of_a_prompter(prompter, pixels):
    prompter.fit_pixels(pixels)
    features = prompter.features(pixels)
    start = prompter.initial_parameters(np.random.default_rng(0))
    assert start.shape == (prompter.n_parameters_,)
    some = candidates(prompter)
    together = prompter.prompts(some[None], features[None])
    assert together.shape == (1, 3, 12, 3, 20, 16)
    for candidate, prompts in zip(some, together[0]):
        alone = prompter.prompts(candidate[None, None], features[None])[0, 0]
        torch.testing.assert_close(alone, prompts, atol=1e-5, rtol=1e-4)
    zero = prompter.prompts(torch.tensor(start, dtype=torch.float32)[None, None], features[None])
    assert not zero.any()  # training starts at the zero-shot service


@pytest.mark.parametrize("prompter", [Coordinator(), Coordinator("scratch"), PromptBasis(), PaddingFrame()])
def test_groups_of_candidates_are_drawn_as_each_alone(prompter, pixels):
    prompter.fit_pixels(pixels)
    features = torch.stack(prompter.features(pixels).split(4))
    groups = torch.stack(candidates(prompter, p=6).split(2))
    together = prompter.prompts(groups, features)
    assert together.shape == (3, 2, 4, 3, 20, 16)
    for drawn, group, of_group in zip(together, groups, features):
        torch.testing.assert_close(prompter.prompts(group[None], of_group[None])[0], drawn, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prompter", [Coordinator(), Coordinator("scratch"), PromptBasis()])
def test_frozen_prompter_draws_each_image_alone_and_pickles(prompter, pixels):
    prompter.fit_pixels(pixels)
    w = candidates(prompter, p=1)[0].double()
    features = prompter.features(pixels).double()
    prompter.freeze(w.numpy(), prompter.batch_statistics(w, lambda: iter(features.split(5))), 0.7)
    whole = prompter.draw(pixels)
    assert whole.min() >= 0
    assert whole.max() <= 1
    assert (whole - pixels).abs().max() > 0.01
    alone = torch.cat([prompter.draw(image[None]) for image in pixels])
    torch.testing.assert_close(alone, whole, atol=1e-9, rtol=0)
    # the statistics of all training images give what batch mode gives on them
    batch = prompted(pixels.double(), prompter.prompts(w[None, None], features[None])[0], 0.7)[0]
    torch.testing.assert_close(whole, batch, atol=1e-9, rtol=0)

    buffer = io.BytesIO()
    joblib.dump(prompter, buffer)
    buffer.seek(0)
    torch.testing.assert_close(joblib.load(buffer).draw(pixels), whole, atol=0, rtol=0)


def test_prompt_of_scale_zero_leaves_the_image(pixels):
    basis = PromptBasis().fit_pixels(pixels).freeze(np.ones(14), prompt_scale=0.0)
    torch.testing.assert_close(basis.draw(pixels), pixels, atol=0, rtol=0)


def test_basis_equals_its_formula(pixels):
    basis = PromptBasis(rms=0.3).fit_pixels(pixels)
    x = pixels.double().numpy()

    def blurred(sigma):
        radius = int(np.ceil(2 * sigma))
        once = ndimage.gaussian_filter1d(x, sigma, axis=2, mode="nearest", radius=radius)
        return ndimage.gaussian_filter1d(once, sigma, axis=3, mode="nearest", radius=radius)

    still = [x.mean(0), *np.quantile(x, [0.5, 0.1, 0.9], axis=0), np.ones_like(x[0])]
    flat = np.sort(x.reshape(12, 3, 320), axis=2)
    mean, median = flat.mean(axis=2), flat[:, :, 159]  # of an even number of pixels, the lower one of the middle
    own = [x, blurred(1), blurred(3), blurred(8), x**2]
    own += [np.broadcast_to(level[..., None, None], x.shape) for level in (mean, median)]
    own += [ndimage.maximum_filter(x, (1, 1, 3, 3)), ndimage.minimum_filter(x, (1, 1, 3, 3))]
    phi = np.stack([np.broadcast_to(image, x.shape) for image in still] + own, axis=1)
    phi *= 0.3 / np.sqrt((phi**2).mean(axis=(0, 2, 3, 4)))[:, None, None, None]
    scaled = basis.features(pixels).numpy() * basis.scale_[5:, None, None, None]
    np.testing.assert_allclose(scaled, phi[:, 5:], atol=2e-5)
    np.testing.assert_allclose(basis.images_ * basis.scale_[:5, None, None, None], phi[0, :5], atol=2e-5)
    w = np.random.default_rng(1).normal(size=(2, 14))
    prompts = basis.prompts(torch.tensor(w[None], dtype=torch.float32), basis.features(pixels)[None])[0]
    np.testing.assert_allclose(prompts.numpy(), np.einsum("pj,njchw->pnchw", w, phi), atol=1e-4)


def test_basis_makes_of_an_image_what_its_documentation_says():
    """On images whose statistics can be told by looking at them."""
    image = torch.full((3, 9, 9), 0.2)
    image[:, 3:6, 3:6] = 0.8  # a ninth of the pixels
    image[1] = 1 - image[1]
    basis = PromptBasis().fit_pixels(torch.stack([image, torch.zeros_like(image), torch.ones_like(image)]))
    assert (basis.n_parameters_, basis.images_.shape, basis.scale_.shape) == (14, (5, 3, 9, 9), (14,))
    mean, median, low, high, constant = basis.images_
    np.testing.assert_allclose(mean, (image + 1) / 3, atol=1e-6)
    np.testing.assert_allclose(median, image)
    np.testing.assert_allclose(low, 0.2 * image, atol=1e-6)  # a fifth of the way from the least to the next
    np.testing.assert_allclose(high, image + 0.8 * (1 - image), atol=1e-6)
    np.testing.assert_array_equal(constant, 1)
    itself, _, _, _, square, own_mean, own_median, maximum, minimum = basis.features(image[None])[0]
    torch.testing.assert_close(itself, image)
    torch.testing.assert_close(square, image**2)
    for level, expected in ((own_mean, [2.4 / 9, 6.6 / 9, 2.4 / 9]), (own_median, [0.2, 0.8, 0.2])):
        torch.testing.assert_close(level, torch.tensor(expected)[:, None, None].expand(3, 9, 9))
    assert (maximum[0] == 0.8).sum() == (minimum[1] == image.min()).sum() == 25
    assert (minimum[0] == 0.8).sum() == 1


def test_coordinator_puts_features_before_the_trigger(pixels):
    coordinator = Coordinator().fit_pixels(pixels)
    assert coordinator.n_trigger_ == 784 - 12
    w = torch.zeros(1, coordinator.n_parameters_)
    trigger = torch.arange(772.0)
    w[0, :772] = trigger
    features = coordinator.features(pixels)
    cells = coordinator._cells(w[None], features[None], None)[0]
    assert cells.shape == (1, 12, 16, 49)
    expected = torch.cat([features[5].float(), trigger])
    torch.testing.assert_close(cells[0, 5].flatten(), expected)
    start = coordinator.initial_parameters(np.random.default_rng(0))[:772]
    assert 0 <= start.min() < start.max() <= 0.1


@pytest.mark.parametrize(("z_dim", "src_dim"), [(98, 784), (384, 784), (768, 1568), (2048, 3136)])
def test_src_dim_rule(z_dim, src_dim):
    class Fixed(PCAEncoder):
        def fit_pixels(self, pixels):
            self.n_features_out_ = z_dim
            return self

    coordinator = Coordinator(Fixed()).fit_pixels(torch.zeros(2, 3, 224, 224))
    assert coordinator.n_trigger_ == src_dim - z_dim
    if src_dim == 1568:
        assert coordinator.decoder_.n_parameters == 9_120


def test_prompt_is_the_centre_of_the_decoders_picture_or_enlarged():
    rng = np.random.default_rng(0)
    small = Coordinator(last_layer="random").fit_pixels(torch.rand(4, 3, 10, 28))
    assert small.decoder_.side == 28
    w = torch.tensor(small.initial_parameters(rng))[None, None]
    features = small.features(torch.rand(4, 3, 10, 28))[None]
    prompts = small.prompts(w, features)
    _, _, decoder = w.split(small._sizes(), dim=2)
    whole = small.decoder_(decoder[0], small._cells(w, features, None)[0])
    torch.testing.assert_close(prompts[0], whole[..., 9:19, :])

    large = Coordinator(last_layer="random").fit_pixels(torch.rand(2, 3, 300, 448))
    prompts = large.prompts(
        torch.tensor(large.initial_parameters(rng))[None, None], large.features(torch.rand(2, 3, 300, 448))[None]
    )
    assert prompts.shape == (1, 1, 2, 3, 300, 448)
    assert prompts.std() > 0.01


def test_pca_features_span_the_subspace_of_scikit_learn(pixels):
    from sklearn.decomposition import PCA

    encoder = PCAEncoder(5).fit_pixels(pixels)
    rows = pixels.flatten(1).double().numpy()
    components = PCA(5, svd_solver="full").fit(rows).components_
    np.testing.assert_allclose(encoder.axes_, components, atol=1e-12)
    features = encoder.features(pixels).numpy()
    np.testing.assert_allclose(features, rows @ components.T / np.sqrt(((rows @ components.T) ** 2).mean()), atol=1e-9)


@pytest.mark.parametrize("n_components", [98, 110])
def test_pca_axes_are_turned_to_the_cells_within_their_subspace(n_components):
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(0)
    blocks = np.kron(rng.uniform(size=(150, 1, 14, 7)), np.ones((4, 8)))[:, :, 4:52, 4:52]  # half a cell each
    noise = rng.normal(0, 0.001, (150, 3, 48, 48))
    pixels = torch.tensor(blocks + noise, dtype=torch.float32)
    encoder = PCAEncoder(n_components).fit_pixels(pixels)
    np.testing.assert_allclose(encoder.axes_ @ encoder.axes_.T, np.eye(n_components), atol=1e-9)
    components = PCA(n_components, svd_solver="full").fit(pixels.flatten(1).double().numpy()).components_
    np.testing.assert_allclose(np.linalg.norm(encoder.axes_ @ components.T, axis=1), 1, atol=1e-9)
    # map 0 has the upper halves of the cells, map 1 the lower ones, in the decoder's order
    maps = encoder.axes_[:98].reshape(2, 7, 7, 3, 48, 48).sum(axis=3)
    halves = np.kron(np.arange(98).reshape(14, 7), np.ones((4, 8)))[4:52, 4:52]
    for half, row, column in [(0, 2, 5), (1, 2, 5), (0, 6, 1), (1, 0, 0)]:
        inside = halves == (2 * row + half) * 7 + column
        weight = np.square(maps[half, row, column])
        assert weight[inside].sum() > 0.99 * weight.sum()


def test_scratch_encoder_equals_torch_layers():
    from torch import nn

    images = torch.rand(6, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    encoder = ScratchEncoder().fit_pixels(images)
    parameters = torch.tensor(encoder.initial_parameters(np.random.default_rng(0)), dtype=torch.float32)
    layers = []
    for n_in, n_mid, n_out in ((3, 32, 32), (32, 32, 64), (64, 64, 32)):
        layers += [nn.Conv2d(n_in, n_mid, 3, padding=1), nn.Conv2d(n_mid, n_out, 2, 2, bias=False)]
        layers += [nn.BatchNorm2d(n_out), nn.GELU()]
    reference = nn.Sequential(*layers).train()
    assert sum(p.numel() for p in reference.parameters()) == encoder.n_parameters
    nn.utils.vector_to_parameters(parameters, reference.parameters())
    with torch.no_grad():
        expected = reference(images).view(6, 32, 49)
    torch.testing.assert_close(
        encoder.latents(parameters[None, None], images[None])[0, 0].view(6, 32, 49), expected, atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize(("name", "size"), [("test_vit.r160_in1k", 160), ("resnet10t.c3_in1k", 176)])
def test_timm_encoder_equals_the_model(name, size):
    images = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    encoder = TimmEncoder(name, pretrained=False).fit_pixels(images)
    features = encoder.encode(images)
    assert torch.equal(torch.get_rng_state(), state)
    assert features.shape == (3, encoder.n_features_out_)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=0, pretrained=False).eval()
    config = timm.data.resolve_data_config({}, model=model)
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(features, model((images - mean) / std), atol=1e-4, rtol=1e-4)


def test_timm_network_is_not_pickled_but_made_again():
    images = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    encoder = TimmEncoder("test_vit.r160_in1k", pretrained=False).fit_pixels(images)
    features = encoder.encode(images)
    buffer = io.BytesIO()
    joblib.dump(encoder, buffer)
    assert buffer.tell() < 10_000
    buffer.seek(0)
    torch.testing.assert_close(joblib.load(buffer).encode(images), features)


def test_names():
    assert isinstance(make_prompter("coordinator"), Coordinator)
    assert isinstance(make_prompter("basis"), PromptBasis)
    encoder = make_encoder("vit_base_patch16_224.mae")
    assert (encoder.model_name, encoder.pretrained) == ("vit_base_patch16_224.mae", True)
    with pytest.raises(ValueError, match="'frame'; expected one of 'basis', 'coordinator', .*or a Prompter"):
        make_prompter("frame")
    with pytest.raises(ValueError, match=r"nor a model that timm knows; similar names: .*vit_base_patch16_224"):
        make_encoder("vit_base_patch16")
    with pytest.raises(TypeError, match="encoder is a int"):
        make_encoder(3)


@pytest.mark.parametrize(
    ("coordinator", "message"),
    [
        (Coordinator(src_dim=100), "src_dim=100 was given; expected a multiple of 49"),
        (Coordinator(last_layer="ones"), "The 'last_layer' parameter of Coordinator must be a str among"),
    ],
)
def test_coordinator_errors(coordinator, message, pixels):
    with pytest.raises(ValueError, match=message):
        coordinator.fit_pixels(pixels)
