"""Which leaves of params are kernels: weights of a layer that are a matrix of what it reads."""

import jax
import jax.numpy as jnp
from optax import Params


def kernels_of(params: Params) -> Params:
  """Returns a bool like each leaf: whether it is a kernel.

  A kernel [..., I, O] has two axes or more; where any leaf is named "kernel", only those of this
  name are kernels, and tables of embeddings are none.

  Example:
    >>> import numpy as np
    >>> kernels_of({"kernel": np.zeros((2, 8)), "embedding": np.zeros((4, 2))})
    {'embedding': False, 'kernel': True}
  """
  by_name = any(
    name_of(path) == "kernel" for path, _ in jax.tree_util.tree_leaves_with_path(params)
  )

  def is_kernel(path, leaf):
    name = name_of(path)
    return jnp.ndim(leaf) >= 2 and (name == "kernel" if by_name else name != "embedding")

  return jax.tree_util.tree_map_with_path(is_kernel, params)


def name_of(path) -> str:
  """Returns the last name on the way to a leaf."""
  return jax.tree_util.keystr(path[-1:], simple=True)
