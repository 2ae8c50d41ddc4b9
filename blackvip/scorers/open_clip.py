"""OpenCLIP models on this machine as score functions."""

from __future__ import annotations

import difflib
import math
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
from .local_models import as_floats, files_of

__all__ = ["OpenCLIPScorer", "resized_for_model"]

_SCHEMAS = ("hf-hub:", "local-dir:")


class OpenCLIPScorer(DualEncoderScorer):
    """A score function that returns the logits of an OpenCLIP model: scaled cosines of image and class prompt.

    The model is loaded at the first call, once for all scorers that use the same one. A clone or a pickle holds the
    parameters alone. A tensor on the model's device never leaves it.

    Parameters
    ----------
    model_name : str
        A name from ``open_clip.list_models()``, such as "ViT-B-32"; or a source of a model with its weights:
        "hf-hub:organisation/name", or "local-dir:path" for a folder with an open_clip_config.json (open_clip 3).
    pretrained : str, path-like or None, default=None
        Weights of a named model: a tag from ``open_clip.list_pretrained()``, or the path of a checkpoint. None: the
        weights that come with `model_name`. A model for which open_clip has no weights gets reproducible random ones.
    templates : sequence of str, str or None, default=None
        A prompt ensemble: texts in which ``{}`` is replaced by the class prompt, and whose normalised embeddings are
        averaged. Use bare names as class prompts then: ``BlackVIPClassifier(scorer, class_prompts="{}")``. None: class
        prompts are used unchanged.
    device : str, default="auto"
        Torch device on which the model runs. "auto": a GPU if there is one.
    batch_size : int, default=64
        Maximal number of images in a call, and of images or texts in a forward pass. On a CPU a pass takes at most as
        many pixels as eight images of 224 px, which is faster.
    precision : {"auto", "fp32", "bf16", "fp16"}, default="auto"
        Precision of the image tower; "bf16" and "fp16" are mixed precision. "auto": "fp16" on an NVIDIA or AMD GPU,
        which rounds eight times finer than "bf16"; else "fp32". If "fp16" overflows, the batch is repeated in "fp32".
        Texts are embedded once, always in "fp32".
    cache_dir : str, path-like or None, default=None
        Folder for downloaded weights. None: the default of open_clip and Hugging Face.

    Notes
    -----
    Weights that are listed with QuickGELU use it, whatever the model's own setting. Images of another size are resized,
    cropped or padded as in the model's own preprocessing. Some models use a tokenizer or a text tower of the package
    ``transformers``, which must be installed for them.

    Examples
    --------
    >>> import open_clip
    >>> from blackvip.scorers import OpenCLIPScorer
    >>> scorer = OpenCLIPScorer("ViT-B-32", "laion2b_s34b_b79k")
    >>> ensemble = [template("{}") for template in open_clip.SIMPLE_IMAGENET_TEMPLATES]
    >>> scorer = OpenCLIPScorer("ViT-B-16-SigLIP", "webli", templates=ensemble)
    """

    identity_params = ("model_name", "pretrained", "templates", "precision")

    _parameter_constraints = {
        "model_name": [str],
        "pretrained": [str, os.PathLike, None],
        "templates": [str, "array-like", None],
        "device": [str],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "precision": [StrOptions({"auto", *PRECISIONS})],
        "cache_dir": [str, os.PathLike, None],
    }

    def __init__(
        self,
        model_name: str,
        pretrained: str | os.PathLike[str] | None = None,
        *,
        templates: Sequence[str] | str | None = None,
        device: str = "auto",
        batch_size: int = 64,
        precision: str = "auto",
        cache_dir: str | os.PathLike[str] | None = None,
    ):
        self.model_name = model_name
        self.pretrained = pretrained
        self.templates = templates
        self.device = device
        self.batch_size = batch_size
        self.precision = precision
        self.cache_dir = cache_dir

    def _source(self) -> tuple[Hashable, ...]:
        paths = (None if path is None else os.fspath(path) for path in (self.pretrained, self.cache_dir))
        return (self.model_name, *paths, device_of(self.device))

    def _files(self) -> dict[str, Path]:
        if self.pretrained is not None:
            return files_of(self.pretrained) if os.path.isfile(self.pretrained) else {}
        folder = self.model_name.removeprefix("local-dir:")
        return files_of(folder) if folder != self.model_name else {}

    def _architecture(self) -> str:
        return "" if self.pretrained is None else self.model_name

    def _load(self) -> Tower:
        return _load(self.model_name, self.pretrained, device_of(self.device), self.cache_dir)


