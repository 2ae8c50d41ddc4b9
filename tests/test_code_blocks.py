"""Every Python block in the README and in docs/ runs and prints the output below it.

The blocks of a page share their names and a folder. A function in `PAGES` provides what a page takes for granted (a
score function, images, a service with a key). A block that cannot run has ``<!-- not run: reason -->`` above it.
Scripts, options, targets and extras named by commands exist.
"""

import configparser
import contextlib
import doctest
import functools
import io
import pathlib
import re
import runpy
import shlex
import sys
import warnings
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import pytest
from conftest import ToyService, make_stripes
from PIL import Image

from blackvip import BlackVIPClassifier, ClassPromptWarning, PromptNotUsedWarning
from blackvip.prompters import CORRECTIONS

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
MOST_NOT_RUN = 6

_BLOCK = re.compile(
    r"""^(?:<!--[ ]not[ ]run:[ ](?P<reason>[^\n]+?)[ ]-->\n)?
    ```python\n(?P<code>.*?)^```\n
    (?:\n(?P<output>(?:[ ]{4}[^\n]*\n|\n(?=[ ]{4}))+))?""",
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)


@dataclass
class Block:
    line: int
    code: str
    output: str | None
    reason: str | None


def blocks_of(page):
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        output = match["output"] and "".join(line.removeprefix("    ") for line in match["output"].splitlines(True))
        found.append(Block(text.count("\n", 0, match.start("code")), match["code"], output, match["reason"]))
    return found


BLOCKS = {page: blocks_of(page) for page in DOCUMENTS if blocks_of(page)}


# What pages take for granted


def names(**others):
    """A service, images and labels that many pages use."""
    X, y = make_stripes(60)
    return {"score_fn": ToyService(glare=2.0), "X": X, "y": y, "BlackVIPClassifier": BlackVIPClassifier, **others}


def fitted(**parameters):
    X, y = make_stripes(60)
    return BlackVIPClassifier(
        ToyService(glare=2.0), "a {}", prompter="basis", max_queries=500, random_state=0, **parameters
    ).fit(X, y)


