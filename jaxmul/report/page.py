"""A run directory as one HTML file: no network, opens from `file://`, any name in it stays text.

jinja2 escapes what goes into the markup; what the script reads is JSON with `<`, `>`, `&` and the
two line separators escaped. A content security policy forbids the page to load anything.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxmul._files import sha256, write_atomic
from jaxmul.report import figures
from jaxmul.report.sprites import sprites

MAX_BYTES = 24_000_000
_RECORDED = ("config.json", "metrics.json", "scores.npz", "images.npz", "unlearned.npz")
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def html(run_directory: Path | str, *, max_bytes: int = MAX_BYTES) -> Path:
  """Writes `report.html` into a run directory, from the files that the main job left there.

  Args:
    run_directory: holds config.json, metrics.json and scores.npz; images.npz (ids, images, labels
      and perhaps class_names) gives the explorer, unlearned.npz (ids, methods, confidence
      [methods, seeds, k]) what became of each forgotten example, audit.json the line of the audit.
      What is absent is left out.
    max_bytes: of the page; many images are compressed harder to fit.

  Returns:
    The path of the page.

  Raises:
    ValueError: the directory is no finished run, or a file in it is damaged.
    ImportError: jinja2 is not installed.
  """
  folder = Path(run_directory)
  missing = [name for name in _RECORDED[:3] if not (folder / name).is_file()]
  if missing:
    raise ValueError(f"{folder} has no {missing[0]}: not a finished run of experiments.rum.")
  metrics = json.loads((folder / "metrics.json").read_text())
  scores = _arrays(folder / "scores.npz")
  after = _arrays(folder / "unlearned.npz")
  images = _arrays(folder / "images.npz")
  audit = folder / "audit.json"

  groups = {k.removeprefix("group_"): v for k, v in scores.items() if k.startswith("group_")}
  forget = np.sort(np.concatenate(list(groups.values()))) if groups else np.zeros(0, np.int64)
  proxies = {
    k.removeprefix("proxy_"): v.mean(axis=0) for k, v in scores.items() if k.startswith("proxy_")
  }
  truth, ids = scores["memorization"], scores["ids"]
  known = np.isfinite(truth)
  context = {
    "metrics": metrics,
    "audit": json.loads(audit.read_text()) if audit.is_file() else None,
    "forget": forget.tolist(),
    "forget_digest": hashlib.sha256(forget.astype("<i8").tobytes()).hexdigest(),
    "groups": {name: np.sort(members).tolist() for name, members in groups.items()},
    "histogram": figures.histogram(
      truth, {name: truth[np.isin(ids, members)] for name, members in groups.items()}
    ),
    "densities": {
      name: figures.density(values[known], truth[known]) for name, values in proxies.items()
    },
    "dots": {
      metric: figures.dots({name: found[metric] for name, found in metrics["methods"].items()})
      for metric in ("ToW", "ToW-MIA")
    },
    "after": _by_group(after, groups),
    "files": {name: sha256(folder / name) for name in _RECORDED if (folder / name).is_file()},
  }
  data, note = _explorer(ids, scores, proxies, groups, images, after, max_bytes)
  context |= {"data": data, "image_note": note, "has_images": bool(images)}
  path = folder / "report.html"
  write_atomic(path, _environment().get_template("report.html").render(context).encode())
  return path


def disagreement(proxies: Mapping[str, np.ndarray]) -> np.ndarray:
  """Standard deviation over proxies of an example's rank, [n] in [0, 0.5].

  Example:
    >>> disagreement({"a": np.array([1.0, 2.0]), "b": np.array([2.0, 1.0])}).tolist()
    [0.5, 0.5]
  """
  from scipy.stats import rankdata

  ranks = [(rankdata(values) - 1) / max(1, len(values) - 1) for values in proxies.values()]
  return np.std(ranks, axis=0)


def _explorer(
  ids: np.ndarray,
  scores: Mapping[str, np.ndarray],
  proxies: Mapping[str, np.ndarray],
  groups: Mapping[str, np.ndarray],
  images: Mapping[str, np.ndarray],
  after: Mapping[str, np.ndarray],
  max_bytes: int,
) -> tuple[Any, str]:
  """Returns what the script reads, as markup, and a line on the images."""
  columns = {
    "memorization": scores["memorization"],
    "interval low": scores["memorization_low"],
    "interval high": scores["memorization_high"],
    **proxies,
  }
  if len(proxies) > 1:
    columns["disagreement of proxies"] = disagreement(proxies)
  group = np.zeros(len(ids), np.uint8)
  for number, members in enumerate(groups.values(), start=1):
    group[np.isin(ids, members)] = number
  data: dict[str, Any] = {
    "ids": _base64(ids.astype("<f8")),
    "columns": [
      {"name": name, "values": _base64(values.astype("<f4"))} for name, values in columns.items()
    ],
    "groups": ["not in the forget set", *groups],
    "group": _base64(group),
  }
  if after:
    data["after"] = {
      "ids": after["ids"].tolist(),
      "methods": after["methods"].tolist(),
      "confidence": np.round(after["confidence"].mean(axis=1), 4).tolist(),
    }
  note = "the run directory holds no images"
  if images:
    rows = _join(ids, images["ids"])
    labels = images["labels"][rows]
    names = images.get("class_names", np.arange(int(labels.max(initial=0)) + 1))
    data |= {
      "labels": _base64(labels.astype("<i4")),
      "classes": [str(name) for name in names.tolist()],
    }
    room = (max_bytes - len(json.dumps(data)) - 2_000_000) * 3 // 4
    packed = sprites(images["images"][rows], max(room, 100_000))
    note = packed.note
    data |= {
      "sprites": [base64.b64encode(file).decode() for file in packed.files],
      "width": packed.width,
      "height": packed.height,
      "sprite_columns": packed.columns,
    }
  return _as_json(data), note


def _by_group(after: Mapping[str, np.ndarray], groups: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Returns {method: {group: mean p_y over its examples and seeds}}."""
  return {
    name: {
      group: float(confidence[:, np.isin(after["ids"], members)].mean())
      for group, members in groups.items()
    }
    for name, confidence in zip(
      after.get("methods", np.zeros(0)).tolist(), after.get("confidence", []), strict=True
    )
  }


