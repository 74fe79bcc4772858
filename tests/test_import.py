"""Importing costs nothing: no heavy module, no device, no changed setting; layers stay apart."""

import ast
import json
import operator
import subprocess
import sys
from pathlib import Path

import pytest

import jaxmul

ROOT = Path(jaxmul.__file__).parent

HEAVY = (
  *("equinox", "matplotlib", "orbax", "scipy", "sklearn", "tensorflow", "tensorflow_datasets"),
  "torch",
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
    PROBE.format(modules="jaxmul, jaxmul.proxies, jaxmul.train, jaxmul.models, jaxmul.data")
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
  "metrics": {"memorization", "report", "rum", "testing", "unlearn"},
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


@pytest.mark.parametrize("name", ["memorization", "retraining"])
def test_no_module_is_hidden_by_a_name_that_its_package_exports(name):
  package = getattr(jaxmul, name)
  modules = {path.stem for path in (ROOT / name).glob("[!_]*.py")}
  assert len(modules) >= 5
  assert not modules & set(package.__all__)
