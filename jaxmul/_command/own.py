"""Methods and proxies of one's own, by their names package.module:name."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxmul import _article, rum, unlearn
from jaxmul._command.inputs import named
from jaxmul._files import sha256


def label(name: str) -> str:
  """Returns what tables call it: of package.module:name the name."""
  return name.rpartition(":")[2]


def step(name: str, batch_size: int) -> rum.Step:
  """Returns a `rum.Step`, or one of 5 epochs of an `unlearn.Unlearner`; a function returns either.

  Raises:
    ValueError: it cannot be imported, or is something else.
  """
  found = named(name, "method", called=True)
  if isinstance(found, unlearn.Unlearner):
    return rum.Step(found, batch_size=batch_size)
  if not isinstance(found, rum.Step):
    raise ValueError(
      f"--method {name} gives {_article.of(found)}, must give an unlearn.Unlearner or a rum.Step."
    )
  return found


def proxy(name: str) -> Callable[..., Any]:
  """Returns a proxy `(params, batch) -> [B]`.

  Raises:
    ValueError: it cannot be imported, or is no function.
  """
  found = named(name, "proxy")
  if not callable(found):
    raise ValueError(f"--proxy {name} is {_article.of(found)}, must be (params, batch) -> [B].")
  return found


def check(methods: Sequence[str], proxies: Sequence[str]) -> None:
  """Raises ValueError, before anything is trained, where one of them is none."""
  for name in methods:
    step(name, 1)
  for name in proxies:
    if ":" in name:
      proxy(name)


def files(names: Sequence[str]) -> dict[str, str]:
  """Returns the SHA-256 of the file of each that is one's own.

  Nobody raises a number where code of one's own changes, so its text tells.
  """
  digests = {}
  for name in names:
    module, colon, _ = name.partition(":")
    spec = importlib.util.find_spec(module) if colon else None
    if spec is not None and spec.origin is not None and Path(spec.origin).is_file():
      digests[name] = sha256(Path(spec.origin))
  return digests