def _join(ids: np.ndarray, available: np.ndarray) -> np.ndarray:
  """Returns where each of ids is among the available ones."""
  order = np.argsort(available, kind="stable")
  found = order[np.minimum(np.searchsorted(available[order], ids), len(order) - 1)]
  if (available[found] != ids).any():
    raise ValueError(f"images.npz lacks id {ids[available[found] != ids][0]} of scores.npz.")
  return found


def _arrays(path: Path) -> dict[str, np.ndarray]:
  """Returns the arrays of an `.npz`, none if it is absent. Nothing in it can execute."""
  if not path.is_file():
    return {}
  try:
    with np.load(path, allow_pickle=False) as file:
      return dict(file)
  except Exception as error:  # zipfile, zlib and numpy each raise their own for a damaged file.
    raise ValueError(f"{path} is damaged ({error}). Run the same command again.") from error


def _base64(array: np.ndarray) -> str:
  return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _as_json(value: Any) -> Any:
  from markupsafe import Markup

  text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
  return Markup(text.translate(_ESCAPES))


def _environment():
  try:
    import jinja2
  except ImportError as error:
    raise ImportError("the report needs jinja2: pip install 'jaxmul[demo]'.") from error
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("jaxmul.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters |= {"interval": _interval, "number": _number}
  return environment


def _number(value: float | None, digits: int = 3) -> str:
  return "–" if value is None else f"{value:,.{digits}f}"


def _interval(found: Mapping[str, Any], digits: int = 3) -> str:
  """Returns "mean [low, high]", or the mean alone where one seed gives no interval."""
  if found["low"] is None or found["high"] is None:
    return _number(found["mean"], digits)
  low, high = (_number(found[end], digits) for end in ("low", "high"))
  return f"{_number(found['mean'], digits)} [{low}, {high}]"
