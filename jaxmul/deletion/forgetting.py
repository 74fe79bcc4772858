"""From ids to an unlearned network with its evidence and its record, in one call.

S is what is to be deleted, R everything else that the network was trained on. Unlearning is
approximate: what comes out treats S as networks do that never saw it, as far as the evidence
reaches. Evidence is paid for in trainings, and there are three levels:

  "none"    no training: a surrogate, and accuracies before and after.
  "sample"  cross-fit networks, once for a trained network, and a few oracles, which are networks
            retrained without S: how far each example of S is from what they say of it.
  "full"    an ensemble of originals and oracles, each original unlearned by the same plan, every
            attack, and the audit of the evaluation.
"""

import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from jaxmul import _check, memorization, rum, train
from jaxmul._dataset import Dataset
from jaxmul._paths import local
from jaxmul.binding import Network
from jaxmul.deletion import evidence_and_cost as levels
from jaxmul.deletion import sealed_record
from jaxmul.deletion.given import refuse_other, refuse_other_devices
from jaxmul.deletion.refusal import (
  Refused,
  cheaper,
  epoch_work,
  refuse_dear,
  refuse_harm,
  refuse_idle,
  training_work,
)
from jaxmul.deletion.request import Request, copies_left, cross_fitted, request_of, split_of
from jaxmul.deletion.trained import Clock
from jaxmul.metrics.figures import Figure
from jaxmul.rum.plan import refuse_no_plan

_TRIALS = 3  # candidates a group


class Forgotten(NamedTuple):
  """What came of a request.

  Attributes:
    network: the unlearned network.
    figures: the evidence; `metrics.table` shows it.
    record: what `record.json` holds: ids, plan, hashes, versions, date, evidence, and what was not
      checked.
    estimate: what cross-fit networks said, for the next request on the same network; or None.
  """

  network: Network
  figures: list[Figure]
  record: dict[str, Any]
  estimate: memorization.Estimate | None


