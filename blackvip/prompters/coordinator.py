"""The Coordinator, the prompter of BlackVIP (section 3.2 of the paper)."""

from __future__ import annotations

from numbers import Integral

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions

from ..encoders.base import ENCODER, Encoder
from ..encoders.by_name import make_encoder
from ..encoders.cells import CELLS, fit_to_image, n_stages_for
from ..persistence.arrays import Array
from ..persistence.format import expect
from ..persistence.objects import Object
from .base import FeatureBatches, Prompter
from .decoder import Decoder

__all__ = ["Coordinator"]


class Coordinator(Prompter, name="coordinator"):
    """BlackVIP's Coordinator: an encoder, a prompt trigger and a small decoder.

    The features z of an image and the trigger t, a trained vector, are concatenated and cut into 7 x 7 cells. The
    decoder draws the prompt from these cells (BlackVIP, section 3.2).

    Parameters
    ----------
    encoder : str or Encoder, default="pca"
        ``"pca"`` (BlackVIP-SE), ``"gradients"``, ``"scratch"``, the name of a timm model, such as
        ``"vit_base_patch16_224.mae"``, or an `Encoder`.
    src_dim : int or "auto", default="auto"
        Length of [z, t], a multiple of 49. "auto": the smallest of 784, 1568, 3136, ... that is at least 1.5 times the
        length of z (1568 for 768 features and 3136 for 2048, as in the paper). A trained encoder has no trigger, and
        ignores it.
    last_layer : {"zero", "random"}, default="zero"
        Initial values of the decoder's last layer. "zero": the first prompt is zero, so training starts from the
        zero-shot service. "random": the paper's start.

    Attributes
    ----------
    encoder_ : Encoder
        The fitted encoder.
    decoder_ : Decoder
        The decoder.
    n_trigger_ : int
        Length of the trigger.
    n_parameters_ : int
        Number of parameters of the encoder, the trigger and the decoder.
    size_ : tuple of int
        (height, width) of the images.

    Notes
    -----
    At 224 px the decoder has the paper's five stages. For smaller images it has the last ones of them: the fewest, and
    at least one, whose 7·2^s px cover the longer side of the image. The centre of its picture is the prompt. For larger
    images the 224-px picture is first resized to the longer side.
    """

    encoder_: Encoder
    decoder_: Decoder

    _parameter_constraints = {
        "encoder": [str, Encoder],
        "src_dim": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "last_layer": [StrOptions({"zero", "random"})],
    }
    saved_attributes = {"encoder_": Object(Encoder), "statistics_": Array(("n_statistics",))}
    derived_attributes = ("size_", "n_trigger_", "decoder_", "n_parameters_")
    saved_parameters = {"encoder": ENCODER}

    def __init__(self, encoder: str | Encoder = "pca", src_dim: int | str = "auto", last_layer: str = "zero"):
        self.encoder = encoder
        self.src_dim = src_dim
        self.last_layer = last_layer

    def _finish_loading(self) -> None:
        super()._finish_loading()
        height, width = self.image_format_.height, self.image_format_.width
        self.encoder_.check_image_size(height, width)
        self._lay_out(height, width)
        for name, found, expected in (
            ("parameters_", len(self.parameters_), self.n_parameters_),
            ("statistics_", len(self.statistics_), self.n_statistics),  # type: ignore[arg-type]
        ):
            expect(found == expected, f"{name} has {found} numbers; expected {expected}")

    def fit_pixels(self, pixels: torch.Tensor) -> Coordinator:
        self._validate_params()
        self.encoder_ = make_encoder(self.encoder).fit_pixels(pixels)
        self._lay_out(pixels.shape[-2], pixels.shape[-1])
        return self

    def _lay_out(self, height: int, width: int) -> None:
        """Make the trigger and the decoder that fit the encoder and images of this size."""
        self.size_ = (height, width)
        z_dim = self.encoder_.n_features_out_
        if not self.encoder_.is_frozen:
            src_dim = z_dim
        elif self.src_dim == "auto":
            src_dim = 784
            while src_dim < 1.5 * z_dim:
                src_dim *= 2
        else:
            src_dim = int(self.src_dim)
            if src_dim % CELLS**2 or src_dim < z_dim:
                raise ValueError(
                    f"src_dim={src_dim} was given; expected a multiple of {CELLS**2} that is at least {z_dim}, the "
                    "number of the encoder's features."
                )
        self.n_trigger_ = src_dim - z_dim
        max_groups = 32 if z_dim == 2048 else 64
        self.decoder_ = Decoder(src_dim // CELLS**2, n_stages_for(*self.size_), max_groups)
        self.n_parameters_ = sum(self._sizes())

    @property
    def n_statistics(self) -> int:
        return self.encoder_.n_statistics + self.decoder_.n_statistics

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute the features of images that do not depend on trained parameters.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width)
            RGB in [0, 1].

        Returns
        -------
        features : tensor of shape (n, ...)
            The encoder's features z, which are computed once per image. For a trained encoder, its resized input.
        """
        return self.encoder_.features(pixels)

    def initial_parameters(self, rng: np.random.Generator) -> np.ndarray:
        encoder = self.encoder_.initial_parameters(rng)
        trigger = rng.uniform(0.0, 0.1, self.n_trigger_)
        return np.concatenate([encoder, trigger, self.decoder_.initial_parameters(rng, self.last_layer)])

    def prompts(
        self, candidates: torch.Tensor, features: torch.Tensor, statistics: torch.Tensor | None = None
    ) -> torch.Tensor:
        of_encoder = of_decoder = None
        if statistics is not None:
            of_encoder, of_decoder = statistics.split([self.encoder_.n_statistics, self.decoder_.n_statistics])
        cells = self._cells(candidates, features, of_encoder).flatten(0, 1)
        *_, decoder = candidates.flatten(0, 1).split(self._sizes(), dim=1)
        pictures = fit_to_image(self.decoder_(decoder, cells, of_decoder), *self.size_)
        return pictures.unflatten(0, candidates.shape[:2])

    def batch_statistics(self, parameters: torch.Tensor, batches: FeatureBatches) -> torch.Tensor:
        encoder, _, decoder = parameters.split(self._sizes())
        of_encoder = self.encoder_.batch_statistics(encoder, batches)
        candidates = parameters[None, None]
        cells = lambda: (self._cells(candidates, part[None], of_encoder)[0] for part in batches())
        return torch.cat([of_encoder, self.decoder_.batch_statistics(decoder, cells)])

    def _sizes(self) -> tuple[int, int, int]:
        """Return the numbers of parameters of the encoder, the trigger and the decoder, in this order."""
        return self.encoder_.n_parameters, self.n_trigger_, self.decoder_.n_parameters

    def _cells(self, candidates: torch.Tensor, features: torch.Tensor, statistics: torch.Tensor | None) -> torch.Tensor:
        """Arrange the decoder's input [z, t] in cells of shape (g, p, n, channels, 49) (section 3.2)."""
        encoder, trigger, _ = candidates.split(self._sizes(), dim=2)
        z = self.encoder_.latents(encoder, features, statistics)
        t = trigger[:, :, None].expand(-1, -1, z.shape[2], -1)
        return torch.cat([z, t], dim=3).unflatten(3, (-1, CELLS**2))
