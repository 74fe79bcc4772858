"""What metrics are given, as arrays of float64, or one line that says what is wrong with it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxmul import _arrays, _article, losses
from jaxmul._dataset import Dataset
from jaxmul._scoring import score
from jaxmul.binding import ApplyFn, Network, as_network, refuse_own_loss


def numbers(values: npt.ArrayLike, caller: str, name: str) -> np.ndarray:
  """Returns an array of numbers as float64, whatever its shape."""
  try:
    return np.asarray(values, dtype=np.float64)
  except (TypeError, ValueError) as error:
    raise ValueError(
      f"{caller} needs {name} as an array of numbers, got {_article.of(values)}. Where there are "
      "several, stack them: np.stack(list_of_arrays)."
    ) from error


def probabilities(values: npt.ArrayLike, caller: str, name: str) -> np.ndarray:
  """Returns p_y of any shape, all in [0, 1]."""
  p = numbers(values, caller, name)
  outside = np.argwhere(~((p >= 0) & (p <= 1)))
  if len(outside):
    place = outside[0].tolist()
    raise ValueError(
      f"{caller}: {name}{place} is {p[tuple(place)]}, must be a probability in [0, 1]. "
      "Pass attacks.label_confidence or outputs.label_probability, not logits or losses."
    )
  if not p.size:
    raise ValueError(f"{caller} got no p_y of {name}: shape {p.shape}. Give one example or more.")
  return p


def of_models(values: npt.ArrayLike, caller: str, name: str) -> np.ndarray:
  """Returns one number of each model and example, [K, n], none of them NaN."""
  array = numbers(values, caller, name)
  if array.ndim != 2 or not array.size:
    raise ValueError(f"{caller} needs {name} [K, n], not empty, got shape {array.shape}.")
  missing = int(np.isnan(array).sum())
  if missing:
    raise ValueError(
      f"{caller}: {missing} of {array.size} {name} are NaN. Leave out these examples, or the "
      "models that diverged."
    )
  return array


def of_both(
  unlearned: npt.ArrayLike, oracles: npt.ArrayLike, caller: str
) -> tuple[np.ndarray, np.ndarray]:
  """Returns numbers of unlearned models [K, n] and of oracles [L, n] on the same examples."""
  ours = of_models(unlearned, caller, "numbers of unlearned")
  theirs = of_models(oracles, caller, "numbers of oracles")
  if ours.shape[1] != theirs.shape[1]:
    raise ValueError(
      f"{caller} got {ours.shape[1]} and {theirs.shape[1]} examples. Take both by the same ids."
    )
  return ours, theirs


def network_of_text(
  params: Any, dataset: Dataset, apply_fn: ApplyFn | None, caller: str
) -> Network:
  """Returns params as a `Network` whose tokens have probabilities, and refuses other data."""
  if not isinstance(dataset, Dataset):
    raise ValueError(
      f"{caller} got {_article.of(dataset)} as the data, must be a Dataset of sequences. Make one: "
      "data.text or data.questions."
    )
  if dataset.labels.ndim != 2 or not dataset.classes:
    raise ValueError(
      f"{caller} needs sequences with labels [n, T], got {list(dataset.labels.shape)}. Use "
      "metrics.accuracy for what has one label."
    )
  network = as_network(params, apply_fn, caller)
  refuse_own_loss(network, caller)
  return network


def refuse_other_than_tokens(dataset: Dataset, caller: str) -> None:
  """Raises ValueError where inputs are no tokens int [n, T], of which a label stands for each."""
  inputs = dataset.inputs
  if isinstance(inputs, dict):
    given = _arrays.kinds(inputs)
  elif np.issubdtype(inputs.dtype, np.signedinteger) and inputs.shape == dataset.labels.shape:
    return
  else:
    given = f"{inputs.dtype} {list(inputs.shape)}"
  raise ValueError(
    f"{caller} needs tokens int [n, T] and a label for each, got {given} with labels "
    f"{list(dataset.labels.shape)}. Encode texts first: data.text or data.questions."
  )


def scored(
  function: Callable[[jax.Array, jax.Array], jax.Array],
  network: Network,
  dataset: Dataset,
  batch_size: int,
  name: str,
) -> np.ndarray:
  """Returns `function(logits, labels)` of every example, float64 [n], none of them NaN.

  Args:
    function: of a module, so that one compiled program serves all calls.
    network, dataset, batch_size: as `proxies.score`.
    name: what the values are of, for the error.
  """
  proxy = jax.tree_util.Partial(_of_outputs, function)
  values = score(proxy, network, dataset, batch_size=batch_size).astype(np.float64)
  refuse_diverged(values, dataset, name)
  return values


def _of_outputs(function, network: Network, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
  inputs, labels = batch
  return function(network(inputs), labels)


def or_nan(values: jax.Array, logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns values [B], NaN where a scored position's logits are: where argmax says nothing."""
  bad = jnp.isnan(losses.scored_only(logits, labels))
  return jnp.where(jnp.any(bad, axis=tuple(range(1, bad.ndim))), jnp.nan, values)


def refuse_diverged(values: np.ndarray, dataset: Dataset, name: str) -> None:
  """Raises ValueError where what a network says of an example of the data set is NaN."""
  missing = np.flatnonzero(np.isnan(values))
  if len(missing):
    raise ValueError(
      f"the {name} of id {dataset.ids[missing[0]]} are NaN ({len(missing)} of {len(dataset)} "
      "examples): these params have diverged. Lower the learning rate that made them."
    )


def refuse_positions(dataset: Dataset, caller: str, cure: str) -> None:
  """Raises ValueError where examples have labels at positions, and logits at each of them."""
  if dataset.labels.ndim > 1:
    raise ValueError(
      f"{caller} is for one label per example; labels here are {list(dataset.labels.shape)}. "
      f"{cure}."
    )
