"""Renderer that writes formulas as MathML, which browsers display without script, network or LaTeX."""

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import SphinxError


def formula(writer, node, block=False):
    try:
        return tex2mathml(node.astext(), as_block=block)
    except MathError as error:
        where = f"{node.source}:{node.line}"
        raise SphinxError(f"{where}: cannot parse the formula {node.astext()!r}: {error}") from error


def visit_inline(writer, node):
    writer.body.append(formula(writer, node))
    raise nodes.SkipNode


def visit_block(writer, node):
    writer.body.append(f'<div class="math">{formula(writer, node, block=True)}</div>')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
