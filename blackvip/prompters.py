"""Prompters: from an image's features to the prompt that is added to it, for many candidates at once.

A prompter is fitted to the training images (what is fixed: an encoder, means, scales), makes prompts for any
number of candidate parameter vectors while an optimizer searches, and at the end is frozen at the vector that
was found. A frozen prompter stands alone: it turns images into prompted images and pickles by itself.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from .decoder import CELLS, Decoder, fit_to_image, n_stages_for
from .encoders import Encoder, TrainableEncoder, make_encoder
from .filters import filtered, gaussian
from .images import to_uint8
from .persistence import Saveable
from .reading import ImageTransformer, as_output, pixel_batches

__all__ = ["Coordinator", "PromptBasis", "Prompter", "make_prompter"]

_MEASURED_PIXELS = 2**22  # of training images, on which the size of each phi is measured
_DRAWN_BYTES = 8 * 2**20  # of pixels in double precision, onto which prompts are drawn at once

FeatureBatches = Callable[[], Iterable[torch.Tensor]]


class Prompter(Saveable, ImageTransformer, ABC):
    """What the training loop needs of a prompter, and what a frozen one is to scikit-learn: a transformer of images.

    Attributes
    ----------
    n_parameters_ : int
        Length of a candidate, known after `fit_pixels`.
    parameters_ : ndarray of shape (n_parameters_,)
        The vector at which the prompter is frozen.
    statistics_ : ndarray of shape (n_statistics,) or None
        The batch statistics that belong to it.
    prompt_scale_ : float
        The factor of the prompt with which it was frozen.
    """

    n_parameters_: int
    parameters_: np.ndarray
    statistics_: np.ndarray | None
    prompt_scale_: float

    @abstractmethod
    def fit_pixels(self, pixels: torch.Tensor) -> Prompter:
        """Learn what is fixed from training images (n, 3, height, width) in [0, 1]."""

    @abstractmethod
    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the prompt of each image is made from, of shape (n, ...)."""

    @abstractmethod
    def initial_parameters(self, rng: np.random.Generator) -> np.ndarray:
        """The vector of shape (n_parameters_,) that training starts from."""

    @abstractmethod
    def prompts(
        self, candidates: torch.Tensor, features: torch.Tensor, statistics: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Prompts (p, n, 3, height, width) of candidates (p, n_parameters_) for features (n, ...).

        With `statistics`, as `batch_statistics` gives them, an image's prompt does not depend on the others.
        """

    def grouped_prompts(self, candidates: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Prompts (g, p, n, 3, height, width) of groups of candidates (g, p, n_parameters_), each for its own images.

        Parameters
        ----------
        candidates : tensor of shape (g, p, n_parameters_)
            As many in each group.
        features : tensor of shape (g, n, ...)
            Of the images of each group.

        Returns
        -------
        prompts : tensor of shape (g, p, n, 3, height, width)
            As `prompts` makes them of each group; a prompter may be faster for all.
        """
        prompts = [self.prompts(*group) for group in zip(candidates, features)]
        return torch.stack(prompts) if len(prompts) > 1 else prompts[0][None]

    def canvas(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the prompts are added to: the images as they are, unless a prompter says otherwise.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width)
            RGB in [0, 1].

        Returns
        -------
        canvas : tensor of shape (n, 3, height, width)
            RGB in [0, 1]; it does not depend on the parameters.
        """
        return pixels

    def batch_statistics(self, parameters: torch.Tensor, batches: FeatureBatches) -> torch.Tensor | None:
        """What `prompts` needs so that an image's prompt does not depend on the rest of its batch, if anything.

        Parameters
        ----------
        parameters : tensor of shape (n_parameters_,)
            The parameters that will be frozen.
        batches : callable
            Returns an iterator over the features of all training images.

        Returns
        -------
        statistics : tensor of shape (n_statistics,) or None
            None where prompts do not depend on the batch.
        """
        return None

    def freeze(
        self, parameters: np.ndarray, statistics: torch.Tensor | None = None, prompt_scale: float = 1.0
    ) -> Prompter:
        """Fix the parameters, and the batch statistics that belong to them.

        Parameters
        ----------
        parameters : ndarray of shape (n_parameters_,)
            Kept in float64.
        statistics : tensor of shape (n_statistics,) or None
            As `batch_statistics` gives them.
        prompt_scale : float
            The factor of the prompt; 0 draws none.

        Returns
        -------
        self : Prompter
            The frozen prompter.
        """
        self.parameters_ = np.array(parameters, dtype=np.float64)
        self.statistics_ = None if statistics is None else statistics.double().numpy()
        self.prompt_scale_ = float(prompt_scale)
        return self

    def frozen_prompts(self, features: torch.Tensor) -> torch.Tensor:
        """Prompts of the frozen parameters.

        Double precision makes the 8-bit image that is sent independent of the batch it was computed in.

        Parameters
        ----------
        features : tensor of shape (n, ...)
            As `features` makes them.

        Returns
        -------
        prompts : tensor of shape (n, 3, height, width), float64
            In units of the pixel range, not bounded, before `prompt_scale_`.
        """
        statistics = None if self.statistics_ is None else torch.from_numpy(self.statistics_)
        return self.prompts(torch.from_numpy(self.parameters_)[None], features.double(), statistics)[0]

    def draw(self, pixels: torch.Tensor) -> torch.Tensor:
        """Prompted images, before they are rounded to 8 bits; no service is called.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width)
            RGB in [0, 1].

        Returns
        -------
        prompted : tensor of shape (n, 3, height, width)
            RGB in [0, 1].
        """
        check_is_fitted(self, "parameters_")
        if self.prompt_scale_ == 0:
            return pixels
        drawn = []
        for part in pixels.split(_at_once(pixels)):
            prompts = self.frozen_prompts(self.features(part))
            drawn.append(prompted(self.canvas(part.double()), prompts[None], self.prompt_scale_)[0])
        return torch.cat(drawn)

    def fit(self, X: Any, y: Any = None) -> Prompter:
        """Learn what is fixed, and freeze at the parameters that training would start from.

        `BlackVIPClassifier` is what trains a prompter; `BlackVIPPrompter` does so within a pipeline.

        Parameters
        ----------
        X : images, in any form that `BlackVIPClassifier` takes
            The training images.
        y : None
            Ignored.

        Returns
        -------
        self : Prompter
            The untrained prompter.
        """
        pixels = self._pixels(X)
        self.fit_pixels(pixels)
        w = self.initial_parameters(np.random.default_rng(0))
        batches = lambda: (self.features(part).double() for part in pixels.split(64))
        return self.freeze(w, self.batch_statistics(torch.as_tensor(w), batches))

    def transform(self, X: Any) -> np.ndarray:
        """Images with their prompts, as they are sent to a service; no service is called.

        Parameters
        ----------
        X : images, in any form that `BlackVIPClassifier` takes
            Of the size that `fit` was given, unless it had to resize.

        Returns
        -------
        prompted : ndarray of shape (n_images, height, width, 3), uint8
            RGB. Where X is rows of flattened pixels, of shape (n_images, height * width * 3).
        """
        return as_output(self, X, self.prompted_images(X))

    def prompted_images(self, X: Any) -> np.ndarray:
        """Images with their prompts, as images whatever X is; no service is called.

        Parameters
        ----------
        X : images, in any form that `BlackVIPClassifier` takes
            Of the size that `fit` was given, unless it had to resize.

        Returns
        -------
        prompted : ndarray of shape (n_images, height, width, 3), uint8
            RGB.
        """
        batches = pixel_batches(self.image_format_, self._open_images(X))
        return np.concatenate([to_uint8(self.draw(pixels)) for pixels in batches])

    @property
    def _n_features_out(self) -> int:
        return self.image_format_.height * self.image_format_.width * 3


def _at_once(pixels: torch.Tensor) -> int:
    """Images whose prompts are made together, as far as memory goes; features may be many times as large."""
    return max(1, _DRAWN_BYTES // max(1, pixels[:1].numel() * 8))


def prompted(pixels: torch.Tensor, prompts: torch.Tensor, prompt_scale: float) -> torch.Tensor:
    """clip(x + eps h(x)), BlackVIP eq. 1, in pixels of [0, 1]: (n, ...) and (p, n, ...) -> (p, n, ...).

    x is the prompter's `canvas` of the images, which for most is the images.
    """
    return torch.add(pixels, prompts, alpha=prompt_scale).clamp_(0, 1)


class Coordinator(Prompter):
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

    def __init__(self, encoder: str | Encoder = "pca", src_dim: int | str = "auto", last_layer: str = "zero"):
        self.encoder = encoder
        self.src_dim = src_dim
        self.last_layer = last_layer

    def fit_pixels(self, pixels: torch.Tensor) -> Coordinator:
        if self.last_layer not in ("zero", "random"):
            raise ValueError(f"last_layer={self.last_layer!r}; expected 'zero' or 'random'.")
        self.size_ = (pixels.shape[-2], pixels.shape[-1])
        self.encoder_ = make_encoder(self.encoder).fit_pixels(pixels)
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
        return self

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


class PromptBasis(Prompter):
    """A prompt with fourteen parameters: a weighted sum of fixed images and plain filters of the image itself.

    prompt(x) = sum_j w_j phi_j(x). The phi are the training images' mean, median, 10 % and 90 % quantiles and
    a constant, which remove or add what all images share; the image and its square (contrast and tone), three
    Gaussian blurs of it (sharpening, shading), its own mean and median in each channel (fog, lighting, colour of the
    ground), and its 3 x 3 maximum and minimum (thicker or thinner strokes). What SPSA pays for is the number of
    parameters, so that this basis trains with far fewer billed images than a decoder.

    Parameters
    ----------
    rms : float, default=0.3
        Root mean square over the training images, or a part of them where they are many, to which each phi is scaled,
        in units of the pixel range.

    Attributes
    ----------
    images_ : ndarray of shape (5, 3, height, width), float32
        The phi that are the same for every image.
    scale_ : ndarray of shape (14,)
        The factor of each phi.
    """

    _sigmas = (1.0, 3.0, 8.0)

    def __init__(self, rms: float = 0.3):
        self.rms = rms

    def fit_pixels(self, pixels: torch.Tensor) -> PromptBasis:
        lines = np.moveaxis(pixels.numpy(), 2, 0)  # line by line: of all pixels at once a copy would be made
        quantiles = np.stack([np.quantile(line, [0.5, 0.1, 0.9], axis=0) for line in lines], axis=2)
        images = [pixels.mean(0).numpy(), *quantiles, np.ones(pixels.shape[1:])]
        self.images_ = np.stack(images).astype(np.float32)
        self.n_parameters_ = len(self.images_) + len(self._sigmas) + 6
        power = np.zeros(self.n_parameters_)
        power[: len(images)] = np.square(self.images_, dtype=np.float64).mean((1, 2, 3))
        some = pixels[:: math.ceil(pixels[:, 0].numel() / _MEASURED_PIXELS)]
        for part in some.split(_at_once(pixels)):
            squares = self.features(part).double().square_().mean((2, 3, 4))
            power[len(images) :] += squares.sum(0).numpy() / len(some)
        self.scale_ = self.rms / np.sqrt(power).clip(min=1e-3)
        return self

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """The phi of each image itself.

        Parameters
        ----------
        pixels : tensor of shape (n, 3, height, width)
            RGB in [0, 1].

        Returns
        -------
        phi : tensor of shape (n, 9, 3, height, width)
            As they are, in units of the pixel range.
        """
        x = pixels.double()  # sums in double precision hide in which order a batch was summed
        flat = x.flatten(2)
        phi = pixels.new_empty(len(pixels), len(self._sigmas) + 6, *pixels.shape[1:])
        phi[:, 0] = pixels
        for k, sigma in enumerate(self._sigmas, 1):
            phi[:, k] = filtered(x, gaussian(sigma), gaussian(sigma))
        *_, square, mean, median, largest, smallest = phi.unbind(1)
        torch.square(pixels, out=square)
        mean[:] = flat.mean(2)[..., None, None]
        middle = (flat.shape[2] - 1) // 2
        median[:] = torch.from_numpy(np.partition(flat.numpy(), middle, axis=2)[..., middle, None, None])
        largest[:] = _largest_around(pixels)
        smallest[:] = -_largest_around(-pixels)
        return phi

    def initial_parameters(self, rng: np.random.Generator) -> np.ndarray:
        return np.zeros(self.n_parameters_)

    def prompts(
        self, candidates: torch.Tensor, features: torch.Tensor, statistics: torch.Tensor | None = None
    ) -> torch.Tensor:
        weights = candidates * torch.from_numpy(self.scale_).to(candidates)
        of_all, own = weights.split([len(self.images_), len(self._sigmas) + 6], dim=-1)
        still = of_all @ torch.from_numpy(self.images_).to(candidates).flatten(1)
        of_each = own.unsqueeze(-3) @ features.to(candidates.dtype).flatten(-3)
        prompts = of_each.transpose(-3, -2) + still.unsqueeze(-2)
        return prompts.unflatten(-1, features.shape[-3:])

    def grouped_prompts(self, candidates: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        return self.prompts(candidates, features)  # whose products are of each group


def _largest_around(pixels: torch.Tensor) -> torch.Tensor:
    """Maximum of the 3 x 3 pixels around each one."""
    for dim in (-1, -2):
        side = pixels.shape[dim]
        if side > 1:
            pairs = torch.maximum(pixels.narrow(dim, 0, side - 1), pixels.narrow(dim, 1, side - 1))
            first, last = pixels.narrow(dim, 0, 1), pixels.narrow(dim, side - 1, 1)
            pixels = torch.maximum(torch.cat([first, pairs], dim), torch.cat([pairs, last], dim))
    return pixels


def make_prompter(prompter: str | Prompter, encoder: str | Encoder = "pca") -> Prompter:
    """A prompter from ``"coordinator"``, ``"basis"`` or a `Prompter`, of which a clone is made."""
    if isinstance(prompter, Prompter):
        return clone(prompter)
    if prompter == "coordinator":
        return Coordinator(encoder)
    if prompter == "basis":
        return PromptBasis()
    raise ValueError(f"prompter={prompter!r}; expected 'coordinator', 'basis' or a Prompter.")
