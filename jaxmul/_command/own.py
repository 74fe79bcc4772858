"""Methods and proxies of one's own, by their names package.module:name."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxmul import _article, models, rum, train, unlearn
from jaxmul import proxies as scoring
from jaxmul._command.inputs import named
from jaxmul._files import sha256
from jaxmul.data import Dataset, Split

_FEW = 8
_FAULTS = (TypeError, ValueError, AttributeError, LookupError)


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


def try_out(
  methods: Sequence[str], proxies: Sequence[str], recipe: train.Recipe, dataset: Dataset
) -> None:
  """Runs each on a few examples and a network that is not trained; an error names which it was.

  Raises:
    ValueError: one of them fails, or a proxy gives no number for each example.
  """
  few, key = dataset.take(dataset.ids[: 2 * _FEW]), jax.random.key(0)
  network = models.init(recipe.model, key, dataset.example)
  for name in proxies:
    if ":" in name:
      with _named(f"--proxy {name}"):
        shape = scoring.score(jax.tree_util.Partial(proxy(name)), network, few).shape
        if shape != (len(few),):
          raise ValueError(f"it gives {list(shape)} for {len(few)} examples, must give [B].")
  for name in methods:
    with _named(f"--method {name}"), contextlib.suppress(FloatingPointError):
      made = step(name, _FEW).unlearner
      if made is not None:
        parts = Split(forget=few.ids[:_FEW], retain=few.ids[_FEW:])
        unlearn.run(made, network, few, parts, key, epochs=1, batch_size=_FEW)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
  """Inside, an error is one line that begins with a name."""
  try:
    yield
  except _FAULTS as error:
    first = next(iter(str(error).splitlines()), "") or type(error).__name__
    raise ValueError(f"{name} does not work on {2 * _FEW} examples: {first}") from error


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
