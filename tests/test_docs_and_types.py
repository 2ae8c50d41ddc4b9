"""Docstrings in numpydoc's form, and types that mypy follows, for every public name."""

import inspect
import pathlib

import pytest

import blackvip

ROOT = pathlib.Path(__file__).parents[1]

#: numpydoc's checks that are not asked for: house style differs, or another tool looks after it.
LEFT_OUT = {
    "EX01",  # an example for every method: classes and functions that are called first have one
    "SA01",  # "See Also": the user guide links
    "ES01",  # an extended summary where the first line says it all
    "GL01",  # docstrings start on the line of their quotes
    "GL02",  # and end there if they are short
    "SS06",  # a summary of one line, which ruff's line length already bounds
    "SS05",  # it takes plural nouns, "Labels of ...", for verbs
    "RT02",  # a returned value has a name, which tells more than its type alone
    "YD01",
}


def documented():
    """Names of all public objects, and of the methods and properties that they define or override."""
    for name in blackvip.__all__:
        thing = getattr(blackvip, name)
        if name.startswith("__"):
            continue
        yield f"blackvip.{name}"
        if inspect.isclass(thing) and not issubclass(thing, Exception):
            for member, value in inspect.getmembers(thing):
                function = value.fget if isinstance(value, property) else value
                ours = (getattr(function, "__module__", None) or "").startswith("blackvip")
                inherits = function is not None and not function.__doc__ and inspect.getdoc(value)
                if not member.startswith("_") and inspect.isfunction(function) and ours and not inherits:
                    yield f"blackvip.{name}.{member}"


@pytest.mark.parametrize("name", list(documented()))
def test_docstring(name):
    validate = pytest.importorskip("numpydoc.validate")
    report = validate.validate(name)
    errors = [f"{code}: {text}" for code, text in report["errors"] if code not in LEFT_OUT]
    assert not errors, f"{report['file']}:{report['file_line']}\n" + "\n".join(errors)


@pytest.mark.slow
def test_types():
    api = pytest.importorskip("mypy.api")
    output, errors, status = api.run(["--config-file", str(ROOT / "pyproject.toml"), str(ROOT / "blackvip")])
    assert status == 0, output + errors
