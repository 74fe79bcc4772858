"""What has to be trained, before anything is: a pure, hashed list of chunks of models.

Model i is trained on a uniformly random subset of fixed size m = round(r·n), or on all but one of K
random folds, with key `fold_in(key, i)`: the same model whatever machine, device or order computes
it. Where only some candidates may be left out, everything else is in every subset.

Copies of one example, a family of the data set, are left out together: otherwise each would stand
in for the others, and none would seem to matter. For subsets to have a fixed size, as many families
of each size are drawn.
"""

import dataclasses
import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxmul import _article, _check, _identity, _settings
from jaxmul._dataset import Dataset, refuse_no_dataset
from jaxmul.binding import Network, refuse_own_loss
from jaxmul.train import Learner, Recipe, check_labels

Target = Literal["correct", "confidence", "log_odds", "logits"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Schedule:
  """M models in chunks, each to be trained without some of the data, or with other seeds.

  Made by `leave_out`, `repeat` or `cross_fit`.

  Attributes:
    recipe: of every model.
    dataset: the n training examples, sorted by id.
    key: uint32 key data, from which model i gets `fold_in(key, i)`.
    num_models: M.
    kept: number of families in each model's subset, of each size of families, smallest first;
      examples without copies are families of one.
    chunk_size: models a chunk; the last one may hold fewer.
    candidates: int64 [c], sorted ids that may be left out; all of them, or a chosen few.
    test: t examples whose outputs are kept for every model, or None.
    target: what is kept of them, "correct", "confidence", "log_odds" or "logits".
    folds: K where model i leaves out one of K folds; 0 for random subsets.
    settings: JAX's own, such as `jax_enable_x64`, as they were when it was made: whoever trains
      a chunk, in whatever process, does so with these.
    versions: of the packages that decide numbers.
  """

  recipe: Recipe | Learner
  dataset: Dataset
  key: np.ndarray
  num_models: int
  kept: tuple[int, ...]
  chunk_size: int
  candidates: np.ndarray
  test: Dataset | None = None
  target: Target = "correct"
  folds: int = 0
  settings: _settings.Settings = dataclasses.field(default_factory=_settings.current)
  versions: dict[str, str] = dataclasses.field(default_factory=_identity.versions)

  @property
  def num_chunks(self) -> int:
    """Number of chunks."""
    return -(-self.num_models // self.chunk_size)

  def models(self, chunk: int) -> range:
    """Returns the numbers of the models of a chunk.

    Raises:
      ValueError: there is no such chunk.
    """
    if not 0 <= chunk < self.num_chunks:
      raise ValueError(
        f"chunk {chunk} is not in this schedule; it has chunks 0 … {self.num_chunks - 1}."
      )
    start = chunk * self.chunk_size
    return range(start, min(start + self.chunk_size, self.num_models))

  @functools.cached_property
  def families(self) -> list[np.ndarray]:
    """Rows int64 [c, s] of the candidates, c families of s copies each, for each s, smallest first.

    Raises:
      ValueError: some copies of an example are candidates and others are not.
    """
    return _families(self.dataset, self.candidates)

  @functools.cached_property
  def subset_size(self) -> int:
    """m, examples in each model's subset."""
    pairs = zip(self.families, self.kept, strict=True)
    return len(self.dataset) - sum((len(rows) - kept) * rows.shape[1] for rows, kept in pairs)

  @functools.cached_property
  def hash(self) -> str:
    """SHA-256 of everything that decides a chunk's numbers. `num_models` may grow later."""
    return _identity.digest(
      *(self.recipe, self.dataset, self.key, self.subset_size, self.chunk_size, self.candidates),
      # Outputs are kept in the order of the test examples, which the digest of a data set forgets.
      *(self.test, None if self.test is None else self.test.ids, self.target),
      *(self.folds, self.settings, self.versions),
      *(("kept", self.kept) if len(self.kept) > 1 else ()),
    )

  @property
  def design(self) -> str:
    """One line on what is trained, for people."""
    some, all_ = len(self.candidates), len(self.dataset)
    if not some:
      return f"{self.num_models} models on all of {all_} examples"
    left = some - (self.subset_size - (all_ - some))
    if self.folds:
      return f"{self.num_models} models, each without one of {self.folds} folds of {all_} examples"
    who = "all" if some == all_ else f"{some} candidates"
    return f"{self.num_models} models, each without {left} of {who} of {all_} examples"


def leave_out(
  recipe: Recipe | Learner,
  dataset: Dataset,
  key: jax.Array,
  *,
  num_models: int,
  fraction: float = 0.7,
  candidates: ArrayLike | None = None,
  test: Dataset | None = None,
  target: Target = "correct",
  chunk_size: int = 8,
) -> Schedule:
  """Schedules the training of `num_models` models, each without a random part of the data.

  Args:
    recipe: the recipe of the model that will be unlearned; or a learner of your own, a pure
      module-level function `(examples, key) -> network` that trains under jit on
      `examples.whole()` and returns a callable pytree, `network(inputs) -> logits [B, C]`. A
      `Network` that is bound with a loss of its own is judged by that loss.
    dataset: n training examples.
    key: of subsets and training runs.
    num_models: M, at least 2.
    fraction: r in (0, 1), the share of the candidates in each subset.
    candidates: ids that may be left out, all by default; everything else is in every subset.
    test: examples whose outputs under every model are kept, for influence.
    target: what is kept of them, whether each is "correct" [t]; its "confidence" [t], p = e^−ℓ; its
      "log_odds" [t, 2], φ and whether it is right; or its "logits" [t, C], where it has one label.
      Of a network with a loss of its own p and "logits" can be kept: its outputs [t, ...].
    chunk_size: models a chunk, the unit of work that is handed out, stored and resumed.

  Returns:
    A `Schedule`.

  Raises:
    ValueError: a number is outside its range, a subset would be empty or everything, the recipe
      holds a lambda or local function, the test examples are not what the network takes, what is to
      be kept of them needs classes that it does not have, or the key is not threefry.

  References:
    Feldman & Zhang, [What Neural Networks Memorize](https://arxiv.org/abs/2008.03703), 2020.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import data, models, train
    >>> toy = data.Dataset(np.eye(10, dtype=np.float32), np.arange(10) % 2)
    >>> recipe = train.Recipe(models.mlp((4,), 2))
    >>> schedule = leave_out(recipe, toy, jax.random.key(0), num_models=20)
    >>> schedule.subset_size, schedule.num_chunks, list(schedule.models(2))
    (7, 3, [16, 17, 18, 19])
  """
  for given in (dataset,) if test is None else (dataset, test):
    refuse_no_dataset(given, "leave_out")
  _check.count(num_models, "num_models", "leave_out")
  _check.at_least("leave_out", 2, num_models=num_models)
  _check.count(chunk_size, "chunk_size", "leave_out")
  if target not in get_args(Target):
    raise ValueError(f"leave_out got target {target!r}: use one of {', '.join(get_args(Target))}.")
  if target == "logits" and test is not None and _has_positions(test):
    raise ValueError(
      f"leave_out got target='logits' and test labels {list(test.labels.shape)}, which have logits "
      "at each position. Use target='log_odds'."
    )
  if not 0 < fraction < 1:
    raise ValueError(f"leave_out got fraction={fraction}, must be in (0, 1); the papers' is 0.7.")
  chosen = dataset.ids if candidates is None else np.asarray(candidates).reshape(-1)
  families = [len(rows) for rows in _families(dataset, chosen)]
  kept = tuple(round(fraction * count) for count in families)
  if not 0 < sum(kept) < sum(families):
    raise ValueError(
      f"leave_out: {fraction} of {len(chosen)} examples is {sum(kept)}; a subset must leave some "
      "in and some out. Give more examples."
    )
  dataset, key_data = _checked("leave_out", recipe, dataset, key, test, target)
  return Schedule(
    recipe=recipe,
    dataset=dataset,
    key=key_data,
    num_models=num_models,
    kept=kept,
    chunk_size=chunk_size,
    candidates=np.sort(chosen).astype(np.int64),
    test=test,
    target=target,
  )


def repeat(
  recipe: Recipe | Learner,
  dataset: Dataset,
  key: jax.Array,
  *,
  num_models: int,
  test: Dataset,
) -> Schedule:
  """Schedules `num_models` trainings on all the data that differ in their seeds only.

  Args:
    recipe, dataset, key: as `leave_out`.
    num_models: K, at least 1.
    test: examples whose logits [t, C] under every model are kept, or outputs [t, ...] where the
      loss is the network's own; of text log-odds, as `leave_out`.

  Returns:
    A `Schedule` in chunks of one model.

  Raises:
    ValueError: as `leave_out`.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import data, models, train
    >>> toy = data.Dataset(np.eye(10, dtype=np.float32), np.arange(10) % 2)
    >>> recipe = train.Recipe(models.mlp((4,), 2))
    >>> repeat(recipe, toy, jax.random.key(0), num_models=3, test=toy).design
    '3 models on all of 10 examples'
  """
  for given in (dataset, test):
    refuse_no_dataset(given, "repeat")
  _check.count(num_models, "num_models", "repeat")
  target: Target = "log_odds" if _has_positions(test) else "logits"
  dataset, key_data = _checked("repeat", recipe, dataset, key, test, target)
  return Schedule(
    recipe=recipe,
    dataset=dataset,
    key=key_data,
    num_models=num_models,
    kept=(),
    chunk_size=1,
    candidates=np.zeros(0, np.int64),
    test=test,
    target=target,
  )


def cross_fit(
  recipe: Recipe | Learner,
  dataset: Dataset,
  key: jax.Array,
  *,
  folds: int = 5,
  repeats: int = 1,
) -> Schedule:
  """Schedules K trainings, each without one of K folds: each example has a network without it.

  Paid once for a trained network, it serves every later request for deletion: the mean over any
  group of what each example's own network says of it, by `memorization.estimate`, is what to expect
  of networks that lack it and a random K-th of the data.

  An oracle is another network in two ways. It saw nearly all of the rest, and does slightly better.
  And it lacks all of the request: where that is most of a class or a cluster, it does far worse,
  and nothing here says so. Use a key of its own: what selects a forget set must not also say how
  hard it is, or the winners look harder than they are.

  Args:
    recipe, dataset: as `leave_out`.
    key: of the folds and the training runs; each repeat has folds of its own.
    folds: K, at least 2. Where it does not divide n, up to K − 1 examples are left out twice. Of
      copies the same goes for the families of each size: where they are fewer than K they are left
      out more often, and a single one always.
    repeats: how often all of it is done.

  Returns:
    A `Schedule` in chunks of one model.

  Raises:
    ValueError: as `leave_out`.

  References:
    Cross-fitting: Chernozhukov et al., [Double Machine Learning](https://arxiv.org/abs/1608.00060).

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import data, models, train
    >>> toy = data.Dataset(np.eye(10, dtype=np.float32), np.arange(10) % 2)
    >>> recipe = train.Recipe(models.mlp((4,), 2))
    >>> cross_fit(recipe, toy, jax.random.key(0), folds=5).design
    '5 models, each without one of 5 folds of 10 examples'
  """
  refuse_no_dataset(dataset, "cross_fit")
  _check.count(folds, "folds", "cross_fit")
  _check.count(repeats, "repeats", "cross_fit")
  _check.in_range("cross_fit", 2, len(dataset), folds=folds)
  dataset, key_data = _checked("cross_fit", recipe, dataset, key)
  return Schedule(
    recipe=recipe,
    dataset=dataset,
    key=key_data,
    num_models=folds * repeats,
    kept=tuple(len(rows) - -(-len(rows) // folds) for rows in _families(dataset, dataset.ids)),
    chunk_size=1,
    candidates=dataset.ids,
    folds=folds,
  )


def train_key(schedule: Schedule, model: int) -> jax.Array:
  """Returns the key with which a model is trained, for `train.fit` on its subset."""
  with _settings.applied(schedule.settings):
    return keys_of(schedule.key, model)[1]


def keys_of(key: jax.Array | np.ndarray, model: int | jax.Array) -> jax.Array:
  """Returns the keys of a model's subset and of its training, from the key data of a schedule."""
  own = jax.random.wrap_key_data(jnp.asarray(key), impl="threefry2x32")
  return jax.random.split(jax.random.fold_in(own, model))


def refuse_target(network: object, target: Target, caller: str) -> None:
  """Raises ValueError where what is kept of test examples needs classes that a network lacks."""
  if target in ("correct", "log_odds") and isinstance(network, Network):
    cure = "Keep the outputs instead: retraining.leave_out(..., target='logits')"
    refuse_own_loss(network, f"{caller} with target={target!r}", cure)


def _families(dataset: Dataset, candidates: np.ndarray) -> list[np.ndarray]:
  rows = np.sort(dataset.rows(candidates))
  if dataset.families is None:
    return [rows[:, None]] if len(rows) else []
  if len(rows) < len(together := dataset.with_copies(candidates)):
    raise ValueError(
      f"id {np.setdiff1d(together, candidates)[0]} is a copy of a candidate and none itself "
      f"({len(together) - len(rows)} such). Pass candidates=dataset.with_copies(candidates)."
    )
  numbers = dataset.families[rows]
  _, family, counts = np.unique(numbers, return_inverse=True, return_counts=True)
  order = np.argsort(family, kind="stable")
  rows, sizes = rows[order], counts[family][order]
  return [rows[sizes == size].reshape(-1, size) for size in np.unique(counts)]


def _has_positions(dataset: Dataset) -> bool:
  return dataset.classes and dataset.labels.ndim > 1


def _checked(
  caller: str,
  recipe: Recipe | Learner,
  dataset: Dataset,
  key: jax.Array,
  test: Dataset | None = None,
  target: Target = "correct",
) -> tuple[Dataset, np.ndarray]:
  """Returns the data in the order of its ids, and key data; raises where they cannot be trained on.

  Which loss a learner's network has is seen when it is traced: `chunk.outcome` checks it there.
  """
  _check.key(key, caller)
  if not isinstance(recipe, Recipe) and (not callable(recipe) or hasattr(recipe, "apply")):
    raise ValueError(f"{caller} got {_article.of(recipe)} as recipe: use train.Recipe(model).")
  _identity.describe(recipe)
  if test is not None:
    of_test, of_all = (
      jax.tree.map(lambda leaf: list(leaf.shape[1:]), data.inputs) for data in (test, dataset)
    )
    if of_test != of_all:
      raise ValueError(
        f"{caller} got test inputs {of_test} for a network of {of_all}. Bring them to the same "
        "shape."
      )
  if isinstance(recipe, Recipe):
    network = check_labels(recipe.model, dataset, caller)
    if test:
      check_labels(recipe.model, test, caller)
      refuse_target(network, target, caller)
  if str(jax.random.key_impl(key)) != "threefry2x32":
    raise ValueError(
      f"{caller} got a key of {jax.random.key_impl(key)}, whose numbers differ between machines. "
      "Use jax.random.key(seed, impl='threefry2x32')."
    )
  order = np.sort(dataset.ids)
  dataset = dataset if np.array_equal(order, dataset.ids) else dataset.take(order)
  return dataset, np.asarray(jax.random.key_data(key))
