"""Sphinx builds the site from the pages as they are: ``make docs``.

The source folder is the root of the repository, so that README.md and links from pages to results work unchanged.
"""

import re
from pathlib import Path

from sphinx.application import Sphinx

import attar

ROOT = Path(__file__).parents[1]

project = "attar"
author = "The attar developers"
copyright = author
version = release = attar.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/**.md", "benchmarks/NOTES.md"]
exclude_patterns = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in ("docs", "benchmarks")]
highlight_language = "text"
pygments_style = "tango"
pygments_dark_style = "monokai"

myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = f"attar {version}"
html_static_path = ["site"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "forward.html"}
templates_path = ["site"]
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}


def _unlink_folders(app: Sphinx, docname: str, source: list[str]) -> None:
    """Show links to folders as plain text: a code host lists a folder, the site has no page for it."""
    page = Path(app.srcdir) / docname

    def plain(match: re.Match[str]) -> str:
        return match[1] if (page.parent / match[2]).is_dir() else match[0]

    source[0] = re.sub(r"\[([^\[\]]+)\]\(([^()#\s]+)\)", plain, source[0])


def setup(app: Sphinx) -> None:
    """Connect the handler."""
    app.connect("source-read", _unlink_folders)
