"""The Coordinator, BlackVIP's prompter (section 3.2 of its paper)."""

from __future__ import annotations

from numbers import Integral

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions

from ..encoders.base import ENCODER, Encoder, TrainableEncoder
from ..encoders.by_name import make_encoder
from ..encoders.cells import CELLS, fit_to_image, n_stages_for
from ..persistence.arrays import Array
from ..persistence.format import expect
from ..persistence.objects import Object
from .base import FeatureBatches, Prompter
from .decoder import Decoder

__all__ = ["Coordinator"]


class Coordinator(Prompter, name="coordinator"):
    """BlackVIP's Coordinator: a frozen encoder, a prompt trigger and a small decoder.

    An image's features z and the trigger t, a vector that is trained, are put one behind the other and cut
    into 7 x 7 cells, from which the decoder draws the prompt (BlackVIP, section 3.2).

    Parameters
    ----------
    encoder : str or Encoder, default="pca"
        ``"pca"`` (BlackVIP-SE), ``"scratch"``, or the name of a timm model, such as
        ``"vit_base_patch16_224.mae"``.
    src_dim : int or "auto", default="auto"
        Length of [z, t], a multiple of 49. "auto": the smallest of 784, 1568, 3136, ... that is at least one
        and a half times as long as z (1568 for 768 features, 3136 for 2048, as in the paper).
    last_layer : {"zero", "random"}, default="zero"
        Start of the decoder's last layer. "zero": the first prompt is zero, so that training starts from the
        zero-shot service. "random": the paper's start.

    Attributes
    ----------
    encoder_ : Encoder
    decoder_ : Decoder
    n_trigger_ : int
        Length of the trigger.

    Notes
    -----
    At 224 px the decoder has the paper's five stages. For smaller images it has the fewest stages whose
    7·2^s px cover the image's longer side (at least one), the last ones of the paper's, and the prompt's
    centre is cut out. For larger images the 224-px prompt is resized to the image's longer side, bilinearly,
    and its centre cut out.
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
        n_statistics = self.encoder_.n_statistics + self.decoder_.n_statistics
        for name, found, expected in (
            ("parameters_", len(self.parameters_), self.n_parameters_),
            ("statistics_", len(self.statistics_), n_statistics),  # type: ignore[arg-type]
        ):
            expect(found == expected, f"{name} has {found} numbers; expected {expected}")

    def fit_pixels(self, pixels: torch.Tensor) -> Coordinator:
        if self.last_layer not in ("zero", "random"):
            raise ValueError(f"last_layer={self.last_layer!r}; expected 'zero' or 'random'.")
        self.encoder_ = make_encoder(self.encoder).fit_pixels(pixels)
        self._lay_out(pixels.shape[-2], pixels.shape[-1])
        return self

    def _lay_out(self, height: int, width: int) -> None:
        """Build the decoder for the fitted encoder and for images of this size."""
        self.size_ = (height, width)
        z_dim = self.encoder_.n_features_out_
        if isinstance(self.encoder_, TrainableEncoder):
            src_dim = z_dim  # its cells are the decoder's input as they are, without a trigger
        elif self.src_dim == "auto":
            src_dim = 784
            while src_dim < 1.5 * z_dim:
                src_dim *= 2
        else:
            src_dim = int(self.src_dim)
            if src_dim % CELLS**2 or src_dim < z_dim:
                raise ValueError(
                    f"src_dim={src_dim}; expected a multiple of 49 that is at least the encoder's {z_dim} features."
                )
        self.n_trigger_ = src_dim - z_dim
        max_groups = 32 if z_dim == 2048 else 64
        self.decoder_ = Decoder(src_dim // CELLS**2, n_stages_for(*self.size_), max_groups)
        self.n_parameters_ = sum(self._sizes())

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.encoder_.encode(pixels)

    def initial_parameters(self, rng: np.random.Generator) -> np.ndarray:
        trained = isinstance(self.encoder_, TrainableEncoder)
        encoder = self.encoder_.initial_parameters(rng) if trained else np.empty(0)
        trigger = rng.uniform(0.0, 0.1, self.n_trigger_)
        return np.concatenate([encoder, trigger, self.decoder_.initial_parameters(rng, self.last_layer)])

    def prompts(
        self, candidates: torch.Tensor, features: torch.Tensor, statistics: torch.Tensor | None = None
    ) -> torch.Tensor:
        of_encoder = of_decoder = None
        if statistics is not None:
            n_of_encoder = len(statistics) - self.decoder_.n_statistics
            of_encoder, of_decoder = statistics[:n_of_encoder], statistics[n_of_encoder:]
        return self._decoded(candidates, self._cells(candidates, features, of_encoder), of_decoder)

    def grouped_prompts(self, candidates: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        cells = torch.stack([self._cells(*group, None) for group in zip(candidates, features)])
        return self._decoded(candidates.flatten(0, 1), cells.flatten(0, 1)).unflatten(0, candidates.shape[:2])

    def _decoded(
        self, candidates: torch.Tensor, cells: torch.Tensor, statistics: torch.Tensor | None = None
    ) -> torch.Tensor:
        *_, decoder = candidates.split(self._sizes(), dim=1)
        return fit_to_image(self.decoder_(decoder, cells, statistics), *self.size_)

    def batch_statistics(self, parameters: torch.Tensor, batches: FeatureBatches) -> torch.Tensor:
        encoder, _, decoder = parameters.split(self._sizes())
        of_encoder = parameters.new_empty(0)
        if isinstance(self.encoder_, TrainableEncoder):
            of_encoder = self.encoder_.batch_statistics(encoder, batches)
        cells = lambda: (self._cells(parameters[None], part, of_encoder) for part in batches())
        return torch.cat([of_encoder, self.decoder_.batch_statistics(decoder, cells)])

    def _sizes(self) -> tuple[int, int, int]:
        """Parameters of the encoder, the trigger and the decoder, which stand in this order."""
        return self.encoder_.n_parameters, self.n_trigger_, self.decoder_.n_parameters

    def _cells(self, candidates: torch.Tensor, features: torch.Tensor, statistics: torch.Tensor | None) -> torch.Tensor:
        """[z, t] as (p, n, channels, 49)."""
        encoder, trigger, _ = candidates.split(self._sizes(), dim=1)
        if isinstance(self.encoder_, TrainableEncoder):
            return self.encoder_.cells(encoder, features, statistics)
        p, n = len(candidates), len(features)
        z = features.to(candidates.dtype).expand(p, n, -1)
        t = trigger[:, None].expand(p, n, -1)
        return torch.cat([z, t], dim=2).view(p, n, -1, CELLS**2)
