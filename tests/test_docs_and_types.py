"""Every public name has a numpydoc docstring."""

import inspect

import pytest

import blackvip

#: numpydoc checks that are off because our style differs or another tool checks the same.
LEFT_OUT = {
    "EX01",  # an example in every method: only the main classes and functions have one
    "SA01",  # "See Also": the user guide has the links
    "ES01",  # an extended summary: the first line is often enough
    "GL01",  # our docstrings start on the line of their quotes
    "GL02",  # and end there if they are short
    "SS06",  # a one-line summary: ruff already limits the line length
    "SS05",  # it mistakes plural nouns, such as "Labels of ...", for verbs
    "RT02",  # returned values have names, which say more than types alone
    "YD01",
}


def documented():
    """Names of all public objects, and of the methods and properties they define or override."""
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
