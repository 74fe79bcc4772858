"""Is a change a refactoring? SHA-256 of what the library computes, beside those that are kept.

A battery on an MLP, a CNN and a ResNet-18 of few weights, on real digits, in a process with one
thread: training with every tracker, every proxy, ground truth and influence, every algorithm for
two epochs, plans, requests, tuning, attacks and figures, and a small main job. Names of params do
not count, only their values: a digest changes where a number does, in its last bit.

`digests.json` beside this file holds those of the last change that was meant to change numbers, and
the CPU they come from: other CPUs round in another way. There, check out the commit that wrote the
file, run the same, and compare with that.
"""

import hashlib
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from experiments.bench.machine import cpu
from experiments.bench.workers import told

GOALS = {"different": "0"}
KEPT = Path(__file__).with_suffix(".json")


def measure(pairs: int, seconds: float) -> dict[str, Any]:
  """Returns {"digests": {name: hex}, "cpu", "different": names that the kept file has otherwise}.

  "different" is None where the kept file is of another CPU. Short samples try the MLP alone.
  """
  del pairs
  networks = ("mlp",) if seconds < 10 else ("mlp", "cnn", "resnet18", "main job")
  variables = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "PJRT_NPROC": "1",
    "NPROC": "1",
    "JAX_PLATFORMS": "cpu",
  }
  digests: dict[str, str] = {}
  for name in networks:  # a process each: all compiled programs of one are near the limit of Linux
    digests |= told("-m", "experiments.bench.digests", name, **variables)
    print(f"{name}: done", file=sys.stderr)
  kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
  different = None
  if kept.get("cpu") == cpu():
    different = sorted(name for name in digests if kept["digests"].get(name) != digests[name])
  return {"cpu": cpu(), "different": different, "digests": digests}


def digest(tree: Any) -> str:
  """Returns 16 hex digits of the values of a tree, whatever its leaves are called."""
  import jax
  import numpy as np

  leaves = []
  for leaf in jax.tree.leaves(tree):
    value = np.ascontiguousarray(leaf)
    if value.dtype.kind in "OUS":
      value = np.frombuffer(repr(value.tolist()).encode(), np.uint8)
    leaves.append(hashlib.sha256(f"{value.dtype}{value.shape}".encode() + value.tobytes()).digest())
  return hashlib.sha256(b"".join(sorted(leaves))).hexdigest()[:16]


