"""What a run directory holds, joined by id. Any file of it may be absent."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxmul._files import read_npz, sha256
from jaxmul._ids import find
from jaxmul._ties import scattered
from jaxmul.metrics import Blind, Figure, figures
from jaxmul.report import texts

_FILES = (
  "config.json",
  "metrics.json",
  "audit.json",
  "seconds.json",
  "scores.npz",
  "images.npz",
  "unlearned.npz",
  "tokens.npz",
)
_NAMES = ("proxy_names", "group_names")  # of the rows of proxies, and of the numbers in group
_TRUTH = ("memorization", "memorization_low", "memorization_high")
_OLDER = "as an older jaxmul wrote it. Run the same command again."


class Method(NamedTuple):
  """What was judged: what the forget set was refined by, whether it was tuned, its figures."""

  scores: str | None
  tuned: bool
  figures: list[Figure]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
  """The training examples, in the order of the scores.

  Attributes:
    images: inputs [n, ...].
    texts: n of them where the examples are sequences, else None.
    labels: int [n], or none [0] where an example has no one class, as a text of labelled tokens.
    class_names: of the labels.
  """

  images: np.ndarray
  texts: list[str] | None
  labels: np.ndarray
  class_names: list[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class After:
  """What became of each forgotten example.

  Attributes:
    ids: [k].
    methods: names, from top to bottom.
    confidence: p_y [methods, seeds, k].
    oracles: the mean of p_y under several oracles [k], None where the run did not keep it.
  """

  ids: np.ndarray
  methods: list[str]
  confidence: np.ndarray
  oracles: np.ndarray | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokens:
  """What networks say of each token of some forgotten texts.

  Attributes:
    ids: [k].
    methods: names, from top to bottom.
    tokens: str [k, T].
    probability: [methods, seeds, k, T], NaN where a token is not scored.
  """

  ids: np.ndarray
  methods: list[str]
  tokens: np.ndarray
  probability: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """A run directory.

  Attributes:
    ids: int64 [n], of the training examples; n is 0 without scores.npz.
    truth: {"memorization", "memorization_low", "memorization_high": [n]}.
    proxies: {name: [n]}, the mean over seeds.
    groups: {name: ids}, the forget set.
    images: None without images.npz.
    after: None without unlearned.npz.
    tokens: None without tokens.npz.
    methods: {name: Method}, from top to bottom.
    ranks: {proxy: figures} of how well it ranks as the ground truth does.
    metrics: metrics.json, {} without it.
    config: the resolved configuration, {} where no file holds it.
    versions: of packages and device, likewise.
    audit: audit.json, {} without it.
    blind: what the audit found blind.
    stages: {stage: seconds} of seconds.json, NaN where they are not known; {} without it.
    digests: {name: SHA-256} of the files that are there.
  """

  ids: np.ndarray
  truth: dict[str, np.ndarray]
  proxies: dict[str, np.ndarray]
  groups: dict[str, np.ndarray]
  images: Images | None
  after: After | None
  tokens: Tokens | None
  methods: dict[str, Method]
  ranks: dict[str, list[Figure]]
  metrics: dict[str, Any]
  config: dict[str, Any]
  versions: dict[str, Any]
  audit: dict[str, Any]
  blind: list[Blind]
  stages: dict[str, float]
  digests: dict[str, str]

  @property
  def forget(self) -> np.ndarray:
    """What was forgotten: the ids of all groups, or else those of unlearned.npz; sorted, int64."""
    given = [] if self.groups or self.after is None else [self.after.ids]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *self.groups.values(), *given]))


def read(folder: Path) -> Run:
  """Reads a run directory.

  Raises:
    ValueError: it holds neither metrics.json nor scores.npz, a file in it is damaged, or an id of
      scores.npz has no image.
  """
  there = [name for name in _FILES if (folder / name).is_file()]
  if not {"metrics.json", "scores.npz"} & set(there):
    raise ValueError(
      f"{folder} holds neither metrics.json nor scores.npz: it is no run directory. "
      "Name the --out of experiments.rum."
    )
  metrics, config, audit, seconds = (
    _json(folder / f"{name}.json") for name in ("metrics", "config", "audit", "seconds")
  )
  scores = _scores(folder / "scores.npz")
  ids = scores.get("ids", np.zeros(0, np.int64))
  groups = _names(scores, "group_names")
  return Run(
    ids=ids,
    truth={name: scores[name] for name in _TRUTH if name in scores},
    proxies={
      name: seeds.mean(axis=0)
      for name, seeds in zip(_names(scores, "proxy_names"), scores.get("proxies", ()), strict=True)
    },
    groups={name: ids[scores["group"] == k] for k, name in enumerate(groups)},
    images=_images(_arrays(folder / "images.npz"), ids),
    after=_after(_arrays(folder / "unlearned.npz")),
    tokens=_tokens(_arrays(folder / "tokens.npz")),
    methods=_methods(metrics),
    ranks={name: figures.read(rows) for name, rows in metrics.get("proxies", {}).items()},
    metrics=metrics,
    config=metrics.get("config") or config.get("config", {}),
    versions=metrics.get("versions") or config.get("versions", {}),
    audit=audit,
    blind=_blind(audit),
    stages={name: math.nan if each is None else each for name, each in seconds.items()},
    digests={name: sha256(folder / name) for name in there},
  )


def _methods(metrics: dict[str, Any]) -> dict[str, Method]:
  """Returns what was judged, as metrics.json has it."""
  methods = {}
  for name, judged in metrics.get("methods", {}).items():
    if "figures" not in judged:
      raise ValueError(f"metrics.json holds {name!r} {_OLDER}")
    own = figures.read(judged["figures"])
    methods[name] = Method(judged.get("scores"), judged.get("tuned", False), own)
  return methods


def _blind(audit: dict[str, Any]) -> list[Blind]:
  """Returns what the audit found blind, as audit.json has it."""
  rows = audit.get("blind", [])
  if not all(isinstance(row, dict) for row in rows):
    raise ValueError(f"audit.json holds {rows[0]!r} {_OLDER}")
  return [Blind(**row) for row in rows]


def _scores(path: Path) -> dict[str, np.ndarray]:
  """Returns scores.npz, its examples in no order: what the explorer finds equal stays so."""
  scores = _arrays(path)
  if not scores:
    return {}
  if "proxy_names" not in scores:
    raise ValueError(f"{path} names no proxies: it is no file of a run, or {_OLDER}")
  order = np.argsort(scattered(scores["ids"]))
  return {name: values if name in _NAMES else values[..., order] for name, values in scores.items()}


def _names(scores: dict[str, np.ndarray], key: str) -> list[str]:
  return scores[key].tolist() if key in scores else []


def _images(arrays: dict[str, np.ndarray], ids: np.ndarray) -> Images | None:
  if not arrays or not len(ids):
    return None
  rows = find(arrays["ids"], ids)
  if (rows < 0).any():
    raise ValueError(f"images.npz lacks id {ids[rows < 0][0]} of scores.npz.")
  inputs, labels = arrays["images"][rows], arrays["labels"][rows]
  if labels.ndim > 1 or not np.issubdtype(labels.dtype, np.integer):
    labels = np.zeros(0, np.int32)
  numbers = np.arange(labels.max(initial=-1) + 1)
  names = arrays["class_names"] if "class_names" in arrays and len(labels) else numbers
  said = arrays["decode"][rows] if "decode" in arrays else inputs
  return Images(
    images=inputs,
    texts=texts.of_inputs(said),
    labels=labels,
    class_names=[*map(str, names.tolist())],
  )


def _after(arrays: dict[str, np.ndarray]) -> After | None:
  if not arrays:
    return None
  return After(
    ids=arrays["ids"],
    methods=arrays["methods"].tolist(),
    confidence=arrays["confidence"],
    oracles=arrays.get("oracles"),
  )


def _tokens(arrays: dict[str, np.ndarray]) -> Tokens | None:
  if not arrays:
    return None
  return Tokens(
    ids=arrays["ids"],
    methods=arrays["methods"].tolist(),
    tokens=arrays["tokens"],
    probability=arrays["probability"],
  )


def _json(path: Path) -> dict[str, Any]:
  """Returns the object in a JSON file, {} if there is no file."""
  try:
    return json.loads(path.read_bytes()) if path.is_file() else {}
  except ValueError as error:
    raise ValueError(f"{path} is damaged ({error}). Run the same command again.") from error


def _arrays(path: Path) -> dict[str, np.ndarray]:
  """Returns the arrays of an `.npz`, {} if there is none."""
  return read_npz(path) if path.is_file() else {}
