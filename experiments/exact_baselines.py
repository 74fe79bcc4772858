"""What a request for deletion costs: retraining, SISA, RUM, by the size of the request.

Requests are random ids. SISA was sharded and sliced before any request came; retraining and RUM
take a network that was not. "again" is what is trained again: passes over examples, over those of
one training on what is left, expected over many draws of the request. Retraining and SISA are
exact. RUM, here its published plan none → fine-tune → SalUn, is not: experiments.rum says how near
it comes.

    python -m experiments.exact_baselines --out runs/exact
    python -m experiments.exact_baselines --hidden 512 512 --out runs/exact_large

"from a checkpoint" is retraining from the last checkpoint before the first forgotten example was
seen, one after every step of a training whose first epoch is in random order. It is computed, not
run: of k examples the first is seen after 1/(k + 1) of that epoch, and all else is trained again.

Every method of a seed is a file of its own: the same command again goes on where it stopped.
Seconds are without compilation, checkpoints on disk included.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from experiments import cache, cli, rows, setting, tables
from jaxmul import data, metrics, proxies, report, rum, sisa, train, unlearn
from jaxmul._progress import stages
from jaxmul.binding import Network
from jaxmul.metrics import Figure
from jaxmul.unlearn._passes import counts

LAYOUT = 1  # of what is kept: raise it where an older file cannot be read
GROUPS = len(rum.salun_plan().steps)
OTHERS = ("seeds", "log", "out", "dataset", "data_dir")  # which change nothing that is kept


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(setting.Flags):
  """What exact deletion costs beside RUM.

  Attributes:
    model: network to train.
    hidden: units of each hidden layer of an mlp; its own by default.
    seeds: training seeds.
    sizes: ids in a request.
    shards: of SISA; 1 is retraining from a checkpoint between slices.
    slices: of each shard.
    draws: requests of each size over which the share is a mean.
    timed: requests of each size that SISA serves, for their seconds and accuracy.
  """

  model: Literal["mlp", "cnn"] = "mlp"
  hidden: tuple[int, ...] = ()
  seeds: int = 3
  sizes: tuple[int, ...] = (1, 10, 100)
  shards: tuple[int, ...] = (1, 5, 20)
  slices: int = 5
  draws: int = 200
  timed: int = 3
  out: Path = Path("runs/exact")

  def __post_init__(self):
    if self.hidden and self.model != "mlp":
      raise ValueError(f"--hidden {self.hidden}: only the mlp has hidden widths.")
    if min(self.seeds, self.draws, self.timed, *self.sizes, *self.shards) < 1:
      raise ValueError("--seeds, --sizes, --shards, --draws and --timed must be at least 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
  """What a method of one seed does with requests, for each of their sizes.

  Attributes:
    before: test accuracy before any request; of SISA by the mean probability.
    again: mean share that is trained again.
    seconds: mean of the requests that were served, without compilation.
    after: mean test accuracy after a request.
    vote: test accuracy before any request, by majority vote; None without shards.
  """

  before: float
  again: list[float]
  seconds: list[float]
  after: list[float]
  vote: float | None = None


class Seed:
  """One training seed: its data, and requests drawn at random."""

  def __init__(self, config: Config, number: int):
    self.config, self.number = config, number
    dataset, parts = setting.cut(config)
    self.training, self.test = dataset.take(parts.train), dataset.take(parts.test)
    self.key = jax.random.fold_in(jax.random.key(config.key), 100 + number)
    hidden = {"widths": config.hidden} if config.hidden else {}
    model = setting.model_of(config, dataset.num_classes, **hidden)
    self.recipe = setting.recipe_with(model, config)

  def requests(self, size: int, count: int) -> list[np.ndarray]:
    """Returns so many requests of a size; the first ones are the same whatever their number."""
    rng = np.random.default_rng([self.config.key, self.number, size])
    return [rng.choice(self.training.ids, size, replace=False) for _ in range(count)]

  def left(self, ids: np.ndarray) -> np.ndarray:
    """Returns the ids that are retained."""
    return np.setdiff1d(self.training.ids, ids)

  def accuracy(self, network: Network) -> float:
    """Returns the test accuracy."""
    return float(metrics.accuracy(network, self.test))

  def original(self) -> train.Fit:
    """Trains one network on everything."""
    return train.fit(self.recipe, self.training, self.key)


def retrained(seed: Seed) -> Served:
  """Retraining on what is left; the first run compiles."""
  served = Served(before=seed.accuracy(seed.original().network), again=[], seconds=[], after=[])
  for size in seed.config.sizes:
    (ids,) = seed.requests(size, 1)
    split = data.Split(ids, seed.left(ids))

    def run(split=split) -> Network:
      return unlearn.retrain(seed.recipe, seed.training, split, seed.key).network

    network, seconds, _ = rows.timed_compiled(run, set(), size)
    served.again.append(1.0)
    served.seconds.append(seconds)
    served.after.append(seed.accuracy(network))
  return served


def from_checkpoint(seed: Seed) -> Served:
  """Retraining from the last step before the first forgotten example: computed, nothing is run."""
  whole = kept(seed.config, seed.number, "retrain", lambda: retrained(seed))
  n = len(seed.training)
  again = []
  for size in seed.config.sizes:
    rng = np.random.default_rng([seed.config.key, seed.number, size])
    first = [rng.choice(n, size, replace=False).min() for _ in range(seed.config.draws)]
    before = np.mean(np.array(first) // seed.config.batch_size * seed.config.batch_size)
    again.append(float(1 - before / (n * seed.config.epochs)))
  seconds = [share * of_all for share, of_all in zip(again, whole.seconds, strict=True)]
  return dataclasses.replace(whole, again=again, seconds=seconds)


def sharded(seed: Seed, shards: int) -> Served:
  """SISA. A request starts from the ensemble as it was trained, in a store of its own."""
  config = seed.config
  store = folder_of(config) / f"sisa-{shards}-{seed.number}"
  recipe, training, key = seed.recipe, seed.training, seed.key
  ensemble = sisa.fit(
    recipe, training, key, shards=shards, slices=config.slices, store=store / "fit"
  )
  vote = np.asarray(ensemble.vote(seed.test.batch()[0])) == seed.test.labels
  served = Served(
    before=seed.accuracy(ensemble.network), again=[], seconds=[], after=[], vote=float(vote.mean())
  )

  def serve(ids: np.ndarray) -> tuple[sisa.Ensemble, float]:
    shutil.rmtree(store / "request", ignore_errors=True)
    # Links: files are replaced and removed, never changed.
    shutil.copytree(store / "fit", store / "request", copy_function=os.link)
    begun = dataclasses.replace(ensemble, store=store / "request")
    return cache.timed(lambda: sisa.forget(begun, training, ids))

  serve(*seed.requests(max(config.sizes), 1))  # compiles what training did not
  for size in config.sizes:
    draws = seed.requests(size, max(config.draws, config.timed))
    served.again.append(float(np.mean([sisa.cost(ensemble, ids) for ids in draws])))
    done = [serve(ids) for ids in draws[: config.timed]]
    served.seconds.append(float(np.mean([seconds for _, seconds in done])))
    served.after.append(float(np.mean([seed.accuracy(left.network) for left, _ in done])))
  shutil.rmtree(store)
  return served


def refined(seed: Seed) -> Served:
  """RUM's published plan, groups by the confidence of the trained network."""
  config, training, plan = seed.config, seed.training, rum.salun_plan(seed.config.batch_size)
  original = seed.original().network

  def score(network: Network, examples: data.Dataset) -> np.ndarray:
    return proxies.score(proxies.confidence, network, examples)

  scores = score(original, training)
  cuts = np.quantile(scores, np.arange(1, GROUPS) / GROUPS).tolist()
  served = Served(before=seed.accuracy(original), again=[], seconds=[], after=[])
  for size in config.sizes:
    requests, drawn = seed.requests(size, 1), seed.requests(size, config.draws)
    if size < GROUPS:  # which of the steps it gets decides what it costs: one of each
      by_score = training.ids[np.argsort(scores)]
      places = (np.arange(GROUPS) + 0.5) / GROUPS * len(by_score)
      requests = [by_score[int(place) :][:size] for place in places]

    def sizes_of(ids: np.ndarray, size=size) -> list[int]:
      if size >= GROUPS:
        return [len(part) for part in np.array_split(ids, GROUPS)]
      return np.bincount(
        np.searchsorted(cuts, scores[training.rows(ids)], side="right"), minlength=GROUPS
      ).tolist()

    def serve(ids: np.ndarray) -> Network:
      stream = rum.stream(plan, original, training, [ids], seed.key, score=score, cuts=cuts)
      return next(stream).network

    shares = [passes_of(plan, sizes_of(ids), len(training)) for ids in drawn]
    served.again.append(float(np.mean(shares)) / (config.epochs * (len(training) - size)))
    done = [rows.timed_compiled(lambda ids=ids: serve(ids), set(), size) for ids in requests]
    served.seconds.append(float(np.mean([seconds for _, seconds, _ in done])))
    served.after.append(float(np.mean([seed.accuracy(network) for network, *_ in done])))
  return served


