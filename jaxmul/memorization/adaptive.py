"""Ground truth on a budget: the next models are spent where the intervals are wide.

The first round leaves out random subsets of everything. Each later round leaves out only a chosen
share of the examples, those with the widest intervals or those that `sleeping_experts` draw, half
of them in each model, and adds what it counts on them to the earlier tallies. It thereby mixes two
quantities: with and without an example among random subsets, and among nearly all the data. The
difference is small where others matter little, but it is not zero, and examples were chosen by what
was seen: for an unbiased score use `estimate`.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import _settings
from jaxmul._paths import local
from jaxmul._proportions import newcombe
from jaxmul._ties import scattered
from jaxmul.memorization import sleeping_experts
from jaxmul.memorization.scores import Estimate, from_tallies, refuse_without_intervals, warn_of
from jaxmul.retraining.chunk import TALLIES, Chunk, add
from jaxmul.retraining.executors import Executor, Submitter
from jaxmul.retraining.leave_out_schedule import Schedule
from jaxmul.retraining.progress import Progress
from jaxmul.retraining.streaming import stream

Strategy = Literal["widest", "sleeping_experts"]

_FRACTION = 0.5  # as many models with a candidate as without: the narrowest interval
_DRAW = 2**31 - 1  # folded into a round's key; no round has so many models


def active(
  schedule: Schedule,
  *,
  strategy: Strategy = "widest",
  rounds: int = 4,
  share: float = 0.1,
  store: Path | str | None = None,
  executor: Executor | Submitter | None = None,
  progress: bool = True,
) -> Estimate:
  """Estimates memorization with half of the models on all examples, half on the uncertain ones.

  It narrows the widest intervals. With as many models `estimate` finds more of the most memorized
  examples, and its intervals of them are narrower; so are those of a proxy's candidates, see
  docs/ground-truth.md.

  Args:
    schedule: of `retraining.leave_out`, on all examples and without test examples. Half of its
      models are trained in the first round, the rest in equal parts in the later ones.
    strategy: "widest" leaves out the examples with the widest intervals. "sleeping_experts" draws
      them by weights that it learns round by round, from those whose interval is wider than it is
      at worst after `estimate` with as many models.
    rounds: later rounds, at least 1; each chooses anew.
    share: share of the examples that a later round leaves out.
    store: folder for finished chunks, one folder a round in it; resumes as `estimate` does.
    executor, progress: as `memorization.estimate`.

  Returns:
    An `Estimate` whose counts say where the models went and whose `design` says what was done.

  Raises:
    ValueError: a number is outside its range, the strategy is none of these, the schedule is of
      another kind, or its networks have a loss of their own, which gives no intervals.

  References:
    Sleeping experts: Baykal et al., [Low-Regret Active Learning](https://arxiv.org/abs/2104.02822),
    2021; what of it is ours is in the module of that name.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import data, memorization, models, retraining, train
    >>> toy = data.Dataset(np.eye(20, dtype=np.float32), np.arange(20) % 2)
    >>> recipe = train.Recipe(models.mlp((8,), 2), epochs=5, batch_size=4)
    >>> schedule = retraining.leave_out(recipe, toy, jax.random.key(0), num_models=32)
    >>> truth = memorization.active(schedule, rounds=2, share=0.2, executor=retraining.serial)
    >>> truth.design
    '16 models, each without 6 of all of 20 examples; then 2 rounds of 8 on the 4 widest intervals'
  """
  if strategy not in get_args(Strategy):
    raise ValueError(
      f"active got strategy {strategy!r}: use one of {', '.join(get_args(Strategy))}."
    )
  num_models, dataset = schedule.num_models, schedule.dataset
  copies = len(schedule.kept) > 1 or (schedule.families and schedule.families[0].shape[1] > 1)
  if schedule.folds or schedule.test or copies or len(schedule.candidates) < len(dataset):
    raise ValueError(
      "active chooses single examples itself and keeps no outputs; it got "
      f"{schedule.design}{', some of them copies' if copies else ''}. Make the schedule with "
      "retraining.leave_out without candidates=, test= and families of the data."
    )
  later = num_models // 2 // max(rounds, 1)
  if rounds < 1 or later < 2:
    raise ValueError(
      f"active got num_models={num_models}, rounds={rounds}: half of the models must give each of "
      "at least one round two. Schedule more models or give fewer rounds."
    )
  chosen = round(share * len(dataset))
  if not 2 <= chosen < len(dataset):
    raise ValueError(
      f"active got share={share}: {chosen} of {len(dataset)} examples; it must be at least 2 and "
      "not all."
    )
  refuse_without_intervals(schedule, "active")
  first = dataclasses.replace(schedule, num_models=num_models - later * rounds)
  narrow = narrow_enough(num_models, schedule.subset_size / len(dataset))
  experts = sleeping_experts.start(len(dataset))
  with Progress(num_models, progress, "ground truth") as bar:
    execute = bar.counting(executor)
    total = _computed(first, store, 0, execute)
    for number in range(1, rounds + 1):
      bar.next_round(first.num_models + (number - 1) * later)
      seen = from_tallies(first, total)
      width = np.where(np.isnan(seen.high), 2.0, seen.high - seen.low)
      key = _round_key(schedule, number)
      if strategy == "widest":
        rows = widest(width, seen.ids, chosen)
      else:
        own_key = jax.random.fold_in(key, _DRAW)
        with _settings.applied(schedule.settings):
          experts, rows = sleeping_experts.choose(experts, width, narrow, chosen, own_key)
      own = _on(schedule, np.sort(seen.ids[rows]), key, later)
      total = add(total, _only(_computed(own, store, number, execute), own))
    bar.reached(num_models)
  on = f"the {chosen} widest intervals"
  if strategy == "sleeping_experts":
    on = f"{chosen} examples drawn by sleeping experts"
  design = f"{first.design}; then {rounds} rounds of {later} on {on}"
  warn_of(first, total)
  return dataclasses.replace(from_tallies(first, total), design=design)


def widest(width: np.ndarray, ids: np.ndarray, count: int) -> np.ndarray:
  """Returns the rows int [count] of the widest intervals; equal ones in an order of no meaning."""
  return np.lexsort((scattered(ids), -width))[:count]


def narrow_enough(num_models: int, share: float) -> float:
  """Returns the width at worst of an interval from models that each see this share of the data."""
  inside, outside = num_models * share, num_models * (1 - share)
  low, high = newcombe(inside / 2, inside, outside / 2, outside)
  return float(high - low)


def _round_key(schedule: Schedule, number: int) -> jax.Array:
  key = jax.random.wrap_key_data(jnp.asarray(schedule.key), impl="threefry2x32")
  # Numbers of models count up from 0: those of rounds count down from where no model is.
  return jax.random.fold_in(key, 2**31 - number)


def _on(schedule: Schedule, candidates: np.ndarray, key: jax.Array, num_models: int) -> Schedule:
  """Returns the schedule of a later round, which leaves out half of its candidates."""
  return dataclasses.replace(
    schedule,
    key=np.asarray(jax.random.key_data(key)),
    num_models=num_models,
    kept=(round(_FRACTION * len(candidates)),),
    candidates=candidates,
  )


def _computed(
  schedule: Schedule, store: Path | str | None, number: int, executor: Executor
) -> Chunk:
  name = f"round-{number}" + (f"-{schedule.hash[:12]}" if number else "")
  folder = None if store is None else local(store) / name
  return functools.reduce(add, stream(schedule, store=folder, executor=executor))


def _only(total: Chunk, schedule: Schedule) -> Chunk:
  """Returns tallies that count for the candidates alone: the others were in every subset."""
  chosen = np.isin(schedule.dataset.ids, schedule.candidates)
  return dataclasses.replace(total, **{name: getattr(total, name) * chosen for name in TALLIES})
