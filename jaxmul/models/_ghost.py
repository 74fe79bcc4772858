"""Ghost norms: ‖∂ℓ_b/∂θ‖² of every example from one backward pass, without its gradient.

A layer y = f(x, w) is tapped: its output also depends, in name only, on a vector s [B] of zeros.
The cotangent that the tap hands to s is ‖∂ℓ_b/∂w‖², read off x and g = ∂ℓ/∂y, and autodiff adds
these up over the layers: the gradient of Σ ℓ_b with respect to s is the squared norm over all
params. Nothing of the size of a per-example gradient of the network ever exists.

For y_t = x_t W + b at positions t: ‖∂W‖² = ‖Σ_t x_t g_tᵀ‖² = Σ_ts (x_t·x_s)(g_t·g_s), whichever is
the cheaper, and ‖∂b‖² = ‖Σ_t g_t‖². A convolution is that over patches. For a normalisation
y_t = x̂_t γ + β: ∂γ = Σ_t x̂_t g_t.

References:
  Goodfellow, [Efficient Per-Example Gradient Computations](https://arxiv.org/abs/1510.01799), 2015;
  Li et al., [Large Language Models Can Be Strong Differentially Private
  Learners](https://arxiv.org/abs/2110.05679), 2021 ("ghost clipping").
"""

import collections
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmul.binding import Bound
from jaxmul.models._conv import Conv, image_patches

Norms = Callable[[Any, jax.Array], jax.Array]

# A batch size that no feature axis has: where it leads, the axis is the batch.
_UNLIKELY = 1009


def has_ghost_norms(bound: Bound, inputs: jax.Array) -> bool:
  """Whether every param of a network belongs to one layer with a tap, and to nothing else.

  It must be read by one layer, that is called once, outside `nn.scan`, `nn.remat` and the like,
  with the batch as its first axis. Nothing is computed: the forward pass is traced.
  """
  leaves, structure = jax.tree.flatten(bound.params)
  if not all(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves):
    return False
  owners: list[int] = []

  def forward(leaves, x):
    taken = []  # tracers, held so that no id is used twice

    def record(next_fn, args, kwargs, context):
      y = next_fn(*args, **kwargs)
      if _rule(context, args, kwargs) and args[0].shape[:1] == y.shape[:1] == x.shape[:1]:
        taken.extend(jax.tree.leaves(context.module.variables["params"]))
      return y

    with nn.intercept_methods(record):
      y = bound.replace(params=jax.tree.unflatten(structure, leaves))(x)
    owners.extend(sum(leaf is other for other in taken) for leaf in leaves)
    return y

  example = jax.ShapeDtypeStruct((_UNLIKELY, *inputs.shape[1:]), inputs.dtype)
  jaxpr = jax.make_jaxpr(forward)(leaves, example).jaxpr
  read = collections.Counter(id(var) for eqn in jaxpr.eqns for var in eqn.invars)
  read.update(map(id, jaxpr.outvars))
  readers = [read[id(var)] for var in jaxpr.invars[: len(leaves)]]
  return owners == readers == [1] * len(leaves)


def tapped(bound: Bound, inputs: jax.Array, squares: jax.Array) -> jax.Array:
  """Returns logits [B, C] whose cotangent with respect to `squares` [B], zeros, are the norms².

  Differentiate Σ ℓ_b with respect to `squares`. Only right where `has_ghost_norms`.
  """

  def tap(next_fn, args, kwargs, context):
    y = next_fn(*args, **kwargs)
    norms = _rule(context, args, kwargs)
    return y if norms is None else _tap(norms, y, args[0], squares)

  with nn.intercept_methods(tap):
    return bound(inputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tap(norms: Norms, y: jax.Array, x: jax.Array, squares: jax.Array) -> jax.Array:
  del norms, x, squares
  return y


def _forward(norms, y, x, squares):
  del norms
  return y, (x, squares)


def _backward(norms, residual, g):
  x, squares = residual
  x, wide = (each.astype(jnp.promote_types(each.dtype, jnp.float32)) for each in (x, g))
  return g, None, norms(x, wide).astype(squares.dtype)


_tap.defvjp(_forward, _backward)


def _rule(context, args, kwargs) -> Norms | None:
  """Returns how to get norms² [B] from x and g of a layer, or None for any other module or call."""
  module = context.module
  if context.method_name != "__call__" or len(args) != 1:
    return None
  if any(value is not None for value in kwargs.values()):
    return None
  kind = type(module)
  if kind is nn.Dense:
    return functools.partial(_dense, module.use_bias)
  if kind is Conv:
    return functools.partial(_conv, module.kernel_size, module.stride, "SAME", module.use_bias)
  if kind is nn.Conv:
    return _linen_conv(module)
  if kind is nn.BatchNorm and module.use_running_average and module.axis == -1:
    return _norm(module)
  if kind is nn.GroupNorm and module.reduction_axes is None:
    return _norm(module)
  if kind is nn.LayerNorm and (module.reduction_axes, module.feature_axes) == (-1, -1):
    return _norm(module)
  return None


def _linen_conv(module: nn.Conv) -> Norms | None:
  """The rule of a plain 2-D convolution: one stride, no dilation, groups or mask."""
  strides = module.strides or 1
  strides = {strides} if isinstance(strides, int) else set(strides)
  dilations = (module.input_dilation, module.kernel_dilation)
  if isinstance(module.kernel_size, int) or len(module.kernel_size) != 2 or len(strides) != 1:
    return None
  if any(d is not None and np.any(np.asarray(d) != 1) for d in dilations):
    return None
  if module.feature_group_count != 1 or module.mask is not None:
    return None
  if module.padding not in ("SAME", "VALID"):
    return None
  size, padding = tuple(module.kernel_size), module.padding
  return functools.partial(_conv, size, *strides, padding, module.use_bias)


def _dense(use_bias, x, g):
  x = x.reshape(len(x), -1, x.shape[-1])
  g = g.reshape(len(g), -1, g.shape[-1])
  (_, positions, inputs), outputs = x.shape, g.shape[-1]
  if positions * (inputs + outputs) < inputs * outputs:
    pairs = (jnp.einsum("bti,bsi->bts", each, each) for each in (x, g))
    squares = jnp.sum(next(pairs) * next(pairs), (1, 2))
  else:
    squares = jnp.sum(jnp.einsum("bti,bto->bio", x, g) ** 2, (1, 2))
  return squares + jnp.sum(g.sum(1) ** 2, -1) if use_bias else squares


def _conv(size, stride, padding, use_bias, x, g):
  size = (size, size) if isinstance(size, int) else size
  pads = lax.padtype_to_pads(x.shape[1:3], size, (stride, stride), padding)
  return _dense(use_bias, image_patches(x, size, stride, pads), g)


def _norm(module) -> Norms:
  """The rule of y = x̂ γ + β; the layer itself, without γ and β, gives x̂."""
  bare = module.clone(parent=None, use_scale=False, use_bias=False)
  state = {name: each for name, each in module.variables.items() if name != "params"}

  def norms(x, g):
    axes = tuple(range(1, x.ndim - 1))
    squares = jnp.zeros(len(x), g.dtype)
    if module.use_scale:
      squares += jnp.sum(jnp.sum(bare.apply(state, x) * g, axes) ** 2, -1)
    if module.use_bias:
      squares += jnp.sum(jnp.sum(g, axes) ** 2, -1)
    return squares

  return norms
