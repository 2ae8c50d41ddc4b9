"""The batched decoder against the same layers written with torch.nn: pairs of timings in one run.

python benchmarks/decoder.py [--repetitions 5]
"""

import argparse
import time

import numpy as np
import torch
from torch import nn

from blackvip.decoder import Decoder


def torch_layers(decoder, n_channels):
    """The decoder as a stack of torch.nn layers, with weights of its own."""
    layers, n_in = [], n_channels
    for stage, n_out in enumerate(decoder.widths[:-1]):
        n_mid = n_out if stage == 0 else n_in
        layers += [nn.ConvTranspose2d(n_in, n_mid, 2, 2, groups=n_in), nn.Conv2d(n_mid, n_out, 1, bias=False)]
        layers += [nn.BatchNorm2d(n_out), nn.GELU()]
        n_in = n_out
    return nn.Sequential(*layers, nn.ConvTranspose2d(n_in, decoder.widths[-1], 2, 2, bias=False))


def one_by_one(layers, pictures):
    return [layers(picture) for picture in pictures]


def seconds(function, *arguments):
    begin = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begin


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    print("32 images; seconds: ours, torch.nn one candidate after another, and the ratio: median (least to greatest)")
    for n_stages, n_channels in ((3, 16), (4, 16), (5, 32)):
        decoder = Decoder(n_channels, n_stages)
        reference = torch_layers(decoder, n_channels).train()
        for p in (1, 10):
            parameters = torch.tensor(
                np.stack([decoder.initial_parameters(rng, "random") for _ in range(p)]), dtype=torch.float32
            )
            cells = torch.randn(p, 32, n_channels, 49)
            pictures = cells.view(p, 32, n_channels, 7, 7)
            pairs = [
                (seconds(decoder, parameters, cells), seconds(one_by_one, reference, pictures))
                for _ in range(args.repetitions + 1)
            ]
            pairs = np.array(pairs[1:])  # the first one warms up
            ratios = pairs[:, 1] / pairs[:, 0]
            print(
                f"{decoder.side:4d} px, {p:2d} candidates: {np.median(pairs[:, 0]):.3f}  {np.median(pairs[:, 1]):.3f}"
                f"   {np.median(ratios):.2f}  ({ratios.min():.2f} to {ratios.max():.2f})"
            )


if __name__ == "__main__":
    main()
