"""Versions of the machine and its packages, for bug reports."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata

import torch
from threadpoolctl import threadpool_info

__all__ = ["show_versions"]

_OF_DEVELOPERS = {"benchmarks", "dev", "docs", "test"}  # extras for development
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+).*?(?:;.*\bextra *== *[\"'](?P<extra>[\w-]+)[\"'].*)?")


def show_versions() -> None:
    """Print the versions of Python and of all required and optional packages, the threads and the devices.

    Paste the output into bug reports. It contains no paths, addresses, environment variables or user names.

    Examples
    --------
    >>> import blackvip
    >>> blackvip.show_versions()  # doctest: +ELLIPSIS
    System
      python            ...
    """
    for title, facts in (
        ("System", _system()),
        ("Dependencies", _packages(optional=False)),
        ("Optional", _packages(optional=True)),
        ("Threads", _threads()),
        ("Devices", _devices()),
    ):
        print(title)
        for name, value in facts:
            print(f"  {name:<18}{value}")


def _system() -> Iterator[tuple[str, str]]:
    yield "python", f"{platform.python_version()} ({platform.python_implementation()})"
    yield "platform", platform.platform()
    yield "blackvip", _version("blackvip")


def _packages(optional: bool) -> Iterator[tuple[str, str]]:
    """Yield names and versions of required or optional packages; optional ones with their extras."""
    purposes: dict[str, set[str | None]] = {}
    for requirement in _requirements():
        match = _REQUIREMENT.fullmatch(requirement)
        if match and match["extra"] not in _OF_DEVELOPERS:
            purposes.setdefault(match["name"], set()).add(match["extra"])
    for name in sorted(purposes, key=str.lower):
        extras = sorted(filter(None, purposes[name]))
        if optional == (None not in purposes[name]):
            yield name, _version(name) + (f" (extra {', '.join(extras)})" if optional else "")


def _requirements() -> list[str]:
    try:
        return metadata.requires("blackvip") or []
    except metadata.PackageNotFoundError:
        # The package is on the path without being installed.
        return []


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _threads() -> Iterator[tuple[str, str]]:
    yield "cores", f"{os.cpu_count()}, of which this process may use {_usable_cores()}"
    yield "torch", f"{torch.get_num_threads()}"
    for pool in threadpool_info():
        version = pool["version"] or "of unknown version"
        yield pool["prefix"], f"{pool['num_threads']} ({pool['internal_api']} {version})"


def _usable_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()


def _devices() -> Iterator[tuple[str, str]]:
    if not torch.cuda.is_available():
        yield "cuda", "none"
    for index in range(torch.cuda.device_count()):
        yield f"cuda:{index}", f"{torch.cuda.get_device_name(index)} (CUDA {torch.version.cuda})"
