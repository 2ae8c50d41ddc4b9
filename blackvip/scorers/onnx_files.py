"""ONNX files as score functions."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Hashable, Sequence
from functools import lru_cache
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions

from .local_models import HoldsModel, digest_of, files_of, stamp_of
from .networks import NetworkScorer, of_channels

__all__ = ["OnnxScorer"]

# Types of an ONNX input for images, and what they are in NumPy.
_INPUT_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
# An entry "location" of external data in an ONNX file: a string of protocol buffers, then the length of the next one.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x80-\xff]?[\x00-\x7f])")


class OnnxScorer(HoldsModel, NetworkScorer):
    """A score function that returns an output of an ONNX file, computed by onnxruntime.

    The file is loaded at the first call, once for all scorers that use it. A clone or a pickle holds only the
    parameters, such as the path.

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
        Height and width to which images are resized. None: the size in the file, if it has one.
    mean, std : float or sequence of 3 floats, default=0.0 and 1.0
        What is subtracted from pixels in [0, 1], and what the difference is divided by. For pixels from 0 to 255:
        ``std=1 / 255``. An input of type uint8 always gets pixels from 0 to 255.
    score_type : {"auto", "logits", "probabilities", "percent"}, default="auto"
        Type of the output.
    n_threads : int or None, default=None
        Threads that onnxruntime uses for an operation. None: its default, one for each core.
    batch_size : int, default=64
        Maximal number of images in a call, and in a run of the network unless the file fixes their number.

    Notes
    -----
    Images are passed in the type of the input: float32, float16, float64 or uint8. If the file has a fixed batch size,
    they are passed in batches of that size, and the last image fills up the last batch.

    The content of the file, with its files of external data, identifies the network. If it has changed since this
    scorer loaded it, an error is raised; a clone loads it anew.

    This scorer needs ``pip install "blackvip[onnx]"``.

    Examples
    --------
    >>> from blackvip.scorers import OnnxScorer
    >>> scorer = OnnxScorer("model.onnx", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    """

    _parameter_constraints = {
        **NetworkScorer._parameter_constraints,
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
        files = self._files()
        if not files:
            return None
        settings: dict[str, Any] = {"input": self.input, "output": self.output, "layout": self.layout}
        # Equal values have equal descriptions.
        settings |= {"size": None if self.size is None else np.broadcast_to(self.size, 2).tolist()}
        settings |= {"mean": of_channels(self.mean), "std": of_channels(self.std)}
        return f"ONNX file {digest_of(files)} with {settings}"

    def _source(self) -> tuple[Hashable, ...]:
        return os.fspath(self.path), self.n_threads

    def _files(self) -> dict[str, Path]:
        path = Path(self.path).absolute()
        files = files_of(path) if path.is_file() else {}
        external = [path.parent / name for stamp in stamp_of(files) for name in _external_data(*stamp)]
        return files | {os.path.relpath(file, path.parent): file for file in external if file.is_file()}

    def _load(self) -> Any:
        return _load(os.fspath(self.path), self.n_threads)

    def _image_size(self) -> tuple[int, int] | None:
        if self.size is not None:
            return super()._image_size()
        shape = self._input().shape
        height, width = shape[2:4] if self.layout == "NCHW" else shape[1:3]
        return (height, width) if isinstance(height, int) and isinstance(width, int) else None

    def _pass_size(self) -> int:
        return self._fixed_size() or self.batch_size

    def _fixed_size(self) -> int | None:
        """Return the number of images that the network takes at once; None if it takes any."""
        size = self._input().shape[0]
        return size if isinstance(size, int) else None

    def _prepared(self, pixels: torch.Tensor) -> torch.Tensor:
        prepared = super()._prepared(pixels)
        if self._input_type() != np.uint8:
            return prepared
        std = of_channels(self.std)
        if any(of_channels(self.mean)) or std not in ([1.0] * 3, [1 / 255] * 3):
            raise ValueError(
                f"mean={self.mean!r} and std={self.std!r} were given, but the input {self._input().name!r} takes "
                "pixels of type uint8, from 0 to 255; leave out mean and std."
            )
        return (255 * std[0] * prepared).round().clamp(0, 255).to(torch.uint8)

    def _outputs(self, pixels: torch.Tensor) -> Any:
        n_images = len(pixels)
        if missing := (self._fixed_size() or n_images) - n_images:
            pixels = torch.cat([pixels, pixels[-1:].expand(missing, -1, -1, -1)])
        array = (pixels if self.layout == "NCHW" else pixels.movedim(1, 3)).contiguous().cpu().numpy()
        session = self._model()
        wanted = session.get_outputs()[0].name if self.output is None else self.output
        given = {self._input().name: array.astype(self._input_type(), copy=False)}
        return session.run([wanted], given)[0][:n_images]

    def _input_type(self) -> Any:
        """Return the type of the input in NumPy."""
        found = self._input()
        if found.type not in _INPUT_TYPES:
            raise ValueError(
                f"The input {found.name!r} of {os.fspath(self.path)} is a {found.type}; expected one of "
                f"{', '.join(_INPUT_TYPES)}. Name another input."
            )
        return _INPUT_TYPES[found.type]

    def _input(self) -> Any:
        inputs = self._model().get_inputs()
        if self.input is None:
            return inputs[0]
        named = [found for found in inputs if found.name == self.input]
        if not named:
            raise ValueError(
                f"{os.fspath(self.path)} has no input {self.input!r}; expected one of "
                f"{', '.join(repr(found.name) for found in inputs)}."
            )
        return named[0]


@lru_cache(maxsize=1000)
def _external_data(path: str, size: int, time: int) -> tuple[str, ...]:
    """Return the names of files of external data that an ONNX file with this stamp mentions."""
    if not size:
        return ()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = [(match.end(), match[1]) for match in _LOCATION.finditer(content)]
        names = [content[start : start + _length(encoded)].decode(errors="ignore") for start, encoded in found]
    return tuple(sorted(set(names)))


def _length(encoded: bytes) -> int:
    """Return a length of up to 14 bits in protocol buffers, which has the lowest seven bits first."""
    return sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(encoded))


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