def passes_of(plan: rum.Plan, sizes: list[int], n: int) -> int:
  """Returns the passes over examples of a plan on groups of these sizes, of n examples."""
  total, left = 0, n
  for step, size in zip(plan.steps, sizes, strict=True):
    left -= size
    if step.unlearner is not None and size:
      total += step.epochs * sum(counts(step.unlearner.passes, size, left))
  return total


def methods_of(config: Config) -> dict[str, Callable[[Seed], Served]]:
  """Returns what serves requests, by name."""
  split = {
    f"SISA, {shards} × {config.slices}": lambda seed, shards=shards: sharded(seed, shards)
    for shards in config.shards
  }
  return {"retrain": retrained, "from a checkpoint": from_checkpoint} | split | {"RUM": refined}


def folder_of(config: Config) -> Path:
  """Returns the folder of what is kept, named by all that decides it."""
  dataset, parts = setting.cut(config)
  name = cache.name_of(cache.told(config, *OTHERS), dataset, parts, LAYOUT)
  return config.out / "cache" / name


def kept(config: Config, number: int, name: str, make: Callable[[], Served]) -> Served:
  """Returns what a method of a seed did, read back where it is there."""
  label = name.replace(" ", "-").replace(",", "").replace("×", "x")
  path = folder_of(config) / f"{number}-{label}.json"
  if not path.exists():
    report.write_json(path, make())
  return Served(**json.loads(path.read_text()))


