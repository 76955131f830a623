"""Configuration of the documentation; it builds without a network."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "episome"
author = "the episome developers"
project_copyright = f"2026, {author}"
version = release = importlib.metadata.version("episome")

extensions = [
    "myst_nb",
    "commands",
    "rooms",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
]

# a page whose package is not there is left out
_pages = {p.stem: f"episome.{p.stem}" for p in (HERE / "api").glob("*.md") if p.stem != "index"}
_pages |= {
    n: f"episome_{n}"
    for n in ("baselines", "crossmodal", "datamix", "scbert", "sctab", "sims", "ssl")
}
exclude_patterns = [
    "_build",
    "**.ipynb_checkpoints",
    *(f"api/{page}.md" for page, name in _pages.items() if importlib.util.find_spec(name) is None),
]

html_theme = "sphinx_book_theme"
html_title = f"episome {release}"
html_copy_source = False

nb_execution_mode = "off"  # notebooks are committed executed
nb_merge_streams = True  # one box for what a cell said, not one for every line
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
html_static_path = ["_static"]
html_css_files = ["output.css"]  # what a program said is wrapped, not cut
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "alpha"

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autosummary_generate = False  # the pages of `api/` list what a package exports
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_rtype = False
typehints_defaults = "braces"
always_use_bars_union = True

intersphinx_mapping = {
    "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
    "numpy": ("https://numpy.org/doc/stable/", None),
    "pandas": ("https://pandas.pydata.org/docs/", None),
    "python": ("https://docs.python.org/3/", None),
    "scipy": ("https://docs.scipy.org/doc/scipy/", None),
    "scvi": ("https://docs.scvi-tools.org/en/stable/", None),
    "torch": ("https://docs.pytorch.org/docs/stable/", None),
}
if not os.environ.get("READTHEDOCS"):
    # An inventory that cannot be fetched is a warning, and warnings are errors: without the
    # promise of a network none is fetched, and only references into this project are checked.
    intersphinx_mapping = {}
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!episome).*"),  # other projects: needs their inventories
    ("py:.*", r"episome\w*(\.\w+)*\._.*"),  # where a private module shows in a type
]

suppress_warnings = [
    # types behind TYPE_CHECKING of heavy packages are left as text
    "sphinx_autodoc_typehints.forward_reference",
    "sphinx_autodoc_typehints.guarded_import",
    # built on a machine without a network
    "intersphinx",
]
