"""A run directory as one HTML file: no network, opens from `file://`, any name in it stays text.

jinja2 escapes what goes into the markup, `explorer` what goes into the script. A content security
policy forbids the page to load anything.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxmul._files import write_atomic
from jaxmul._identity import hashed
from jaxmul._paths import local
from jaxmul.metrics import Blind, Figure, find
from jaxmul.metrics.figures import RATE, over_seeds
from jaxmul.report import charts, explorer
from jaxmul.report.read import After, Method, Run, read

MAX_BYTES = 24_000_000
# Of the table: title, and name and part of a figure.
_COLUMNS = (
  ("example gap", "example gap", "forget"),
  *((name, name, "all") for name in ("ToW by group", "ToW", "ToW-MIA")),
  ("attack", "attack rate", "forget"),
  *((f"{part} acc.", "accuracy", part) for part in ("forget", "retain", "test")),
)
_MOST_TEXTS = 6  # highlighted
_DRAWN = ("example gap", "ToW by group", "ToW", "ToW-MIA")


def html(run_directory: Path | str, *, max_bytes: int = MAX_BYTES) -> Path:
  """Writes `report.html` into a run directory, from the files that the main job left there.

  Args:
    run_directory: metrics.json gives the tables, scores.npz the figures, and with images.npz (ids,
      images, labels and perhaps class_names) the explorer; unlearned.npz (ids, methods, confidence
      [methods, seeds, k], oracles [k], the mean of theirs) what became of each forgotten example;
      audit.json the audit; seconds.json {stage: seconds}; config.json the provenance. Any of them
      may be absent, but not both of the first two. Where images are tokens, int [n, T], the
      explorer shows them as text: decode of images.npz, str [n], or else the numbers. tokens.npz
      (ids, methods, tokens str [k, T], probability [methods, seeds, k, T]) highlights what networks
      say of each token.
    max_bytes: of the page; many images are compressed harder to fit, and texts cut shorter.

  Returns:
    The path of the page.

  Raises:
    ValueError: the directory is no run, a file in it is damaged, or the images or texts do not fit.
  """
  folder = local(run_directory)
  run = read(folder)
  path = folder / "report.html"
  template = _environment().get_template("report.html")
  write_atomic(path, template.render(_context(run, max_bytes)).encode())
  return path


def _context(run: Run, max_bytes: int) -> dict[str, Any]:
  memorization = run.truth.get("memorization", np.zeros(0))
  truth = _profile(memorization) | run.metrics.get("ground_truth", {})
  known = np.isfinite(memorization)
  methods = {name: _seen(method.figures, run.blind) for name, method in run.methods.items()}
  columns: dict[str, list[Figure]] = {}
  for title, name, part in _COLUMNS:  # only what all methods have
    column = [one for figures in methods.values() for one in _picked(figures, name, part)]
    if column and len(column) == len(methods):
      columns[title] = column
  titles = list(columns)
  card = "example gap" if "example gap" in titles else "ToW"
  context = {
    "config": run.config,
    "versions": run.versions,
    "truth": truth,
    "columns": titles,
    "methods": {
      name: [column[row] for column in columns.values()] for row, name in enumerate(methods)
    },
    "proxies": {
      name: {figure.name: figure for figure in figures if not figure.kind}
      for name, figures in run.ranks.items()
    },
    "audit": run.audit,
    "blind": run.blind,
    "plan": run.metrics.get("plan", {}),
    "record": run.metrics.get("record", {}),
    "forget": run.forget.tolist(),
    "forget_digest": hashed(run.forget.astype("<i8").tobytes()),
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
      title: charts.dots(dict(zip(methods, columns[title], strict=True)))
      for title in titles
      if title in _DRAWN
    },
    "gaps": _gaps_by_group(run),
    "card": card,
    "cards": _cards(run.methods, card),
    "groups_said": {
      name: " ".join(map(str, group["classes"]))
      for name, group in run.metrics.get("groups", {}).items()
    },
    "cost": charts.cost({name: method.figures for name, method in run.methods.items()}),
    "stages": run.stages,
    "all_stages": float(np.nansum(list(run.stages.values()))),
    "after": _confidence_by_group(run),
    "texts": _highlighted(run),
    "digests": run.digests,
    "data": None,
  }
  if run.images is not None:
    context["data"], context["note"] = explorer.pack(run, max_bytes)
    context["example"] = "image" if run.images.texts is None else "text"
    context["classes"] = run.images.class_names
  return context


def _seen(figures: Sequence[Figure], blind: Sequence[Blind]) -> list[Figure]:
  """Returns the figures that the audit did not find blind."""
  return [figure for figure in figures if not any(each.hides(figure) for each in blind)]


def _picked(figures: Sequence[Figure], name: str, part: str) -> list[Figure]:
  """Returns the figure of the method's own models, not of the oracles beside them, if any."""
  wanted = (name, "unlearned", part, "")
  return [f for f in figures if (f.name, f.of, f.part, f.kind) == wanted][:1]