def figures_of(served: list[Served], sizes: tuple[int, ...]) -> list[Figure]:
  """Returns the means over seeds with t-intervals; `of` says of what size of request."""
  over, rate = metrics.figures.over_seeds, metrics.figures.RATE
  figures = [over([one.before for one in served], within=rate, name="test before")]
  votes = [one.vote for one in served if one.vote is not None]
  if votes:
    figures.append(over(votes, within=rate, name="test before, by vote"))
  for at, size in enumerate(sizes):
    part = str(size)
    figures += [
      over([one.again[at] for one in served], within=(0, np.inf), name="again", part=part),
      over([one.seconds[at] for one in served], within=(0, np.inf), name="seconds", part=part),
      over([one.after[at] for one in served], within=rate, name="test after", part=part),
    ]
  return figures


def table_of(results: dict[str, list[Figure]], sizes: tuple[int, ...]) -> str:
  """Returns the table in Markdown: a row for each method."""
  head = ["method", *(f"again, {size}" for size in sizes), *(f"s, {size}" for size in sizes)]
  head += ["test before", "by vote", *(f"test after {size}" for size in sizes)]
  lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
  for name, figures in results.items():
    cells = {(figure.name, figure.part): tables.with_half_width(figure) for figure in figures}
    shown = [cells.get((what, str(size)), "") for what in ("again", "seconds") for size in sizes]
    shown += [cells[("test before", "all")], cells.get(("test before, by vote", "all"), "")]
    shown += [cells[("test after", str(size))] for size in sizes]
    lines.append(f"| {name} | {' | '.join(shown)} |")
  return "\n".join(lines) + "\n"


def main(config: Config) -> None:
  """Runs what is missing, and writes the table."""
  methods = methods_of(config)
  served: dict[str, list[Served]] = {name: [] for name in methods}
  with stages(config.seeds * len(methods)) as begin:
    for number in range(config.seeds):
      seed = Seed(config, number)
      for name, serve in methods.items():
        begin(f"seed {number + 1}, {name}")
        served[name].append(kept(config, number, name, lambda serve=serve, seed=seed: serve(seed)))
  results = {name: figures_of(of_seeds, config.sizes) for name, of_seeds in served.items()}
  record = {"config": config, "versions": report.versions(), "methods": results}
  report.write_json(config.out / "results.json", record)
  table = table_of(results, config.sizes)
  (config.out / "table.md").write_text(table)
  print(table)


if __name__ == "__main__":
  cli.main(main, Config, __doc__)
