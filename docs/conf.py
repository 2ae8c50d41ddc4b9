"""How the documentation is built: ``make docs``, which needs no network, and fails if there is a warning.

Pages are Markdown, and read well where they lie; the API reference comes from the docstrings, and the gallery from
``examples/``, each of which is run. Formulas become MathML, so that pages need no script from elsewhere.
"""

import functools
import os
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # an example that finds no weights says so, and waits for no network

import blackvip.progress  # noqa: E402
import tqdm  # noqa: E402

# A bar that moves is no output of an example: its hundred states would all be printed.
blackvip.progress.tqdm = functools.partial(tqdm.tqdm, file=open(os.devnull, "w"))  # noqa: SIM115

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
nitpick_ignore_regex = [  # objects of other projects, whose inventories are on the network
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

smartquotes = False  # "auto" is what is typed
default_role = "name"  # `name` in a docstring is a link where the reference has it
autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's sections tell types, with shapes and ranges
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # the class template lists them

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
suppress_warnings = [
    "config.cache",  # sphinx-gallery's settings hold functions, which Sphinx does not compare between builds
]

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    # All are run but one that starts itself again, in another process: here it is no file of its own.
    "filename_pattern": r"/(?!remote_service)\w+\.py$",
    "ignore_pattern": r"(__init__|cluster)\.py$",  # clusters.md tells of the latter
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
    "min_reported_time": 3600,  # seconds: how long an example takes depends on what else the machine does
    "write_computation_times": False,
}
