"""Adapters of several requests as one, in closed form, from inner products of what they were given.

W_i is a linear map of the adapters of request i, and X_i [N_i, F] what it was given by the examples
of that request. The map that does on each X_i nearest to what W_i does, in squares, is

  W = (Σ X_iᵀX_i)⁻¹ Σ X_iᵀX_i W_i.

It needs the products X_iᵀX_i [F, F] and no example. Where their sum is singular, inputs of some
directions were in no request, and W is the solution nearest to the mean of all W_i: so is the
fusion of one request that request.

References:
  Chen and Yang, [Unlearn What You Want to Forget](https://arxiv.org/abs/2310.20150), 2023; the same
  for all layers of networks: Jin et al., [Dataless Knowledge
  Fusion](https://arxiv.org/abs/2212.09849), 2022.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from jax import lax

from jaxmul import _check, losses
from jaxmul._arrays import Inputs, widened
from jaxmul.binding import Network
from jaxmul.models._additions import LowRank, adaptation, by_path

Products = dict[str, Any]
"""XᵀX of each linear map of adapters, under its name and those of its layer."""


def inner_products(network: Network, batch: tuple[Inputs, jax.Array]) -> Products:
  """Returns XᵀX [F, F] of what each linear map of a network's adapters is given by a request.

  X has a row for each position of each example; of text for each scored one. Products of several
  batches add up: `jax.tree.map(jnp.add, one, other)`. They are all that `fuse_adapters` needs to
  know of a request, but they are made of its examples: they tell something of these, and of one
  short example nearly all.

  Args:
    network: with adapters, those of the request.
    batch: `(inputs [B, ...], labels int [B, *P])` of examples that it was to forget.

  Returns:
    {"down", "up"} of each adapter; of low-rank additions {"a"}, as A B is one map. In float32 or
    the wider type of the network.

  Raises:
    ValueError: the network has no adapters, or the batch is none.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxmul import models
    >>> x = jnp.ones((4, 3))
    >>> network = models.init(models.mlp((8,), 2), jax.random.key(0), x)
    >>> adapted = models.with_low_rank(network, x, ("Dense_0",), 2, jax.random.key(1))
    >>> inner_products(adapted, (x, jnp.zeros(4, int)))["Dense_0"]["a"].tolist()
    [[4.0, 4.0, 4.0], [4.0, 4.0, 4.0], [4.0, 4.0, 4.0]]
  """
  adapted = adaptation(network, "inner_products")
  inputs, labels = _check.batch(batch, "inner_products")
  products: dict[tuple[str, ...], jax.Array] = {}

  def see(path, weights, x, y):
    for name, values in adapted.add.inputs(weights, x, y).items():
      product = _product(values, labels)
      products[*path, name] = products.get((*path, name), 0) + product

  adapted(network.variables, inputs, see)
  return unflatten_dict(products)


def fuse_adapters(networks: Sequence[Network], products: Sequence[Products]) -> Network:
  """Returns a network whose adapters do on each request what those of that request do.

  Each linear map is fused for itself, W = (Σ X_iᵀX_i)⁻¹ Σ X_iᵀX_i W_i. Of low-rank additions this
  is exact, the least-squares solution for the layer, and its rank is the sum of theirs. An adapter
  is two maps with a relu between them: each is the best for what it was given at its own request,
  and the whole is near where the adapters of all requests began alike, from one key.

  Leave a request out, and it is taken back; `models.without_adapters` takes all back.

  Args:
    networks: adapters of one original network, of each request its own.
    products: of each, by `inner_products` on the examples of its request.

  Raises:
    ValueError: there are none, or not as many products; the networks have other layers, or adapters
      of another kind.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxmul import models
    >>> x, labels = jnp.eye(3), jnp.zeros(3, int)
    >>> network = models.init(models.mlp((8,), 2), jax.random.key(0), x)
    >>> adapted = models.with_low_rank(network, x, ("Dense_0",), 2, jax.random.key(1))
    >>> products = models.inner_products(adapted, (x, labels))
    >>> jax.tree.map(jnp.shape, fuse_adapters([adapted] * 2, [products] * 2).params)
    {'Dense_0': {'a': (3, 4), 'b': (4, 8)}}
  """
  if not networks or len(networks) != len(products):
    raise ValueError(
      f"fuse_adapters got {len(networks)} networks and {len(products)} products, must be as many, "
      "at least one: products of each by models.inner_products."
    )
  first = adaptation(networks[0], "fuse_adapters")
  weights = [by_path(network.params) for network in networks]
  for network, own in zip(networks, weights, strict=True):
    same = adaptation(network, "fuse_adapters") == first and own.keys() == weights[0].keys()
    if not same or jax.tree.structure(network.state) != jax.tree.structure(networks[0].state):
      raise ValueError(
        "fuse_adapters got adapters of other networks, layers or kinds. Give those of one network, "
        "made with the same layers, and of low-rank ones with the same scale."
      )
  low_rank = isinstance(first.add, LowRank)
  fused: dict[tuple[str, ...], jax.Array] = {}
  for name in weights[0]:
    of_requests = [own[name] for own in weights]
    if low_rank and name[-1] == "b":
      fused[name] = jnp.concatenate(of_requests)
      continue
    if not low_rank and len({leaf.shape for leaf in of_requests}) > 1:
      raise ValueError(
        f"fuse_adapters got widths {[leaf.shape for leaf in of_requests]} of {'/'.join(name)!r}, "
        "must be equal. Make the adapters of all requests alike."
      )
    parts = _parts(name, of_requests, [by_path(product) for product in products])
    fused[name] = jnp.concatenate(parts, axis=1) if low_rank else sum(parts[1:], parts[0])
  return networks[0].replace(params=unflatten_dict(fused))


def _parts(name, weights, products) -> list[jax.Array]:
  """Returns the terms that (Σ G_i)⁻¹ Σ G_i W_i is the sum of, one of each W_i, G_i = X_iᵀX_i.

  With the mean Ḡ over k requests a term is W_i / k + (Σ G_i)⁺ (G_i − Ḡ) W_i.
  """
  grams = [product.get(name) for product in products]
  size = len(weights[0])
  if any(gram is None or gram.shape != (size, size) for gram in grams):
    raise ValueError(
      f"fuse_adapters got no products [{size}, {size}] of {'/'.join(name)!r} for each request. "
      "Make them with models.inner_products(network, batch) of the network it is given."
    )
  count, total = len(weights), sum(grams[1:], grams[0])
  inverse = jnp.linalg.pinv(total, hermitian=True)
  exact = lax.Precision.HIGHEST

  def term(weight, gram):
    apart = jnp.matmul(gram - total / count, weight, precision=exact)
    return (weight / count + jnp.matmul(inverse, apart, precision=exact)).astype(weight.dtype)

  return [term(*pair) for pair in zip(weights, grams, strict=True)]


def _product(values: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns XᵀX [F, F] of values [B, *P, F], of text at scored positions alone."""
  values = widened(values)
  if labels.ndim > 1 and values.shape[:-1] == labels.shape:
    values = jnp.where((labels != losses.UNSCORED)[..., None], values, 0)
  rows = values.reshape(-1, values.shape[-1])
  return jnp.matmul(rows.T, rows, precision=lax.Precision.HIGHEST)
