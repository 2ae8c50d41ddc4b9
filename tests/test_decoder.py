"""The batched decoder against the same layers written with torch.nn."""

import numpy as np
import pytest
import torch
from torch import nn

from blackvip.encoders.cells import n_stages_for, split_moments
from blackvip.prompters.decoder import Decoder


def reference_decoder(n_channels, widths, groups):
    """BlackVIP's decoder as a stack of torch.nn layers, from METHOD's description alone."""
    layers, n_in = [], n_channels
    for stage, n_out in enumerate(widths[:-1]):
        n_mid = n_out if stage == 0 else n_in
        layers += [
            nn.ConvTranspose2d(n_in, n_mid, 2, 2, groups=groups if stage == 0 else n_in),
            nn.Conv2d(n_mid, n_out, 1, bias=False),
            nn.BatchNorm2d(n_out),
            nn.GELU(),
        ]
        n_in = n_out
    layers.append(nn.ConvTranspose2d(n_in, widths[-1], 2, 2, bias=False))
    return nn.Sequential(*layers)


def load(reference, decoder, parameters):
    """Copy a flat parameter vector into the torch.nn layers."""
    pieces = dict(zip((layer.name for layer in decoder.layers), torch.split(parameters, decoder.sizes)))
    deconvs = [layer for layer in reference if isinstance(layer, nn.ConvTranspose2d)]
    mixes = [layer for layer in reference if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in reference if isinstance(layer, nn.BatchNorm2d)]
    with torch.no_grad():
        for stage, (deconv, mix, norm) in enumerate(zip(deconvs, mixes, norms)):
            deconv.weight.copy_(pieces[f"{stage}.deconv"].view_as(deconv.weight))
            deconv.bias.copy_(pieces[f"{stage}.bias"])
            mix.weight.copy_(pieces[f"{stage}.mix"].view(mix.in_channels, mix.out_channels).T[..., None, None])
            norm.weight.copy_(pieces[f"{stage}.gain"])
            norm.bias.copy_(pieces[f"{stage}.shift"])
        deconvs[-1].weight.copy_(pieces["last"].view_as(deconvs[-1].weight))


PAPER = (64, 32, 32, 16, 3)


@pytest.mark.parametrize(
    ("n_channels", "n_stages", "widths", "max_groups", "groups"),
    [
        (32, 5, PAPER, 64, 32),
        (16, 5, PAPER, 64, 16),
        (64, 5, PAPER, 32, 32),
        (16, 3, (16, 8, 3), 64, 16),
        (16, 1, (3,), 64, None),
    ],
)
def test_equals_torch_layers(n_channels, n_stages, widths, max_groups, groups):
    decoder = Decoder(n_channels, n_stages, max_groups)
    rng = np.random.default_rng(0)
    parameters = torch.tensor(
        np.stack([decoder.initial_parameters(rng, "random") for _ in range(3)])
        + rng.normal(0, 0.1, (3, decoder.n_parameters)),
        dtype=torch.float32,
    )
    cells = torch.tensor(rng.normal(size=(3, 4, n_channels, 49)), dtype=torch.float32)
    prompts = decoder(parameters, cells)
    assert prompts.shape == (3, 4, 3, 7 * 2**n_stages, 7 * 2**n_stages)
    for candidate, own, prompt in zip(parameters, cells, prompts):
        reference = reference_decoder(n_channels, widths, groups).train()
        load(reference, decoder, candidate)
        with torch.no_grad():
            expected = reference(own.view(4, n_channels, 7, 7))
        torch.testing.assert_close(prompt, expected, atol=1e-5, rtol=1e-5)


def test_features_that_differ_little_from_image_to_image_are_normalised_as_exactly_as_by_torch():
    decoder = Decoder(16, 4)
    rng = np.random.default_rng(3)
    parameters = torch.tensor(decoder.initial_parameters(rng, "random"))
    cells = torch.tensor(30 + 0.1 * rng.normal(size=(1, 6, 16, 49)))
    reference = reference_decoder(16, decoder.widths, 16).double().train()
    load(reference, decoder, parameters)
    with torch.no_grad():
        expected = reference(cells[0].view(6, 16, 7, 7))
        in_single_precision = reference.float()(cells[0].float().view(6, 16, 7, 7))
    error_of_torch = (in_single_precision - expected).abs().max()
    assert (decoder(parameters[None].float(), cells.float())[0] - expected).abs().max() < 3 * error_of_torch


