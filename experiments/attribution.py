"""Attribution beside memorization: do TRAK and EK-FAC foretell what retraining without data does?

Every estimate is scored by LDS on the same models, which none of them has seen: the last ones of a
schedule of leave-subset-out models. Estimates are the influence by the first 100, 200, … of these
models, and TRAK and EK-FAC of the first few of them, trained again for their weights.

    python -m experiments.attribution --out runs/attribution

Stopped at any time the same command goes on. Beside each LDS stand the cost of the estimate, its
models included, and its rank agreement with the influence by most models. How far these can agree
at all, the influence by one half of its models and by the other half says.
"""

import dataclasses
import json
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from experiments import cache, cli, setting, tables
from experiments.truth import chunks_of, truth_key
from jaxmul import data, memorization, metrics, report, retraining, train
from jaxmul._ids import find
from jaxmul._ranks import spearman
from jaxmul.memorization import Attribution, SubsetModels
from jaxmul.metrics import Figure

EXAMPLES = "95 % bootstrap over test examples"
BOTH = "95 % bootstrap over test examples and held-out models"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(setting.Flags):
  """LDS of influence by retraining, of TRAK and of EK-FAC.

  Attributes:
    model: network to train.
    models: numbers of leave-subset-out models that the influence is taken from.
    heldout: further models, which judge every estimate.
    fraction: share of the training set that each model sees, in (0, 1).
    networks: models whose weights TRAK and EK-FAC take; they are also scored with one.
    dims: numbers that TRAK projects a gradient to, one or several.
    num_test: test examples that every estimate is made for, at random.
    damping: of EK-FAC.
  """

  model: Literal["mlp", "cnn", "resnet8", "resnet18"] = "mlp"
  models: tuple[int, ...] = (100, 200, 400)
  heldout: int = 100
  fraction: float = 0.7
  networks: int = 5
  dims: tuple[int, ...] = (512,)
  num_test: int = 500
  damping: float = 0.1
  out: Path = Path("runs/attribution")

  def __post_init__(self):
    for name in ("models", "dims"):
      if not getattr(self, name) or min(getattr(self, name)) < 1:
        raise ValueError(f"--{name} {getattr(self, name)}: give at least one, each at least 1.")
    if self.heldout < 10:
      raise ValueError(f"--heldout {self.heldout}: must be at least 10.")
    if not 1 <= self.networks <= max(self.models):
      raise ValueError(f"--networks {self.networks}: must be in [1, {max(self.models)}].")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
  """What all estimates share: data, the recipe, and all models, those that judge last."""

  training: data.Dataset
  test: data.Dataset
  recipe: train.Recipe
  schedule: retraining.Schedule


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Estimated:
  """An estimate: its name, its scores, and the seconds of training its models and of the rest."""

  name: str
  scores: Attribution
  training: float
  rest: float


def prepare(config: Config) -> Problem:
  """Cuts the data as the other scripts do, and schedules their models, with some more.

  Outputs of the models are kept on all examples that are not trained on.
  """
  dataset, parts = setting.cut(config)
  recipe = setting.recipe_of(config, dataset.num_classes)
  training = dataset.take(parts.train)
  key = jax.random.fold_in(jax.random.key(config.key), 6)
  order = np.asarray(jax.random.permutation(key, len(parts.test)))
  test = dataset.take(np.sort(parts.test[order[: config.num_test]]))
  schedule = retraining.leave_out(
    recipe,
    training,
    truth_key(config),
    num_models=max(config.models) + config.heldout,
    fraction=config.fraction,
    test=dataset.take(np.concatenate([parts.heldout, parts.test])),
    target="logits",
    chunk_size=1,
  )
  return Problem(training=training, test=test, recipe=recipe, schedule=schedule)


def main(config: Config) -> None:
  """Trains, estimates, scores, and writes a table."""
  problem = prepare(config)
  report.write_json(config.out / "config.json", {"config": config, "versions": report.versions()})
  models, seconds_each = all_models(config, problem)
  used = models.take(models.numbers < max(config.models))
  heldout = models.take(models.numbers >= max(config.models))
  best = used.influence()
  estimates = [
    Estimated(
      name=f"influence, {count} models",
      scores=used.take(used.numbers < count).influence(),
      training=count * seconds_each,
      rest=0.0,
    )
    for count in config.models
  ]
  estimates += by_gradients(config, problem, models)
  rows, figures = [], []
  for estimate in estimates:
    name, scores = estimate.name, estimate.scores
    lds = lds_of(name, scores, heldout)
    agrees = agreement_of(name, scores.value, best.value)
    if name == f"influence, {max(config.models)} models":
      agrees = dataclasses.replace(agrees, value=np.nan, low=np.nan, high=np.nan, note="is itself")
    figures += [lds, agrees]
    figures += [Figure(name="seconds", of=name, value=estimate.training, kind="training")]
    figures += [Figure(name="seconds", of=name, value=estimate.rest, kind="estimate")]
    rows.append((name, lds, agrees, estimate.training, estimate.rest))
  ceiling = halves(used)
  figures.append(ceiling)
  names = ("estimate", "LDS", f"ρ with {max(config.models)} models", "s training", "s estimate")
  tables.show(f"{problem.schedule.design}, {len(heldout)} of them to judge", names, rows)
  print(f"{ceiling.of}: ρ {tables.with_half_width(ceiling)}")
  report.write_json(config.out / "attribution.json", {"figures": figures, "config": config})
  print(f"written: {config.out}/attribution.json")


