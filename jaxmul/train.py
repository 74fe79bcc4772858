"""One training run as one pure function: a `Recipe`, data, a key, and trackers riding along.

A step is SGD with momentum as PyTorch does it, unless the recipe brings an optax transformation of
its own: the L2 penalty is coupled into the gradient of all params, g = ∇ℓ + λθ, b = μb + g,
θ = θ − ηb. The last partial batch of an epoch is kept. Where a
network has a training mode of its own, an epoch of as many steps deals its examples evenly, so that
no step takes BatchNorm's statistics of a few: from n = B examples on, each has at least B / 2. The
same Recipe trains the original, the retrained oracle and every leave-subset-out model.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from jaxmul import (
  _arrays,
  _article,
  _check,
  _reading,
  _runs,
  _saved_runs,
  _sharding,
  _streamed_runs,
  _tracking,
  models,
)
from jaxmul._arrays import Inputs
from jaxmul._dataset import Dataset, as_inputs, refuse_no_dataset
from jaxmul._examples import Examples, examples_of
from jaxmul._paths import local
from jaxmul._runs import Run, optimizer, run
from jaxmul._spectral_penalty import SpectralNormState, add_spectral_norm
from jaxmul._steps import History
from jaxmul._streamed import Streamed
from jaxmul._tracking import Need, Step, Tracker
from jaxmul._truncation import LossTruncation, LossWindow, Weighting
from jaxmul.binding import Network, as_network, refuse_lone_rows, warn_without_train_fn

__all__ = [
  "Diverged",
  "Fit",
  "History",
  "LossTruncation",
  "LossWindow",
  "MultiStep",
  "Need",
  "Recipe",
  "Run",
  "Schedule",
  "SpectralNormState",
  "Step",
  "Tracker",
  "Weighting",
  "add_spectral_norm",
  "constant",
  "cosine",
  "fit",
  "optimizer",
  "run",
]

Schedule = Callable[[jax.Array, int], jax.Array]
Learner = Callable[[Examples, jax.Array], Callable[[Inputs], jax.Array]]


def cosine(epoch: jax.Array, epochs: int | jax.Array) -> jax.Array:
  """Learning-rate factor ½(1 + cos(π e/E)), stepped once an epoch."""
  done, whole = (jnp.asarray(number, float) for number in (epoch, epochs))
  return 0.5 * (1 + jnp.cos(jnp.pi * done / whole))


def constant(epoch: jax.Array, epochs: int) -> jax.Array:
  """Learning-rate factor 1."""
  del epochs
  return jnp.ones_like(epoch, float)


@dataclasses.dataclass(frozen=True)
class MultiStep:
  """Learning-rate factor `factor`ᵏ after k of the milestones (epochs) have passed."""

  milestones: tuple[int, ...]
  factor: float = 0.2

  def __post_init__(self):
    object.__setattr__(self, "milestones", tuple(self.milestones))

  def __call__(self, epoch: jax.Array, epochs: int) -> jax.Array:
    del epochs
    return self.factor ** jnp.sum(epoch >= jnp.asarray(self.milestones)).astype(float)


@dataclasses.dataclass(frozen=True)
class _Partial:
  """A `functools.partial` that equals another one of the same function and arguments."""

  function: Callable[..., Any]
  arguments: tuple[Any, ...]
  keywords: tuple[tuple[str, Any], ...]

  @classmethod
  def of(cls, partial: functools.partial) -> "_Partial":
    return cls(partial.func, partial.args, tuple(sorted(partial.keywords.items())))

  def __call__(self, *more: Any) -> Any:
    return self.function(*self.arguments, *more, **dict(self.keywords))


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Everything that decides a training run but the data and the key; the defaults are the papers'.

  Attributes:
    model: a Linen module, or a function `(key, inputs) -> Network`; see `models.init`. A network
      is trained with its own loss, which is cross-entropy unless it is bound with another.
    epochs: passes over the data, at least 1.
    batch_size: B, examples a step, at most; one of n examples makes ⌈n / B⌉ steps an epoch.
    learning_rate: η of the first epoch.
    schedule: `(epoch, epochs) -> factor` of the learning rate, such as `cosine`.
    momentum: μ.
    weight_decay: λ, coupled.
    augment: `(key, inputs [B, ...]) -> inputs`, or None.
    optimizer: `rate -> optax transformation` in the place of SGD, where rate is optax's schedule
      `step -> learning rate`: `optax.adamw`, or `functools.partial(optax.adamw, weight_decay=0.1)`.
      `momentum` and `weight_decay` are of SGD alone, and stay as they are with it.
    weighting: how much each example of a step counts, by its loss, such as `LossTruncation()`; None
      is the mean of all. History and trackers are of all examples.
    microbatch: examples at most that pass through the network at a time; must divide `batch_size`.
      A step adds up the gradients of its microbatches, in float32 or wider, so that it is that of
      the whole batch within rounding and takes the memory of one of them. None passes the batch at
      once. What an example's output owes to others differs: as in PyTorch, BatchNorm takes the
      statistics of each microbatch and moves its averages once for each, and dropout draws for
      each. A `weighting` is told the losses of the whole batch, by one forward pass more.

  Raises:
    ValueError: a number is outside its range, `microbatch` does not divide `batch_size`, SGD's are
      given beside another optimizer, or inputs are augmented of a model that tells examples by what
      they hold.

  Example:
    >>> from jaxmul import models
    >>> Recipe(models.mlp(), epochs=2).batch_size
    256
  """

  model: models.Model
  epochs: int = 30
  batch_size: int = 256
  learning_rate: float = 0.1
  schedule: Schedule = cosine
  momentum: float = 0.9
  weight_decay: float = 5e-4
  augment: Callable[[jax.Array, Inputs], Inputs] | None = None
  optimizer: Callable[[optax.Schedule], optax.GradientTransformation] | None = None
  weighting: Weighting | None = dataclasses.field(default=None, metadata={"later": True})
  microbatch: int | None = dataclasses.field(default=None, metadata={"later": True})

  def __post_init__(self):
    if self.optimizer is not None:
      if not callable(self.optimizer):
        raise ValueError(
          f"Recipe got an optimizer that is {_article.of(self.optimizer)}, must be a function "
          "of the rate: optax.adam, or functools.partial(optax.adamw, weight_decay=0.1)."
        )
      if (self.momentum, self.weight_decay) != (Recipe.momentum, Recipe.weight_decay):
        raise ValueError(
          "Recipe got momentum or weight_decay beside an optimizer, which are of SGD. Give them to "
          "it: functools.partial(optax.adamw, weight_decay=0.1)."
        )
      if isinstance(self.optimizer, functools.partial):
        # Two partials never equal one another: each would be compiled anew.
        object.__setattr__(self, "optimizer", _Partial.of(self.optimizer))
    if self.augment is not None and isinstance(self.model, models.ExampleTiedDropout):
      raise ValueError(
        "Recipe got augment beside ExampleTiedDropout, which tells an example by what it holds: "
        "each view would be another one. Drop one of them."
      )
    if self.weighting is not None and not hasattr(self.weighting, "update"):
      raise ValueError(
        f"Recipe got a weighting that is {_article.of(self.weighting)}, must have init and update, "
        "as train.LossTruncation() does."
      )
    if isinstance(self.weighting, LossTruncation) and self.weighting.window < self.batch_size:
      raise ValueError(
        f"Recipe got batch_size={self.batch_size} and a LossTruncation of window="
        f"{self.weighting.window}, which must hold a step. Use window={self.batch_size} or more."
      )
    _check.count(self.epochs, "epochs", "Recipe")
    _check.count(self.batch_size, "batch_size", "Recipe")
    if self.microbatch is not None:
      _check.count(self.microbatch, "microbatch", "Recipe")
      if self.batch_size % self.microbatch:
        below = range(1, min(self.microbatch, self.batch_size + 1))
        fits = max(size for size in below if self.batch_size % size == 0)
        raise ValueError(
          f"Recipe got microbatch={self.microbatch}, must divide batch_size={self.batch_size}. "
          f"Use {fits}."
        )
    rates = {"learning_rate": self.learning_rate, "weight_decay": self.weight_decay}
    _check.at_least("Recipe", 0, **rates)
    if not 0 <= self.momentum < 1:
      raise ValueError(f"Recipe got momentum={self.momentum}, must be in [0, 1).")


