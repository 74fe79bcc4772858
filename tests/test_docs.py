"""The documentation: its Python runs, links lead to files, API pages lack nothing public."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MODULE = re.compile(r"\.\. currentmodule:: (\S+)|\.\. auto(?:function|class|data):: (\S+)")


@pytest.mark.parametrize(
  "page",
  ["start", "data", "sequences", "muse", "extending", "autopilot", "deletion", "exact", "tpu"],
)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  tokens = MarkdownIt().parse((DOCS / f"{page}.md").read_text())
  blocks = [token for token in tokens if token.type == "fence" and token.info == "python"]
  names = {}
  for block in blocks:
    exec(compile(block.content, f"{page}.md, line {block.map[0]}", "exec"), names)
  if page == "start":  # the five minutes end better than doing nothing, by both figures
    assert names["gap"]["another oracle"] < names["gap"]["RUM"] < names["gap"]["original"] - 0.05
    assert names["tow"]["RUM"] > names["tow"]["original"] + 0.1


def test_the_seeds_of_the_evaluation_page_unlearn_with_keys_of_their_own():
  """One key for all of them gives seeds that are not independent."""
  text = (DOCS / "evaluation.md").read_text()
  blocks = [token for token in MarkdownIt().parse(text) if token.info == "python"]
  loops = [
    node for block in blocks for node in ast.parse(block.content).body if isinstance(node, ast.For)
  ]
  runs = 0
  for loop in loops:
    own = {node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)}
    for call in ast.walk(loop):
      if isinstance(call, ast.Call) and ast.unparse(call.func) == "unlearn.run":
        runs += 1
        assert {node.id for node in ast.walk(call.args[4]) if isinstance(node, ast.Name)} & own
  assert runs


@pytest.mark.parametrize(
  "page", [ROOT / "README.md", *DOCS.glob("*.md")], ids=lambda page: page.stem
)
def test_relative_links_lead_to_files_of_the_repository(page):
  for token in MarkdownIt().enable("table").parse(page.read_text()):
    for child in token.children or ():
      link = str(child.attrs.get("href") or child.attrs.get("src") or "")
      path = link.partition("#")[0]
      assert "://" in link or (page.parent / path).exists(), link


def columns(page: str) -> list[str]:
  """Returns the code in the last cells of the tables of two columns of a page."""
  rows = [line.strip("| ").split(" | ") for line in (DOCS / f"{page}.md").read_text().splitlines()]
  return [code for row in rows if len(row) == 2 for code in re.findall(r"`([^`]+)`", row[1])]


def named(code: str):
  """Returns what a dotted name of the page is: of jaxmul, or of one of the modules it is about."""
  import jaxmul
  from jaxmul import data, hub, metrics, models, proxies, unlearn

  around = (jaxmul, unlearn, proxies, models, data, hub, metrics.sequences, metrics.extraction)
  *modules, name = code.split(".")
  owners = [importlib.import_module(".".join(("jaxmul", *modules)))] if modules else around
  return next((getattr(owner, name) for owner in owners if hasattr(owner, name)), None)


def test_the_page_for_users_of_other_code_names_what_exists():
  codes = columns("from-open-unlearning")
  functions, keywords = [], []
  for code in codes:
    filled = re.sub(r"=(?=[,)]|$)", "=...", code)
    if re.match(r"\w+=", filled):
      filled = f"({filled})"
      keywords.append(ast.parse(f"_{filled}").body[0].value.keywords[0].arg)
      continue
    (whole,) = ast.parse(filled).body
    for node in ast.walk(whole):
      if isinstance(node, ast.Call):
        function = named(ast.unparse(node.func))
        parameters = inspect.signature(function).parameters
        assert {keyword.arg for keyword in node.keywords} <= set(parameters), code
        functions.append(function)
    if not isinstance(whole.value, ast.Call):
      functions.append(named(code))
      keywords += [code] * (functions[-1] is None)
  known = {name for f in functions if callable(f) for name in inspect.signature(f).parameters}
  assert set(keywords) <= known, set(keywords) - known
  assert len(functions) > 40
  assert len(keywords) > 5


def shown() -> dict[str, list[str]]:
  """Returns {module: names} of the API pages."""
  found: dict[str, list[str]] = {}
  for page in (DOCS / "api").glob("*.rst"):
    module = ""
    for new, name in MODULE.findall(page.read_text()):
      module = new or module
      found.setdefault(module, []).extend([name] if name else [])
  return found


def public(name: str) -> set[str]:
  """Returns the public names of a module: those in `__all__`, or defined in it."""
  module = importlib.import_module(name)
  here = [key for key, each in vars(module).items() if getattr(each, "__module__", "") == name]
  names = getattr(module, "__all__", [key for key in here if not key.startswith("_")])
  return {each for each in names if not inspect.ismodule(getattr(module, each))}


@pytest.mark.parametrize(("module", "names"), shown().items())
def test_api_pages_show_every_public_name(module, names):
  assert sorted(names) == sorted(public(module) - {"__version__"})


def test_every_public_module_has_a_page():
  import jaxmul

  modules = {f"jaxmul.{each}" for each in jaxmul.__all__ if inspect.ismodule(getattr(jaxmul, each))}
  assert {"jaxmul", *modules} <= set(shown())
