"""Networks on this machine with one output per class or label as score functions, and torch modules among them."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions

from ..process.devices import device_of, in_passes
from ..process.settings import usual_settings
from .local_models import as_floats, as_pixels, loaded_models
from .wrappers import LeavesOutLive

__all__ = ["NetworkScorer", "TorchScorer", "of_channels"]


class NetworkScorer(BaseEstimator, ABC):
    """Base of such score functions: images are resized, and normalised by a mean and a standard deviation."""

    takes_tensors = True

    _parameter_constraints: dict[str, Any] = {
        "size": ["array-like", Interval(Integral, 1, None, closed="left"), None],
        "mean": ["array-like", Real],
        "std": ["array-like", Interval(Real, 0, None, closed="neither")],
        "score_type": [StrOptions({"auto", "logits", "probabilities", "percent"})],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
    }

    size: Any
    mean: Any
    std: Any
    batch_size: int

    @abstractmethod
    def _outputs(self, pixels: torch.Tensor) -> Any:
        """Return the outputs (n, n_outputs) for normalised pixels (n, 3, height, width)."""

    def _image_size(self) -> tuple[int, int] | None:
        """Return the height and width to which images are resized; None if they are not."""
        if self.size is None:
            return None
        height, width = np.broadcast_to(self.size, 2).tolist()
        return height, width

    def _pass_size(self) -> int:
        """Return the most images in a forward pass."""
        return self.batch_size

    @property
    def images_per_call(self) -> int:
        """The most images in one call: `batch_size`."""
        return self.batch_size

    @usual_settings()
    def __call__(self, images: np.ndarray | torch.Tensor, class_prompts: Sequence[str]) -> np.ndarray:
        """Return the network's outputs for images.

        Parameters
        ----------
        images : ndarray of shape (n, height, width, 3), uint8, or tensor of shape (n, 3, height, width)
            A tensor holds floats in [0, 1].
        class_prompts : sequence of str
            One for each output, in their order; with `LabelMappedScorer`, the network's own labels. They are not read.

        Returns
        -------
        scores : ndarray of shape (n, n_outputs)
        """
        self._validate_params()
        pixels = as_pixels(images)
        if not len(pixels):
            return np.empty((0, len(class_prompts)), np.float32)
        with torch.inference_mode():
            outputs = lambda part: _checked(self._outputs(self._prepared(part)), len(part))
            return np.concatenate(in_passes(outputs, pixels, self._pass_size()))

    def _prepared(self, pixels: torch.Tensor) -> torch.Tensor:
        pixels, size = as_floats(pixels), self._image_size()
        if size is not None and tuple(pixels.shape[-2:]) != size:
            pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=pixels.device).view(3, 1, 1)
            for values in (of_channels(self.mean), of_channels(self.std))
        )
        return (pixels - mean) / std


def of_channels(values: Any) -> list[float]:
    """Return a value for each of the three channels."""
    channels: list[float] = np.broadcast_to(np.asarray(values, float), 3).tolist()
    return channels


def _checked(outputs: Any, n_images: int) -> np.ndarray:
    """Return outputs (n_images, n_outputs) as an array of floats."""
    if isinstance(outputs, torch.Tensor):
        outputs = outputs.float().cpu().numpy()
    if not isinstance(outputs, np.ndarray) or outputs.ndim != 2 or len(outputs) != n_images:
        found = (
            f"has the shape {outputs.shape}" if isinstance(outputs, np.ndarray) else f"is a {type(outputs).__name__}"
        )
        raise ValueError(
            f"The network's output {found}; expected one row of scores for each of the {n_images} images. Name another "
            "output of an ONNX file, or wrap a module in one that returns the scores."
        )
    return outputs if outputs.dtype == np.float64 else outputs.astype(np.float32, copy=False)


class TorchScorer(LeavesOutLive, NetworkScorer):
    """A score function that returns the outputs of a torch module.

    Parameters
    ----------
    module : torch.nn.Module
        It maps pixels (n, 3, height, width) to outputs (n, n_outputs), one for each class; or for each label of its
        own, within a `LabelMappedScorer`. It runs in evaluation mode; its own mode and device are not changed.
    size : int, (int, int) or None, default=None
        Height and width to which images are resized. None: they are not resized.
    mean, std : float or sequence of 3 floats, default=0.0 and 1.0
        What is subtracted from pixels in [0, 1], and what the difference is divided by.
    score_type : {"auto", "logits", "probabilities", "percent"}, default="logits"
        Type of the outputs.
    device : str or None, default=None
        Torch device on which the outputs are computed, such as "cpu", "cuda:1" or "mps"; "auto": a GPU if there is one.
        None: the module's own.
    batch_size : int, default=64
        Maximal number of images in a call.

    Notes
    -----
    Several threads can use a scorer, and several scorers a module. A module in evaluation mode on the wanted device
    computes itself. Otherwise each call copies the module's structure, which takes milliseconds. The copies share the
    module's tensors, or one copy of them on the other device, which is renewed when the weights change.

    Clones share the module. A pickle contains it, and a file of ``clf.save`` does not.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from blackvip.scorers import TorchScorer
    >>> scorer = TorchScorer(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)), mean=0.5, std=0.5)
    >>> scorer(np.zeros((4, 2, 2, 3), np.uint8), ["a cat", "a dog", "a car"]).shape
    (4, 3)
    """

    identity_params = ("module", "size", "mean", "std")
    _live_attributes = ("_moved",)
    _moved: _MovedTensors | None = None

    _parameter_constraints = {
        **NetworkScorer._parameter_constraints,
        "module": [torch.nn.Module],
        "device": [str, None],
    }

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        size: int | tuple[int, int] | None = None,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        score_type: str = "logits",
        device: str | None = None,
        batch_size: int = 64,
    ):
        self.module = module
        self.size = size
        self.mean = mean
        self.std = std
        self.score_type = score_type
        self.device = device
        self.batch_size = batch_size

    def __sklearn_clone__(self) -> Self:
        return copy.copy(self)

    @property
    def tensor_device(self) -> str:
        """Device on which prompts are best drawn: the module's, if it has double precision."""
        device = self._device()
        return "cpu" if device.type == "mps" else str(device)

    def _device(self) -> torch.device:
        if self.device is not None:
            return device_of(self.device)
        return next((tensor.device for tensor in _tensors_of(self.module)), torch.device("cpu"))

    def _outputs(self, pixels: torch.Tensor) -> Any:
        device = self._device()
        return self._evaluated(device)(pixels.to(device))

    def _evaluated(self, device: torch.device) -> torch.nn.Module:
        """Return the module in evaluation mode on a device, a copy if it is not."""
        tensors = _tensors_of(self.module)
        if all(tensor.device == device for tensor in tensors):
            if not any(part.training for part in self.module.modules()):
                return self.module
            return _copied(self.module, {id(tensor): tensor for tensor in tensors}).eval()
        key = (device, *map(_stamp_of_tensor, tensors))
        self._moved = moved = loaded_models.get(key, lambda: _MovedTensors(tensors, device))
        # Programs of TorchScript copy their tensors themselves.
        return _copied(self.module, moved.by_id).to(device).eval()


