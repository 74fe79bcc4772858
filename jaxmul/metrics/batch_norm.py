"""Models of which only BatchNorm statistics changed: their weights still hold what was forgotten.

An evaluator must tell them from oracles; they are one of the controls of `audit`.
"""

import contextlib

import jax
import numpy as np

from jaxmul import models
from jaxmul._dataset import Dataset
from jaxmul._progress import shown
from jaxmul.binding import Network
from jaxmul.data.split import Split
from jaxmul.metrics.oracle.ensembles import original
from jaxmul.metrics.oracle.model_outputs import Outputs, outputs
from jaxmul.train import Diverged, Recipe


def batch_stats_changed(network: Network, factor: float = 2.0) -> Network:
  """Returns params whose BatchNorm variances are multiplied: the weights still hold the data.

  Args:
    network: bound with `state={"batch_stats": ...}`.
    factor: above 0, not 1.

  Raises:
    ValueError: there are no BatchNorm statistics.
  """
  if not network.state or "batch_stats" not in network.state:
    raise ValueError("batch_stats_changed: the network has no BatchNorm statistics. Skip it.")

  def change(path: jax.tree_util.KeyPath, leaf: jax.Array) -> jax.Array:
    return leaf * factor if path[-1].key == "var" else leaf

  stats = jax.tree_util.tree_map_with_path(change, network.state["batch_stats"])
  return network.replace(state={**network.state, "batch_stats": stats})


def batch_norm_control(
  recipe: Recipe, dataset: Dataset, split: Split, key: jax.Array, *, num_models: int
) -> Outputs | None:
  """Returns outputs of originals of which only BatchNorm statistics changed, or None without any.

  Args:
    recipe, dataset, split, key: of the ensemble, whose originals are trained again.
    num_models: how many; half as many as there are oracles.
  """
  like = models.shapes(recipe.model, dataset.example)
  if not like.state or "batch_stats" not in like.state:
    return None
  ids = np.concatenate([split.forget, split.retain, split.heldout, split.test])
  changed = []
  for number in shown(range(num_models), "BatchNorm control"):
    with contextlib.suppress(Diverged):  # which the ensemble has left out with a warning
      trained = original(recipe, dataset, split, key, number).network
      changed.append(batch_stats_changed(trained))
  return outputs(changed, dataset, ids)
