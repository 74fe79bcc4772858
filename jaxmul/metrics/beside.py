"""Everything about unlearned models beside an ensemble of oracles: one dict, and one tidy table."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxmul.data.split import Split
from jaxmul.metrics.game import attack, known, nonmember_rate
from jaxmul.metrics.gaps import average_gap
from jaxmul.metrics.intervals import Interval, over_examples, t_interval
from jaxmul.metrics.oracle.agreement import churn, total_variation
from jaxmul.metrics.oracle.ensemble import Ensemble
from jaxmul.metrics.oracle.epsilon import challenge_score, epsilon, forgetting_quality
from jaxmul.metrics.oracle.kept import Outputs
from jaxmul.metrics.oracle.klom import klom, klom_null, percentiles
from jaxmul.metrics.tow import tow, tow_mia

SEEDS = "95 % t over training seeds"
EXAMPLES = "95 % bootstrap over examples"


def beside_oracles(
  unlearned: Outputs, ensemble: Ensemble, split: Split, attack_ids: Any, key: jax.Array
) -> dict[str, dict[str, dict[str, Any]]]:
  """Returns every figure of unlearned models.

  Args:
    unlearned: K models on all ids of the split, model k paired with oracle k.
    ensemble: what they are compared with.
    split: forget, retain and test ids.
    attack_ids: held-out ids for attacks, `data.cut_heldout(split.heldout, key).attack`.
    key: of draws.

  Returns:
    {figure: {part: {"value", "low", "high", "interval"}}}; `interval` names what low and high are,
    and is None where there is none. Attacks, U-LiRA and RMIA among them, need 4 models of each kind
    and are left out below that; so is what KLoM's null is.

  Raises:
    ValueError: an id has no outputs, there is no test set, or attack ids are of another part.
  """
  if not len(split.test):
    raise ValueError("beside_oracles needs test ids: ToW compares test accuracy. Set some apart.")
  oracles = ensemble.oracles
  count = min(len(unlearned), len(oracles))
  fit = known(split, attack_ids, key)
  retain = np.setdiff1d(split.retain, fit.members)
  parts = {"forget": split.forget, "retain": retain, "test": split.test}
  on = {name: (unlearned.take(ids), oracles.take(ids)) for name, ids in parts.items()}
  sides = [
    {name: both[side].accuracy for name, both in on.items()}
    | {"attack": nonmember_rate(models, split.forget, fit)}
    for side, models in enumerate((unlearned, oracles))
  ]
  seeds = [[{n: float(v[k]) for n, v in side.items()} for side in sides] for k in range(count)]
  found: dict[str, dict[str, dict[str, Any]]] = {}
  for title, side in zip(("accuracy", "oracle accuracy"), sides, strict=True):
    found[title] = {name: _named(t_interval(side[name]), SEEDS) for name in parts}
    found[f"{title.replace('accuracy', 'attack rate')}"] = {
      "forget": _named(t_interval(side["attack"]), SEEDS)
    }
  pairs = {
    "ToW": lambda a, b: tow(*(_triple(each, "forget") for each in (a, b))),
    "ToW-MIA": lambda a, b: tow_mia(*(_triple(each, "attack") for each in (a, b))),
    "average gap": average_gap,
  }
  for name, figure in pairs.items():
    found[name] = {"all": _named(t_interval([figure(*each) for each in seeds]), SEEDS)}
  if count >= 4:
    for name, each in attack(unlearned, oracles, split.forget, fit).items():
      figures = {
        figure: _named(value, EXAMPLES)
        for figure, value in each.rates._asdict().items()
        if figure != "notes"
      }
      over = _named(each.auc_over_seeds, SEEDS)
      found[f"attack {name}"] = figures | {"auc of each seed": over}
  for name, (ours, theirs) in on.items():
    distance = klom(ours.log_odds, theirs.log_odds)
    figures = {key: _named(value) for key, value in percentiles(distance).items()}
    half = len(theirs) // 2
    if half >= 2 and count >= half:
      a, b = ours.models(slice(half)), theirs.models(slice(half, 2 * half))
      figures["mean of halves"] = _named(float(klom(a.log_odds, b.log_odds).mean()))
      null = klom_null(theirs.log_odds, permutations=100)
      figures["null of halves, 97.5 %"] = _named(float(np.quantile(null, 0.975)))
    found[f"KLoM {name}"] = figures
    found.setdefault("churn", {})[name] = _named(
      over_examples(churn(ours.logits, theirs.logits)), EXAMPLES
    )
    found.setdefault("total variation", {})[name] = _named(
      over_examples(total_variation(ours.logits, theirs.logits)), EXAMPLES
    )
  each = epsilon(*(outputs.log_odds for outputs in on["forget"]))
  quality = forgetting_quality(each)
  ours, theirs = ((float(s["retain"].mean()), float(s["test"].mean())) for s in sides)
  found["epsilon"] = {
    "median": _named(float(np.median(each))),
    "forgetting quality": _named(over_examples(np.exp2(-np.floor(each / 0.5))), EXAMPLES),
    "challenge score": _named(challenge_score(quality, ours, theirs)),
  }
  return found


def table(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Any:
  """Returns one row for each figure and part: a pandas DataFrame if pandas is there, else a list.

  Args:
    found: of `beside_oracles`.

  Example:
    >>> rows = table({"ToW": {"all": {"value": 0.9, "low": 0.8, "high": 1.0, "interval": "t"}}})
    >>> len(rows)
    1
  """
  rows = [
    {"figure": figure, "part": part, **values}
    for figure, parts in found.items()
    for part, values in parts.items()
  ]
  try:
    import pandas as pd  # pyright: ignore[reportMissingImports]
  except ImportError:
    return rows
  return pd.DataFrame(rows)


def _triple(rates: Mapping[str, float], entry: str) -> tuple[float, float, float]:
  return rates[entry], rates["retain"], rates["test"]


def _named(value: Interval | float, kind: str | None = None) -> dict[str, Any]:
  if isinstance(value, Interval):
    known_ends = np.isfinite(value.low)
    return {
      "value": value.mean,
      "low": value.low,
      "high": value.high,
      "interval": kind if known_ends else None,
    }
  return {"value": value, "low": float("nan"), "high": float("nan"), "interval": None}
