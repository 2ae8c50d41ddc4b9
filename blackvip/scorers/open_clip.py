"""OpenCLIP models on this machine as score functions."""

from __future__ import annotations

import difflib
import math
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from numbers import Integral
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions

from ..exceptions import ClassPromptError, ImageError
from ..process.settings import loading_settings, usual_settings
from .wrappers import LeavesOutLive

__all__ = ["OpenCLIPScorer", "resized_for_model"]

_SCHEMAS = ("hf-hub:", "local-dir:")
# Class prompts whose embeddings are kept; about 20 MB.
_MOST_PROMPTS = 10_000
# Pixels of a forward pass on a CPU. More of them exceed its caches and are slower.
_CPU_PIXELS = 8 * 224 * 224
_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class OpenCLIPScorer(LeavesOutLive, BaseEstimator):
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

    score_type = "logits"
    takes_tensors = True
    identity_params = ("model_name", "pretrained", "templates", "precision")
    _live_attributes = ("_loaded",)
    _loaded: tuple[Any, _Tower] | None = None

    _parameter_constraints = {
        "model_name": [str],
        "pretrained": [str, os.PathLike, None],
        "templates": [str, "array-like", None],
        "device": [str],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "precision": [StrOptions({"auto", *_DTYPES})],
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

    @property
    def images_per_call(self) -> int:
        """The most images in one call: `batch_size`."""
        return self.batch_size

    @property
    def tensor_device(self) -> str:
        """Device on which prompts are best drawn: a GPU with double precision, else the CPU."""
        device = _device(self.device)
        return "cpu" if device.type == "mps" else str(device)

    @usual_settings()
    def __call__(self, images: np.ndarray | torch.Tensor, class_prompts: Sequence[str]) -> np.ndarray:
        """Return the logits of images for class prompts.

        Parameters
        ----------
        images : ndarray of shape (n, height, width, 3), uint8, or tensor of shape (n, 3, height, width)
            A tensor holds floats in [0, 1], on any device.
        class_prompts : sequence of str

        Returns
        -------
        logits : ndarray of shape (n, n_classes), float32

        Raises
        ------
        ValueError
            If open_clip does not know the model or the weights.
        """
        self._validate_params()
        templates = _checked_templates(self.templates)
        pixels = _as_pixels(images)
        tower = self._tower()
        dtype = _autocast_dtype(self.precision, tower.device)
        if not len(pixels):
            return np.empty((0, len(class_prompts)), np.float32)
        with torch.inference_mode():
            texts = tower.text_embeddings(list(class_prompts), templates, self.batch_size)
            parts = pixels.split(min(self.batch_size, tower.most_images))
            return torch.cat([tower.logits(part, texts, dtype) for part in parts]).cpu().numpy()

    @usual_settings()
    def differentiable(self, class_prompts: Sequence[str]) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return the logits as a function of pixels that gradients can pass.

        Parameters
        ----------
        class_prompts : sequence of str
            One text per class.

        Returns
        -------
        network : callable
            It maps pixels (n, 3, height, width) in [0, 1] to logits (n, n_class_prompts).
        """
        self._validate_params()
        templates, tower = _checked_templates(self.templates), self._tower()
        with torch.no_grad():
            texts = tower.text_embeddings(list(class_prompts), templates, self.batch_size).clone()
        return lambda pixels: tower.logits(pixels, texts, None)

    def _tower(self) -> _Tower:
        """Return the model; it is loaded unless this scorer or another one has it."""
        wanted = (self.model_name, self.pretrained, self.device, self.cache_dir)
        loaded = self._loaded
        if loaded is None or loaded[0] != wanted:
            loaded = self._loaded = (wanted, _tower_of(*wanted))
        return loaded[1]


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


class _Tower:
    """A loaded model on its device, with the embeddings of the class prompts that were used last."""

    def __init__(self, model: Any, tokenizer: Any, preprocessing: dict[str, Any], device: torch.device):
        self.device = device
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._preprocessing = preprocessing
        mean, std = (torch.tensor(preprocessing[name], dtype=torch.float32) for name in ("mean", "std"))
        self._mean, self._std = (values.view(-1, 1, 1).to(device) for values in (mean, std))
        # Guards the attributes below.
        self._lock = threading.Lock()
        self._embeddings: OrderedDict[tuple[str, tuple[str, ...]], torch.Tensor] = OrderedDict()
        self._last: tuple[Any, torch.Tensor] = (None, torch.empty(0))

    @property
    def most_images(self) -> int:
        """Maximal number of images in a forward pass."""
        if self.device.type != "cpu":
            return sys.maxsize
        return max(1, _CPU_PIXELS // math.prod(_input_size(self._preprocessing)))

    def logits(self, pixels: torch.Tensor, texts: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        """Return the logits (n, n_classes) of pixels (n, 3, height, width) for embeddings of class prompts."""
        pixels = pixels.to(self.device)
        pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
        pixels = (resized_for_model(pixels, self._preprocessing) - self._mean) / self._std
        with torch.autocast(self.device.type, dtype) if dtype is not None else nullcontext():
            features = self._model.encode_image(pixels, normalize=False).float()
        if dtype == torch.float16 and not features.isfinite().all():
            features = self._model.encode_image(pixels, normalize=False)
        logits = self._model.logit_scale.exp() * F.normalize(features, dim=-1) @ texts.T
        bias = getattr(self._model, "logit_bias", None)
        return logits if bias is None else logits + bias

    def text_embeddings(self, prompts: list[str], templates: tuple[str, ...], batch_size: int) -> torch.Tensor:
        """Return the normalised embeddings (n_classes, n_features) of class prompts, from the cache if possible."""
        wanted = (tuple(prompts), templates)
        with self._lock:
            if self._last[0] != wanted:
                new = [prompt for prompt in dict.fromkeys(prompts) if (prompt, templates) not in self._embeddings]
                for prompt, embedding in zip(new, self._embedded(new, templates, batch_size)):
                    self._embeddings[prompt, templates] = embedding
                for prompt in prompts:
                    self._embeddings.move_to_end((prompt, templates))
                self._last = wanted, torch.stack([self._embeddings[prompt, templates] for prompt in prompts])
                while len(self._embeddings) > _MOST_PROMPTS:
                    self._embeddings.popitem(last=False)
            return self._last[1]

    def _embedded(self, prompts: list[str], templates: tuple[str, ...], batch_size: int) -> list[torch.Tensor]:
        texts = [template.replace("{}", prompt) for prompt in prompts for template in templates]
        parts = [
            self._model.encode_text(self._tokenizer(texts[first : first + batch_size]).to(self.device), normalize=True)
            for first in range(0, len(texts), batch_size)
        ]
        if not parts:
            return []
        averaged = torch.cat(parts).float().unflatten(0, (len(prompts), len(templates))).mean(dim=1)
        return list(F.normalize(averaged, dim=-1))


_loading = threading.Lock()
#: Towers that some scorer holds.
_loaded_towers: WeakValueDictionary[Any, _Tower] = WeakValueDictionary()


def _tower_of(model_name: str, pretrained: Any, device: str, cache_dir: Any) -> _Tower:
    place = _device(device)
    with _loading:
        key = (model_name, pretrained, place, cache_dir, _stamp(model_name, pretrained))
        tower = _loaded_towers.get(key)
        if tower is None:
            tower = _loaded_towers[key] = _load(model_name, pretrained, place, cache_dir)
        return tower


def _stamp(model_name: str, pretrained: Any) -> Any:
    """Return a value that changes when local weights are overwritten."""
    place = Path(model_name.removeprefix("local-dir:") if pretrained is None else pretrained)
    files = sorted(place.iterdir()) if place.is_dir() else [place] * place.is_file()
    return tuple((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files)


@loading_settings()
def _load(model_name: str, pretrained: Any, device: torch.device, cache_dir: Any) -> _Tower:
    import open_clip  # type: ignore[import-untyped, unused-ignore]

    weights = None if pretrained is None else os.fspath(pretrained)
    listing: dict[str, Any] = {}
    if not model_name.startswith(_SCHEMAS):
        model_name = model_name.replace("/", "-")
        listing = _listing(model_name, weights)
    elif weights is not None:
        raise ValueError(
            f"pretrained={weights!r} was given with model_name={model_name!r}, which has its own weights; leave out "
            "pretrained."
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
    return _Tower(model, tokenizer, open_clip.get_model_preprocess_cfg(model), device)


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


def _device(device: str) -> torch.device:
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype in which the image tower runs; None for that of its weights."""
    if precision == "auto":
        return torch.float16 if device.type == "cuda" else None
    return _DTYPES[precision]


def _checked_templates(templates: Sequence[str] | str | None) -> tuple[str, ...]:
    if templates is None:
        return ("{}",)
    checked = (templates,) if isinstance(templates, str) else tuple(templates)
    if not checked:
        raise ClassPromptError("templates is empty; expected texts with '{}', or None to use class prompts unchanged.")
    for template in checked:
        if not isinstance(template, str) or "{}" not in template:
            raise ClassPromptError(
                f"The template {template!r} is not a text with '{{}}' in place of the class prompt; every class "
                "would get the same text."
            )
    return checked


def _as_pixels(images: Any) -> torch.Tensor:
    """Return images as a tensor (n, 3, height, width) of 8 bits, or of floats in [0, 1]."""
    if isinstance(images, torch.Tensor):
        if images.ndim == 4 and images.shape[1] == 3 and images.is_floating_point():
            return images
        expected = "floats in [0, 1] of shape (n, 3, height, width)"
    else:
        images = np.asarray(images)
        if images.ndim == 4 and images.shape[3] == 3 and images.dtype == np.uint8:
            return torch.from_numpy(np.require(images, requirements=("C", "W"))).movedim(3, 1)
        expected = "uint8 of shape (n, height, width, 3), or a float tensor of shape (n, 3, height, width)"
    raise ImageError(f"The images are {images.dtype} of shape {tuple(images.shape)}; expected {expected}.")
