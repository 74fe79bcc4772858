"""What users give for a request, checked before anything is trained."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import _article, _check, models, rum, train
from jaxmul._dataset import Dataset, refuse_no_dataset
from jaxmul.binding import Network
from jaxmul.rum.plan import named_steps, refuse_uneven


def refuse_other(dataset: Any, recipe: Any, key: Any, caller: str) -> None:
  """Raises ValueError where a data set, a recipe or a key is something else."""
  refuse_no_dataset(dataset, caller)
  if not isinstance(recipe, train.Recipe):
    raise ValueError(
      f"{caller} got {_article.of(recipe)} as recipe: use train.Recipe(model, ...), which says "
      "how the network was trained."
    )
  _check.key(key, caller)


def refuse_other_devices(
  devices: Sequence[Any] | None, plan: rum.Plan | None, recipe: train.Recipe, trains: bool
) -> None:
  """Raises ValueError where there are no devices, or they do not divide a batch.

  Args:
    devices: as of `forget`.
    plan: whose steps are made; of None those of the autopilot, which have the recipe's batches.
    recipe: it trained the network, so that its batches stay and the devices have to fit.
    trains: whether networks are trained on the devices too.
  """
  refuse_uneven({} if plan is None else named_steps(plan), devices, "forget")
  if devices is None:
    return
  sizes = {"batch_size": recipe.batch_size} if trains or plan is None else {}
  if trains and recipe.microbatch is not None:
    sizes["microbatch"] = recipe.microbatch
  for name, size in sizes.items():
    if size % len(devices):
      common = math.gcd(*sizes.values())
      count = max(k for k in range(1, len(devices) + 1) if common % k == 0)
      raise ValueError(
        f"forget got {len(devices)} devices, which must divide the recipe's {name}={size}. "
        f"Use {count} of them: devices[:{count}]."
      )


def ids_of(given: Any, name: str, caller: str) -> np.ndarray:
  """Returns ids int64 [k], in the order given.

  Raises:
    ValueError: they are something else: floats, text, a mask, a set or a generator, whose order
      nobody knows or which can be read only once.
  """
  try:
    ids = np.asarray(given)
  except ValueError:  # lists of different lengths
    ids = np.asarray(None)
  if np.issubdtype(ids.dtype, np.integer) or not ids.size:
    return ids.reshape(-1).astype(np.int64)
  cure = {
    "b": "Turn a mask into ids: dataset.ids[mask]",
    "f": "Round them first: np.asarray(ids).astype('int64')",
    "U": "Turn words into numbers: [int(word) for word in ids]",
  }.get(ids.dtype.kind, "Make a list of integers of them: sorted(ids)")
  what = {"b": "bool", "f": "float", "U": "text"}.get(ids.dtype.kind, type(given).__name__)
  raise ValueError(f"{caller} got {name} ids as {what}, must be integers [k]. {cure}.")


def refuse_other_network(
  network: Network, recipe: train.Recipe, dataset: Dataset, caller: str
) -> None:
  """Raises ValueError where a network does not take the data, or is not what the recipe trains.

  A network of another library names and shapes its params in its own way: what is compared is how
  many numbers it has.
  """
  try:
    _check.answers(network, dataset.example, dataset.labels, caller)
  except Exception as error:
    if isinstance(error, ValueError) and str(error).startswith(caller):
      raise
    shapes = jax.tree.map(lambda leaf: list(leaf.shape[1:]), dataset.inputs)
    raise ValueError(
      f"{caller}: the network does not take inputs {shapes} as of the data set. Give them in the "
      "shape that it was trained on."
    ) from error
  own, others = map(_size, (network, models.shapes(recipe.model, dataset.example)))
  if own != others:
    raise ValueError(
      f"{caller}: the network holds {own:,} numbers, the model of the recipe {others:,}: it was "
      "trained by another recipe. Give its own: oracles are trained by it."
    )


def _size(network: Network) -> int:
  """How many floats are in params and state; counts and keys of random streams do not matter."""
  leaves = jax.tree.leaves((network.params, network.state))
  return sum(
    int(np.prod(leaf.shape))
    for leaf in leaves
    if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
  )
