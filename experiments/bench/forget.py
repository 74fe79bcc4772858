"""Does `jaxmul.forget` do better than nothing? Memorized and random requests, new seeds.

An engineer's case: a convolutional network with BatchNorm and dropout on 3,500 real digits, 37 ids.
"memorized" are the 37 that were learned last, "random" any. What is returned, or the original where
the request is refused, is judged beside four oracles that `forget` has not seen. The change is that
of the unlearned network minus that of doing nothing, with its 95 % t-interval over training seeds.
"""

import sys
import warnings

import flax.linen as nn
import jax
import numpy as np

import jaxmul
from jaxmul import data, deletion, memorization, metrics, proxies, retraining, train
from jaxmul.metrics import oracle
from jaxmul.metrics.intervals import t_interval

GOALS = {
  "memorized example gap, change": "interval below 0",
  "memorized ToW by group, change": "interval above 0",
  "random example gap, change": "at most 0",
  "random ToW by group, change": "at least 0",
}
_COUNT, _ORACLES = 37, 4


class Net(nn.Module):
  """What an engineer might have."""

  @nn.compact
  def __call__(self, x, train: bool = False):
    x = x.reshape(*x.shape[:3], 1)
    for width in (8, 16):
      x = nn.Conv(width, (3, 3), strides=2)(x)
      x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
    return nn.Dense(10)(nn.Dropout(0.2, deterministic=not train)(x.reshape(len(x), -1)))


def measure(pairs: int, seconds: float) -> dict[str, object]:
  """Returns {"kind figure, change": [mean, low, high]}, the figures of each seed, and refusals."""
  dataset = data.mnist5k() if seconds >= 10 else data.digits()
  seeds = [of_seed(dataset, 100 + seed) for seed in range(pairs)]
  figures: dict[str, object] = {}
  for kind in ("memorized", "random"):
    for name in ("example gap", "ToW by group"):
      before, after = (
        np.array([seed[kind][of][name] for seed in seeds]) for of in ("original", "unlearned")
      )
      figures[f"{kind} {name}, change"] = list(t_interval(after - before))
      figures[f"{kind} {name}, original"] = before.tolist()
      figures[f"{kind} {name}, unlearned"] = after.tolist()
    figures[f"{kind}, refused"] = [seed[kind]["refused"] for seed in seeds]
  return figures


def of_seed(dataset: data.Dataset, seed: int) -> dict[str, dict]:
  """Returns, of both kinds of request, what came of it."""
  warnings.simplefilter("ignore")
  keys = jax.random.split(jax.random.key(seed), 6)
  n = len(dataset)
  parts = data.holdout(dataset, keys[0], heldout=n // 10, test=n // 5)
  recipe = train.Recipe(Net(), epochs=12, batch_size=64, learning_rate=0.05)
  events = {"events": proxies.trackers.learning_events()}
  fit = train.fit(recipe, dataset, keys[1], ids=parts.train, trackers=events)
  schedule = retraining.cross_fit(recipe, dataset.take(parts.train), keys[2])
  estimate = memorization.estimate(schedule)
  order = fit.ids[np.argsort(-fit.scores["confidence"], kind="stable")]
  random = fit.ids[np.asarray(jax.random.permutation(keys[3], len(fit.ids)))]  # 64 bits of an id
  found = {}
  for kind, ids in (("memorized", order[:_COUNT]), ("random", random[:_COUNT])):
    refused = ""
    try:
      after = jaxmul.forget(
        fit,
        dataset,
        ids,
        recipe,
        keys[4],
        heldout=parts.heldout,
        test=parts.test,
        estimate=estimate,
        progress=False,
      ).network
    except deletion.Refused as reason:
      after, refused = fit.network, str(reason)
    split = data.Split(ids, np.setdiff1d(parts.train, ids), parts.heldout, parts.test)
    oracles = oracle.oracles(recipe, dataset, split, keys[5], num_models=_ORACLES)
    rows = np.argsort(np.argsort(-fit.scores["confidence"], kind="stable"))
    rank = rows[np.searchsorted(fit.ids, ids)]
    groups = np.array_split(ids[np.argsort(-rank)], 3)
    found[kind] = {"refused": refused} | {
      of: judged(network, dataset, split, groups, oracles)
      for of, network in (("original", fit.network), ("unlearned", after))
    }
    print(f"seed {seed}, {kind}: {found[kind]}", file=sys.stderr, flush=True)
  return found


def judged(network, dataset, split, groups, oracles: oracle.Outputs) -> dict[str, float]:
  """Returns the example gap, and the mean ToW by group, beside oracles."""
  ids = np.concatenate([split.forget, split.retain, split.test])
  said = oracle.outputs([network], dataset, ids)
  gap = metrics.example_gap(
    said.take(split.forget).probability[0], oracles.take(split.forget).probability
  )

  def rates(outputs: oracle.Outputs, model: int) -> tuple[list[float], float, float]:
    of_groups = [float(outputs.take(group).accuracy[model]) for group in groups]
    retain, test = (float(outputs.take(p).accuracy[model]) for p in (split.retain, split.test))
    return of_groups, retain, test

  own = rates(said, 0)
  tugs = [metrics.tow_by_group(own, rates(oracles, model)) for model in range(len(oracles))]
  return {"example gap": gap, "ToW by group": float(np.mean(tugs))}
