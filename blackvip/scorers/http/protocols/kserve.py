"""The Open Inference Protocol (KServe's v2): MLServer, Triton, KServe, OpenVINO Model Server, TorchServe."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from ....exceptions import ServiceError
from ...raw_numbers import as_numbers
from ..adapter import Adapter, Images, Request, Send
from ..encoding import resized, to_tensor
from ..json_bodies import parse_json, shortened

__all__ = ["KServe"]

_DTYPES = {
    "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2", "INT32": "<i4",
    "INT64": "<i8", "FP16": "<f2", "BF16": "<f4", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
# Datatypes that JSON does not have. NumPy does not have bfloat16 either: it is the upper half of a 32-bit float.
_BINARY_ONLY = {"FP16", "BF16"}
_JSON_LENGTH = "inference-header-content-length"
_BINARY_EXTENSIONS = {"binary_tensor_data", "binary_data"}


@dataclass(frozen=True)
class _Tensor:
    """A tensor as described by a model's metadata."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class KServe(Adapter):
    """Adapter for the Open Inference Protocol: ``POST v2/models/{model}[/versions/{version}]/infer``.

    Names, shapes and datatypes of the tensors are read from the model's metadata before the first request.

    Parameters
    ----------
    model : str
        Name of the model.
    version : str or None, default=None
        Version of the model. None: the server chooses.
    input, output : str or None, default=None
        Names of the tensors. None: the model has only one.
    prompts_input : str or None, default=None
        Name of an input of the datatype BYTES that takes the class prompts. None: they are not sent, and the model's
        outputs must be in their order.
    image_format : {"raw", "png", "jpeg"}, default="raw"
        "raw": a tensor of pixels. Files go to a model whose input has the datatype BYTES.
    layout : {"auto", "NHWC", "NCHW"}, default="auto"
        Layout of a tensor of pixels. "auto": found from the position of the 3 channels in the shape.
    mean, std : tuple of float or None, default=None
        For an input of floats: subtracted from each channel of pixels between 0 and 1, and then divided by.
    binary : bool or None, default=None
        Whether tensors use the binary tensor data extension, which is many times faster than JSON. None: if the server
        lists the extension or the datatype needs it.
    score_type : {"auto", "logits", "probabilities"}, default="auto"
        Type of the scores.
    fixed_labels : bool, default=False
        Whether scores are for the model's own labels instead of the class prompts.

    Notes
    -----
    The url of the scorer is the part before ``/v2``. Images are resized to the height and width in the model's
    metadata, if they are given. If the model takes batches of one fixed size, a smaller last one is filled with copies
    of its last image, whose scores are dropped; the copies do not count as billed images.
    """

    def __init__(
        self,
        model: str,
        *,
        version: str | None = None,
        input: str | None = None,
        output: str | None = None,
        prompts_input: str | None = None,
        image_format: str = "raw",
        layout: str = "auto",
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        binary: bool | None = None,
        score_type: str = "auto",
        fixed_labels: bool = False,
    ):
        self.model = model
        self.version = version
        self.input = input
        self.output = output
        self.prompts_input = prompts_input
        self.image_format = image_format
        self.layout = layout
        self.mean = mean
        self.std = std
        self.binary = binary
        self.score_type = score_type
        self.fixed_labels = fixed_labels

    @property
    def images_per_request(self) -> int | None:  # type: ignore[override]
        """Number of images that the model's input takes; None for any number."""
        tensor = getattr(self, "input_", None)
        if tensor is None or not tensor.shape or tensor.shape[0] == -1:
            return None
        return 1 if self.layout_ is not None and len(tensor.shape) == 3 else tensor.shape[0]

    def prepare(self, send: Send, class_prompts: list[str]) -> KServe:
        metadata = send(Request(self._path, method="GET"))
        prepared = copy.copy(self)
        tensor = prepared.input_ = self._tensor(metadata, "inputs", self.input, {self.prompts_input})
        prepared.output_ = self._tensor(metadata, "outputs", self.output, set())
        files = self.image_format != "raw"
        if tensor.datatype not in _DTYPES and not files or files and tensor.datatype != "BYTES":
            raise ServiceError(
                f"The input {tensor.name!r} of the model {self.model!r} has the datatype {tensor.datatype}, and "
                f"image_format is {self.image_format!r}; expected BYTES for 'png' and 'jpeg', or numbers for 'raw'."
            )
        prepared.layout_ = None if files else self._layout(tensor)
        needed = not _BINARY_ONLY.isdisjoint((tensor.datatype, prepared.output_.datatype))
        prepared.binary_ = needed if self.binary is None else self.binary
        if self.binary is None and not needed:
            extensions = send(Request("v2", method="GET")).get("extensions") or []
            prepared.binary_ = not _BINARY_EXTENSIONS.isdisjoint(extensions)
        return prepared

    def request(self, images: Images, class_prompts: list[str]) -> Request:
        tensors = [self._image_tensor(images)]
        if self.prompts_input is not None:
            texts = np.array([prompt.encode() for prompt in class_prompts], dtype=object)
            tensors.append((self.prompts_input, "BYTES", texts))
        output: dict[str, Any] = {"name": self.output_.name}
        inputs, blobs = [], []
        for name, datatype, tensor in tensors:
            described: dict[str, Any] = {"name": name, "shape": list(tensor.shape), "datatype": datatype}
            if self.binary_:
                blobs.append(_to_bytes(tensor, datatype))
                described["parameters"] = {"binary_data_size": len(blobs[-1])}
            elif datatype != "BYTES":
                described["data"] = tensor.ravel().tolist()
            elif name == self.prompts_input:
                described["data"] = class_prompts
            else:
                described["parameters"] = {"content_type": "base64"}
                described["data"] = list(tensor.ravel())
            inputs.append(described)
        if not self.binary_:
            return Request(f"{self._path}/infer", json={"inputs": inputs, "outputs": [output]})
        output["parameters"] = {"binary_data": True}
        head = json.dumps({"inputs": inputs, "outputs": [output]}).encode()
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
        return Request(f"{self._path}/infer", content=b"".join([head, *blobs]), headers=headers)

    def parse(self, content: bytes, headers: Mapping[str, str]) -> Any:
        length = headers.get(_JSON_LENGTH)
        if length is None:
            return parse_json(content, headers.get("content-type", ""))
        if not length.isdecimal() or int(length) > len(content):
            raise ServiceError(
                f"The answer's {_JSON_LENGTH} is {shortened(length, 40)!r}; expected at most its {len(content)} bytes."
            )
        answer = parse_json(content[: int(length)])
        rest = memoryview(content)[int(length) :]
        for output in answer["outputs"]:
            size = (output.get("parameters") or {}).get("binary_data_size")
            if size is None:
                continue
            if not isinstance(size, int) or not 0 <= size <= len(rest) or output["datatype"] not in _DTYPES:
                raise ServiceError(
                    f"The output {shortened(output.get('name'), 40)} declares {shortened(size, 40)} bytes of "
                    f"{shortened(output.get('datatype'), 40)}, and {len(rest)} bytes came; expected numbers."
                )
            output["data"] = _from_bytes(rest[:size], output["datatype"])
            rest = rest[size:]
        if len(rest):
            raise ServiceError(f"The answer has {len(rest)} bytes more than its outputs declare.")
        return answer

    def scores(self, answer: Any, class_prompts: list[str]) -> np.ndarray:
        if isinstance(answer, dict) and "error" in answer:
            raise ServiceError(f"The service answered with an error: {shortened(answer['error'])}.")
        named = {output["name"]: output for output in answer["outputs"]}
        if self.output_.name not in named:
            raise ServiceError(f"The answer has the outputs {sorted(named)}; expected {self.output_.name!r}.")
        output = named[self.output_.name]
        data, shape = as_numbers(output["data"]), tuple(output["shape"])
        if data.size != np.prod(shape):
            raise ServiceError(f"The output {self.output_.name!r} has {data.size} numbers, but its shape is {shape}.")
        return data.reshape(shape if len(shape) > 1 else (1, -1))

    def scores_of(self, answer: Any, class_prompts: list[str], n_images: int) -> Any:
        scores = self.scores(answer, class_prompts)
        # The rest are those of the copies that fill a batch of a fixed size.
        is_filled = len(scores) == self.images_per_request
        return scores[:n_images] if is_filled else scores

    @property
    def _path(self) -> str:
        version = "" if self.version is None else f"/versions/{quote(self.version, safe='')}"
        return f"v2/models/{quote(self.model, safe='')}{version}"

    def _tensor(self, metadata: Any, kind: str, wanted: str | None, others: set[str | None]) -> _Tensor:
        """Return the metadata of the named input or output, or of the only one."""
        found = {}
        for entry in metadata.get(kind) or []:
            shape = tuple(-1 if side is None else int(side) for side in entry["shape"])
            found[entry["name"]] = _Tensor(entry["name"], entry["datatype"], shape)
        names = [name for name in found if name not in others]
        name = wanted or (names[0] if len(names) == 1 else None)
        if name not in found:
            raise ServiceError(
                f"The metadata of the model {self.model!r} list the {kind} {names}; expected "
                f"{'only one' if wanted is None else repr(wanted)}. Set {kind[:-1]} to the name of one of them, or "
                "complete the model's metadata on the server."
            )
        return found[name]

    def _layout(self, tensor: _Tensor) -> str:
        """Return the position of the channels, "NHWC" or "NCHW"."""
        fits = {"NHWC": tensor.shape[-1:] in ((3,), (-1,)), "NCHW": tensor.shape[-3:-2] in ((3,), (-1,))}
        certain = [layout for layout, side in (("NHWC", -1), ("NCHW", -3)) if tensor.shape[side:][:1] == (3,)]
        layout = self.layout if self.layout != "auto" else certain[0] if len(certain) == 1 else "unknown"
        if len(tensor.shape) not in (3, 4) or not fits.get(layout, False) or tensor.shape[0] == 0:
            raise ServiceError(
                f"The input {tensor.name!r} of the model {self.model!r} has the shape {list(tensor.shape)}; expected "
                "images, [n, height, width, 3] or [n, 3, height, width], where n is -1 for any number. Set layout to "
                "'NHWC' or 'NCHW' if the shape does not determine it."
            )
        return layout

    def _image_tensor(self, images: Images) -> tuple[str, str, np.ndarray]:
        """Return the name, datatype and contents of the input that takes the images."""
        tensor = self.input_
        images = _filled(images, self.images_per_request)
        if self.layout_ is None:
            files = np.array(list(images), dtype=object)
            return tensor.name, "BYTES", files if len(tensor.shape) < 2 else files[:, None]
        pixels = np.asarray(images)
        sides = tensor.shape[-3:-1] if self.layout_ == "NHWC" else tensor.shape[-2:]
        height, width = (own if side == -1 else side for own, side in zip(pixels.shape[1:3], sides))
        pixels = to_tensor(resized(pixels, (height, width)), np.dtype(_DTYPES[tensor.datatype]), self.mean, self.std)
        if self.layout_ == "NCHW":
            pixels = np.moveaxis(pixels, 3, 1)
        return tensor.name, tensor.datatype, pixels if len(tensor.shape) == 4 else pixels[0]


def _to_bytes(tensor: np.ndarray, datatype: str) -> bytes:
    """Encode a tensor for the binary extension: row by row, and each item of BYTES after its length."""
    if datatype == "BF16":
        bits = np.ascontiguousarray(tensor, "<f4").view("<u4")
        # Rounded to the nearest, and to the even one of two.
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    if datatype != "BYTES":
        return tensor.tobytes()
    return b"".join(len(item).to_bytes(4, "little") + item for item in tensor.ravel())


def _from_bytes(data: memoryview, datatype: str) -> np.ndarray:
    """Decode the numbers of an output of the binary extension."""
    if datatype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, _DTYPES[datatype])


def _filled(images: Images, size: int | None) -> Images:
    """Fill a batch of a fixed size with copies of its last image."""
    n_missing = 0 if size is None else size - len(images)
    if n_missing <= 0:
        return images
    if isinstance(images, np.ndarray):
        return np.concatenate([images, images[-1:].repeat(n_missing, axis=0)])
    return [*images, *[images[-1]] * n_missing]
