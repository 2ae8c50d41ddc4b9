"""Zero-shot image models of the package transformers on this machine as score functions."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Hashable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.utils._param_validation import Interval, StrOptions

from ..process.devices import device_of
from ..process.settings import loading_settings
from .dual_encoder import PRECISIONS, DualEncoderScorer, Tower
from .local_models import files_of

__all__ = ["TransformersScorer"]

# Most tokens of a class prompt, if neither the model nor its tokenizer names a limit.
_LONGEST = 512


class TransformersScorer(DualEncoderScorer):
    """A score function that returns the logits of a dual encoder of transformers, such as CLIP, SigLIP or ALIGN.

    The model is loaded at the first call, once for all scorers that use the same one. A clone or a pickle holds only
    the parameters. A tensor on the model's device never leaves it.

    Parameters
    ----------
    model_name : str or path-like
        A repository on Hugging Face, such as "openai/clip-vit-base-patch32", or a folder with a saved model, its
        tokenizer and its image processor.
    templates : sequence of str, str or None, default=None
        A prompt ensemble: texts in which ``{}`` is replaced by the class prompt, and whose normalised embeddings are
        averaged. None: class prompts are used unchanged.
    device : str, default="auto"
        Torch device on which the model runs. "auto": a GPU if there is one.
    batch_size : int, default=64
        Maximal number of images in a call, and of images or texts in a forward pass.
    precision : {"auto", "fp32", "bf16", "fp16"}, default="auto"
        Precision of the image tower, see `OpenCLIPScorer`.
    revision : str or None, default=None
        Branch, tag or commit of the repository. None: its main branch.

    Notes
    -----
    Images are resized and normalised by the model's own image processor, 8-bit images as by transformers itself. Float
    tensors are not rounded when they are resized; where the interpolation exceeds black or white, it is clipped. Class
    prompts of the SigLIP family are padded to the full length, and those of SigLIP 2 are put in lower case, because
    these models were trained so. Scores are logits with the model's scale and bias: pipelines of transformers return
    sigmoids for SigLIP, and change class prompts by a template of their own. When a model is loaded, its scores are
    compared with its own forward pass.

    The content of a folder identifies its model, so that answers on disk belong to this model wherever the folder is,
    and not to another model that is saved there later.

    This scorer needs ``pip install "blackvip[transformers]"``. With ``HF_HUB_OFFLINE=1`` nothing is downloaded.

    Examples
    --------
    >>> from blackvip.scorers import TransformersScorer
    >>> scorer = TransformersScorer("google/siglip-base-patch16-224")  # loaded at the first call
    """

    identity_params = ("model_name", "templates", "precision", "revision")

    _parameter_constraints = {
        "model_name": [str, os.PathLike],
        "templates": [str, "array-like", None],
        "device": [str],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "precision": [StrOptions({"auto", *PRECISIONS})],
        "revision": [str, None],
    }

    def __init__(
        self,
        model_name: str | os.PathLike[str],
        *,
        templates: Sequence[str] | str | None = None,
        device: str = "auto",
        batch_size: int = 64,
        precision: str = "auto",
        revision: str | None = None,
    ):
        self.model_name = model_name
        self.templates = templates
        self.device = device
        self.batch_size = batch_size
        self.precision = precision
        self.revision = revision

    def _source(self) -> tuple[Hashable, ...]:
        return os.fspath(self.model_name), self.revision, device_of(self.device)

    def _files(self) -> dict[str, Path]:
        return files_of(self.model_name) if os.path.isdir(self.model_name) else {}

    @loading_settings()
    def _load(self) -> Tower:
        try:
            from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
        except ImportError as error:
            raise ImportError(
                f"TransformersScorer needs the package {error.name}, which is not installed. Run "
                'pip install "blackvip[transformers]".',
                name=error.name,
            ) from error
        name, known = os.fspath(self.model_name), {"revision": self.revision or "main"}
        model = AutoModel.from_pretrained(name, **known).float()
        missing = [part for part in ("get_image_features", "get_text_features") if not hasattr(model, part)]
        if missing:
            raise ValueError(_unsuitable(name, model, f"which lacks {' and '.join(missing)}"))
        # The release that named its back ends gave up `use_fast`.
        has_backends = importlib.util.find_spec("transformers.image_processing_backends") is not None
        on_tensors = {"backend": "torchvision"} if has_backends else {"use_fast": True}
        processor = AutoImageProcessor.from_pretrained(name, **on_tensors, **known)
        tokenizer = AutoTokenizer.from_pretrained(name, **known)
        return _TransformersTower(name, model, tokenizer, processor, device_of(self.device))


class _Preprocessing:
    """The image processor of a model, for tensors on a device.

    Parameters
    ----------
    processor : image processor of transformers
    device : torch.device
        Device of the prepared images.
    """

    def __init__(self, processor: Any, device: torch.device):
        self._processor = processor
        self._device = device
        # Height, width and device of images, and what a black and a white one of these become.
        self._extremes: tuple[Any, Any] = (None, None)
        image = torch.zeros((1, 3, 64, 64), device=device, requires_grad=True)
        try:
            prepared = self._processed(image)["pixel_values"]
        # NumPy, and so Pillow, takes no tensor that requires a gradient.
        except RuntimeError:
            prepared = image.detach()
        if not prepared.requires_grad:
            raise ValueError(
                f"{type(processor).__name__} does not process torch tensors; expected an image processor that does. "
                "Newer releases of transformers have one for most models."
            )
        #: Number of pixels of a prepared image.
        self.n_pixels = prepared.numel() // 3

    def __call__(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what the model takes, by name, for pixels (n, 3, height, width) of 8 bits or floats in [0, 1]."""
        prepared = self._processed(pixels)
        if pixels.dtype != torch.uint8:
            # Bicubic interpolation overshoots. The processor clips 8-bit images itself.
            prepared["pixel_values"] = prepared["pixel_values"].clamp(*self._black_and_white(pixels))
        return prepared

    def _black_and_white(self, pixels: torch.Tensor) -> torch.Tensor:
        wanted, known = (pixels.shape[1:], pixels.device), self._extremes
        if known[0] != wanted:
            images = torch.stack([torch.zeros_like(pixels[0]), torch.ones_like(pixels[0])]).detach()
            known = self._extremes = (wanted, self._processed(images)["pixel_values"])
        extremes: torch.Tensor = known[1]
        return extremes

    # Gradients do not pass what is made in inference mode, and both this class and processors keep tensors.
    @torch.inference_mode(False)
    def _processed(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        # Processors expect values from 0 to 255, and some do not divide them by 255.
        images = list(pixels if pixels.dtype == torch.uint8 else 255 * pixels)
        found = self._processor(images=images, return_tensors="pt", device=self._device)
        return {name: values.to(self._device) for name, values in found.items()}


class _TransformersTower(Tower):
    """A model of transformers with its tokenizer and image processor."""

    def __init__(self, name: str, model: Any, tokenizer: Any, processor: Any, device: torch.device):
        self._preprocessing = _Preprocessing(processor, device)
        super().__init__(device, self._preprocessing.n_pixels)
        self._model = model.to(device).eval().requires_grad_(False)
        self._tokenizer = tokenizer
        # They were trained on texts of full length, without an attention mask, and SigLIP 2 on lower case.
        family = model.config.model_type
        full = family.startswith("siglip")
        self._lower = family == "siglip2" or bool(tokenizer.init_kwargs.get("do_lower_case"))
        text = getattr(model.config, "text_config", None)
        # A tokenizer that knows no limit names a huge one.
        length = min(getattr(text, "max_position_embeddings", _LONGEST), tokenizer.model_max_length, _LONGEST)
        self._padding = {"padding": "max_length" if full else True, "truncation": True, "max_length": length}
        self._names = ["input_ids"] if full else ["input_ids", "attention_mask"]
        self._scale, self._bias = self._scale_and_bias(name)

    def prepared(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        return self._preprocessing(pixels)

    def encode_images(self, prepared: dict[str, torch.Tensor]) -> torch.Tensor:
        return _features(self._model.get_image_features(**prepared))

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        return F.normalize(_features(self._model.get_text_features(**self._tokens(texts))), dim=-1)

    def _tokens(self, texts: list[str]) -> dict[str, torch.Tensor]:
        given = [text.lower() for text in texts] if self._lower else texts
        tokens = self._tokenizer(given, return_tensors="pt", **self._padding)
        return {name: tokens[name].to(self.device) for name in self._names if name in tokens}

    def scaled(self, cosines: torch.Tensor) -> torch.Tensor:
        return self._scale * cosines + self._bias

    @torch.no_grad()
    def _scale_and_bias(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what makes logits of cosines: the model's own parameters, or what explains its own logits."""
        model, texts = self._model, ["a cat", "a dog", "a photo of a car", "seven", "the sea"]
        images = self.prepared(torch.linspace(0, 1, 4 * 3 * 32 * 32, device=self.device).view(4, 3, 32, 32).sin())
        cosines = F.normalize(self.encode_images(images), dim=-1) @ self.encode_texts(texts).T
        own = getattr(model(**images, **self._tokens(texts)), "logits_per_image", None)
        if own is None or own.shape != cosines.shape:
            raise ValueError(_unsuitable(name, model, "which gives no logits for pairs of images and texts"))
        if hasattr(model, "logit_scale"):
            scale = model.logit_scale.exp()
        else:
            scale = 1 / model.temperature if hasattr(model, "temperature") else torch.ones_like(own[0, 0])
        bias = getattr(model, "logit_bias", None)
        bias = torch.zeros_like(scale) if bias is None else bias
        if not _agree(scale * cosines + bias, own):
            x, y = cosines.double().cpu().flatten(), own.double().cpu().flatten()
            slope = (x - x.mean()) @ y / (x - x.mean()).square().sum()
            scale, bias = (value.float().to(self.device) for value in (slope, y.mean() - slope * x.mean()))
        if not _agree(scale * cosines + bias, own):
            raise ValueError(_unsuitable(name, model, "whose logits are not scaled cosines of images and texts"))
        return scale, bias


def _agree(logits: torch.Tensor, own: torch.Tensor) -> bool:
    return torch.allclose(logits, own, rtol=1e-4, atol=1e-4)


def _unsuitable(name: str, model: Any, why: str) -> str:
    return (
        f"The model {name!r} is a {type(model).__name__}, {why}; expected a model that embeds images and texts, such "
        "as CLIP, SigLIP or ALIGN. For others, write a score function."
    )


def _features(answer: Any) -> torch.Tensor:
    """Return the features (n, n_features) of an answer: releases from 5 on wrap them in an object."""
    features: torch.Tensor = answer if isinstance(answer, torch.Tensor) else answer.pooler_output
    return features