def battery(name: str) -> dict[str, Any]:
  """Returns {what: arrays} of everything that is computed with one network."""
  import jax
  import numpy as np

  from jaxmul import data, memorization, metrics, models, proxies, retraining, rum, train, unlearn
  from jaxmul.proxies import trackers

  of_classes, layers = {
    "mlp": (lambda classes: models.mlp((12,), classes), ("Dense_0", "Dense_1")),
    "cnn": (
      lambda classes: models.cnn((3, 4), 6, classes),
      ("Conv_0", "Conv_1", "Dense_0", "Dense_1"),
    ),
    "resnet18": (lambda classes: models.resnet18(classes, width=2), ("stem", "head")),
  }[name]
  model, wide, head = of_classes(10), of_classes(11), layers[-1]
  digits, key = data.digits(), jax.random.key(7)
  parts = data.holdout(digits, key, heldout=90, test=60)
  training = digits.take(np.sort(np.random.default_rng(0).permutation(parts.train)[:150]))
  held = data.cut_heldout(parts.heldout, key)
  recipe = train.Recipe(model, epochs=3, batch_size=32, learning_rate=0.02)
  results: dict[str, Any] = {}

  every = {tracker: getattr(trackers, tracker)() for tracker in trackers.__all__}
  fit = train.fit(recipe, training, key, trackers=every)
  original = fit.network
  results["fit"] = (original.params, original.state, tuple(fit.history))
  results |= {f"tracker {tracker}": scores for tracker, scores in fit.scores.items()}
  points = "confidence max_confidence entropy correctness loss margin el2n grand input_gradient"
  for proxy in [*points.split(), "curvature"]:
    results[f"proxy {proxy}"] = proxies.score(getattr(proxies, proxy), original, training)
  for method in ("finite_difference", "rum_compat"):
    partial = jax.tree_util.Partial(proxies.curvature, method=method)
    results[f"proxy curvature {method}"] = proxies.score(partial, original, training)
  after = proxies.heldout_retrain(
    original, digits.take(held.proxy), proxies.heldout_recipe(recipe), key
  )
  partial = jax.tree_util.Partial(proxies.heldout_divergence, heldout_params=after)
  results["proxy heldout_divergence"] = proxies.score(partial, original, training)

  run = {"executor": retraining.serial, "progress": False}
  test = digits.take(parts.test[:20])
  schedule = retraining.leave_out(recipe, training, key, num_models=10, test=test)
  truth = memorization.estimate(schedule, **run)
  results["estimate"] = (truth.memorization, truth.low, truth.high, truth.soft, truth.log_odds)
  assert truth.influence is not None
  results["influence"] = tuple(truth.influence.block())
  schedule = retraining.cross_fit(recipe, training, jax.random.key(8), folds=3)
  said = memorization.estimate(schedule, **run)
  results["cross_fit"] = (said.confidence_out, said.soft)
  known = np.isfinite(truth.memorization)
  groups = rum.select(truth.memorization[known], truth.ids[known], size=10, soft=truth.soft[known])
  forget = np.sort(np.concatenate(groups))
  retain = np.setdiff1d(training.ids, forget)
  split = data.Split(forget=forget, retain=retain, heldout=parts.heldout, test=parts.test)
  results["groups"] = tuple(groups)
  schedule = retraining.leave_out(
    recipe, training, key, num_models=10, test=training, target="logits"
  )
  rows = memorization.influence(schedule, forget, **run)
  results["row influence"] = np.nan_to_num(rows.value)

  inputs = training.batch()[0][:1]
  fresh = models.init(model, jax.random.key(9), inputs)
  wider = models.init(wide, jax.random.key(9), inputs)
  beta = np.nan_to_num(rows.value)
  algorithms: dict[str, unlearn.Unlearner] = {
    "random_label": unlearn.random_label(0.01),
    "salun": unlearn.salun(0.01),
    "influence": unlearn.influence(iterations=5),
    "fisher rum_compat": unlearn.fisher(1e-6, rum_compat=True),
    "bad_teacher": unlearn.bad_teacher(fresh),
    "boundary_expand": unlearn.boundary_expand(wider),
    "cf_k": unlearn.cf_k(layers),
    "eu_k": unlearn.eu_k(layers, fresh),
    "msg": unlearn.msg(fresh),
    "amun": unlearn.amun(steps=3),
    "dmm": unlearn.dmm(beta, rows.test_ids, rows.ids),
    "localized_reset": unlearn.localized_reset(fresh),
    "regun": unlearn.regun(digits.take(held.proxy)),
    "sam": unlearn.sam(unlearn.neg_grad_plus()),
    "layer_attack": unlearn.layer_attack(models.features(model, head), head),
  }
  by_default = "fine_tune l1_sparse neg_grad neg_grad_plus scrub fisher ssd boundary_shrink top_k"
  for label in [*by_default.split(), "random_k", *(["ct"] if name != "mlp" else [])]:
    algorithms[label] = getattr(unlearn, label)()
  for label, algorithm in algorithms.items():
    try:
      network = unlearn.run(algorithm, original, training, split, key, epochs=2, batch_size=32)
    except unlearn.Diverged as error:
      network = error.network
    results[f"unlearn {label}"] = (network.params, network.state)
    jax.clear_caches()  # a process may map 65,530 pieces of memory, and each program takes some

  steps = [rum.Step(step, 2, 32) for step in (unlearn.fine_tune(), unlearn.neg_grad_plus())]
  plan = rum.Plan([rum.Step(None), *steps])
  network = rum.meta_unlearn(plan, original, training, groups, key)
  results["meta_unlearn"] = (network.params, network.state)

  def score(params, asked):
    return proxies.score(proxies.loss, params, asked)

  *_, last = rum.stream(plan, original, training, [forget[:12], forget[12:]], key, score=score)
  results["stream"] = (last.network.params, last.network.state)
  tried = dict(list(rum.candidates(recipe).items())[:2])
  tuned = rum.tune(tried, original, training, groups, digits.take(held.tune), key, estimate=said)
  results["tune"] = ([trial.surrogate for trial in tuned.trials], tuned.network.params)

  ensemble_key = jax.random.key(10)
  ensemble = metrics.oracle.ensemble(recipe, digits, split, ensemble_key, num_models=8, **run)
  results["ensemble"] = [outputs.logits for outputs in ensemble]
  outputs = metrics.oracle.outputs([network, original] * 4, digits, ensemble.oracles.ids)
  thirds = dict(zip(rum.Selection._fields, groups, strict=True))
  figures = metrics.beside_oracles(outputs, ensemble, split, held.attack, key, groups=thirds)
  for figure in figures:
    # Called as in the first file that was kept.
    where = f"{figure.title} {figure.part}" if figure.name == "KLoM" else figure.title
    name = f"figure {where}/{figure.kind or figure.part}"
    results[name] = [figure.value, figure.low, figure.high]
  examples = metrics.by_example(outputs, ensemble, split, held.attack, key)
  results |= {f"example {label}": values for label, values in examples.items()}
  audit = metrics.audit(ensemble, split, held.attack, key)
  results["audit"] = [control.said for control in audit.controls]
  return results


def main_job() -> dict[str, Any]:
  """Returns the figures of a small main job, without its seconds."""
  from experiments import rum

  with tempfile.TemporaryDirectory() as folder:
    job = rum.Config(
      dataset="digits",
      num_models=8,
      epochs=3,
      seeds=1,
      group_size=30,
      audit_models=8,
      out=Path(folder),
    )
    rum.main(job)
    written = json.loads((job.out / "metrics.json").read_text())
    methods = {
      name: [f["value"] for f in method["figures"] if f["name"] not in ("seconds", "scoring")]
      for name, method in written["methods"].items()
    }
    audit = json.loads((job.out / "audit.json").read_text())
    ranks = [
      figure["value"]
      for figures in written["proxies"].values()
      for figure in figures
      if (figure["name"], figure["kind"]) == ("spearman", "")
    ]
  return {
    "methods": methods,
    "spearman": ranks,
    "groups": written["groups"],
    "audit": audit["line"],
  }


def main(name: str) -> None:
  """Prints {name: digest} of a network, or of the main job, as the last line."""
  warnings.simplefilter("ignore")
  results = main_job() if name == "main job" else battery(name)
  print(json.dumps({f"{name}: {what}": digest(arrays) for what, arrays in results.items()}))


if __name__ == "__main__":
  main(sys.argv[1])
