"""Settings of the site: `bash launch/docs.sh` builds it."""

import pathlib
import re

import cbjax
from cbjax.config.schema import KEYS

HERE = pathlib.Path(__file__).parent
project, author, release = "cbjax", "the authors of cbjax", cbjax.__version__
copyright = "Apache License 2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]

html_theme = "sphinx_book_theme"  # that of JAX and Optax
html_title = f"cbjax {release}"
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True}
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_sourcelink_suffix = ""

# A link to a page or a heading that is not there ends the build. Addresses elsewhere are looked up only by
# `bash launch/docs.sh -b linkcheck`, so that a site that is down stops nobody.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "dollarmath"]

# Tests run the code of the pages, and notebooks bring their outputs.
nb_execution_mode = "off"

autodoc_default_options = {"members": True, "member-order": "bysource"}
autosummary_generate = False
autodoc_typehints = "none"  # the signature is easier to read with the types in the text
autodoc_preserve_defaults = True
napoleon_use_ivar = True
default_role = "code"  # docstrings write `name`


# Sphinx reads only what is below this folder, so notebooks are copied, with links that hold here. Unchanged ones are
# not written again, so that they come from the cache.
(HERE / "notebooks").mkdir(exist_ok=True)
for notebook in sorted((HERE.parent / "notebooks").glob("*.ipynb")):
    text, copy = notebook.read_text().replace("](../docs/", "](../"), HERE / "notebooks" / notebook.name
    if not copy.exists() or copy.read_text() != text:
        copy.write_text(text)


def tables_of_keys():
    """Returns a table of the keys for each section, from the schema."""
    parts, section = [], None
    for key, (default, kind, doc) in KEYS.items():
        if key.rpartition(".")[0] != section:
            section = key.rpartition(".")[0]
            parts.append(f"\n## {section or 'The run'}\n\n| key | default | what it does | values |\n|---|---|---|---|")
        cells = (f"`{key}`", "" if default is None else f"`{default}`", doc, kind.rule)
        parts.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(parts)


def fill_in(app, name, source):
    """Fills in what is not written by hand, or what GitHub, which shows these files too, would show as noise."""
    if name == "methods/README":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n*\n```\n"
    if name == "keys":
        source[0] = source[0].replace("<!-- keys -->", tables_of_keys())


def is_repeated(app, what, name, member, skip, options):
    """Leaves out the fields of a named tuple, which its docstring tells."""
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field number") else None


def as_written(app, what, name, member, options, lines):
    """Keeps Sphinx from taking a word that ends in an underscore, such as many_, for a link."""
    lines[:] = [re.sub(r"(\w)_(?=[^\w`])", r"\1\\_", line) for line in lines]


def setup(app):
    """Called by Sphinx."""
    app.connect("source-read", fill_in)
    app.connect("autodoc-skip-member", is_repeated)
    app.connect("autodoc-process-docstring", as_written)
