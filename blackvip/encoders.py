"""Encoders: from images to the features that a Coordinator draws its prompts from.

A frozen encoder is fitted once to the training images and then only transforms, so that each image's
features are computed once. A trainable one (`ScratchEncoder`) has parameters of its own. To scikit-learn they are
transformers of images in any form; the training loop uses the methods that take pixels.
"""

from __future__ import annotations

import difflib
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import clone
from sklearn.decomposition import PCA

from .decoder import CELLS, fit_to_image, n_stages_for, split_moments
from .reading import ImageTransformer, pixel_batches

__all__ = ["Encoder", "PCAEncoder", "ScratchEncoder", "TimmEncoder", "TrainableEncoder", "make_encoder"]


class Encoder(ImageTransformer, ABC):
    """What a Coordinator needs of an encoder: `fit_pixels` and `encode`. `fit` and `transform` come with them.

    Attributes
    ----------
    n_features_out_ : int
        Numbers that the decoder gets for an image.
    """

    n_features_out_: int

    @property
    def n_parameters(self) -> int:
        """Parameters that are trained with the decoder; 0 for a frozen encoder."""
        return 0

    @abstractmethod
    def fit_pixels(self, pixels: torch.Tensor) -> Encoder:
        """Learn from training images (n, 3, height, width) in [0, 1]; set `n_features_out_`."""

    @abstractmethod
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Per-image features of shape (n, ...), which do not depend on trainable parameters."""

    @property
    def block_sizes_(self) -> tuple[int, ...]:
        """Features of each block of features that a probe of its own may be given: by default one block of all."""
        return (self.n_features_out_,)

    def fit(self, X: Any, y: Any = None) -> Encoder:
        """Learn from training images.

        Parameters
        ----------
        X : images, in any form that `BlackVIPClassifier` takes
            The training images.
        y : None
            Ignored.

        Returns
        -------
        self : Encoder
            The fitted encoder.
        """
        return self.fit_pixels(self._pixels(X))

    def transform(self, X: Any) -> np.ndarray:
        """Features of images.

        Parameters
        ----------
        X : images, in any form that `BlackVIPClassifier` takes
            Of the size that `fit` was given.

        Returns
        -------
        features : ndarray of shape (n_images, n_features), float64
            A row per image.
        """
        return self.encode_batches(pixel_batches(self.image_format_, self._open_images(X)))

    def encode_batches(self, batches: Iterable[torch.Tensor]) -> np.ndarray:
        """Features of batches of pixels, a row per image.

        Parameters
        ----------
        batches : iterable of tensor of shape (n, 3, height, width)
            RGB in [0, 1].

        Returns
        -------
        features : ndarray of shape (n_images, n_features), float64
            Of all batches.
        """
        return np.concatenate([self.encode(pixels).flatten(1).double().numpy() for pixels in batches])

    @property
    def _n_features_out(self) -> int:
        return self.n_features_out_


class TrainableEncoder(Encoder):
    """An encoder whose parameters are trained: they stand in front of the decoder's in every candidate."""

    @abstractmethod
    def initial_parameters(self, rng: np.random.Generator) -> np.ndarray:
        """Parameters of shape (n_parameters,) that training starts from."""

    @abstractmethod
    def cells(
        self, parameters: torch.Tensor, features: torch.Tensor, statistics: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The decoder's input (p, n, channels, 49) of each parameter vector (p, n_parameters)."""

    @abstractmethod
    def batch_statistics(self, parameters: torch.Tensor, batches: Callable[[], Iterable[torch.Tensor]]) -> torch.Tensor:
        """What `cells` needs so that an image's cells do not depend on the others, as one vector."""


class PCAEncoder(Encoder):
    """Principal components of the training images: the statistical encoder of BlackVIP-SE, turned to local features.

    A decoder acts on each of its 7 x 7 cells alone, and takes each run of 49 features for one map of the cells. So
    within the subspace that the leading components span, the axes are turned (which loses nothing) such that each
    comes as near as possible to the mean brightness of the cell that it is put in, or of a strip of that cell.

    Parameters
    ----------
    n_components : int, default=98
        Components to keep; fewer where there are fewer images or pixels. Less than 49 are not turned.

    Attributes
    ----------
    axes_ : ndarray of shape (n_features_out_, 3 * height * width)
        Orthonormal.
    scale_ : float
        The number that the features are multiplied with.

    Notes
    -----
    The mean image is not subtracted, so that what all images have in common is seen too. Features are divided by one
    number, so that their root mean square over the training images is 1.
    """

    def __init__(self, n_components: int = 98):
        self.n_components = n_components

    def fit_pixels(self, pixels: torch.Tensor) -> PCAEncoder:
        rows = pixels.flatten(1).double().numpy()
        n_components = min(self.n_components, *rows.shape)
        # The full solver is exact and draws no random numbers.
        self.axes_ = np.ascontiguousarray(PCA(n_components, svd_solver="full").fit(rows).components_)
        n_turned = n_components - n_components % CELLS**2
        if n_turned:
            templates = _cell_templates(n_turned, *pixels.shape[-2:])
            # The rotation nearest to the templates (orthogonal Procrustes).
            left, _, right = np.linalg.svd(templates @ self.axes_.T)
            self.axes_ = np.concatenate([left @ right[:n_turned], right[n_turned:]]) @ self.axes_
        self.scale_ = 1.0
        self.scale_ = 1 / max(self.encode(pixels).square().mean().sqrt().item(), 1e-12)
        self.n_features_out_ = n_components
        return self

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        rows = pixels.flatten(1).double().numpy()
        return torch.from_numpy(rows @ self.axes_.T * self.scale_)


def _cell_templates(n_templates: int, height: int, width: int) -> np.ndarray:
    """Unit vectors, each even over a horizontal strip of one cell of the decoder's picture, in three channels."""
    side = CELLS * 2 ** n_stages_for(height, width)
    n_strips = n_templates // CELLS**2
    strip_of = np.arange(side) * CELLS * n_strips // side
    rows, columns = np.divmod(np.arange(CELLS**2), CELLS)
    templates = []
    for strip in range(n_strips):
        in_rows = strip_of == (rows * n_strips + strip)[:, None]
        in_columns = np.arange(side) * CELLS // side == columns[:, None]
        templates.append(in_rows[:, :, None] & in_columns[:, None, :])
    picture = torch.from_numpy(np.concatenate(templates).astype(np.float64))[:, None]
    cut = fit_to_image(picture, height, width).expand(-1, 3, -1, -1).flatten(1).numpy()
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)


