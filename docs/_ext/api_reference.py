"""What the API reference shows, and what a `name` in a docstring links to."""

import inspect

from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxRole
from sphinx.util.nodes import make_refnode


def inherited_from_elsewhere(app, what, name, thing, skip, options):
    """Autodoc's hook: members that estimators inherit from scikit-learn are left out; None asks the next hook."""
    function = thing.fget if isinstance(thing, property) else inspect.unwrap(thing) if callable(thing) else thing
    module = getattr(function, "__module__", None)
    return True if module and not module.startswith("blackvip") else None


class NameRole(SphinxRole):
    """`name`: code, which links to what the reference has under it, if anything: parameters have names too."""

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
    """Sphinx's hook for what it does not find: a submodule speaks of `SPSA`, and the reference has blackvip.SPSA."""
    if not node.get("any_name"):
        return None
    domain = env.domains.python_domain
    name = f"blackvip.{node['reftarget']}"
    entry = domain.objects.get(name)
    if entry is None:
        return content
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, name)


def setup(app):
    app.setup_extension("sphinx.ext.autodoc")
    app.add_role("name", NameRole())
    app.connect("autodoc-skip-member", inherited_from_elsewhere)
    app.connect("missing-reference", top_level_or_plain)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