def test_gradients_equal_those_of_torch():
    decoder = Decoder(16, 3)
    rng = np.random.default_rng(4)
    parameters = torch.tensor(decoder.initial_parameters(rng, "random"), requires_grad=True)
    cells = torch.tensor(rng.normal(size=(1, 5, 16, 49)))
    target = torch.tensor(rng.normal(size=(5, 3, 56, 56)))
    (gradient,) = torch.autograd.grad((decoder(parameters[None], cells)[0] * target).sum(), parameters)
    reference = reference_decoder(16, decoder.widths, 16).double().train()
    load(reference, decoder, parameters)
    last = reference[-1].weight
    (expected,) = torch.autograd.grad((reference(cells[0].view(5, 16, 7, 7)) * target).sum(), last)
    torch.testing.assert_close(gradient[-last.numel() :].view_as(last), expected)
    first = reference[0].weight
    (expected,) = torch.autograd.grad((reference(cells[0].view(5, 16, 7, 7)) * target).sum(), first)
    torch.testing.assert_close(gradient[: first.numel()].view_as(first), expected)


def test_paper_size():
    decoder = Decoder(32)
    assert decoder.side == 224
    assert decoder.n_parameters == 9_120
    assert decoder.n_parameters == sum(p.numel() for p in reference_decoder(32, PAPER, 32).parameters())


def test_statistics_equal_those_of_torch_and_free_an_image_of_its_batch():
    decoder = Decoder(16, 3)
    rng = np.random.default_rng(1)
    parameters = torch.tensor(decoder.initial_parameters(rng, "random"))
    cells = torch.tensor(rng.normal(size=(1, 10, 16, 49)))
    statistics = decoder.batch_statistics(parameters, lambda: iter(cells.split(3, dim=1)))

    reference = reference_decoder(16, (16, 8, 3), 16).double().train()
    for layer in reference:
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the plain mean over the one batch that follows
    load(reference, decoder, parameters)
    with torch.no_grad():
        reference(cells[0].view(10, 16, 7, 7))
    norms = [layer for layer in reference if isinstance(layer, nn.BatchNorm2d)]
    for (mean, variance), norm, positions in zip(split_moments(statistics, (16, 8)), norms, (1960, 7840)):
        torch.testing.assert_close(mean, norm.running_mean)
        torch.testing.assert_close(variance, norm.running_var * (positions - 1) / positions)

    together = decoder(parameters[None], cells, statistics)
    alone = decoder(parameters[None], cells[:, 4:5], statistics)
    torch.testing.assert_close(together[:, 4:5], alone, atol=1e-12, rtol=0)
    in_batch_mode = decoder(parameters[None], cells)
    torch.testing.assert_close(together, in_batch_mode, atol=1e-9, rtol=0)


def test_chunks_of_candidates_and_blocks_of_images_change_nothing(monkeypatch):
    decoder = Decoder(16, 2)
    rng = np.random.default_rng(2)
    parameters = torch.tensor(np.stack([decoder.initial_parameters(rng, "random") for _ in range(5)]))
    cells = torch.tensor(rng.normal(size=(5, 3, 16, 49)))
    whole = decoder(parameters, cells)
    monkeypatch.setattr("blackvip.prompters.decoder._HELD_BYTES", 1)
    monkeypatch.setattr("blackvip.prompters.decoder._BLOCK_BYTES", 1)
    torch.testing.assert_close(decoder(parameters, cells), whole, atol=1e-12, rtol=0)


def test_zero_start_draws_nothing_and_random_start_draws_something():
    decoder = Decoder(16, 2)
    cells = torch.rand(1, 2, 16, 49, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    starts = {name: decoder.initial_parameters(np.random.default_rng(0), name) for name in ("zero", "random")}
    prompts = {name: decoder(torch.tensor(start)[None], cells) for name, start in starts.items()}
    assert not prompts["zero"].any()
    assert prompts["random"].std() > 0.01


@pytest.mark.parametrize(
    ("size", "n_stages"), [((1, 4), 1), ((8, 8), 1), ((28, 28), 2), ((29, 29), 3), ((48, 56), 3), ((57, 10), 4),
                           ((112, 112), 4), ((224, 224), 5), ((600, 800), 5)]
)  # fmt: skip
def test_fewest_stages_that_cover_the_image(size, n_stages):
    assert n_stages_for(*size) == n_stages