class TimmEncoder(Encoder):
    """Any image model of timm, frozen, by its name: BlackVIP's ViT-MAE is ``vit_base_patch16_224.mae``.

    Parameters
    ----------
    model_name : str
        Name of a timm model, with the tag of its weights. ``resnet50.dino``, whose weights timm does not list, comes
        from its authors (Caron et al., ICCV 2021).
    pretrained : bool, default=True
        Whether to load the weights (from timm's hub, at the first use).
    batch_size : int, default=32
        Images in one forward pass.
    device : str, default="cpu"
        Where the network runs, as torch names it.

    Notes
    -----
    The features are the model's pooled output without its classifier. For a ViT whose weights come without
    a trained pooling (such as ViT-MAE) that is the class token, as in the paper. The network is loaded when
    it is first needed, once for all encoders of its name; clones and pickles hold the name alone.
    """

    def __init__(self, model_name: str, pretrained: bool = True, batch_size: int = 32, device: str = "cpu"):
        self.model_name = model_name
        self.pretrained = pretrained
        self.batch_size = batch_size
        self.device = device

    def fit_pixels(self, pixels: torch.Tensor) -> TimmEncoder:
        self.n_features_out_ = _n_features(self.model_name, self.pretrained, self.device)
        return self

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        model, config = _network(self.model_name, self.pretrained, self.device)
        size = config["input_size"][-2:]
        mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
        parts = []
        for part in pixels.split(self.batch_size):
            if part.shape[-2:] != tuple(size):
                part = F.interpolate(part, size=size, mode="bicubic", antialias=True).clamp(0, 1)
            with torch.inference_mode():
                parts.append(model(((part - mean) / std).float().to(self.device)).cpu().clone())
        return torch.cat(parts)