def _cards(methods: Mapping[str, Method], card: str) -> dict[str, Figure]:
  """Returns {what it is of: figure} of what the summary shows.

  Doing nothing, the best to expect, the plan's last algorithm on the whole forget set, RUM with the
  ground truth, the best of the RUMs with a proxy, and the autopilot.
  """
  own = {name: find(method.figures, card) for name, method in methods.items()}
  plain = {name: m.scores for name, m in methods.items() if not m.tuned}
  whole = [name for name in plain if plain[name] is None and name not in ("original", "retrain")]
  truth = [name for name in plain if plain[name] == "ground truth"]
  tuned = [name for name, m in methods.items() if m.tuned]
  names = dict.fromkeys(["original", "retrain", *whole[-1:], *truth, *tuned[-1:]])
  cards = {name: own[name] for name in names if name in own}
  cheap = [name for name in plain if plain[name] not in (None, "ground truth", "shuffle")]
  if cheap:
    sign = -1 if card == "example gap" else 1
    best = max(cheap, key=lambda name: sign * own[name].value)
    count = len({plain[name] for name in cheap})
    cards[f"{best}, the best of {count} proxies" if count > 1 else best] = own[best]
  return cards


def _profile(memorization: np.ndarray) -> dict[str, float]:
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


def _confidence_by_group(run: Run) -> dict[str, dict[str, float]]:
  """Returns {method: {group: mean p_y over its examples and seeds}}, of the oracles too."""
  if run.after is None:
    return {}
  after = dict(zip(run.after.methods, run.after.confidence, strict=True))
  if run.after.oracles is not None:
    after["mean of the oracles"] = run.after.oracles
  members = _members(run.after, run)
  return {
    method: {name: float(confidence[..., rows].mean()) for name, rows in members.items()}
    for method, confidence in after.items()
  }


def _gaps_by_group(run: Run) -> dict[str, dict[str, Figure]]:
  """Returns {group: {method: its example gap there}}, {} where the oracles are not known."""
  after = run.after
  if after is None or after.oracles is None:
    return {}
  distance = dict(zip(after.methods, np.abs(after.confidence - after.oracles), strict=True))
  return {
    name: {
      method: over_seeds(seeds[:, rows].mean(axis=1), within=RATE, name="example gap", part=name)
      for method, seeds in distance.items()
    }
    for name, rows in _members(after, run).items()
  }


def _highlighted(run: Run) -> dict[int, dict[str, list[tuple[str, float]]]]:
  """Returns {id: {method: (token, its mean probability over seeds) of each}} of a few texts.

  The texts are those that the first method, the original, says best; the methods are it, the
  retrained network, and those that were told of memorization. The probability is NaN where a token
  is not scored.
  """
  said = run.tokens
  if said is None:
    return {}
  told = [name for name, m in run.methods.items() if m.scores not in (None, "shuffle")]
  shown = [name for name in said.methods if name in ("original", "retrain", *told)]
  mean = dict(zip(said.methods, said.probability.mean(axis=1), strict=True))
  best = np.argsort(-np.nanmean(mean[said.methods[0]], axis=1), kind="stable")[:_MOST_TEXTS]
  return {
    int(said.ids[row]): {
      name: list(zip(said.tokens[row].tolist(), mean[name][row].tolist(), strict=True))
      for name in shown
    }
    for row in best
  }


def _members(after: After, run: Run) -> dict[str, np.ndarray]:
  """Returns {group: which forgotten examples are in it, bool [k]}, of groups that have any."""
  members = {name: np.isin(after.ids, ids) for name, ids in _groups(run).items()}
  return {name: is_member for name, is_member in members.items() if is_member.any()}


def _environment():
  import jinja2

  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("jaxmul.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  filters = {
    "dots": charts.dots,
    "ends": _ends,
    "interval": _interval,
    "number": _number,
    "times": _times,
  }
  environment.filters |= filters
  return environment


def _number(value: float | None, digits: int = 3) -> str:
  return "–" if value is None or np.isnan(value) else f"{value:,.{digits}f}"


def _times(value: float, digits: int = 0) -> str:
  """Returns a ratio as "12×"."""
  return _number(value, digits) + ("" if np.isnan(value) else "×")


def _ends(figure: Figure, digits: int = 3) -> str:
  """Returns "[low, high]", or nothing where one seed gives no interval."""
  if not np.isfinite([figure.low, figure.high]).all():
    return ""
  return f"[{_number(figure.low, digits)}, {_number(figure.high, digits)}]"


def _interval(figure: Figure, digits: int = 3) -> str:
  """Returns "value [low, high]", or the value alone where one seed gives no interval."""
  return f"{_number(figure.value, digits)} {_ends(figure, digits)}".rstrip()