def all_models(config: Config, problem: Problem) -> tuple[SubsetModels, float]:
  """Returns all models, and the seconds that one took, of those that were trained at once."""
  schedule, test = problem.schedule, problem.test
  chunks = chunks_of(config.out, schedule)
  clock = chunks.with_suffix(".json")
  before = retraining.Store(chunks, schedule).missing()
  models, seconds = cache.timed(lambda: memorization.subset_models(schedule, store=chunks))
  new = sum(len(schedule.models(number)) for number in before)
  if new:
    report.write_json(clock, {"seconds each": seconds / new})
  columns = find(models.test_ids, test.ids)
  models = dataclasses.replace(models, test_ids=test.ids, outputs=models.outputs[:, columns])
  return models, json.loads(clock.read_text())["seconds each"]


def by_gradients(config: Config, problem: Problem, models: SubsetModels) -> list[Estimated]:
  """Returns TRAK and EK-FAC of one network, and of all that there are."""
  training, test = problem.training, problem.test
  recipe, schedule = problem.recipe, problem.schedule
  name = cache.name_of(schedule.hash, "attribution")
  like = train.check_labels(recipe.model, training, "attribution")
  keep = cache.Kept(config.out / "cache" / f"attribution-{name}", like)
  key = jax.random.fold_in(jax.random.key(config.key), 7)
  networks, training_seconds, influences = [], [], []
  for number in range(config.networks):
    ids = models.ids[models.member[models.numbers == number][0]]

    def trained(number=number, ids=ids):
      return train.fit(recipe, training, retraining.train_key(schedule, number), ids).network

    network, seconds = keep(f"network {number}", trained)
    networks.append(network)
    training_seconds.append(seconds)

  def kept(label, make):
    arrays, seconds = keep(label, lambda: {"value": make().value})
    ids = {"ids": training.ids, "test_ids": test.ids}
    return Attribution(**ids, value=arrays["value"]), seconds

  for number, network in enumerate(networks):
    own = jax.random.fold_in(key, number)

    def influence(network=network, own=own):
      return memorization.ekfac_influence(network, training, test, own, damping=config.damping)

    influences.append(kept(f"ekfac {config.damping} of {number}", influence))
    print(f"EK-FAC, network {number + 1} of {len(networks)}: {influences[-1][1]:.1f} s", flush=True)
  estimates = []
  for count in sorted({1, config.networks}):
    seconds = sum(training_seconds[:count])
    for dim in config.dims:

      def projected(count=count, dim=dim):
        return memorization.trak(networks[:count], training, test, key, dim=dim)

      scores, own = kept(f"trak {dim} of {count}", projected)
      name = f"TRAK, {_of(count)}, k = {dim}"
      estimates.append(Estimated(name=name, scores=scores, training=seconds, rest=own))
      print(f"{name}: {own:.1f} s", flush=True)
    values = [scores.value for scores, _ in influences[:count]]
    scores = dataclasses.replace(influences[0][0], value=np.mean(values, axis=0))
    rest = sum(own for _, own in influences[:count])
    name = f"EK-FAC, {_of(count)}"
    estimates.append(Estimated(name=name, scores=scores, training=seconds, rest=rest))
  return estimates


def lds_of(name: str, scores: Attribution, heldout: SubsetModels) -> Figure:
  """Returns the LDS of an estimate."""
  found = metrics.lds(scores, heldout)
  return Figure(
    name="LDS", of=name, part="test", value=found.value, low=found.low, high=found.high, note=BOTH
  )


def agreement_of(name: str, scores: np.ndarray, truth: np.ndarray) -> Figure:
  """Returns ρ of scores [t, n] over training examples, its mean over test examples."""
  known = np.isfinite(scores).all(0) & np.isfinite(truth).all(0)  # in and out of a subset
  found = metrics.intervals.over_examples(spearman(scores[:, known], truth[:, known]))
  return metrics.figures.with_interval(found, EXAMPLES, name="agreement", of=name, part="test")


def halves(models: SubsetModels) -> Figure:
  """Returns the agreement of the influence by one half of the models with that by the other."""
  half = len(models) // 2
  first, second = models.take(slice(0, half)), models.take(slice(half, None))
  name = f"influence by {half} models and by {len(second)} others"
  return agreement_of(name, first.influence().value, second.influence().value)


def _of(count: int) -> str:
  return f"{count} network{'s' if count > 1 else ''}"


if __name__ == "__main__":
  cli.main(main, Config, __doc__)
