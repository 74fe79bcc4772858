"""A point proxy over a whole data set: fixed-shape batches, split over devices, joined by id.

A product of another shape rounds differently, and on a ReLU network one rounding can move an
example across a kink. On CPU the batch is therefore computed in blocks of a fixed number of rows:
scores are the same bits whatever the batch size and the number of devices.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxmul import _arrays, _article, _check, _sharding
from jaxmul._blocks import map_blocks
from jaxmul._dataset import Dataset, as_inputs, refuse_no_dataset
from jaxmul._progress import shown
from jaxmul.binding import ApplyFn, Network, as_network

_BLOCK = 32


def score(
  proxy: Callable[..., jax.Array],
  params: Any,
  dataset: Dataset,
  apply_fn: ApplyFn | None = None,
  *,
  batch_size: int = 512,
  devices: Sequence[Any] | None = None,
) -> np.ndarray:
  """Scores every example of a data set with a point proxy.

  Args:
    proxy: `proxy(params, batch=(inputs, labels)) -> [B]`, params bound. Options and extra pytrees
      go in by `jax.tree_util.Partial(proxy, name=value)`, which does not retrace for new arrays.
    params: any pytree with `apply_fn`, a `Network`, or a callable pytree.
    dataset: n examples; uint8 images are scaled to [0, 1].
    apply_fn: `apply_fn(params, inputs) -> outputs [B, *P, C]`, evaluation mode.
    batch_size: examples at a time; bounds the memory. Rounded up to a multiple of the devices, and
      on CPU of 32 rows on each.
    devices: split every batch over these; `[device]` runs on that one. All of JAX's by default. The
      numbers are the same within rounding; each device holds the network.

  Returns:
    Scores float32 [n], in the order of `dataset.ids`; on CPU the same bits for any batch size,
    order of the data and number of devices. Where stderr is a terminal, a bar shows after two
    seconds how far it is.

  Raises:
    ValueError: there is no data set or it is empty, there are no devices, the proxy is no function,
      or it refuses them.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import models, proxies
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]))
    >>> params = models.init(models.mlp((8,), 2), jax.random.key(0), toy.inputs[:1])
    >>> proxies.score(proxies.curvature, params, toy, batch_size=3).shape
    (4,)
  """
  if not callable(proxy):
    raise ValueError(f"score got proxy={proxy!r}, must be a function such as proxies.grand.")
  refuse_no_dataset(dataset, "score")
  if not len(dataset):
    raise ValueError("score got an empty data set. Pass at least one example.")
  _check.count(batch_size, "batch_size", "score")
  network = as_network(params, apply_fn, "score")
  if not isinstance(proxy, jax.tree_util.Partial):
    proxy = jax.tree_util.Partial(proxy)
  over = _sharding.mesh("data", _sharding.chosen(devices, "score"))
  rows_each = -(-min(batch_size, len(dataset)) // over.size)
  if _is_cpu(over):
    rows_each = -(-rows_each // _BLOCK) * _BLOCK
  size = rows_each * over.size
  _check.tokens(network, dataset.inputs, "score")
  _check.answers(network, dataset.example, dataset.labels, "score")
  _check.outputs(network, as_inputs(_arrays.rows(dataset.inputs, slice(8))), "score")
  static, arrays = _arrays.split((proxy, network))
  arrays = _sharding.replicate(arrays, over)
  scores = []
  for start in shown(range(0, len(dataset), size), "scoring"):
    rows = np.arange(start, start + size)
    rows = np.where(rows < len(dataset), rows, start)  # padding repeats a row and is dropped
    batch = _sharding.place_batch(_arrays.rows((dataset.inputs, dataset.labels), rows), over)
    scores.append(_score(static, over, arrays, *batch))
    jax.block_until_ready(scores[-2:-1])  # at most two batches on the way: memory is bounded
  return np.concatenate([np.asarray(part) for part in scores])[: len(dataset)]


def check_examples(network: Network, caller: str, **given: Dataset) -> None:
  """Raises ValueError where a network is none, or data sets, by name, are not what it answers."""
  if not isinstance(network, Network):
    raise ValueError(
      f"{caller} needs a Network, got {_article.of(network)}. That of train.fit is .network; else "
      "see jaxmul.bind."
    )
  for name, dataset in given.items():
    if not isinstance(dataset, Dataset) or not len(dataset):
      raise ValueError(
        f"{caller} needs {name}=Dataset of at least one example. Make one: "
        "data.Dataset(inputs, labels)."
      )
    _check.tokens(network, dataset.inputs, caller)
    _check.answers(network, dataset.example, dataset.labels, caller)


def _is_cpu(over: _sharding.Devices) -> bool:
  return over.devices.flat[0].platform == "cpu"


@functools.partial(jax.jit, static_argnums=(0, 1))
def _score(static, over, arrays, inputs, labels):
  def local(batch, arrays):
    proxy, network = _arrays.joined(static, arrays)
    block = _BLOCK if _is_cpu(over) else len(batch[1])
    return map_blocks(
      lambda inputs, labels: proxy(network, batch=(as_inputs(inputs), labels)), batch, block
    )

  return _sharding.map_batch(local, over)((inputs, labels), arrays)
