"""What is known of an unlearned network, in three levels, and what each costs."""

from typing import Literal

import jax
import numpy as np

from jaxmul import memorization, metrics, models, rum, train
from jaxmul._identity import digest
from jaxmul._ids import find
from jaxmul._progress import duration
from jaxmul._proportions import wilson
from jaxmul.binding import Network
from jaxmul.deletion.refusal import CHANGE, Refused, refuse_harm
from jaxmul.deletion.request import Request
from jaxmul.deletion.trained import kept
from jaxmul.metrics import oracle
from jaxmul.metrics.figures import EXAMPLES, RATE, Figure, over_seeds, with_interval
from jaxmul.metrics.intervals import Interval, over_examples
from jaxmul.retraining.leave_out_schedule import train_key

Evidence = Literal["none", "sample", "full"]
FOLDS = 5
_ENSEMBLE = 16
_WILSON = "95 % Wilson over examples"
_LONE = "no interval: one example"

NOT_CHECKED = {
  "none": (
    "No network was retrained without the examples: figures are of a surrogate.",
    "No membership attack was made.",
  ),
  "sample": ("No membership attack was made, and the evaluation was not audited.",),
  "full": (
    "Attacks and figures are of other networks of the recipe, which the same plan unlearned.",
  ),
}
"""What a level leaves open, in words for the record."""


def cost(
  evidence: Evidence,
  *,
  oracles: int = 3,
  has_estimate: bool = False,
  seconds: float | None = None,
) -> str:
  """Returns what a level of evidence costs, in trainings of the recipe; nothing is trained.

  Args:
    evidence: "none", "sample" or "full".
    oracles: as `forget`.
    has_estimate: whether cross-fit networks were trained before, or a plan of one's own needs none.
    seconds: what a training takes, compiled before, if it is known: the time of all is told too.
      It leaves out compilation and the choice of a plan.

  Raises:
    ValueError: there is no such level.

  Example:
    >>> cost("sample")
    'evidence "sample" costs 8 trainings: 5 cross-fit, once for a trained network; 3 oracles'
  """
  if evidence not in NOT_CHECKED:
    raise ValueError(f"forget got evidence={evidence!r}, must be 'none', 'sample' or 'full'.")
  parts = []
  if evidence != "none" and not has_estimate:
    parts.append((FOLDS, "cross-fit, once for a trained network"))
  if evidence == "sample":
    parts.append((oracles, "oracles"))
  if evidence == "full":
    count = max(oracles, _ENSEMBLE)
    parts += [(2 * count, "originals and oracles"), (count, "originals again, to unlearn them")]
  total = sum(number for number, _ in parts)
  listed = "; ".join(f"{number} {what}" for number, what in parts)
  text = f'evidence "{evidence}" costs {total} trainings' + (f": {listed}" if parts else "")
  if seconds is None:
    return text
  return f"{text}; about {duration(total * seconds)} at {seconds:.1f} seconds each"


def surrogates(
  request: Request, after: Network, estimate: memorization.Estimate | None
) -> list[Figure]:
  """Returns what is known without an oracle: the surrogate and accuracies, before and after."""
  heldout = request.dataset.take(request.heldout.tune)
  figures = []
  for of, network in (("unlearned", after), ("original", request.network)):
    value = rum.surrogate(
      network, request.network, request.training, request.split, heldout, estimate
    )
    note = "no interval; a plan that was chosen was chosen by it"
    figures.append(Figure(name="surrogate", of=of, value=value, note=note))
    said = oracle.outputs([network], request.dataset, _all(request))
    figures += _accuracies(said, request, of)
  return figures


def beside_a_few(request: Request, after: Network, key: jax.Array, count: int) -> list[Figure]:
  """Returns how far an unlearned network is from a few oracles, beside what doing nothing leaves.

  Intervals are over examples of S where a figure is of one network, over oracles for ToW and for
  the oracles' own figures.
  """
  retrained = oracle.oracles(
    request.recipe,
    request.dataset,
    request.split,
    key,
    num_models=count,
    store=request.folder(f"oracles-{digest(np.sort(request.split.forget))[:16]}"),
    progress=request.progress,
  )
  forget = request.split.forget
  p = retrained.take(forget).probability
  figures, gaps = [], {}
  for of, network in (("unlearned", after), ("original", request.network)):
    said = oracle.outputs([network], request.dataset, _all(request))
    figures += _accuracies(said, request, of)
    gaps[of] = np.abs(said.take(forget).probability[0] - p.mean(0))
    for name, ids in {"forget": forget, **_named(request)}.items():
      own = gaps[of][find(forget, np.sort(ids))]
      figures.append(_mean(own, name="example gap", of=of, part=name))
    figures += _tugs(said, retrained, request, of)
  others = [np.abs(p[k] - np.delete(p, k, 0).mean(0)).mean() for k in range(len(p))]
  if len(p) > 2:  # of two, each is as far from the other: that is one number
    figures.append(over_seeds(others, within=RATE, name="example gap", of="oracle", part="forget"))
  for part, ids in _judged(request).items():
    accuracy = retrained.take(ids).accuracy
    figures.append(over_seeds(accuracy, within=RATE, name="accuracy", of="oracle", part=part))
  change = gaps["unlearned"] - gaps["original"]
  return [_mean(change, name=CHANGE, part="forget"), *figures]


