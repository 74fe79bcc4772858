"""What the explorer of the training examples reads: columns of numbers, sprites or texts, as JSON.

The markup's script block ends at the first `</script`, so `<`, `>`, `&` and the two line separators
that JavaScript once took for line ends are escaped.
"""

import base64
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmul.report.charts import mean_rank
from jaxmul.report.read import Run
from jaxmul.report.sprites import sprites
from jaxmul.report.texts import fitted

if TYPE_CHECKING:
  from markupsafe import Markup

_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}
_PAGE_BYTES = 2_000_000  # kept for the rest of the page


def pack(run: Run, max_bytes: int) -> tuple["Markup", str]:
  """Returns the data of the explorer as markup, and a line on the images or texts.

  Args:
    run: with images.
    max_bytes: of the whole page.

  Raises:
    ValueError: the images do not fit, however small, or the texts, however short.
  """
  assert run.images is not None
  columns = {
    "memorization": run.truth.get("memorization"),
    "interval low": run.truth.get("memorization_low"),
    "interval high": run.truth.get("memorization_high"),
    **run.proxies,
  }
  if len(run.proxies) > 1:
    columns["disagreement of proxies"] = disagreement(run.proxies)
  group = np.zeros(len(run.ids), np.uint8)
  for number, members in enumerate(run.groups.values(), start=1):
    group[np.isin(run.ids, members)] = number
  data: dict[str, Any] = {
    "ids": _base64(run.ids.astype("<i8")),
    "columns": [
      {"name": name, "values": _base64(values.astype("<f4"))}
      for name, values in columns.items()
      if values is not None
    ],
    "labels": _base64(run.images.labels.astype("<i4")),
    "classes": run.images.class_names,
    "groups": ["not in the forget set", *run.groups],
    "group": _base64(group),
  }
  if run.after:
    data["after"] = {
      "ids": _base64(run.after.ids.astype("<i8")),
      "methods": run.after.methods,
      "confidence": np.round(run.after.confidence.mean(axis=1), 4).tolist(),
    }
  room = max((max_bytes - len(json.dumps(data)) - _PAGE_BYTES) * 3 // 4, 100_000)
  if run.images.texts is not None:
    data["texts"], note = fitted(run.images.texts, room)
    return as_json(data), note
  packed = sprites(run.images.images, room)
  data |= {
    "sprites": [base64.b64encode(file).decode() for file in packed.files],
    "width": packed.width,
    "height": packed.height,
    "sprite_columns": packed.columns,
  }
  return as_json(data), packed.note


def disagreement(proxies: Mapping[str, np.ndarray]) -> np.ndarray:
  """Standard deviation over proxies of an example's rank, [n] in [0, 0.5].

  Example:
    >>> disagreement({"a": np.array([1.0, 2.0]), "b": np.array([2.0, 1.0])}).tolist()
    [0.5, 0.5]
  """
  return np.std([mean_rank(values) for values in proxies.values()], axis=0)


def as_json(value: object) -> "Markup":
  """Returns a value as JSON that may stand in a script block."""
  from markupsafe import Markup

  text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
  return Markup(text.translate(_ESCAPES))


def _base64(array: np.ndarray) -> str:
  return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