def photos(request):
    """A folder of photos per class, and the call to an API."""
    X, y = make_stripes(48)
    for row, (image, label) in enumerate(zip(X, y)):
        path = pathlib.Path("photos", f"class {label}", f"{row}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    service = ToyService(glare=2.0)
    return {"my_api": lambda image, class_prompts: service(image[None], class_prompts)[0]}


def guide(request):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    X_test, y_test = make_stripes(20, seed=1)
    known = names(GridSearchCV=GridSearchCV, fitted_clf=fitted(), X_test=X_test, y_test=y_test)
    known["clf"] = BlackVIPClassifier(known["score_fn"], "a {}", prompter="basis", max_queries=4000, random_state=0)
    rows = FunctionTransformer(lambda images: images.reshape(len(images), -1))
    known["other_client"] = make_pipeline(rows, LogisticRegression())
    return known


def faults(request):
    return names(scorer=ToyService(glare=2.0), X_many=make_stripes(200, seed=1)[0])


def clusters(request):
    """The scheduler named by the page has two workers on this machine."""
    distributed = pytest.importorskip("distributed")
    from servers.dask_workers import two_dask_workers

    stack = contextlib.ExitStack()
    request.addfinalizer(stack.close)
    client = stack.enter_context(two_dask_workers())
    monkeypatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setattr(distributed, "Client", lambda address: client)
    known = names()
    known["clf"] = BlackVIPClassifier(known["score_fn"], "a {}", max_queries=300, random_state=0)
    return known


def limits(request):
    return names(clf=fitted())


def paper(request):
    import pandas

    (X, y), (X_test, y_test) = make_stripes(24), make_stripes(24, seed=1)
    return names(X=X, y=y, X_test=X_test, y_test=y_test, pandas=pandas)


def services(request):
    """The hosts named by the page are services on this machine."""
    pytest.importorskip("httpx")
    pytest.importorskip("uvicorn")
    from servers.running import running
    from servers.vendors import KEY, running_vendors

    from blackvip.scorers.http.client import Client

    stack = contextlib.ExitStack()
    request.addfinalizer(stack.close)
    endpoint, vendors = stack.enter_context(running()), stack.enter_context(running_vendors())
    endpoint.control(key="hf-of-the-test")
    hosts = {"my-endpoint.example": endpoint.url + "/hf", "vision.googleapis.com": vendors.url}
    monkeypatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setenv("HF_TOKEN", "hf-of-the-test")
    monkeypatch.setenv("GOOGLE_KEY", KEY)
    send = Client.send

    def to_loopback(client, message, timeout):
        url = urlsplit(message.url)
        assert url.scheme == "https"
        return send(client, replace(message, url=hosts[url.netloc] + url.path.rstrip("/")), timeout)

    monkeypatch.setattr(Client, "send", to_loopback)
    return names()


def budget(request):
    """A service that tells its tokens."""
    pytest.importorskip("httpx")
    pytest.importorskip("uvicorn")
    from servers.running import running
    from servers.shared import Own

    from blackvip.scorers.http import HTTPScorer

    stack = contextlib.ExitStack()
    request.addfinalizer(stack.close)
    service = stack.enter_context(running())
    service.control(tells=[{"usage": {"input_tokens": 80, "output_tokens": 1}}])
    request.getfixturevalue("monkeypatch").setenv("A_KEY", "of-the-test")
    known = names(HTTPScorer=HTTPScorer, url=service.url + "/own", adapter=Own())
    known["clf"] = BlackVIPClassifier(known["score_fn"], "a photo of a {}.")
    return {**known, "image": known["X"][0]}


PAGES = {
    "README.md": photos,
    "quickstart.md": photos,
    "did_it_help.md": guide,
    "saving.md": guide,
    "budget.md": budget,
    "guide.md": guide,
    "faults.md": faults,
    "clusters.md": clusters,
    "limits.md": limits,
    "paper.md": paper,
    "services.md": services,
    "which_service.md": services,
}


#: What is run in place of a page's settings, which would take a minute, even with a toy service.
CHEAPER = {
    "README.md": ("image_shape=(224, 224)", "image_shape=(16, 16)"),
    "quickstart.md": ("image_shape=(224, 224)", "image_shape=(16, 16)"),
    "paper.md": ("max_queries=[4_000, 16_000],\n    seeds=(0, 1, 2)", "max_queries=[600, 1_200],\n    seeds=(0,)"),
}


# The tests


def _keep_only(names):
    for name in CORRECTIONS.keys() - names:
        del CORRECTIONS[name]


@pytest.mark.slow
@pytest.mark.parametrize("page", BLOCKS, ids=lambda page: page.name)
def test_blocks_run_and_print_what_stands_below_them(page, request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # What a page adds to the table of corrections leaves it with the page.
    request.addfinalizer(functools.partial(_keep_only, set(CORRECTIONS)))
    known = PAGES.get(page.name, lambda request: {})(request)
    known["__name__"] = "__main__"
    cheaper = CHEAPER.get(page.name, ("", ""))
    assert any(cheaper[0] in block.code for block in BLOCKS[page])
    for block in BLOCKS[page]:
        if block.reason:
            continue
        printed = io.StringIO()
        code = compile("\n" * block.line + block.code.replace(*cheaper), str(page), "exec")
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("error")
            for category in (ClassPromptWarning, PromptNotUsedWarning):  # of toy data and services
                warnings.simplefilter("ignore", category)
            exec(code, known)
        if block.output is not None:
            same = doctest.OutputChecker().check_output(
                block.output, printed.getvalue(), doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            )
            assert same, f"{page.name}, line {block.line}: it printed\n{printed.getvalue()}"


def test_blocks_that_are_not_run_are_few_and_say_why():
    reasons = [f"{page.name}, line {block.line}: {block.reason}"
               for page, blocks in BLOCKS.items() for block in blocks if block.reason]  # fmt: skip
    print("\n".join(reasons))
    assert len(reasons) <= MOST_NOT_RUN, reasons
    for page, blocks in BLOCKS.items():
        marked = page.read_text(encoding="utf-8").count("<!-- not run")
        assert marked == sum(block.reason is not None for block in blocks), f"{page.name}: a mark is above no block"


def commands():
    """(page, command) for the commands in blocks and within sentences."""
    for page in DOCUMENTS:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        lines = re.findall(r"^(?: {4}|\$ ?|)((?:python|make|pip|git) .+)$", text, re.MULTILINE)
        lines = [line for line in lines if re.search(rf"^(?: {{4}}|\$ ?){re.escape(line)}$", text, re.MULTILINE)]
        inline = re.findall(r"`((?:python|make|pip) [^`]+)`", text)
        for command in dict.fromkeys(lines + inline):
            yield page.name, command.partition(" #")[0].strip()


COMMANDS = list(commands())


@functools.cache
def help_of(script):
    """What the script prints, run in this process: a new one would import torch again."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", [script, "--help"])
        patch.syspath_prepend((ROOT / script).parent)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / script), run_name="__main__")
    assert not ended.value.code
    return printed.getvalue()


@pytest.mark.slow
def test_scripts_and_options_that_pages_name_exist():
    scripts = {}
    for page, command in COMMANDS:
        words = shlex.split(command)
        script = words[1] if words[0] == "python" else ""
        if script.startswith(("benchmarks/", "examples/", "tools/", "tests/")):
            assert (ROOT / script).is_file(), f"{page}: {command}"
            options = {word.partition("=")[0] for word in words if word.startswith("--")}
            scripts.setdefault(script, {}).update(dict.fromkeys(options, page))
    assert len(scripts) >= 5
    for script, options in scripts.items():
        for option, page in options.items():
            assert re.search(rf"{option}\b", help_of(script)), f"{page}: {script} has no option {option}"


def test_targets_and_extras_that_pages_name_exist():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = set(config["options.extras_require"])
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = [command for _, command in COMMANDS if command.startswith("make ")]
    assert {next(word for word in command.split()[1:] if "=" not in word) for command in asked} <= targets
    installed = [line for page in DOCUMENTS for line in re.findall(r"pip install.*", page.read_text(encoding="utf-8"))]
    listed = {extra for line in installed for group in re.findall(r"\[([\w,]+)\]", line) for extra in group.split(",")}
    assert {"http", "aws"} <= listed <= extras


def test_a_block_its_output_and_its_mark_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n```python\nprint(1)\nprint(2)\n```\n\n    1\n    2\n\nText.\n\n"
        "<!-- not run: no GPU -->\n```python\nrun()\n```\n\nText.\n\n    make it\n"
    )
    first, second = blocks_of(page)
    assert (first.line, first.code, first.output, first.reason) == (3, "print(1)\nprint(2)\n", "1\n2\n", None)
    assert (second.code, second.output, second.reason) == ("run()\n", None, "no GPU")
