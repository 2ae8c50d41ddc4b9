"""`show_versions` against what pip and torch themselves say."""

import configparser
import os
import pathlib
import platform
import re
from importlib import metadata

import torch

import blackvip

ROOT = pathlib.Path(__file__).parents[1]


def printed(capsys):
    """What is printed, by section: {section: {name: value}}."""
    blackvip.show_versions()
    sections = {}
    for line in capsys.readouterr().out.splitlines():
        if not line.startswith(" "):
            facts = sections.setdefault(line, {})
        else:
            name, value = line.strip().split(maxsplit=1)
            facts[name] = value
    return sections


def required():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return [re.match(r"[\w-]+", line)[0] for line in config["options"]["install_requires"].split()]


def test_every_dependency_is_told_with_its_version(capsys):
    told = printed(capsys)["Dependencies"]
    assert told == {name: metadata.version(name) for name in required()}


def test_what_is_optional_is_told_whether_it_is_there_or_not(capsys, monkeypatch):
    version = metadata.version

    def as_if_httpx_were_not_there(name):
        if name == "httpx":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", as_if_httpx_were_not_there)
    told = printed(capsys)["Optional"]
    assert re.fullmatch(r"not installed \(extra .*http.*\)", told["httpx"])
    assert told["matplotlib"].startswith(version("matplotlib"))
    assert not set(told) & set(required())
    assert "pytest" not in told  # what developers need is not what users need


def test_python_threads_and_devices(capsys):
    told = printed(capsys)
    assert told["System"]["python"].startswith(platform.python_version())
    assert told["System"]["blackvip"] == blackvip.__version__
    assert told["Threads"]["torch"] == str(torch.get_num_threads())
    assert ("none" in told["Devices"].values()) == (not torch.cuda.is_available())


def test_nothing_of_the_user_is_told(capsys, monkeypatch):
    monkeypatch.setenv("SERVICE_KEY", "s3cr3t")
    blackvip.show_versions()
    text = capsys.readouterr().out
    assert "s3cr3t" not in text
    assert os.path.expanduser("~") not in text
    assert str(ROOT) not in text