@dataclasses.dataclass(frozen=True)
class Fit:
  """A finished training run.

  Attributes:
    network: the trained network.
    scores: tracker scores {name: float32 [n]}, in the order of `ids`.
    ids: int64 [n], what was trained on, sorted.
    history: loss [E] and accuracy [E] of each epoch.
  """

  network: Network
  scores: dict[str, np.ndarray]
  ids: np.ndarray
  history: History


class Diverged(FloatingPointError):
  """Training met a loss that is not finite; `fit` holds what was finished before.

  Attributes:
    fit: a `Fit` with the network of the last good epoch.
  """

  def __init__(self, message: str, fit: Fit):
    super().__init__(message)
    self.fit = fit


def fit(
  recipe: Recipe | Learner,
  dataset: Dataset | Streamed,
  key: jax.Array,
  ids: ArrayLike | None = None,
  trackers: Mapping[str, Tracker] | None = None,
  *,
  devices: Sequence[Any] | None = None,
  checkpoints: str | os.PathLike[str] | None = None,
) -> Fit:
  """Trains one model.

  Args:
    recipe: model, optimizer and schedule; or a learner of your own, a function
      `(examples, key) -> network` that trains under jit on `examples.whole()`. It has no history
      and takes no trackers.
    dataset: inputs, labels and ids; or a `data.Streamed`, which is read a batch at a time and gives
      the same numbers.
    key: for initial params, order and augmentation; the same key gives the same run.
    ids: train on these examples only, all by default. Neither their order nor that of the data set
      matters.
    trackers: {label: Tracker}; those without `needs` are free, they read the step's own forward
      pass.
    devices: split every batch over these, whose number must divide the recipe's `batch_size`;
      `[device]` runs on that one. JAX's default device by default. The numbers are the same within
      rounding; each device holds the network and all of the data, of a `Streamed` its rows of a
      batch.
    checkpoints: a folder, where the run is saved after each epoch. The same call goes on from there
      and ends with the same bits, on the same kind and number of devices; a damaged file is named
      in a warning, and the epoch before it is used. The last two epochs are kept.

  Returns:
    A `Fit`; scores [n] are joined to `Fit.ids`.

  Raises:
    ValueError: an id is not in the data, a label is not a class of the network, two trackers
      return a score of the same name, one's `every` is more than the epochs or it reads classes
      where the network has a loss of its own, a step would take batch statistics of one example,
      there are no devices or they do not divide the batch, an example that is read is not like the
      first one or has no class, `checkpoints` is no folder or holds another run, a run to be saved
      has a function without a name of its own in its recipe, or the model is none that
      `models.init` takes.
    OSError: the folder cannot be written.
    ImportError: Grain is not installed, which reads a `Streamed`.
    Diverged: the loss became NaN or inf; the exception holds the last good epoch.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import models, train
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]))
    >>> recipe = train.Recipe(models.mlp((8,), 2), epochs=50)
    >>> train.fit(recipe, toy, jax.random.key(0)).history.accuracy[-1].item()
    1.0
  """
  trackers = dict(trackers or {})
  if not isinstance(dataset, Streamed):
    refuse_no_dataset(dataset, "fit")
  _check.key(key, "fit")
  ids = np.sort(dataset.ids if ids is None else np.asarray(ids).reshape(-1))
  if not len(ids):
    raise ValueError("fit got no training examples. Pass at least one id.")
  if not np.array_equal(ids, dataset.ids):
    dataset = dataset.take(ids)
  if not isinstance(recipe, Recipe):
    for name, value in (("devices", devices), ("checkpoints", checkpoints)):
      if value is not None:
        raise ValueError(f"fit got {name} for a learner, which trains by itself. Drop {name}.")
    if isinstance(dataset, Streamed):
      raise ValueError(
        "fit got a Streamed for a learner, which trains in memory. Use data.from_grain(source)."
      )
    return _learned(recipe, dataset, key, trackers)
  mesh = _sharding.data_mesh(devices, recipe.batch_size, "fit")
  if mesh is not None and recipe.microbatch is not None and recipe.microbatch % mesh.size:
    raise ValueError(
      f"fit got microbatch={recipe.microbatch} for {mesh.size} devices, which must divide it. "
      f"Use {math.lcm(recipe.microbatch, mesh.size)}."
    )
  source = _reading.opened(dataset) if isinstance(dataset, Streamed) else dataset
  sample = source if isinstance(source, Dataset) else source.sample
  shape = (len(dataset), *_runs.input_shape(sample.inputs)[1:])
  _tracking.check(tuple(trackers.values()), shape, recipe.epochs)
  like = check_labels(recipe.model, sample, "fit")
  if isinstance(dataset, Streamed):
    _check.enough_outputs(like, sample.example, dataset.num_classes, "fit")
  _tracking.check_network(tuple(trackers.values()), like)
  warn_without_train_fn(like, "train.fit")
  microbatch = recipe.microbatch
  refuse_lone_rows(like, len(dataset), recipe.batch_size, "fit", microbatch=microbatch)
  task = _runs.Task(recipe, tuple(trackers.values()), mesh)
  folder = None
  if checkpoints is not None:
    identity = _saved_runs.identity_of(task, tuple(trackers), source, key)
    folder = _saved_runs.Folder(_folder(checkpoints), identity)
  result = _run(task, source, key, devices, folder)
  scores = {name: np.asarray(score) for name, score in result.scores.items()}
  finished = Fit(result.network, scores, dataset.ids, result.history)
  bad = np.flatnonzero(~np.isfinite(np.asarray(result.history.loss)))
  if len(bad):
    cure = f"Lower learning_rate ({recipe.learning_rate})"
    if isinstance(dataset, Streamed) and like.embed is not None:  # in memory they are looked at
      cure += ", unless a token is above what the network embeds"
    raise Diverged(
      f"training diverged in epoch {bad[0] + 1} of {recipe.epochs}: loss or params are not finite. "
      f"{cure}; .fit holds the epoch before.",
      finished,
    )
  _check.outputs(result.network, as_inputs(_arrays.rows(sample.inputs, slice(8))), "train.fit")
  return finished


