"""Zero-shot image models of the package transformers on this machine as score functions."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.utils._param_validation import Interval, StrOptions

from ..process.settings import loading_settings
from .dual_encoder import PRECISIONS, DualEncoderScorer, Tower, stamp_of

__all__ = ["TransformersScorer"]


class TransformersScorer(DualEncoderScorer):
    """A score function that returns the logits of a dual encoder of transformers, such as CLIP or SigLIP.

    The model is loaded at the first call, once for all scorers that use the same one. A clone or a pickle holds the
    parameters alone. A tensor on the model's device never leaves it.

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
    Images are resized and normalised by the model's own image processor. Unlike Pillow, it does not round resized
    tensors to 8 bits. Class prompts are padded to the full length for models of the SigLIP family, which were trained
    so. Scores are logits with the model's scale and bias: pipelines of transformers return sigmoids for SigLIP, and
    change class prompts by a template of their own.

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
        return os.fspath(self.model_name), self.revision

    def _stamp(self) -> Hashable:
        return stamp_of(Path(self.model_name))

    @loading_settings()
    def _load(self, device: torch.device) -> Tower:
        try:
            from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer
        except ImportError as error:
            raise ImportError(
                f"TransformersScorer needs the package {error.name}, which is not installed. Run "
                'pip install "blackvip[transformers]".',
                name=error.name,
            ) from error
        name, known = os.fspath(self.model_name), {"revision": self.revision or "main"}
        config = AutoConfig.from_pretrained(name, **known)
        model = AutoModel.from_pretrained(name, **known).float().to(device)
        missing = [
            part for part in ("get_image_features", "get_text_features", "logit_scale") if not hasattr(model, part)
        ]
        if missing:
            lacks = " and ".join(missing)
            raise ValueError(
                f"The model {name!r} is a {type(model).__name__}, which lacks {lacks}; expected a model that embeds "
                "images and texts, such as CLIP, SigLIP or ALIGN. For others, write a score function."
            )
        processor = AutoImageProcessor.from_pretrained(name, use_fast=True, **known)
        return _TransformersTower(model, AutoTokenizer.from_pretrained(name, **known), processor, config, device)


class _TransformersTower(Tower):
    """A model of transformers with its tokenizer and image processor."""

    def __init__(self, model: Any, tokenizer: Any, processor: Any, config: Any, device: torch.device):
        vision, text = config.vision_config, config.text_config
        super().__init__(device, getattr(vision, "image_size", 224) ** 2)
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._processor = processor
        # They were trained on texts of full length, without an attention mask.
        full = config.model_type.startswith("siglip")
        length = getattr(text, "max_position_embeddings", None)
        self._padding = {"padding": "max_length" if full else True, "truncation": True, "max_length": length}
        self._names = ["input_ids"] if full else ["input_ids", "attention_mask"]

    def prepared(self, pixels: torch.Tensor) -> torch.Tensor:
        found = self._processor(images=list(pixels), do_rescale=False, return_tensors="pt", device=self.device)
        prepared: torch.Tensor = found["pixel_values"]
        return prepared

    def encode_images(self, prepared: torch.Tensor) -> torch.Tensor:
        return _features(self._model.get_image_features(pixel_values=prepared))

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        tokens = self._tokenizer(texts, return_tensors="pt", **self._padding)
        given = {name: tokens[name].to(self.device) for name in self._names if name in tokens}
        return F.normalize(_features(self._model.get_text_features(**given)), dim=-1)

    def scaled(self, cosines: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._model.logit_scale.exp() * cosines
        bias = getattr(self._model, "logit_bias", None)
        return logits if bias is None else logits + bias


def _features(answer: Any) -> torch.Tensor:
    """Return the features (n, n_features) of an answer: releases from 5 on wrap them in an object."""
    features: torch.Tensor = answer if isinstance(answer, torch.Tensor) else answer.pooler_output
    return features
