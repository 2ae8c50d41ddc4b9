"""Frozen networks of timm as encoders."""

from __future__ import annotations

import functools
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.utils._param_validation import Interval

from ..persistence.fields import text
from ..process.devices import device_of, in_passes
from ..process.settings import loading_settings
from .base import MODEL_NAME, Encoder

__all__ = ["TimmEncoder", "network"]


class TimmEncoder(Encoder):
    """Frozen image model of timm, given by its name. BlackVIP's ViT-MAE is ``vit_base_patch16_224.mae``.

    Parameters
    ----------
    model_name : str
        Name of a timm model, with the tag of its weights. ``resnet50.dino`` comes from its authors (Caron et al., ICCV
        2021), since timm does not list its weights.
    pretrained : bool, default=True
        Whether to load the weights. They are downloaded from timm's hub at the first use.
    batch_size : int, default=32
        Images in one forward pass.
    device : str, default="cpu"
        Device on which the network runs, as torch names it. "auto": a GPU if there is one, also of the machine on which
        a saved estimator is loaded.

    Attributes
    ----------
    n_features_out_ : int
        Length of the network's output.

    Notes
    -----
    The features are the model's pooled output, without its classifier. For a ViT this is the class token, as in the
    paper. The network computes in single precision. It is loaded when it is first needed, once for all encoders of its
    name. Clones and pickles hold the name alone.
    """

    _parameter_constraints = {
        "model_name": [str],
        "pretrained": ["boolean"],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "device": [str],
    }
    saved_attributes = {}
    saved_parameters = {"model_name": MODEL_NAME, "device": text(r"[a-z]+(:\d+)?")}

    def __init__(self, model_name: str, pretrained: bool = True, batch_size: int = 32, device: str = "cpu"):
        self.model_name = model_name
        self.pretrained = pretrained
        self.batch_size = batch_size
        self.device = device

    def fit_pixels(self, pixels: torch.Tensor) -> TimmEncoder:
        self._validate_params()
        self.n_features_out_ = _n_features(self.model_name, self.pretrained, str(device_of(self.device)))
        return self

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        device = device_of(self.device)
        model, config = network(self.model_name, self.pretrained, str(device))
        size = tuple(config["input_size"][-2:])
        mean, std = (torch.tensor(config[name], dtype=torch.float32).view(3, 1, 1) for name in ("mean", "std"))

        def forward(part: torch.Tensor) -> torch.Tensor:
            part = part.float()
            if part.shape[-2:] != size:
                part = F.interpolate(part, size=size, mode="bicubic", antialias=True).clamp(0, 1)
            features: torch.Tensor = model(((part - mean) / std).to(device)).cpu()
            return features

        return torch.cat(in_passes(forward, pixels, self.batch_size)).to(pixels.dtype)


#: Weights that timm does not list, by the name of the architecture and a tag of our own.
_ELSEWHERE = {
    "resnet50.dino": "https://dl.fbaipublicfiles.com/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth",
}


@functools.lru_cache(maxsize=2)  # clones and the candidates of a search share two networks: prompter's and probe's
@loading_settings()
@torch.inference_mode(False)  # gradients pass through the network later, even if it was first needed without a graph
def network(model_name: str, pretrained: bool, device: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Load a model of timm; the last two models are kept in memory.

    Parameters
    ----------
    model_name : str
        Name of the model, with the tag of its weights.
    pretrained : bool
        Whether to load the weights. False: random weights, the same in every process.
    device : str
        Device on which the network runs, as torch names it.

    Returns
    -------
    model : torch.nn.Module
        The network without its classifier, in evaluation mode, with frozen weights.
    config : dict
        timm's configuration of its input.
    """
    # Imported here, since timm takes a third of the package's import time and the default encoders do not need it.
    import timm
    from timm.data.config import resolve_data_config

    extra: dict[str, Any] = {"global_pool": "token"} if model_name.startswith("vit_") else {}
    if model_name in _ELSEWHERE:
        extra["pretrained_cfg_overlay"] = {"url": _ELSEWHERE[model_name], "hf_hub_id": None, "num_classes": 0}
        model_name = model_name.split(".")[0]
    # torch draws weights that are not loaded from its global generator.
    with torch.random.fork_rng(devices=[]):
        if not pretrained:
            torch.default_generator.manual_seed(0)
        model = timm.create_model(model_name, pretrained=pretrained, num_classes=0, **extra)
    return model.eval().requires_grad_(False).to(device), resolve_data_config({}, model=model)


@functools.lru_cache
def _n_features(model_name: str, pretrained: bool, device: str) -> int:
    """Compute the length of the network's output, which no attribute of timm's models states reliably."""
    model, config = network(model_name, pretrained, device)
    with torch.inference_mode():
        return int(model(torch.zeros(1, *config["input_size"], dtype=torch.float32, device=device)).shape[1])
