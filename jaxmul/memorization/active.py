"""Ground truth on a budget: the next models are spent where the intervals are widest.

The first round leaves out random subsets of everything. Each later round leaves out only the
examples whose intervals are widest so far, half of them in each model, and adds what it counts on
them to the earlier tallies. It thereby mixes two quantities: with and without an example among
random subsets, and among nearly all the data. The difference is small where others matter little,
but it is not zero, and examples were chosen by what was seen: for an unbiased score use `estimate`.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmul._ids import scattered
from jaxmul.data.dataset import Dataset
from jaxmul.memorization import executors
from jaxmul.memorization.chunk import TALLIES, Chunk, add
from jaxmul.memorization.plan import Learner, Plan, plan
from jaxmul.memorization.progress import Progress
from jaxmul.memorization.run import stream
from jaxmul.memorization.scores import Estimate, from_tallies, warn_of
from jaxmul.train import Recipe

_FRACTION = 0.5  # as many models with a candidate as without: the narrowest interval


def active(
  recipe: Recipe | Learner,
  dataset: Dataset,
  key: jax.Array,
  *,
  num_models: int,
  rounds: int = 4,
  share: float = 0.1,
  fraction: float = 0.7,
  store: Path | str | None = None,
  executor: Any = None,
  progress: bool = True,
) -> Estimate:
  """Estimates memorization with half of the models on all examples, half on the uncertain ones.

  Args:
    recipe, dataset, key, fraction, executor, progress: as `memorization.estimate`.
    num_models: M in all; half of them in the first round, the rest in equal parts.
    rounds: later rounds, at least 1; each chooses anew.
    share: share of the examples with the widest intervals that a later round leaves out.
    store: folder for finished chunks, one folder a round in it; resumes as `estimate` does.

  Returns:
    An `Estimate` whose counts say where the models went and whose `design` says what was done.

  Raises:
    ValueError: a number is outside its range.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import memorization, models, train
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.eye(20, dtype=np.float32), np.arange(20) % 2)
    >>> recipe = train.Recipe(models.mlp((8,), 2), epochs=5, batch_size=4)
    >>> found = memorization.active(recipe, toy, jax.random.key(0), num_models=32, rounds=2,
    ...   share=0.2, executor=memorization.serial)
    >>> found.design
    '16 models, each without 6 of all of 20 examples; then 2 rounds of 8 on the 4 widest intervals'
  """
  later = num_models // 2 // max(rounds, 1)
  if rounds < 1 or later < 2:
    raise ValueError(
      f"active got num_models={num_models}, rounds={rounds}: half of the models must give each of "
      "at least one round two. Give more models or fewer rounds."
    )
  chosen = round(share * len(dataset))
  if not 2 <= chosen < len(dataset):
    raise ValueError(
      f"active got share={share}: {chosen} of {len(dataset)} examples; it must be at least 2 and "
      "not all."
    )
  first = plan(recipe, dataset, key, num_models=num_models - later * rounds, fraction=fraction)
  with Progress(num_models, shown=progress) as bar:
    execute = bar.counting(executors.of(executor))
    total = _computed(first, store, 0, execute)
    for number in range(1, rounds + 1):
      bar.next_round(first.num_models + (number - 1) * later)
      seen = from_tallies(first, total)
      width = np.where(np.isnan(seen.high), 2.0, seen.high - seen.low)
      widest = seen.ids[np.lexsort((scattered(seen.ids), -width))[:chosen]]
      options = {"num_models": later, "fraction": _FRACTION, "candidates": widest}
      work = plan(recipe, dataset, jax.random.fold_in(key, 2**31 - number), **options)
      total = add(total, _only(_computed(work, store, number, execute), work))
    bar.reached(num_models)
  design = f"{first.design}; then {rounds} rounds of {later} on the {chosen} widest intervals"
  warn_of(first, total)
  return dataclasses.replace(from_tallies(first, total), design=design)


def _computed(work: Plan, store: Path | str | None, number: int, executor: Any) -> Chunk:
  name = f"round-{number}" + (f"-{work.hash[:12]}" if number else "")
  folder = None if store is None else Path(store) / name
  total = None
  for chunk in stream(work, store=folder, executor=executor):
    total = chunk if total is None else add(total, chunk)
  assert total is not None
  return total


def _only(total: Chunk, work: Plan) -> Chunk:
  """Returns tallies that count for the candidates alone: the others were in every subset."""
  chosen = np.isin(work.dataset.ids, work.candidates)
  return dataclasses.replace(total, **{name: getattr(total, name) * chosen for name in TALLIES})
