"""A run directory as one HTML file: no network, opens from `file://`, any name in it stays text.

jinja2 escapes what goes into the markup, `explorer` what goes into the script. A content security
policy forbids the page to load anything.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxmul._files import write_atomic
from jaxmul.report import charts, explorer
from jaxmul.report.read import Run, read

MAX_BYTES = 24_000_000


def html(run_directory: Path | str, *, max_bytes: int = MAX_BYTES) -> Path:
  """Writes `report.html` into a run directory, from the files that the main job left there.

  Args:
    run_directory: metrics.json gives the tables, scores.npz the figures, and with images.npz (ids,
      images, labels and perhaps class_names) the explorer; unlearned.npz (ids, methods, confidence
      [methods, seeds, k]) what became of each forgotten example; audit.json the audit; config.json
      the provenance. Any of them may be absent, but not both of the first two.
    max_bytes: of the page; many images are compressed harder to fit.

  Returns:
    The path of the page.

  Raises:
    ValueError: the directory is no run, a file in it is damaged, or the images do not fit.
    ImportError: jinja2 is not installed.
  """
  folder = Path(run_directory)
  run = read(folder)
  path = folder / "report.html"
  template = _environment().get_template("report.html")
  write_atomic(path, template.render(_context(run, max_bytes)).encode())
  return path


def _context(run: Run, max_bytes: int) -> dict[str, Any]:
  methods, proxies = (run.metrics.get(name, {}) for name in ("methods", "proxies"))
  memorization = run.truth.get("memorization", np.zeros(0))
  truth = _profile(memorization) | run.metrics.get("ground_truth", {})
  known = np.isfinite(memorization)
  blind = run.audit.get("blind", [])
  context = {
    "config": run.config,
    "versions": run.versions,
    "truth": truth,
    "methods": methods,
    "proxies": proxies,
    "audit": run.audit,
    "blind": blind,
    "plan": run.metrics.get("plan", {}),
    "record": run.metrics.get("record", {}),
    "forget": run.forget.tolist(),
    "forget_digest": hashlib.sha256(run.forget.astype("<i8").tobytes()).hexdigest(),
    "groups": {name: np.sort(ids).tolist() for name, ids in _groups(run).items()},
    "histogram": charts.histogram(
      memorization, {name: memorization[np.isin(run.ids, ids)] for name, ids in run.groups.items()}
    ),
    "densities": {
      name: charts.density(values[known], memorization[known])
      for name, values in run.proxies.items()
      if known.any()
    },
    "dots": {
      metric: charts.dots({name: found[metric] for name, found in methods.items()})
      for metric in ("example gap", "ToW by group", "ToW", "ToW-MIA")
      if metric not in blind and all(metric in found for found in methods.values())
    },
    "cards": _cards(methods),
    "groups_said": {
      name: " ".join(map(str, found["classes"]))
      for name, found in run.metrics.get("groups", {}).items()
    },
    "cost": charts.cost(methods, proxies, truth.get("seconds")),
    "after": _by_group(run),
    "digests": run.digests,
    "data": None,
    "image_note": "",
  }
  if run.images is not None:
    context["data"], context["image_note"] = explorer.pack(run, max_bytes)
  return context


def _cards(methods: Mapping[str, Any]) -> list[str]:
  """Returns the methods that the summary shows: doing nothing, the best to expect, RUM's ways."""
  names = ["original", "retrain"]
  names += [name for name in methods if name.endswith("vanilla")][-1:]
  names += ["RUM ground truth", *[name for name in methods if name.endswith(", tuned")][-1:]]
  return [name for name in names if name in methods]


def _profile(memorization: np.ndarray) -> dict[str, Any]:
  """Returns what the cards show, where metrics.json does not say it."""
  if not len(memorization):
    return {}
  return {
    "examples": len(memorization),
    "undefined": int(np.isnan(memorization).sum()),
    "exactly_zero": float(np.mean(memorization == 0)),
    "above_one_half": int(np.sum(memorization > 0.5)),
  }


def _groups(run: Run) -> dict[str, np.ndarray]:
  """Returns {group: ids}, the whole forget set as one where its groups are not known."""
  return run.groups or {"forget set": run.forget}


def _by_group(run: Run) -> dict[str, dict[str, float]]:
  """Returns {method: {group: mean p_y over its examples and seeds}}."""
  if run.after is None:
    return {}
  members = {
    name: found
    for name, ids in _groups(run).items()
    if (found := np.isin(run.after.ids, ids)).any()
  }
  return {
    method: {name: float(confidence[found].mean()) for name, found in members.items()}
    for method, confidence in zip(run.after.methods, run.after.confidence, strict=True)
  }


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