#: Weights that timm does not list, by the name of its architecture and a tag of our own.
_ELSEWHERE = {
    "resnet50.dino": "https://dl.fbaipublicfiles.com/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth",
}


@functools.lru_cache(maxsize=2)  # clones, and the candidates of a search, share the prompter's and the probe's network
def _network(model_name: str, pretrained: bool, device: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    import timm
    from timm.data.config import resolve_data_config

    extra: dict[str, Any] = {"global_pool": "token"} if model_name.startswith("vit_") else {}
    if model_name in _ELSEWHERE:
        extra["pretrained_cfg_overlay"] = {"url": _ELSEWHERE[model_name], "hf_hub_id": None, "num_classes": 0}
        model_name = model_name.split(".")[0]
    with torch.random.fork_rng(devices=[]):  # weights that are not loaded are drawn from the global state
        if not pretrained:
            torch.default_generator.manual_seed(0)
        model = timm.create_model(model_name, pretrained=pretrained, num_classes=0, **extra)
    return model.eval().to(device), resolve_data_config({}, model=model)


@functools.lru_cache
def _n_features(model_name: str, pretrained: bool, device: str) -> int:
    """The length of the network's output, which models tell in different ways."""
    model, config = _network(model_name, pretrained, device)
    with torch.inference_mode():
        return int(model(torch.zeros(1, *config["input_size"], device=device)).shape[1])


class ScratchEncoder(TrainableEncoder):
    """A convolutional encoder that is trained together with the decoder: the paper's variant without weights.

    Stages of a 3x3 convolution, a 2x2 convolution with stride 2, BatchNorm and GELU halve the image down to
    7 x 7 cells: five for 224 px (3 -> 32 -> 64 -> 64 -> 128 -> 32 channels), fewer for smaller images, whose
    last stages are then left out but for the final width. Images are resized to 7·2^s pixels.

    Notes
    -----
    It has several hundred thousand parameters at 224 px, all of which SPSA perturbs: a yardstick more than a
    tool. Its features are the (resized) images.
    """

    _widths = (32, 64, 64, 128)
    n_channels_out = 32

    @property
    def n_parameters(self) -> int:
        return sum(math.prod(shape) for shape, _ in self._shapes())

    def fit_pixels(self, pixels: torch.Tensor) -> ScratchEncoder:
        self.n_stages_ = n_stages_for(pixels.shape[-2], pixels.shape[-1])
        self.n_features_out_ = self.n_channels_out * CELLS**2
        return self

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        side = CELLS * 2**self.n_stages_
        return F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)

    def initial_parameters(self, rng: np.random.Generator) -> np.ndarray:
        """Parameters as torch.nn starts them.

        Parameters
        ----------
        rng : numpy.random.Generator
            Where they are drawn from.

        Returns
        -------
        parameters : ndarray of shape (n_parameters,)
            Weights, biases, and BatchNorm's gains and shifts.
        """
        parts = []
        for index, (shape, fan) in enumerate(self._shapes()):
            size = math.prod(shape)
            if fan is None:
                parts.append(np.full(size, 1.0 if index % 5 == 3 else 0.0))
            else:
                parts.append(rng.uniform(-1, 1, size) / math.sqrt(fan))
        return np.concatenate(parts)

    def cells(
        self, parameters: torch.Tensor, features: torch.Tensor, statistics: torch.Tensor | None = None
    ) -> torch.Tensor:
        outputs = [self._normalised_stages(self._pieces(w), features, statistics, self.n_stages_) for w in parameters]
        return torch.stack([output.flatten(2) for output in outputs])

    def batch_statistics(self, parameters: torch.Tensor, batches: Callable[[], Iterable[torch.Tensor]]) -> torch.Tensor:
        pieces = self._pieces(parameters)
        statistics = parameters.new_empty(0)
        for stage in range(self.n_stages_):
            halfway = (
                self._convolved(self._normalised_stages(pieces, images, statistics, stage), pieces, stage)
                for images in batches()
            )
            moments = _pooled_moments(h.movedim(1, -1).flatten(0, 2) for h in halfway)
            statistics = torch.cat([statistics, moments.to(parameters.dtype)])
        return statistics

    @property
    def _n_features_out(self) -> int:
        return 3 * (CELLS * 2**self.n_stages_) ** 2

    def _out_widths(self) -> tuple[int, ...]:
        return (*self._widths[: self.n_stages_ - 1], self.n_channels_out)

    def _shapes(self) -> list[tuple[tuple[int, ...], int | None]]:
        """Shape of each parameter tensor and the fan of its uniform start (None: constant)."""
        shapes: list[tuple[tuple[int, ...], int | None]] = []
        widths = (3, *self._out_widths())
        for n_in, n_out in zip(widths[:-1], widths[1:]):
            n_mid = n_in if n_in != 3 else n_out
            shapes += [
                ((n_mid, n_in, 3, 3), n_in * 9),
                ((n_mid,), n_in * 9),
                ((n_out, n_mid, 2, 2), n_mid * 4),
                ((n_out,), None),
                ((n_out,), None),
            ]
        return shapes

    def _pieces(self, parameters: torch.Tensor) -> list[torch.Tensor]:
        """The parameter tensors, five of each stage."""
        shapes = [shape for shape, _ in self._shapes()]
        parts = parameters.split([math.prod(shape) for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes)]

    def _normalised_stages(
        self, pieces: list[torch.Tensor], h: torch.Tensor, statistics: torch.Tensor | None, n_stages: int
    ) -> torch.Tensor:
        """The first `n_stages` stages, with BatchNorm and GELU after each."""
        given = None if statistics is None else split_moments(statistics, self._out_widths()[:n_stages])
        for stage in range(n_stages):
            gain, shift = pieces[5 * stage + 3 : 5 * stage + 5]
            mean, variance = (None, None) if given is None else given[stage]
            h = self._convolved(h, pieces, stage)
            h = F.gelu(F.batch_norm(h, mean, variance, gain, shift, training=statistics is None))
        return h

    @staticmethod
    def _convolved(h: torch.Tensor, pieces: list[torch.Tensor], stage: int) -> torch.Tensor:
        conv, bias, down = pieces[5 * stage : 5 * stage + 3]
        return F.conv2d(F.conv2d(h, conv, bias, padding=1), down, stride=2)


