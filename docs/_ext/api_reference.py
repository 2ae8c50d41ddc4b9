"""Hooks that decide what the API reference shows and what a `name` in a docstring links to."""

import inspect
import re

from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxRole
from sphinx.util.nodes import make_refnode


def inherited_from_elsewhere(app, what, name, thing, skip, options):
    """Autodoc hook that leaves out members inherited from scikit-learn. None passes the question to the next hook."""
    function = thing.fget if isinstance(thing, property) else inspect.unwrap(thing) if callable(thing) else thing
    module = getattr(function, "__module__", None)
    return True if module and not module.startswith("blackvip") else None


_NO_REFERENCE = re.compile(r"(``.+?``|`[^`]*`)|\b([A-Za-z]\w*)_(?!\w)")


def names_are_no_references(app, what, name, thing, options, lines):
    """Autodoc hook that stops a shape such as (n_features_,) from becoming a reStructuredText reference.

    It runs after numpydoc's hook.
    """
    in_session = False
    for number, line in enumerate(lines):
        in_session = line.lstrip().startswith(">>>") or (in_session and bool(line.strip()))
        if not in_session:
            lines[number] = _NO_REFERENCE.sub(lambda match: match[1] or f"{match[2]}\\_", line)


class NameRole(SphinxRole):
    """Role for `name`: code, with a link if the reference has that name. Parameters have none."""

    def run(self):
        reference = addnodes.pending_xref(
            self.rawtext,
            nodes.literal(self.rawtext, self.text),
            refdomain="py",
            reftype="obj",
            reftarget=self.text.removesuffix("()"),
            refexplicit=False,
            refdoc=self.env.docname,
            any_name=True,
            **{key: self.env.ref_context.get(key) for key in ("py:module", "py:class")},
        )
        return [reference], []


def top_level_or_plain(app, env, node, content):
    """Sphinx hook that links a name such as `SPSA`, used in a submodule, to blackvip.SPSA."""
    if node.get("refdomain") != "py":
        return None
    name = f"blackvip.{node['reftarget']}"
    entry = env.domains.python_domain.objects.get(name)
    if entry is None:
        return content if node.get("any_name") else None
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, name)


def setup(app):
    app.setup_extension("sphinx.ext.autodoc")
    app.add_role("name", NameRole())
    app.connect("autodoc-skip-member", inherited_from_elsewhere)
    app.connect("autodoc-process-docstring", names_are_no_references, priority=900)
    app.connect("missing-reference", top_level_or_plain)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
