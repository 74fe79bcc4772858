"""What the benchmark `growth` measures in a process of its own: the work of each line at one size.

`python -m experiments.bench.growing LINE SIZE SECONDS` does it once, which compiles, and then as
often as fills the seconds. These are the processor's, of all threads, user's and system's: another
program's do not enter.
"""

import atexit
import ctypes
import dataclasses
import gc
import json
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.bench import machine
from jaxmul import data, memorization, models, proxies, retraining, rum, train, unlearn
from jaxmul.metrics import attacks, game, oracle

CLASSES, IMAGE = 10, (32, 32, 3)
BATCH, CHUNK = 250, 8


class Work(NamedTuple):
  """Something to measure.

  Attributes:
    call: one call of finished work.
    warm: what compiles and loads for it; the call itself by default.
    facts: more to tell afterwards.
    once: whether a second call would not do the same.
  """

  call: Callable[[], object]
  warm: Callable[[], object] | None = None
  facts: Callable[[], dict[str, float]] = dict
  once: bool = False


def images(count: int) -> data.Dataset:
  """Returns images of noise; a network is as slow on them as on any."""
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (count, *IMAGE), np.uint8)
  return data.Dataset(pixels, rng.integers(0, CLASSES, count), num_classes=CLASSES)


def perceptron(batch: int = BATCH) -> train.Recipe:
  return train.Recipe(models.mlp((64,), CLASSES), epochs=1, batch_size=batch, learning_rate=0.01)


def network_of(examples: data.Dataset) -> Any:
  return models.init(perceptron().model, jax.random.key(0), examples.example)


def digits(count: int) -> data.Dataset:
  """Returns noise of the shape of digits."""
  rng = np.random.default_rng(0)
  pixels = rng.random((count, 784), np.float32)
  return data.Dataset(pixels, rng.integers(0, CLASSES, count), num_classes=CLASSES)


def split_fit(size: int) -> Work:
  """Ten epochs of an `mlp` on 4,000 examples, every batch of 1,000 split over so many devices."""
  recipe = train.Recipe(models.mlp(), epochs=10, batch_size=1000, learning_rate=0.01)
  examples = digits(4000)
  return Work(lambda: train.fit(recipe, examples, jax.random.key(0), devices=jax.devices()[:size]))


def split_models(size: int) -> Work:
  """A chunk of 8 leave-subset-out models of an `mlp`, shared out to all devices of the process."""
  del size
  recipe = train.Recipe(models.mlp(), epochs=2, batch_size=100, learning_rate=0.01)
  schedule = retraining.leave_out(recipe, digits(1000), jax.random.key(0), num_models=CHUNK)
  executor = retraining.devices()
  return Work(lambda: list(executor(schedule, [0])))


def tiny_schedule(size: int) -> retraining.Schedule:
  """So many models of a tiny `mlp` on 512 examples of 16 numbers, and what they say of these."""
  rng = np.random.default_rng(0)
  toy = data.Dataset(rng.normal(size=(512, 16)), rng.integers(0, CLASSES, 512))
  recipe = train.Recipe(models.mlp((8,), CLASSES), epochs=1, batch_size=64, learning_rate=0.1)
  return retraining.leave_out(
    recipe, toy, jax.random.key(0), num_models=size, test=toy, chunk_size=CHUNK
  )


def many_models(size: int) -> Work:
  """A ground truth into a store that is empty; tells what the store takes."""
  schedule, folder = tiny_schedule(size), empty_folder()
  first = empty_folder()
  return Work(
    call=lambda: estimate_of(schedule, folder),
    warm=lambda: estimate_of(tiny_schedule(CHUNK), first),
    facts=lambda: {"stored": stored(folder)},
    once=True,
  )


def models_from_store(size: int) -> Work:
  """A ground truth of which every chunk is in the store: read, checked and added up."""
  schedule, folder = tiny_schedule(size), empty_folder()
  store = retraining.Store(folder, schedule)
  chunk = retraining.run_chunk(schedule, 0)
  for number in range(schedule.num_chunks):  # as if they were of other models
    models_of_it = np.asarray(schedule.models(number))
    rows = slice(len(models_of_it))
    own = {"member": chunk.member[rows], "test": chunk.test[rows], "models": models_of_it}
    store.commit(number, dataclasses.replace(chunk, **own))
  return Work(lambda: estimate_of(schedule, folder), facts=lambda: {"stored": stored(folder)})


def estimate_of(schedule: retraining.Schedule, folder: Path | None = None) -> memorization.Estimate:
  return memorization.estimate(schedule, store=folder, executor=retraining.serial, progress=False)


def empty_folder() -> Path:
  """Returns a folder that is there as long as this process is."""
  folder = Path(tempfile.mkdtemp())
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  return folder


def stored(folder: Path) -> float:
  """Returns the bytes of the chunks in a store."""
  return float(sum(file.stat().st_size for file in folder.glob("chunk-*")))