def _pooled_moments(parts: Iterable[torch.Tensor]) -> torch.Tensor:
    """Mean and biased variance over all rows of all parts (rows, width), in double precision: (2 * width,)."""
    count, total, square = 0, torch.zeros(()), torch.zeros(())
    for part in parts:
        part = part.double()
        count += len(part)
        total = total + part.sum(0)
        square = square + part.square().sum(0)
    mean = total / count
    return torch.cat([mean, (square / count - mean.square()).clamp(min=0)])


def make_encoder(encoder: str | Encoder) -> Encoder:
    """An encoder of this name.

    Parameters
    ----------
    encoder : {"pca", "gradients", "scratch"}, name of a timm model, or Encoder
        Of an `Encoder`, a clone is made.
    """
    if isinstance(encoder, Encoder):
        return clone(encoder)
    if not isinstance(encoder, str):
        raise TypeError(
            f"encoder is a {type(encoder).__name__}; expected 'pca', 'gradients', 'scratch', a timm model's name, or "
            "an Encoder."
        )
    if encoder == "pca":
        return PCAEncoder()
    if encoder == "gradients":
        from .gradients import GradientEncoder

        return GradientEncoder()
    if encoder == "scratch":
        return ScratchEncoder()
    import timm

    if not timm.is_model(encoder.split(".")[0]):
        close = difflib.get_close_matches(encoder, timm.list_models(), n=3)
        raise ValueError(
            f"encoder={encoder!r} is neither 'pca', 'gradients' nor 'scratch', nor a model that timm knows"
            + (f"; near it: {', '.join(close)}." if close else ". timm.list_models() lists them.")
        )
    return TimmEncoder(encoder)
