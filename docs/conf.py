"""Sphinx configuration: MyST pages, the API from docstrings, the configuration reference from the dataclasses."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]

import scotd_jax  # noqa: E402

project = "scotd_jax"
author = "The scotd_jax authors"
copyright = author
release = version = scotd_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "config_reference",
    "plain_docstrings",
]
exclude_patterns = ["_build", "_ext", "**.ipynb_checkpoints"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
# The notebook is executed by the test suite; the pages show its committed output.
nb_execution_mode = "off"

smartquotes = False  # quotes in descriptions are values

html_theme = "furo"
html_title = "scotd_jax"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sphinx = False
html_copy_source = False

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Types in signatures are often of JAX and NumPy, or of modules that have no page.
nitpick_ignore_regex = [("py:(class|data|obj|exc|func)", r".*")]
suppress_warnings = ["config.cache"]
