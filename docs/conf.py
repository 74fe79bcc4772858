"""The documentation site: `make docs` builds it into docs/_build/html/docs.

Its source is the whole repository, so that links to notebooks are the same on GitHub.
"""

import re

import jaxmul

project = "jaxmul"
author = "The jaxmul authors"
copyright = author
release = version = jaxmul.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "docs/index"
include_patterns = ["docs/**", "notebooks/**"]
exclude_patterns = ["docs/_build", ".git", ".venv", "runs"]  # not even looked through
html_theme = "furo"
html_title = "jaxmul"
html_show_copyright = False
html_extra_path = ["root"]  # its index.html leads to this site's first page

nb_execution_mode = "off"  # the tests run the notebooks; docs/gallery.md asks to be run
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 80
napoleon_use_ivar = True
napoleon_custom_sections = ["Returns"]  # prose: what stands before a colon is no type

TOKEN = re.compile(r"(`[^`]+`)|\[([^\]]+)\]\((\S+?)\)|(.[^`\[]*)", re.DOTALL)


def as_rest(text: str) -> str:
  """Returns Markdown, as docstrings are written, as reStructuredText."""

  def markup(found: re.Match[str]) -> str:
    code, words, url, other = found.groups()
    if other:
      return re.sub(r"([*|\\]|_\b)", r"\\\1", other)
    made = f"`{code}`" if code else f"`{words} <{url}>`__"
    before, after = text[: found.start()][-1:], text[found.end() :][:1]
    return "\\ " * before.isalnum() + made + "\\ " * after.isalnum()  # it may stand in a word

  return TOKEN.sub(markup, text)


def translate(app, what, name, obj, options, lines: list[str]) -> None:
  """Translates a docstring in place, all but its examples, which end at an empty line."""
  paragraphs = "\n".join(lines).split("\n\n")
  lines[:] = "\n\n".join(
    each if ">>> " in each else as_rest(each) for each in paragraphs
  ).splitlines()


def skip(app, what, name, obj, skipped: bool, options) -> bool | None:
  """Leaves out the fields of a NamedTuple: its docstring tells of them."""
  return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app) -> None:
  """Connects the two; the translation comes before napoleon's."""
  app.connect("autodoc-process-docstring", translate, priority=400)
  app.connect("autodoc-skip-member", skip)
