"""The documentation site: `make docs`. It builds without a network.

Before a build, `generate.py` writes the pages that are made from the code.
"""

import os
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Notebooks start in a process of their own.
os.environ["PYTHONPATH"] = str(HERE.parent)

import generate  # noqa: E402

import pausejax  # noqa: E402

project = "pausejax"
author = "The pausejax authors"
release = version = pausejax.__version__

extensions = [
  "myst_nb",
  "sphinx.ext.autodoc",
  "sphinx.ext.napoleon",
  "sphinx_copybutton",
]
source_suffix = {".md": "myst-nb"}
# A build executes the notebooks in `jupyter_execute`.
exclude_patterns = ["_build", "jupyter_execute"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
nb_render_markdown_format = "gfm"  # Tables.
autodoc_member_order = "bysource"
default_role = "code"  # `name` in a docstring.
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "sphinx_book_theme"
html_title = f"pausejax {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"navbar_persistent": []}


def setup(app) -> None:
  """Writes the generated pages before Sphinx looks for its sources."""
  generate.write(HERE / "generated")
