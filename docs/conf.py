"""Configuration of the documentation. ``make docs`` builds it without a network, and fails on a warning.

Pages are Markdown. The API reference is generated from docstrings. The gallery runs the programs in ``examples/``.
Formulas become MathML, so pages need no script.
"""

import os
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
# Without weights, an example says so at once instead of waiting for a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import blackvip  # noqa: E402
from blackvip.training import progress  # noqa: E402


class HiddenBar(progress._Bar):
    """No bar: the gallery would print every state of it."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **{**settings, "disable": True})


progress._Bar = HiddenBar

project = "blackvip"
author = "the blackvip developers"
project_copyright = author
version = release = blackvip.__version__

extensions = [
    "api_reference",
    "mathml",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "**/README.md"]
templates_path = ["_templates"]
nitpicky = True
# The inventories of other projects are on the network.
nitpick_ignore_regex = [
    ("py:.*", r"(numpy|torch|sklearn|collections|PIL|cmaes)\b.*"),
]

html_theme = "furo"
html_title = f"blackvip {release}"
html_static_path = ["_static"]
html_css_files = ["blackvip.css"]
html_theme_options = {"navigation_with_keys": True}
html_show_copyright = False
html_copy_source = False
html_math_renderer = "mathml"

# Readers type "auto" with straight quotes.
smartquotes = False
# `name` in a docstring links to its entry in the reference.
default_role = "name"
autosummary_generate = True
# The numpydoc sections state types, with shapes and ranges.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
# The class template lists the members.
numpydoc_show_class_members = False

myst_enable_extensions = ["dollarmath", "colon_fence"]
# Prices are no formulas.
myst_dmath_allow_space = False
myst_dmath_allow_digits = False
myst_heading_anchors = 3
# sphinx-gallery's settings contain functions, which Sphinx cannot compare between builds.
suppress_warnings = ["config.cache"]

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    # The gallery runs all examples except remote_service, which starts its own file in another process.
    "filename_pattern": r"/(?!remote_service)\w+\.py$",
    # clusters.md describes the cluster example.
    "ignore_pattern": r"(__init__|cluster)\.py$",
    "reset_modules": ("gallery.limit", "matplotlib"),
    "reset_modules_order": "both",
    "abort_on_example_error": False,
    "only_warn_on_example_error": False,
    "capture_repr": ("_repr_html_", "__repr__"),
    "plot_gallery": "True",
    "download_all_examples": False,
    "show_memory": False,
    "remove_config_comments": True,
    "nested_sections": False,
    "within_subsection_order": "gallery.ReadingOrder",
    "default_thumb_file": str(HERE / "_static" / "example.svg"),
    # Seconds. Times depend on what else the machine does, so none are reported.
    "min_reported_time": 3600,
    "write_computation_times": False,
}