def beside_an_ensemble(
  request: Request, plan: rum.Plan, key: jax.Array, count: int
) -> tuple[list[Figure], str]:
  """Returns figures of originals that the plan unlearned, and the line of the audit.

  They are of the plan on networks of the recipe, not of the one network of the request.
  """
  count = max(count, _ENSEMBLE)
  models_key, unlearn_key, attack_key = jax.random.split(key, 3)
  ensemble = oracle.ensemble(
    request.recipe,
    request.dataset,
    request.split,
    models_key,
    num_models=count,
    store=request.folder("ensemble"),
    progress=request.progress,
  )
  if len(ensemble.originals) < count:
    raise Refused(
      f"forget: {count - len(ensemble.originals)} of {count} originals diverged: the recipe does "
      "not train reliably. Lower its learning rate."
    )
  groups = list(request.groups.values())
  unlearned = []
  for model in range(len(ensemble.originals)):
    original = _original(request, models_key, model)
    own = jax.random.fold_in(unlearn_key, model)
    after = rum.meta_unlearn(
      plan,
      original,
      request.training,
      groups,
      own,
      store=request.steps_of(plan),
      devices=request.devices,
    )
    unlearned.append(after)
  outputs = oracle.outputs(unlearned, request.dataset, ensemble.oracles.ids)
  split, heldout = request.split, request.heldout.attack
  audit = metrics.audit(ensemble, split, heldout, attack_key)
  figures = metrics.beside_oracles(
    outputs, ensemble, split, heldout, attack_key, groups=_named(request) or None
  )
  if not audit.passed:
    raise Refused(
      f"forget: {audit.line}. Its figures prove nothing. Give more oracles=; or, where originals "
      'and oracles hardly differ on these ids, evidence="sample": there is little to forget.',
      figures,
    )
  refuse_harm(figures)
  return audit.without_blind(figures), audit.line


def _original(request: Request, key: jax.Array, model: int) -> Network:
  """Trains one of the ensemble's originals again, or reads it back."""
  recipe, dataset = request.recipe, request.dataset
  schedule, _ = oracle.schedules(recipe, dataset, request.split, key, model + 1)
  return kept(
    request.folder(f"originals/{digest(schedule.hash, model)[:16]}"),
    models.shapes(recipe.model, dataset.example),
    lambda: train.fit(
      recipe, schedule.dataset, train_key(schedule, model), devices=request.devices
    ),
  ).network


def _all(request: Request) -> np.ndarray:
  split = request.split
  return np.concatenate([split.forget, split.retain, split.test, request.heldout.tune])


def _parts(request: Request) -> dict[str, np.ndarray]:
  split = request.split
  return {"forget": split.forget, "retain": split.retain, "test": split.test}


def _judged(request: Request) -> dict[str, np.ndarray]:
  """Parts with an accuracy; a request is refused by that on held-out examples, not by test's."""
  return _parts(request) | {"held out": request.heldout.tune}


def _named(request: Request) -> dict[str, np.ndarray]:
  return request.groups if len(request.groups) > 1 else {}


def _accuracies(said: oracle.Outputs, request: Request, of: str) -> list[Figure]:
  figures = []
  for part, ids in _judged(request).items():
    correct = said.take(ids).correct[0]
    low, high = wilson(correct.sum(), len(correct))
    interval = Interval(float(correct.mean()), float(low), float(high))
    figures.append(with_interval(interval, _WILSON, name="accuracy", of=of, part=part))
  return figures


def _mean(values: np.ndarray, *, name: str, part: str, of: str = "unlearned") -> Figure:
  """Returns the mean over examples; one example has no interval, and the note says so."""
  if len(values) == 1:
    return Figure(name=name, of=of, part=part, value=float(values[0]), note=_LONE)
  return with_interval(over_examples(values), EXAMPLES, name=name, of=of, part=part)


def _tugs(
  said: oracle.Outputs, retrained: oracle.Outputs, request: Request, of: str
) -> list[Figure]:
  """Returns ToW, and by group where there are some, of one network beside each oracle."""

  def accuracies(outputs: oracle.Outputs, ids: np.ndarray) -> np.ndarray:
    return outputs.take(ids).accuracy

  own = {part: accuracies(said, ids)[0] for part, ids in _parts(request).items()}
  theirs = {part: accuracies(retrained, ids) for part, ids in _parts(request).items()}
  values = [
    metrics.tow(tuple(own.values()), tuple(theirs[part][k] for part in theirs))
    for k in range(len(retrained))
  ]
  figures = [over_seeds(values, within=RATE, name="ToW", of=of)]
  groups = _named(request)
  if not groups:
    return figures
  ours = [accuracies(said, ids)[0] for ids in groups.values()]
  each = np.stack([accuracies(retrained, ids) for ids in groups.values()])
  values = [
    metrics.tow_by_group(
      (ours, own["retain"], own["test"]),
      (list(each[:, k]), theirs["retain"][k], theirs["test"][k]),
    )
    for k in range(len(retrained))
  ]
  return [*figures, over_seeds(values, within=RATE, name="ToW by group", of=of)]
