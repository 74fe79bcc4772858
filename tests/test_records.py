"""Records with many fields are built by their names, so that no two can be mistaken."""

import dataclasses
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import experiments
from jaxmul import metrics, report, unlearn

MOST = 3


def modules(package):
  found = [package]
  for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
    if not info.name.endswith("__main__") and ".bench" not in info.name:
      found.append(importlib.import_module(info.name))
  return found


def records(package):
  """Yields every record that is defined in a package, once."""
  for module in modules(package):
    for value in vars(module).values():
      own = inspect.isclass(value) and value.__module__ == module.__name__
      if own and (dataclasses.is_dataclass(value) or hasattr(value, "_fields")):
        yield value


def positional(record):
  """How many values it can be given without their names."""
  if not dataclasses.is_dataclass(record):
    return len(record._fields)
  return sum(field.init and not field.kw_only for field in dataclasses.fields(record))


@pytest.mark.parametrize("package", [metrics, report, experiments], ids=lambda p: p.__name__)
def test_records_of_more_than_three_fields_are_keyword_only(package):
  found = list(records(package))
  assert len(found) >= 5
  assert [record.__name__ for record in found if positional(record) > MOST] == []


def test_so_are_the_private_ones_of_algorithms():
  private = [record for record in records(unlearn) if record.__name__.startswith("_")]
  assert {"_Pairs", "_Gates"} <= {record.__name__ for record in private}
  assert [record.__name__ for record in private if positional(record) > MOST] == []


def test_a_record_is_found_and_counted():
  names = {record.__name__ for record in records(metrics)}
  assert {"Figure", "Blind", "Control", "Audit", "Difference", "Rates", "Outputs"} <= names
  assert Path(inspect.getfile(metrics.Figure)).name == "figures.py"
  assert (positional(metrics.Figure), positional(metrics.Blind)) == (0, 3)