def _copied(module: torch.nn.Module, tensors: dict[int, Any]) -> torch.nn.Module:
    """Return a copy of a module that holds these tensors, by the id of the module's own."""
    try:
        # What `deepcopy` finds there it takes for copies that it has made.
        return copy.deepcopy(module, dict(tensors))
    except Exception as error:  # a module may hold anything
        raise ValueError(
            f"The module, a {type(module).__name__}, cannot be copied ({error}); expected one that can, or one in "
            "evaluation mode on the scorer's device. Call its methods eval() and to()."
        ) from error


def _tensors_of(module: torch.nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _stamp_of_tensor(tensor: torch.Tensor) -> tuple[int, int, int]:
    """Return what changes when a tensor is replaced, or changed in place. Tensors of inference mode do not change."""
    return id(tensor), tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


class _MovedTensors:
    """Copies of tensors on another device.

    It keeps the tensors too, so that no other ones get their ids.
    """

    def __init__(self, tensors: list[torch.Tensor], device: torch.device):
        self.tensors = tensors
        self.by_id = {id(tensor): _on_device(tensor, device) for tensor in tensors}


def _on_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    moved = tensor.detach().to(device)
    is_parameter = isinstance(tensor, torch.nn.Parameter)
    return torch.nn.Parameter(moved, requires_grad=False) if is_parameter else moved