def resized_for_model(images: torch.Tensor, preprocessing: dict[str, Any]) -> torch.Tensor:
    """Resize images to a model's size by its own method; images of that size are returned unchanged.

    Parameters
    ----------
    images : tensor of shape (n, 3, height, width)
        Values in [0, 1].
    preprocessing : dict
        The model's preprocessing, from ``open_clip.get_model_preprocess_cfg``.

    Returns
    -------
    images : tensor of shape (n, 3, model_height, model_width)
        Values in [0, 1]; the overshoot of bicubic interpolation is clipped.
    """
    target = _input_size(preprocessing)
    height, width = images.shape[-2:]
    if (height, width) == target:
        return images
    mode = preprocessing.get("resize_mode") or "shortest"
    if mode == "squash":
        inner = target
    elif mode == "shortest" and target[0] == target[1]:
        # torchvision's Resize, which rounds down.
        short = min(height, width)
        inner = (target[0] * height // short, target[0] * width // short)
    else:
        ratio = (max if mode == "longest" else min)(height / target[0], width / target[1])
        inner = (round(height / ratio), round(width / ratio))
    interpolation = preprocessing.get("interpolation") or "bicubic"
    if interpolation != "bilinear":
        # open_clip does the same for "random".
        interpolation = "bicubic"
    images = F.interpolate(images, inner, mode=interpolation, antialias=True).clamp(0, 1)
    missing = [max(0, wanted - had) for wanted, had in zip(target, inner)]
    if any(missing):
        (top, bottom), (left, right) = ((n // 2, n - n // 2) for n in missing)
        fill = (preprocessing.get("fill_color") or 0) / 255
        images = F.pad(images, (left, right, top, bottom), value=fill)
    top, left = (round((had - wanted) / 2) for wanted, had in zip(target, images.shape[-2:]))
    return images[..., top : top + target[0], left : left + target[1]]


def _input_size(preprocessing: dict[str, Any]) -> tuple[int, int]:
    """Return the height and width of a model's images."""
    size = preprocessing["size"]
    return (size, size) if isinstance(size, int) else (size[0], size[-1])


class _OpenCLIPTower(Tower):
    """A model of open_clip with its tokenizer and preprocessing."""

    def __init__(self, model: Any, tokenizer: Any, preprocessing: dict[str, Any], device: torch.device):
        super().__init__(device, math.prod(_input_size(preprocessing)))
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._preprocessing = preprocessing
        mean, std = (torch.tensor(preprocessing[name], dtype=torch.float32) for name in ("mean", "std"))
        self._mean, self._std = (values.view(-1, 1, 1).to(device) for values in (mean, std))

    def prepared(self, pixels: torch.Tensor) -> torch.Tensor:
        return (resized_for_model(as_floats(pixels), self._preprocessing) - self._mean) / self._std

    def encode_images(self, prepared: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self._model.encode_image(prepared, normalize=False)
        return features

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        embeddings: torch.Tensor = self._model.encode_text(self._tokenizer(texts).to(self.device), normalize=True)
        return embeddings

    def scaled(self, cosines: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._model.logit_scale.exp() * cosines
        bias = getattr(self._model, "logit_bias", None)
        return logits if bias is None else logits + bias


@loading_settings()
def _load(model_name: str, pretrained: Any, device: torch.device, cache_dir: Any) -> Tower:
    import open_clip  # type: ignore[import-untyped, unused-ignore]

    weights = None if pretrained is None else os.fspath(pretrained)
    listing: dict[str, Any] = {}
    if not model_name.startswith(_SCHEMAS):
        model_name = model_name.replace("/", "-")
        listing = _listing(model_name, weights)
    elif weights is not None:
        raise ValueError(
            f"pretrained={weights!r} was given with model_name={model_name!r}, which already names its weights; leave "
            "out pretrained."
        )
    elif not hasattr(open_clip.factory, "LOCAL_DIR_PREFIX") and model_name.startswith("local-dir:"):
        raise ValueError(f"model_name={model_name!r} needs open_clip_torch 3 or newer; found {open_clip.__version__}.")
    cache = None if cache_dir is None else os.fspath(cache_dir)
    try:
        # Weights that are not loaded are drawn from the global random state.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            model = open_clip.create_model(
                model_name,
                pretrained=weights,
                device=device,
                # Otherwise open_clip warns and uses the wrong activation.
                force_quick_gelu=bool(listing.get("quick_gelu")),
                cache_dir=cache,
            )
        tokenizer = open_clip.get_tokenizer(model_name, cache_dir=cache)
    except ImportError as error:
        raise ImportError(
            f"{model_name} needs the package {error.name or 'transformers'}, which is not installed. Run "
            "`pip install transformers sentencepiece`."
        ) from error
    return _OpenCLIPTower(model, tokenizer, open_clip.get_model_preprocess_cfg(model), device)


def _listing(model_name: str, weights: str | None) -> dict[str, Any]:
    """Return what open_clip lists about weights, nothing for a file; raises an error if they do not exist."""
    import open_clip

    if model_name not in open_clip.list_models():
        near = difflib.get_close_matches(model_name, open_clip.list_models(), n=3, cutoff=0.5)
        hint = f"the closest: {', '.join(near)}" if near else "open_clip.list_models() lists its models"
        raise ValueError(f"open_clip {open_clip.__version__} knows no model {model_name!r}; {hint}.")
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    if weights is None:
        if tags:
            raise ValueError(
                f"{model_name} was given no weights, and its scores would be random; expected pretrained to be the "
                f"path of a checkpoint, or one of {', '.join(tags)}."
            )
        return {}
    listing = open_clip.get_pretrained_cfg(model_name, weights)
    if listing or os.path.isfile(weights):
        return listing
    near = difflib.get_close_matches(weights, tags, n=3, cutoff=0.5) or tags
    hint = f"{'the closest are' if len(near) < len(tags) else 'it has'} {', '.join(near)}" if near else "it has none"
    raise ValueError(
        f"open_clip has no weights {weights!r} for {model_name}, and there is no such file; {hint}. "
        "open_clip.list_pretrained() lists all pairs."
    )