def handling(size: int) -> Work:
  """A data set, its parts, a schedule and the hash that names it, groups of its forget set."""
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (size, *IMAGE), np.uint8)
  labels, scores = rng.integers(0, CLASSES, size), rng.random(size).round(1)
  features = rng.normal(size=(size, 8))
  key = jax.random.key(0)

  def call():
    examples = data.Dataset(pixels, labels)
    parts = data.holdout(examples, key, heldout=size // 10, test=size // 10)
    data.cut_heldout(parts.heldout, key)
    seen = examples.take(parts.train)
    data.Split(parts.train[::10], np.delete(parts.train, slice(None, None, 10)), *parts[1:])
    schedule = retraining.leave_out(perceptron(), seen, key, num_models=CHUNK)
    rum.refine(scores, examples.ids)
    rum.select(scores, examples.ids, size=size // 10)
    rum.clusters(features, examples.ids, key)
    return schedule.hash

  return Work(call)


def fit(size: int) -> Work:
  """An epoch of training, with the free trackers riding along."""
  examples = images(size)
  free = proxies.trackers
  riding = {"events": free.forgetting_events(), "margin": free.area_under_margin()}
  return Work(lambda: train.fit(perceptron(), examples, jax.random.key(0), trackers=riding))


def proxy(size: int, name: str) -> Work:
  examples = images(size)
  network = network_of(examples)
  return Work(lambda: proxies.score(getattr(proxies, name), network, examples, batch_size=1000))


def unlearning(size: int) -> Work:
  """An epoch of NegGrad+, a tenth to be forgotten."""
  examples = images(size)
  network = network_of(examples)
  is_forgotten = np.arange(size) % 10 == 0
  split = data.Split(examples.ids[is_forgotten], examples.ids[~is_forgotten])

  def call():
    algorithm = unlearn.neg_grad_plus(0.01)
    return unlearn.run(
      algorithm, network, examples, split, jax.random.key(0), epochs=1, batch_size=BATCH
    )

  return Work(call)


def estimate(size: int) -> Work:
  """Four leave-subset-out models."""
  schedule = retraining.leave_out(
    perceptron(), images(size), jax.random.key(0), num_models=4, chunk_size=4
  )
  return Work(lambda: estimate_of(schedule))


def outputs(size: int) -> tuple[list[oracle.Outputs], data.Split, np.ndarray]:
  """4 unlearned models, oracles and originals, a forget set of n / 2, and n / 4 held-out ids."""
  rng = np.random.default_rng(0)
  ids, labels = np.arange(size), rng.integers(0, CLASSES, size)
  said = rng.normal(size=(3, 4, size, CLASSES)).astype(np.float32)
  kinds = [oracle.Outputs.of_logits(ids, labels, logits) for logits in said]
  forget, retain, held = np.split(ids, [size // 2, 3 * size // 4])
  return kinds, data.Split(forget, retain), held


def attacking(size: int, names: tuple[str, ...], judged: bool) -> Work:
  """Attacks on 4 models beside 4 oracles; judged by their rates, with KLoM and ε."""

  def attack(size):
    (unlearned, oracles, originals), split, held = outputs(size)

    def call():
      known = game.known(split, held, jax.random.key(0))
      found = game.attack(unlearned, oracles, originals, split.forget, known, names=names)
      if judged:
        for scores in found.values():
          _ = scores.rates, scores.auc_of_pairs, scores.auc_of_examples
        ours, theirs = (models.take(split.forget).log_odds for models in (unlearned, oracles))
        oracle.klom(ours, theirs)
        oracle.epsilon(ours, theirs)

    return call

  return Work(attack(size), warm=attack(400))


def vector_machine(size: int) -> Work:
  """RUM's attack on one model: a machine on the p_y of a tenth, and as many non-members."""
  p = np.random.default_rng(0).random((3, size // 10)) ** np.array([[0.5], [1.0], [0.7]])
  return Work(lambda: attacks.svc(*p), warm=lambda: attacks.svc(*p[:, :20]))


THRESHOLDS = ("entropy", "modified_entropy", "lira_offline", "u_lira", "rmia", "rmia_offline")
WORKS: dict[str, Callable[[int], Work]] = {
  "fit over devices": split_fit,
  "models over devices": split_models,
  "ground truth": many_models,
  "ground truth from its store": models_from_store,
  "data, splits, groups": handling,
  "fit": fit,
  "GraND": lambda size: proxy(size, "grand"),
  "curvature": lambda size: proxy(size, "curvature"),
  "unlearning": unlearning,
  "estimate": estimate,
  "loss and LiRA, judged": lambda size: attacking(size, ("loss", "lira"), judged=True),
  "other attacks": lambda size: attacking(size, THRESHOLDS, judged=False),
  "SVC, the game's": lambda size: attacking(size, ("svc",), judged=False),
  "SVC, RUM's": vector_machine,
}


def measured(make: Callable[[], Work], seconds: float) -> dict[str, float]:
  """Returns {"bytes", "seconds": of the processor, of one call} and more facts.

  The bytes are the peak of calls after everything is compiled, without what Python, the library and
  JAX take before anything is done.
  """
  jax.devices()
  forget_peak()
  start = machine.memory("VmRSS")
  work = make()
  (work.warm or work.call)()
  forget_peak()
  samples = []
  while not samples or (sum(samples) < seconds and not work.once):
    before = time.process_time()
    work.call()
    samples.append(time.process_time() - before)
  told = {"bytes": machine.memory("VmHWM") - start, "seconds": statistics.median(samples)}
  return told | work.facts()


def forget_peak() -> None:
  """Gives back what is free, such as what compiling took, and begins anew with VmHWM."""
  gc.collect()
  trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of the GNU C library
  if trim is not None:
    trim(0)
  Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
  warnings.simplefilter("ignore")
  name, size, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
  print(json.dumps(measured(lambda: WORKS[name](size), seconds)))


if __name__ == "__main__":
  main()
