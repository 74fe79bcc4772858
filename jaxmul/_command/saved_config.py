"""config.json: what a command was asked, as it was resolved, and reading it again for --config."""

import dataclasses
import json
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro

from jaxmul import report
from jaxmul._files import write_sealed
from jaxmul._paths import local

CONFIG = "config.json"
_ELSEWHERE = ("config", "out", "store", "executor")  # what decides no result


def defaults(commands: Mapping[str, type], arguments: Sequence[str]) -> dict[str, Any]:
  """Returns {command: its flags} of the --config among the arguments, {} where there is none.

  Raises:
    OSError: the file cannot be read.
    ValueError: it is no JSON object, a flag in it is unknown, or a value is of a wrong type.
  """
  path = _path_in(arguments)
  if path is None or arguments[0] not in commands:
    return {}
  return {arguments[0]: _read(local(path), arguments[0], commands[arguments[0]])}


def write(flags: Any, folder: Path) -> None:
  """Writes the flags of a command, with versions, into config.json, sealed."""
  record = {"command": _name(flags), "config": _plain(flags), "versions": report.versions()}
  write_sealed(folder / CONFIG, json.dumps(record).encode(), "json")


def refuse_other(flags: Any, folder: Path, product: str) -> None:
  """Raises ValueError where a folder holds the finished product of another command or flags."""
  if folder.exists() and not folder.is_dir():
    raise ValueError(f"--out {folder} is a file. Name a folder.")
  if not (folder / product).exists():
    return
  earlier = _entries(folder / CONFIG) if (folder / CONFIG).is_file() else {}
  own, other = _plain(flags), earlier.get("config", {})
  same = earlier.get("command") == _name(flags)
  odd = [name for name in own if name not in _ELSEWHERE and own[name] != other.get(name)]
  if not same or odd:
    why = f"with another --{odd[0].replace('_', '-')}" if same else "of another command"
    raise ValueError(f"--out {folder} holds {product} of a run {why}. Name another folder.")


def _name(flags: Any) -> str:
  return type(flags).__name__.lower()


def _plain(flags: Any) -> dict[str, Any]:
  """Returns flags as JSON types; --config itself is in what it was resolved to."""
  given = {field.name: getattr(flags, field.name) for field in dataclasses.fields(flags)}
  del given["config"]
  return json.loads(json.dumps(given, default=str))


def _path_in(arguments: Sequence[str]) -> str | None:
  for place, word in enumerate(arguments):
    if word == "--config":
      return next(iter(arguments[place + 1 :]), None)
    if word.startswith("--config="):
      return word.removeprefix("--config=")
  return None


def _entries(path: Path) -> dict[str, Any]:
  if not path.is_file():
    raise FileNotFoundError(f"--config {path}: there is no such file.")
  try:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
  except ValueError as error:
    raise ValueError(f"--config {path} is no JSON ({error}).") from error
  if not isinstance(content, dict) or not isinstance(content.get("config", {}), dict):
    raise ValueError(f"--config {path} is no object of flags. Write {{...}}, flag: value.")
  return content


def _read(path: Path, command: str, kind: type) -> Any:
  if "config" not in (hints := get_type_hints(kind)):
    raise ValueError(f"jaxmul {command} has no --config: it takes a folder.")
  content = _entries(path)
  entries = content.get("config", content)
  known = {name: hint for name, hint in hints.items() if name != "config"}
  for name, value in entries.items():
    if name not in known:
      raise ValueError(
        f"--config {path}: jaxmul {command} has no {name!r}; it has {', '.join(known)}."
      )
    if not _fits(known[name], value):
      raise ValueError(f"--config {path}: {name} is {value!r}, must be {_words(known[name])}.")
  values = {name: _typed(known[name], value) for name, value in entries.items()}
  absent = {
    field.name: tyro.MISSING
    for field in dataclasses.fields(kind)
    if field.default is dataclasses.MISSING and field.name not in values
  }
  return kind(**values | absent, config=path)


def _fits(hint: Any, value: Any) -> bool:
  """Whether a value from JSON is of a flag's type."""
  if get_origin(hint) is Literal:
    return value in get_args(hint)
  if get_origin(hint) in (types.UnionType,):
    return any(_fits(kind, value) for kind in get_args(hint))
  if get_origin(hint) is tuple:
    return isinstance(value, list) and all(_fits(get_args(hint)[0], item) for item in value)
  kinds = {Path: str, float: (int, float), types.NoneType: types.NoneType}
  return isinstance(value, kinds.get(hint, hint)) and (hint is bool or not isinstance(value, bool))


def _typed(hint: Any, value: Any) -> Any:
  if isinstance(value, list):
    return tuple(_typed(get_args(hint)[0], item) for item in value)
  is_path = Path in (hint, *get_args(hint))
  return Path(value) if is_path and value is not None else value


def _words(hint: Any) -> str:
  if get_origin(hint) is Literal:
    return f"one of {', '.join(map(repr, get_args(hint)))}"
  if get_origin(hint) is tuple:
    return "a list"
  if get_origin(hint) is types.UnionType:
    return " or ".join(_words(kind) for kind in get_args(hint))
  words = {Path: "a path", str: "text", int: "a whole number", float: "a number", bool: "a bool"}
  return words.get(hint, "null")
