"""Links resolve, every page is in the contents, and the reference has every public name."""

import collections
import importlib
import pathlib
import re
import signal
from urllib.parse import unquote

import pytest

import blackvip
from blackvip.documentation import Documented

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *DOCS.glob("api/*.md")])
GALLERY = "auto_examples"  # in docs/, built by sphinx-gallery
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

#: Modules with public names; each has an `__all__`.
PUBLIC = (
    "blackvip",
    "blackvip.datasets",
    "blackvip.datasets.readers",
    "blackvip.comparison.presets",
    "blackvip.demo",
    "blackvip.encoders",
    "blackvip.heads",
    "blackvip.losses",
    "blackvip.optimizers",
    "blackvip.persistence",
    "blackvip.prompters",
    "blackvip.scorers",
    "blackvip.scorers.http",
)

_FENCE = re.compile(r"^(```+|~~~+).*?^\1\s*?$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^)\s>]+)>?\)")
_HEADING = re.compile(r"^#{1,6} +(.+?)\s*#*$", re.MULTILINE)


def prose(page):
    """Text of a page without its code blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page):
    """Anchors of a page's headings, as GitHub and MyST make them."""
    seen = collections.Counter()
    found = set()
    for heading in _HEADING.findall(prose(page)):
        text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def broken_links(page):
    for target in _LINK.findall(re.sub(r"(`+).+?\1", "", prose(page))):
        if re.match(r"[a-z][a-z+.-]*:", target):  # another host
            continue
        path, _, anchor = unquote(target).partition("#")
        if path.startswith((f"{GALLERY}/", f"docs/{GALLERY}/")):
            continue  # built from examples/, see below
        other = (page.parent / path).resolve() if path else page
        if not other.exists():
            yield f"{target}: there is no such file"
        elif anchor and other.suffix == ".md" and anchor not in anchors(other):
            yield f"{target}: {other.name} has no such heading; it has {', '.join(sorted(anchors(other)))}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_resolve(page):
    assert not list(broken_links(page))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_pages_of_the_gallery_have_their_example(page):
    for name in re.findall(rf"{GALLERY}/(\w+)", page.read_text(encoding="utf-8")):
        assert name == "index" or (ROOT / "examples" / f"{name}.py").exists(), name


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_files_that_are_named_exist(page):
    named = re.findall(r"(?<![\w/.-])(?:tests|benchmarks|examples|tools)/[\w/]+\.\w+", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A `b`, c\n[x](#a-b-c) [y](#nowhere) ![z](none.png) `[code](no.md)`\n```\n[no](no.md)\n```\n")
    assert [found.partition(":")[0] for found in broken_links(page)] == ["#nowhere", "none.png"]


def test_every_page_is_in_the_contents():
    """A new page goes into a toctree of docs/index.md or docs/research.md."""
    contents = "\n".join((DOCS / name).read_text(encoding="utf-8") for name in ("index.md", "research.md"))
    listed = {
        line for block in re.findall(r"^```\{toctree\}(.*?)^```", contents, re.M | re.S) for line in block.split()
    }
    pages = {str(page.relative_to(DOCS).with_suffix("")) for page in PAGES if DOCS in page.parents} - {"index"}
    assert pages - listed == set()


def in_reference():
    """Dotted names in docs/api/index.md, in order."""
    module, names = "", []
    for line in (DOCS / "api" / "index.md").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\.\. (?:current)?module:: (\S+)", line):
            module = match[1]
        elif match := re.fullmatch(r"   ([A-Za-z_][\w.]*)", line):
            names.append(f"{module}.{match[1]}")
    return names


def resolve(dotted):
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_every_public_name_is_in_the_reference_once():
    listed = in_reference()
    assert [name for name, count in collections.Counter(listed).items() if count > 1] == []
    documented = [(name.rpartition(".")[2], resolve(name)) for name in listed]
    for module in map(importlib.import_module, PUBLIC):
        for name in module.__all__:
            thing = getattr(module, name)
            times = sum(listed_name == name and listed_thing is thing for listed_name, listed_thing in documented)
            assert times == 1, f"docs/api/index.md lists {module.__name__}.{name} {times} times; expected once"


def test_the_reference_has_no_other_names():
    promised = {(name, id(getattr(module, name))) for module in map(importlib.import_module, PUBLIC)
                for name in module.__all__}  # fmt: skip
    for dotted in in_reference():
        assert (dotted.rpartition(".")[2], id(resolve(dotted))) in promised, dotted


def test_links_of_notebook_diagrams_are_pages_of_the_reference():
    documented = [thing for thing in map(blackvip.__dict__.get, blackvip.__all__)
                  if isinstance(thing, type) and issubclass(thing, Documented)]  # fmt: skip
    assert documented
    for thing in documented:
        link = thing._doc_link_template.format(url="", name=thing.__name__)
        assert pathlib.Path(link).suffix == ".html"
        assert link.removeprefix("api/").removesuffix(".html") in in_reference()


def test_an_example_that_does_not_end_is_stopped(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    gallery = importlib.import_module("gallery")
    monkeypatch.setattr(gallery, "SECONDS", 1)
    gallery.limit({}, "examples/endless.py", "before")
    try:
        with pytest.raises(TimeoutError, match="endless"):
            signal.pause()
    finally:
        gallery.limit({}, "examples/endless.py", "after")
    assert signal.alarm(0) == 0  # no alarm is left


def test_formulas_become_mathml_or_an_error_that_names_them(tmp_path):
    sphinx = pytest.importorskip("sphinx.application")
    pytest.importorskip("myst_parser")
    (tmp_path / "conf.py").write_text(
        f"import sys; sys.path.insert(0, {str(DOCS / '_ext')!r})\n"
        "extensions = ['mathml', 'myst_parser']\nmyst_enable_extensions = ['dollarmath']\n"
        "html_math_renderer = 'mathml'\nhtml_theme = 'basic'\n"
    )

    def built(text):
        (tmp_path / "index.md").write_text(f"# Page\n\n{text}\n")
        app = sphinx.Sphinx(tmp_path, tmp_path, tmp_path / "html", tmp_path / "trees", "html", status=None)
        app.build()
        return (tmp_path / "html" / "index.html").read_text(encoding="utf-8")

    html = built(r"$a_k = a / (k + o)^{\alpha}$")
    assert "<math" in html
    assert "<mi>α</mi>" in html
    with pytest.raises(Exception, match=r"index\.md.*nonsense"):
        built(r"$\nonsense{a}$")


def formulas():
    """Number and modules of each formula, from the table at the end of docs/method.md."""
    table = (DOCS / "method.md").read_text(encoding="utf-8").rpartition("\n## ")[2]
    for number, modules in re.findall(r"^\| (eq\. \d|\(B\d+\)) \|[^|]+\| (.+) \|$", table, re.MULTILINE):
        yield number, re.findall(r"`([\w/]+\.py)`", modules)


@pytest.mark.parametrize(("number", "modules"), formulas(), ids=lambda value: str(value) if value else "none")
def test_formulas_are_tagged_in_the_modules_that_compute_them(number, modules):
    assert modules
    for module in modules:
        text = (ROOT / "blackvip" / module).read_text(encoding="utf-8").replace("eq. 1 and 2", "eq. 1 and eq. 2")
        assert number in text, module


def test_tags_in_the_code_are_formulas_of_the_method():
    known = dict(formulas())
    text = (DOCS / "method.md").read_text(encoding="utf-8")
    for number in known:
        assert number.startswith("eq.") or f"\\mathrm{{{number.strip('()')}}}" in text, number
    for path in (ROOT / "blackvip").rglob("*.py"):
        for tag in re.findall(r"\(B\d+\)", path.read_text(encoding="utf-8")):
            assert str(path.relative_to(ROOT / "blackvip").as_posix()) in known.get(tag, []), f"{path}: {tag}"
