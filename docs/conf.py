"""How the site is built: sphinx-build -W docs docs/_build."""

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "mdsens"
author = "the mdsens developers"
release = importlib.metadata.version("mdsens")

extensions = ["sphinx.ext.autodoc", "myst_nb", "sphinx_copybutton", "docstrings", "mathml", "notebooks", "commands"]
exclude_patterns = ["_build", "generated"]
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!mdsens\.).*")]  # types of other projects, whose sites are not asked

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
nb_execution_mode = "off"  # notebooks are shown as they were stored; tests/test_notebooks.py runs them

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints = "none"  # _ext/docstrings.py shows them as they are written
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
add_module_names = False

smartquotes = False  # --options stay as they are typed
html_theme = "furo"
html_title = f"mdsens {release}"
html_static_path = ["_static"]
html_css_files = ["mdsens.css"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False
html_show_copyright = False
copybutton_exclude = ".linenos, .gp"
