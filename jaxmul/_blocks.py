"""Fixed-shape blocks over any number of examples, so that one compiled program serves them all.

The last block is padded with its first row, never with zeros or NaN, and the padded results are
dropped: what padding holds cannot be seen.

In a training batch of n examples a number from n on is padding: n + i is example i, which stands
there at weight 0.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmul import _arrays
from jaxmul._arrays import Inputs

_IMAGES = 16
_TOKENS = 1024
Tree = TypeVar("Tree")


def map_blocks(function: Callable[..., Tree], arrays: tuple[Inputs, ...], size: int) -> Tree:
  """Returns `function` of whole arrays [n, ...], computed `size` rows at a time under `lax.map`.

  Arrays may be dicts of arrays. Memory is bounded by the block. `function` takes blocks
  [size, ...] and returns a pytree whose leaves have a leading axis [size]; each row must not depend
  on the others.
  """
  count = _arrays.size(arrays)
  size = min(size, count)
  blocks = -(-count // size)
  rows = jnp.arange(blocks * size)
  rows = jnp.where(rows < count, rows, 0).reshape(blocks, size)
  mapped = lax.map(lambda block: function(*_arrays.rows(arrays, block)), rows)
  return jax.tree.map(lambda leaf: leaf.reshape(blocks * size, *leaf.shape[2:])[:count], mapped)


def small_blocks(
  function: Callable[[Inputs, jax.Array], jax.Array], inputs: Inputs, labels: jax.Array
) -> jax.Array:
  """Returns `function(inputs, labels)` [B]; on a CPU, 16 images or about 1,024 tokens at a time.

  What a convolution keeps for its gradient then stays in the cache: the proxies of a `cnn` take
  half of the time or less; and what a transformer of ten million params keeps is below 1 GB.
  Over several devices a loop over the batch would gather it, so there the batch stays whole.
  """
  size = len(labels)
  if any(leaf.ndim >= 4 for leaf in jax.tree.leaves(inputs)):
    size = _IMAGES
  elif labels.ndim > 1:
    size = 1 << max(1, _TOKENS // max(1, labels[0].size)).bit_length() - 1
  if len(labels) <= size or not _is_one_cpu():
    return function(inputs, labels)
  return map_blocks(function, (inputs, labels), size)


def _is_one_cpu() -> bool:
  return jax.default_backend() == "cpu" and len(jax.devices()) == 1


def shuffled_rows(key: jax.Array, count: int, size: int) -> jax.Array:
  """Returns 0 … count − 1 in random order as [steps, size], padded at the end with `count`."""
  steps = -(-count // size)
  order = jax.random.permutation(key, count)
  return jnp.pad(order, (0, steps * size - count), constant_values=count).reshape(steps, size)


def even_rows(key: jax.Array, count: int, size: int) -> jax.Array:
  """Returns 0 … count − 1 in random order, dealt evenly over the ⌈count / size⌉ steps.

  [steps, ⌈count / steps⌉]: a step has that many examples, or one less and then one row of padding,
  `count` plus the next example in the order.

  Example:
    >>> import jax
    >>> even_rows(jax.random.key(0), 5, 4).shape
    (2, 3)
  """
  steps = -(-count // size)
  least, more = divmod(count, steps)
  step, place = np.arange(steps)[:, None], np.arange(least + (more > 0))
  order = jax.random.permutation(key, count)
  rows = order[(step * least + np.minimum(step, more) + place) % count]
  return jnp.where(place < least + (step < more), rows, count + rows)


def filled(places: jax.Array, count: int, multiple: int) -> jax.Array:
  """Returns a batch's places [B] of `count` examples with padding up to a multiple of rows.

  Padding is the batch's own examples once more, at weight 0; nothing is added to a whole multiple.

  Example:
    >>> import jax.numpy as jnp
    >>> filled(jnp.array([4, 2, 5]), 5, 2).tolist()
    [4, 2, 5, 9]
  """
  missing = -len(places) % multiple
  if not missing:
    return places
  more = count + places[np.arange(missing) % len(places)] % count
  return jnp.concatenate([places, more])


def dealt(tree: Tree, parts: int) -> Tree:
  """Returns arrays [B, ...] as [parts, B / parts, ...]: row i is in part i modulo parts.

  Padding, which is at the end, is then spread evenly; and where B is split over devices in order,
  so is each part, without a row leaving its device.

  Example:
    >>> import jax.numpy as jnp
    >>> dealt(jnp.arange(6), 2).tolist()
    [[0, 2, 4], [1, 3, 5]]
  """

  def deal(leaf):
    return leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1)

  return jax.tree.map(deal, tree)


def together(tree: Tree) -> Tree:
  """Returns what `dealt` dealt, arrays [parts, B / parts, ...], as [B, ...]."""
  return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:]), tree)


def num_parts(width: int, microbatch: int | None) -> int:
  """Returns how many microbatches a step of so many rows is dealt into; 1 without any."""
  return 1 if microbatch is None else -(-width // microbatch)


def least_rows(count: int, size: int, microbatch: int | None = None) -> int:
  """Returns the fewest examples of a step of `even_rows`: from count = size on, half of size.

  With microbatches, the fewest of one of them.

  Example:
    >>> least_rows(65, 64), least_rows(9, 64), least_rows(9, 64, 4)
    (32, 9, 3)
  """
  steps = -(-count // size)
  return count // steps // num_parts(-(-count // steps), microbatch)