def forget(
  network: Any,
  dataset: Dataset,
  ids: Any,
  recipe: train.Recipe,
  key: jax.Array,
  *,
  heldout: Any,
  test: Any,
  score: str = "confidence",
  plan: rum.Plan | Literal["auto"] = "auto",
  evidence: levels.Evidence = "sample",
  oracles: int = 3,
  estimate: memorization.Estimate | None = None,
  store: Path | str | None = None,
  progress: bool = True,
  devices: Sequence[Any] | None = None,
) -> Forgotten:
  """Unlearns examples, and says how well.

  The examples are refined into groups by how memorized they seem, and a plan unlearns each group.
  The plan is chosen by `rum.tune`, unless one is given, and takes less than a training does. The
  network was trained on all of the data set but its held-out and test examples.

  Args:
    network: the trained network: a `Network`, a callable pytree, or a `train.Fit`, whose learning
      events are the scores where they rode along.
    dataset: everything: what was trained on, held-out examples and test examples.
    ids: int [k], what is to be deleted.
    recipe: how the network was trained; oracles are trained by it.
    key: of all random choices.
    heldout: int [h], ids never trained on, for choosing the plan and for attacks.
    test: int [t], ids never trained on, for final figures only.
    score: name of a tracker's score in a `Fit`, or of a point proxy.
    plan: "auto", or one of your own, with a step for each group.
    evidence: "none", "sample" or "full". `cost` says what a level costs, and so does a line on
      stderr before anything is trained.
    oracles: networks retrained without the ids, at least 2; at least 16 of "full".
    estimate: what cross-fit networks said, from an earlier call: `Rehearsal.estimate`, or
      `Forgotten.estimate`, or `memorization.estimate` of `retraining.cross_fit`. Without it they
      are trained where a plan is to be chosen; of "none" one of both has to be given.
    store: a folder for the record, `network/`, `record.json` and `report.html`, and under `work/`
      for what was trained, so that the same call goes on after a kill. A refused request leaves a
      record too, of the reason and of what was tried, without a network. None keeps nothing.
    progress: whether stderr shows what is done.
    devices: split the batches of what is scored for the groups and unlearned, and of "full" those
      of the originals that are trained again, over these; `[device]` runs on that one. The numbers
      are the same within rounding. Cross-fit networks, oracles and ensembles are trained by
      `retraining`'s default executor and figures are computed on all of JAX's devices, whatever is
      given here.

  Returns:
    A `Forgotten`. Fewer than 30 ids are one group, others three.

  Raises:
    Refused: the plan takes as much as retraining, which is exact; or nothing that was tried is
      better than leaving the network as it is, by the surrogate or beside oracles; the accuracy on
      R or held-out examples falls 0.05 below the worst oracle's; or the audit fails.
    ValueError: an id is not in the data, or in two parts; too few held-out or test examples; every
      example would be forgotten; a setting is outside its range; or there are no devices, or they
      do not divide a batch.

  References:
    Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024. The choice of
    the plan and the levels of evidence are ours.

  Example:
    >>> import jax, numpy as np
    >>> import jaxmul
    >>> from jaxmul import models, rum, train, unlearn
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.eye(16, dtype=np.float32), np.arange(16) % 2)
    >>> recipe = train.Recipe(models.mlp((8,), 2), epochs=20, batch_size=4)
    >>> fit = train.fit(recipe, toy, jax.random.key(0), ids=range(8))
    >>> plan = rum.Plan([rum.Step(unlearn.neg_grad(0.05), epochs=2, batch_size=4)])
    >>> done = jaxmul.forget(fit, toy, [3], recipe, jax.random.key(1), heldout=range(8, 12),
    ...   test=range(12, 16), plan=plan, evidence="none", progress=False)
    >>> done.record["forget"], done.record["not_checked"][0]
    ([3], 'No network was retrained without the examples: figures are of a surrogate.')
  """
  refuse_other(dataset, recipe, key, "forget")
  if plan != "auto":
    refuse_no_plan(plan, "forget")
  split = split_of(dataset, ids, heldout, test, least=12 if evidence == "full" else 3)
  _check.count(oracles, "oracles", "forget")
  _check.at_least("forget", 2, oracles=oracles)
  needs_estimate = plan == "auto" and estimate is None
  costs = levels.cost(evidence, oracles=oracles, has_estimate=not needs_estimate)
  own_plan = None if plan == "auto" else plan
  refuse_other_devices(devices, own_plan, recipe, trains=evidence == "full")
  if needs_estimate and evidence == "none":
    raise ValueError(
      "forget got evidence='none' and neither a plan nor an estimate: nothing tells then how "
      "networks without the examples treat them. Pass plan=, or estimate=, or evidence='sample'."
    )
  if progress:
    trials = f"; choosing a plan takes at most {_TRIALS} trainings' time" if plan == "auto" else ""
    print(f"forget: {costs}{trials}. Unlearning is approximate.", file=sys.stderr)
    if len(left := copies_left(dataset, split)):
      print(f"forget: {sealed_record.left_words(left)}", file=sys.stderr)
  request = request_of(
    network,
    dataset,
    split,
    recipe,
    jax.random.fold_in(key, 0),
    score=score,
    num_groups=None if plan == "auto" else len(plan.steps),
    store=None if store is None else local(store),
    progress=progress,
    devices=devices,
  )
  earlier = None if request.store is None else sealed_record.earlier(request, key)
  unlearn_key, judge_key = jax.random.fold_in(key, 2), jax.random.fold_in(key, 3)
  used, tuned, after = own_plan, None, None
  figures, audit, refusal = [], None, None
  try:
    if used is None:
      steps = affordable(request)
      if estimate is None:
        clock = Clock()
        estimate = cross_fitted(request, jax.random.fold_in(key, 1), levels.FOLDS, clock)
        if progress and clock.seconds is not None:
          left = levels.cost(evidence, oracles=oracles, has_estimate=True, seconds=clock.seconds)
          print(f"forget: still to come, {left}, after the plan is chosen", file=sys.stderr)
      tuned = chosen(steps, request, estimate, unlearn_key)
      refuse_idle(tuned)
      used, after = tuned.plan, tuned.network
    else:
      refuse_dear(used, request)
      after = rum.meta_unlearn(
        used,
        request.network,
        request.training,
        list(request.groups.values()),
        unlearn_key,
        store=request.steps_of(used),
        devices=devices,
      )
    if evidence == "none":
      figures = levels.surrogates(request, after, estimate)
    elif evidence == "sample":
      figures = levels.beside_a_few(request, after, judge_key, oracles)
      refuse_harm(figures)
    else:
      figures, audit = levels.beside_an_ensemble(request, used, judge_key, oracles)
  except Refused as refused:
    figures, after, refusal = refused.figures, None, refused
  record = sealed_record.record_of(
    request,
    used,
    tuned,
    after,
    figures,
    evidence=evidence,
    audit=audit,
    key=key,
    refused=None if refusal is None else str(refusal),
  )
  if earlier is not None and earlier["network"] == record["network"]:
    record["date"] = earlier["date"]
  if request.store is not None:
    record = sealed_record.write(request.store, after, record)
  if refusal is not None:
    raise refusal
  assert after is not None
  return Forgotten(after, figures, record, estimate)


def affordable(request: Request) -> dict[str, rum.Step]:
  """Returns the candidates, so short that all groups together cost less than a training.

  Raises:
    Refused: no candidate is that short.
  """
  heldout = request.dataset.take(request.heldout.proxy)
  share = training_work(request) / len(request.groups)
  steps = {}
  for name, step in rum.candidates(request.recipe, heldout).items():
    epochs = min(step.epochs, math.ceil(share / epoch_work(step, request)) - 1)
    if epochs >= 1:
      steps[name] = dataclasses.replace(step, epochs=epochs)
  if not steps:
    raise Refused(cheaper(request))
  return steps


def chosen(
  candidates: dict[str, rum.Step],
  request: Request,
  estimate: memorization.Estimate | None,
  key: jax.Array,
) -> rum.Tuned:
  """Returns the plan that the autopilot chooses, and what it tried."""
  groups = list(request.groups.values())
  return rum.tune(
    candidates,
    request.network,
    request.training,
    groups,
    request.dataset.take(request.heldout.tune),
    key,
    budget=_TRIALS * len(groups),
    estimate=estimate,
    store=request.folder("trials"),
    progress=request.progress,
    devices=request.devices,
  )
