"""Importing costs nothing: no heavy module, no device, no changed setting; layers stay apart."""

import ast
import functools
import importlib
import json
import operator
import pkgutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import jaxmul

ROOT = Path(jaxmul.__file__).parent
EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SCRIPT = '\nif __name__ == "__main__":'

HEAVY = (
  *("equinox", "matplotlib", "orbax", "scipy", "sklearn", "tensorflow", "tensorflow_datasets"),
  *("datasets", "grain", "pandas", "polars", "safetensors", "torch"),
)

PROBE = """
import json, sys
import jax
from jax._src import xla_bridge
before = dict(jax.config.values)
import {modules}
print(json.dumps({{
  "loaded": sorted({{name.split(".")[0] for name in sys.modules}}),
  "modules": [name for name in sys.modules if name.count(".") == 1],
  "devices": xla_bridge.backends_are_initialized(),
  "changed": [k for k, v in jax.config.values.items() if k in before and before[k] != v],
}}))
"""


def probe(code):
  result = subprocess.run(
    [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
  )
  assert result.returncode == 0, result.stderr
  return json.loads(result.stdout)


def test_importing_loads_nothing_heavy_touches_no_device_and_no_setting():
  found = probe(
    PROBE.format(
      modules="jaxmul, jaxmul.proxies, jaxmul.train, jaxmul.models, jaxmul.data, jaxmul.hub"
    )
  )
  assert "flax" in found["loaded"]
  assert not set(HEAVY) & set(found["loaded"])
  assert "flax.nnx" not in found["modules"]
  assert found["devices"] is False
  assert found["changed"] == []


def test_the_package_alone_does_not_even_import_jax():
  loaded = probe("import json, sys, jaxmul; print(json.dumps(sorted(sys.modules)))")
  assert not {"jax", "flax", "numpy", "jaxmul.train"} & set(loaded)


def test_submodules_and_names_load_when_named():
  assert jaxmul.proxies.curvature is not None
  assert jaxmul.bind is jaxmul.binding.bind
  assert {"bind", "proxies", "train"} <= set(dir(jaxmul))
  with pytest.raises(AttributeError, match="module 'jaxmul' has no attribute 'curvature'"):
    operator.attrgetter("curvature")(jaxmul)


FIRST = """
import importlib, json, pkgutil, sys
import jaxmul
found = {}
names = {each.name for each in pkgutil.iter_modules(jaxmul.__path__)} - {"__main__"}
for name in sorted(names):
  for loaded in [each for each in sys.modules if each.startswith("jaxmul.")]:
    del sys.modules[loaded]
  try:
    importlib.import_module(f"jaxmul.{name}")
  except ImportError as error:
    found[name] = str(error)
print(json.dumps([len(found), found]))
"""


def test_every_module_and_package_can_be_the_first_that_is_imported():
  assert probe(FIRST) == [0, {}]


def imports(path):
  """Top-level names of every import in a file, wherever in the file it stands."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name.split(".")[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      names.add(node.module.split(".")[0])
  return names


ALLOWED = {
  "flax": {"models"},
  "orbax": {"checkpoint.py"},
  "tensorflow_datasets": {"data"},
  "datasets": {"data"},
  "safetensors": {"hub"},
  "grain": {"_read_ahead.py"},
  "equinox": set(),
  "experiments": set(),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_only_the_layer_that_owns_a_dependency_imports_it(name):
  files = list(ROOT.rglob("*.py"))
  assert len(files) > 20
  users = {path.relative_to(ROOT).parts[0] for path in files if name in imports(path)}
  assert users <= ALLOWED[name]


MESHES = {"Mesh", "NamedSharding", "PartitionSpec", "shard_map", "make_mesh", "set_mesh"}


def test_only_one_module_knows_meshes():
  def names(path):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.ImportFrom):
        yield from (alias.name for alias in node.names)
      elif isinstance(node, ast.Attribute):
        yield node.attr

  knowing = {path.name for path in ROOT.rglob("*.py") if MESHES & set(names(path))}
  assert knowing == {"_sharding.py"}


# What a layer may not know: those above it.
ABOVE = {
  "data": {"memorization", "metrics", "models", "proxies", "retraining", "rum", "train", "unlearn"},
  "train": {"memorization", "metrics", "proxies", "retraining", "rum", "unlearn"},
  "retraining": {"memorization", "metrics", "proxies", "report", "rum", "testing", "unlearn"},
  "memorization": {"metrics", "proxies", "report", "rum", "testing", "unlearn"},
  "metrics": {"memorization", "proxies", "report", "rum", "testing", "unlearn"},
}


def packages_of(path):
  """What a file imports of jaxmul: the names right below it, wherever in the file it stands."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module == "jaxmul":
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and node.module[:7] == "jaxmul.":
      yield node.module.split(".")[1]
    elif isinstance(node, ast.Import):
      yield from (alias.name.split(".")[1] for alias in node.names if alias.name[:7] == "jaxmul.")


@pytest.mark.parametrize("layer", ABOVE)
def test_a_layer_does_not_know_those_above_it(layer):
  one = ROOT / f"{layer}.py"
  files = [one] if one.exists() else list((ROOT / layer).rglob("*.py"))
  known = {name for path in files for name in packages_of(path)}
  assert known & ({layer, "data", "losses", "_identity", "_check"} | set(ABOVE)), files
  assert not known & ABOVE[layer]


@functools.cache
def packages():
  """Every folder of the library that is a package, by its dotted name."""
  folders = [path.parent for path in ROOT.rglob("__init__.py")]
  return sorted(".".join(folder.relative_to(ROOT.parent).parts) for folder in folders)


@pytest.mark.parametrize("name", packages())
def test_no_module_has_the_name_of_something_that_its_package_exports(name):
  """`package.name` would be the function, and the module could not be reached by its name."""
  package = importlib.import_module(name)
  modules = {module.name for module in pkgutil.iter_modules(package.__path__)} - {"__main__"}
  for module in modules:
    importlib.import_module(f"{name}.{module}")
  exported = {key for key, each in vars(package).items() if not isinstance(each, types.ModuleType)}
  assert not modules & exported


def imported(path):
  """Yields (module, name) of every import of ours in a file, from files as from packages."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module:
      yield from ((node.module, alias.name) for alias in node.names)
    elif isinstance(node, ast.Import):
      yield from ((alias.name, "") for alias in node.names)


def private(folder, module, name):
  """Whether an import from a folder takes what is private to another package.

  Modules beside the packages, such as `jaxmul._ids`, are the library's own and free to all of it;
  but no name with an underscore is free to another folder than that of its module.
  """
  parts = [*module.split("."), name]
  first = next((at for at, part in enumerate(parts) if part.startswith("_")), None)
  if parts[0] != "jaxmul" or first is None:
    return False
  owner = parts[:first]
  while ".".join(owner) not in packages():
    owner.pop()
  if owner == ["jaxmul"]:
    return name.startswith("_") and module != "jaxmul" and folder != "jaxmul"
  return folder.split(".")[: len(owner)] != owner


@pytest.mark.parametrize(
  ("folder", "module", "name", "expected"),
  [
    ("jaxmul.rum", "jaxmul", "_ids", False),
    ("jaxmul.rum", "jaxmul._ties", "scattered", False),
    ("jaxmul.rum", "jaxmul._ids", "_first", True),
    ("jaxmul.rum", "jaxmul.losses", "_mean", True),
    ("jaxmul.metrics.oracle", "jaxmul.metrics._controls", "Control", False),
    ("jaxmul.report", "jaxmul.metrics._controls", "Control", True),
    ("jaxmul", "jaxmul.models._init", "init", True),
    ("jaxmul.report", "jaxmul.metrics.figures_beside_oracles", "_klom", True),
    ("jaxmul.report", "jaxmul.metrics", "beside", False),
  ],
)
def test_what_counts_as_private(folder, module, name, expected):
  assert private(folder, module, name) == expected


def test_no_package_imports_what_is_private_to_another():
  found = []
  for path in ROOT.rglob("*.py"):
    folder = ".".join(path.relative_to(ROOT.parent).parent.parts)
    found += [(path.name, *each) for each in imported(path) if private(folder, *each)]
  assert found == []


def test_no_script_imports_another():
  scripts = {path.stem for path in EXPERIMENTS.glob("*.py") if SCRIPT in path.read_text()}
  assert {"rum", "paper", "unlearn", "memorize", "score", "evaluate"} <= scripts
  found = [
    (path.name, module, name)
    for path in EXPERIMENTS.glob("*.py")
    for module, name in imported(path)
    if (module == "experiments" and name in scripts)
    or (module.startswith("experiments.") and module.split(".")[1] in scripts)
  ]
  assert found == []
