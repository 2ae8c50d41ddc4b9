"""A small ONNX file, written without the package onnx, in the format of protocol buffers."""

import numpy as np

FLOAT, UINT8, FLOAT16 = 1, 2, 10
TYPES = {np.float32: FLOAT, np.uint8: UINT8, np.float16: FLOAT16}


def number(value):
    """A whole number in groups of seven bits, the lowest first."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F)
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def field(tag, value):
    if isinstance(value, int):
        return number(tag << 3) + number(value)
    content = value.encode() if isinstance(value, str) else value
    return number(tag << 3 | 2) + number(len(content)) + content


def value_info(name, dtype, shape):
    """The type of an input or output; a dimension that is a name can have any size."""
    dims = b"".join(field(1, field(1 if isinstance(size, int) else 2, size)) for size in shape)
    return field(1, name) + field(2, field(1, field(1, TYPES[dtype]) + field(2, dims)))


def write_linear(path, weights, shape, dtype=np.float32, external=None):
    """Write a network that multiplies its flattened input of a type and shape by `weights`, of float32.

    The weights are in the file, or in a file next to it that is named `external`.
    """
    tensor = b"".join(field(1, size) for size in weights.shape) + field(2, FLOAT) + field(8, "weights")
    content = weights.astype(np.float32).tobytes()
    if external is None:
        tensor += field(9, content)
    else:
        (path.parent / external).write_bytes(content)
        tensor += field(13, field(1, "location") + field(2, external)) + field(14, 1)
    to_float = field(1, "to") + field(3, FLOAT) + field(20, 2)
    nodes = [
        field(1, "images") + field(2, "floats") + field(4, "Cast") + field(5, to_float),
        field(1, "floats") + field(2, "flat") + field(4, "Flatten"),
        field(1, "flat") + field(1, "weights") + field(2, "scores") + field(4, "MatMul"),
    ]
    graph = b"".join(field(1, node) for node in nodes) + field(2, "linear") + field(5, tensor)
    graph += field(11, value_info("images", dtype, shape))
    graph += field(12, value_info("scores", np.float32, (shape[0], weights.shape[1])))
    path.write_bytes(field(1, 8) + field(8, field(1, "") + field(2, 17)) + field(7, graph))
    return path