def _run(
  task: _runs.Task,
  source: Dataset | _reading.Reader,
  key: jax.Array,
  devices: Sequence[Any] | None,
  folder: _saved_runs.Folder | None,
) -> Run:
  """Puts what a run needs where it is to run, and runs it."""

  def placed(tree):
    if task.mesh is not None:
      return _sharding.replicate(tree, task.mesh)
    return tree if devices is None else jax.device_put(tree, devices[0])

  if isinstance(source, _reading.Reader):
    device = None if devices is None else devices[0]
    return _streamed_runs.run(_streamed_runs.Job(task, source, device=device), placed(key), folder)
  examples, key = placed((examples_of(source), key))
  if folder is None:
    return _jitted_run(task, examples, key)
  return _saved_runs.run(task, examples, key, folder)


def _folder(path: str | os.PathLike[str]) -> Path:
  """Where the epochs of a run are saved."""
  folder = local(path)
  if folder.exists() and not folder.is_dir():
    raise ValueError(f"fit got checkpoints={str(folder)!r}, which is a file. Name a folder.")
  return folder


def _learned(
  learner: Learner, dataset: Dataset, key: jax.Array, trackers: Mapping[str, Tracker]
) -> Fit:
  """What a learner makes of a data set."""
  if not callable(learner) or hasattr(learner, "apply"):
    raise ValueError(f"fit got {_article.of(learner)} as recipe: use train.Recipe(model).")
  if trackers:
    raise ValueError(
      f"fit got trackers {sorted(trackers)} for a learner, which sees no steps. Score what it "
      "returns: proxies.score."
    )
  none = jnp.zeros(0)
  finished = Fit(
    _jitted_learner(learner, examples_of(dataset), key), {}, dataset.ids, History(none, none)
  )
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(finished.network.params)):
    raise Diverged("training diverged: params of the learner are not finite.", finished)
  return finished


def _network_of(learner: Learner, examples: Examples, key: jax.Array) -> Network:
  return as_network(learner(examples, key), None, "fit")


_jitted_learner = jax.jit(_network_of, static_argnums=0)


def check_labels(model: models.Model, dataset: Dataset, caller: str) -> Network:
  """Returns a model's shapes; raises ValueError where labels are not what it is trained to say."""
  like = models.shapes(model, dataset.example)
  if like.embed is not None:
    _check.fresh_tokens(models.init, model, dataset.inputs, caller)
  _check.answers(like, dataset.example, dataset.labels, caller)
  return like


_jitted_run = jax.jit(_runs.whole, static_argnums=0)
