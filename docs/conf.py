"""How Sphinx builds these pages: `sphinx-build -W docs docs/_build`."""

import logging

from phpmq import __version__

project = "phpmq"
author = "The phpmq developers"
copyright = author
release = version = __version__

extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"

# A section of index.md may be without a page; Sphinx has no option that says so.
logging.getLogger("sphinx.sphinx.directives.other").addFilter(lambda record: "toctree glob" not in record.msg)
