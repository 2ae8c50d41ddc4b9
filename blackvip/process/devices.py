"""Devices of torch, and passes of a network that fit into their memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

__all__ = ["device_of", "in_passes"]

T = TypeVar("T")

logger = logging.getLogger("blackvip")


def device_of(device: str) -> torch.device:
    """Return a torch device; for "auto" a GPU if there is one.

    Raises
    ------
    ValueError
        If this machine has no such device.
    """
    if device != "auto":
        try:
            return torch.empty(0, device=device).device
        # torch without CUDA raises an AssertionError.
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"The device {device!r} cannot be used on this machine; expected 'auto', 'cpu', or a GPU that torch "
                f"finds, such as 'cuda:0' or 'mps'. torch says: {str(error).partition(chr(10))[0]}"
            ) from error
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps:0" if torch.backends.mps.is_available() else "cpu")


def in_passes(forward: Callable[[torch.Tensor], T], images: torch.Tensor, most: int) -> list[T]:
    """Pass images through a network, fewer at a time where the device has too little memory.

    Parameters
    ----------
    forward : callable
        ``forward(images)`` returns the network's output.
    images : tensor of shape (n, ...)
        The images.
    most : int
        The most images in a pass.

    Returns
    -------
    outputs : list
        The outputs of all passes, in the order of the images.

    Raises
    ------
    torch.cuda.OutOfMemoryError
        If a single image does not fit.
    """
    outputs: list[T] = []
    first = 0
    while first < len(images) or not outputs:
        part = images[first : first + most]
        try:
            outputs.append(forward(part))
        except torch.cuda.OutOfMemoryError:
            if len(part) == 1:
                raise
            most = (len(part) + 1) // 2
            logger.info("%d images take more memory than the device has: %d at a time", len(part), most)
        else:
            first += len(part)
    return outputs
