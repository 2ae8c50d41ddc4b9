"""Networks on this machine with one output per class or label as score functions: ONNX files and torch modules."""

from __future__ import annotations

import copy
import hashlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self
from weakref import WeakValueDictionary

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions

from ..process.settings import usual_settings
from .dual_encoder import stamp_of
from .local_models import as_pixels, device_of
from .wrappers import LeavesOutLive

__all__ = ["OnnxScorer", "TorchScorer"]

_loading = threading.Lock()
#: Sessions that some scorer holds.
_sessions: WeakValueDictionary[Any, Any] = WeakValueDictionary()


class _NetworkScorer(BaseEstimator, ABC):
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
    def _outputs(self, pixels: torch.Tensor) -> np.ndarray:
        """Return the outputs (n, n_outputs) for normalised pixels (n, 3, height, width)."""

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
            return np.concatenate([self._outputs(self._prepared(part)) for part in pixels.split(self.batch_size)])

    def _prepared(self, pixels: torch.Tensor) -> torch.Tensor:
        pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
        if self.size is not None:
            size = (self.size, self.size) if isinstance(self.size, Integral) else tuple(self.size)
            if tuple(pixels.shape[-2:]) != size:
                pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        mean, std = (
            torch.tensor(np.broadcast_to(values, 3).tolist(), dtype=torch.float32, device=pixels.device).view(3, 1, 1)
            for values in (self.mean, self.std)
        )
        return (pixels - mean) / std


class TorchScorer(_NetworkScorer):
    """A score function that returns the outputs of a torch module.

    Parameters
    ----------
    module : torch.nn.Module
        It maps pixels (n, 3, height, width) to outputs (n, n_outputs), one for each class; or for each label of its
        own, within a `LabelMappedScorer`. It runs in evaluation mode, and its modes are restored.
    size : int, (int, int) or None, default=None
        Height and width to which images are resized. None: they are not resized.
    mean, std : float or sequence of 3 floats, default=0.0 and 1.0
        What is subtracted from pixels in [0, 1], and what the difference is divided by.
    score_type : {"auto", "logits", "probabilities", "percent"}, default="logits"
        Type of the outputs.
    device : str or None, default=None
        Torch device to which the module is moved. None: it stays where it is.
    batch_size : int, default=64
        Maximal number of images in a call.

    Notes
    -----
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

    _parameter_constraints = {
        **_NetworkScorer._parameter_constraints,
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
        return next((tensor.device for tensor in self.module.parameters()), torch.device("cpu"))

    def _outputs(self, pixels: torch.Tensor) -> np.ndarray:
        training = [part for part in self.module.modules() if part.training]
        device = self._device()
        try:
            found = self.module.to(device).eval()(pixels.to(device))
        finally:
            for part in training:
                part.training = True
        outputs: np.ndarray = found.float().cpu().numpy()
        return outputs


class OnnxScorer(LeavesOutLive, _NetworkScorer):
    """A score function that returns an output of an ONNX file, computed by onnxruntime.

    The file is loaded at the first call, once for all scorers that use it. A clone or a pickle holds the parameters
    alone, and so the path.

    Parameters
    ----------
    path : str or path-like
        The file.
    input, output : str or None, default=None
        Names of the input for images, and of the output (n, n_outputs) with a score for each class; or for each label
        of the network's own, within a `LabelMappedScorer`. None: the first ones.
    layout : {"NCHW", "NHWC"}, default="NCHW"
        Order of the input's axes: images, channels, height and width.
    size : int, (int, int) or None, default=None
        Height and width to which images are resized. None: what the file says, if it does.
    mean, std : float or sequence of 3 floats, default=0.0 and 1.0
        What is subtracted from pixels in [0, 1], and what the difference is divided by. For pixels from 0 to 255:
        ``std=1 / 255``.
    score_type : {"auto", "logits", "probabilities", "percent"}, default="auto"
        Type of the output.
    n_threads : int or None, default=None
        Threads that onnxruntime uses for an operation. None: its default, one for each core.
    batch_size : int, default=64
        Maximal number of images in a call.

    Notes
    -----
    It needs ``pip install "blackvip[onnx]"``.

    Examples
    --------
    >>> from blackvip.scorers import OnnxScorer
    >>> scorer = OnnxScorer("model.onnx", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    """

    _live_attributes = ("_loaded",)
    _loaded: tuple[Any, Any] | None = None

    _parameter_constraints = {
        **_NetworkScorer._parameter_constraints,
        "path": [str, os.PathLike],
        "input": [str, None],
        "output": [str, None],
        "layout": [StrOptions({"NCHW", "NHWC"})],
        "n_threads": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        input: str | None = None,
        output: str | None = None,
        layout: str = "NCHW",
        size: int | tuple[int, int] | None = None,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        score_type: str = "auto",
        n_threads: int | None = None,
        batch_size: int = 64,
    ):
        self.path = path
        self.input = input
        self.output = output
        self.layout = layout
        self.size = size
        self.mean = mean
        self.std = std
        self.score_type = score_type
        self.n_threads = n_threads
        self.batch_size = batch_size

    @property
    def identity(self) -> str | None:
        """The file's content and what else the scores depend on; None if there is no file."""
        if not os.path.isfile(self.path):
            return None
        with open(self.path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        settings = {name: getattr(self, name) for name in ("input", "output", "layout", "size", "mean", "std")}
        return f"ONNX file {digest} with {settings}"

    def _prepared(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.size is not None:
            return super()._prepared(pixels)
        shape = self._input().shape
        height, width = shape[2:4] if self.layout == "NCHW" else shape[1:3]
        known = isinstance(height, int) and isinstance(width, int)
        return (
            copy.copy(self).set_params(size=(height, width))._prepared(pixels) if known else super()._prepared(pixels)
        )

    def _outputs(self, pixels: torch.Tensor) -> np.ndarray:
        array = (pixels if self.layout == "NCHW" else pixels.movedim(1, 3)).contiguous().cpu().numpy()
        wanted = [self._session().get_outputs()[0].name if self.output is None else self.output]
        found = np.asarray(self._session().run(wanted, {self._input().name: array})[0])
        if found.ndim != 2 or len(found) != len(array):
            raise ValueError(
                f"The output {wanted[0]!r} has the shape {found.shape}; expected one row of scores for each of the "
                f"{len(array)} images. Name another output."
            )
        return found

    def _input(self) -> Any:
        inputs = self._session().get_inputs()
        if self.input is None:
            return inputs[0]
        named = [found for found in inputs if found.name == self.input]
        if not named:
            raise ValueError(
                f"{os.fspath(self.path)} has no input {self.input!r}; expected one of "
                f"{', '.join(repr(found.name) for found in inputs)}."
            )
        return named[0]

    def _session(self) -> Any:
        """Return the session; the file is loaded unless this scorer or another one has it."""
        wanted = (os.fspath(self.path), self.n_threads)
        loaded = self._loaded
        if loaded is None or loaded[0] != wanted:
            with _loading:
                key = (*wanted, stamp_of(Path(self.path)))
                session = _sessions.get(key)
                if session is None:
                    session = _sessions[key] = _load(*wanted)
            loaded = self._loaded = (wanted, session)
        return loaded[1]


def _load(path: str, n_threads: int | None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f'OnnxScorer needs the package {error.name}, which is not installed. Run pip install "blackvip[onnx]".',
            name=error.name,
        ) from error
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path!r}; expected the path of an ONNX file.")
    options = onnxruntime.SessionOptions()
    if n_threads is not None:
        options.intra_op_num_threads = n_threads
    return onnxruntime.InferenceSession(path, options, providers=onnxruntime.get_available_providers())
