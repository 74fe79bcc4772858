"""Ghost norms: ‖∂ℓ_b/∂θ‖² of every example from one backward pass, without its gradient.

A layer y = f(x, w) is tapped: its output also depends, in name only, on a vector s [B] of zeros.
The cotangent that the tap hands to s is ‖∂ℓ_b/∂w‖², read off x and g = ∂ℓ/∂y, and autodiff adds
these up over the layers: the gradient of Σ ℓ_b with respect to s is the squared norm over all
params. Nothing of the size of a per-example gradient of the network ever exists. In the same way
zeros like the params get Σ_b (∂ℓ_b/∂w)², the sum of squared gradients.

For y_t = x_t W + b at positions t: ‖∂W‖² = ‖Σ_t x_t g_tᵀ‖² = Σ_ts (x_t·x_s)(g_t·g_s), whichever is
the cheaper, and ‖∂b‖² = ‖Σ_t g_t‖². A convolution is that over patches. For a normalisation
y_t = x̂_t γ + β: ∂γ = Σ_t x̂_t g_t. With one position, Σ_b (∂W)² = Σ_b x_b² (g_b²)ᵀ. An embedding
y_t = E[x_t] is a product with one-hot x_t: gradients of equal tokens of an example add up before
they are squared.

References:
  Goodfellow, [Efficient Per-Example Gradient Computations](https://arxiv.org/abs/1510.01799), 2015;
  Li et al., [Large Language Models Can Be Strong Differentially Private
  Learners](https://arxiv.org/abs/2110.05679), 2021 ("ghost clipping").
"""

import collections
import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from optax import Params

from jaxmul import _arrays
from jaxmul._arrays import Inputs
from jaxmul.binding import Network
from jaxmul.models import _remat
from jaxmul.models._conv import Conv, image_patches, padding_of

# A param's gradients [B, ...], or (a, g) [B, T, ·] with the gradients Σ_t a_t g_tᵀ, where a may be
# the integers [B, T] of one-hot vectors; a rule gives those of each param, of x and g.
Gradient = jax.Array | tuple[jax.Array, jax.Array]
Rule = Callable[[jax.Array, jax.Array], Mapping[str, Gradient]]
# Of a layer with a rule: what is read off its x and g, and the zeros whose cotangent that becomes.
Read = Callable[[jax.Array, jax.Array], Params]
Reader = Callable[[Rule, nn.Module], tuple[Read, Params]]

# A batch size that no feature axis has: where it leads, the axis is the batch.
_UNLIKELY = 1009


def has_ghost_norms(network: Network, inputs: Inputs) -> bool:
  """Whether every param of a network belongs to one layer with a tap, and to nothing else.

  It must be read by one layer, that is called once, outside `nn.scan`, `nn.remat` and the like,
  with the batch as its first axis; the `remat` of our own models is off while they are tapped.
  Nothing is computed: the forward pass is traced.
  """
  leaves, structure = jax.tree.flatten(network.params)
  if not all(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves):
    return False
  owners: list[int] = []

  def forward(leaves, x):
    taken = []  # tracers, held so that no id is used twice

    def record(next_fn, args, kwargs, context):
      y = next_fn(*args, **kwargs)
      if (
        rule_of(context, args, kwargs)
        and args[0].shape[:1] == y.shape[:1] == jax.tree.leaves(x)[0].shape[:1]
      ):
        taken.extend(jax.tree.leaves(context.module.variables["params"]))
      return y

    with _remat.watching(record):
      y = network.replace(params=jax.tree.unflatten(structure, leaves))(x)
    owners.extend(sum(leaf is other for other in taken) for leaf in leaves)
    return y

  example = _arrays.shapes(inputs, _UNLIKELY)
  jaxpr = jax.make_jaxpr(forward)(leaves, example).jaxpr
  read = collections.Counter(id(var) for eqn in jaxpr.eqns for var in eqn.invars)
  read.update(map(id, jaxpr.outvars))
  readers = [read[id(var)] for var in jaxpr.invars[: len(leaves)]]
  return owners == readers == [1] * len(leaves)


def tapped(network: Network, inputs: Inputs, squares: jax.Array) -> jax.Array:
  """Returns outputs [B, *P, C] whose cotangent with respect to `squares` [B], zeros, are norms².

  Differentiate Σ ℓ_b with respect to `squares`. Only right where `has_ghost_norms`.
  """

  def norms(rule, module):
    del module
    return lambda x, g: sum(map(_norms, rule(x, g).values())), squares

  return tapped_by(norms, network, inputs)


def tapped_squares(network: Network, inputs: Inputs, squares: Params) -> jax.Array:
  """Returns outputs [B, *P, C] whose cotangent with respect to `squares` is Σ_b (∂ℓ_b/∂θ)².

  `squares` are zeros like the params. Differentiate Σ ℓ_b with respect to them, not to the params.
  Only right where `has_ghost_norms`.
  """
  of = zip(jax.tree.leaves(network.params), jax.tree.leaves(squares), strict=True)
  zeros = {id(leaf): zero for leaf, zero in of}

  def sums(rule, module):
    mine = {name: zeros[id(leaf)] for name, leaf in module.variables["params"].items()}

    def read(x, g):
      gradients = rule(x, g)
      sums = {name: _sum_of_squares(gradients[name], len(zero)) for name, zero in mine.items()}
      return {name: sums[name].reshape(zero.shape) for name, zero in mine.items()}

    return read, mine

  return tapped_by(sums, network, inputs)


def tapped_by(reader: Reader, network: Network, inputs: Inputs) -> jax.Array:
  """Returns outputs of a network whose layers with a rule are tapped, see `Reader`."""

  def tap(next_fn, args, kwargs, context):
    y = next_fn(*args, **kwargs)
    rule = rule_of(context, args, kwargs)
    if rule is None:
      return y
    read, zeros = reader(rule, context.module)
    return _tap(read, y, args[0], zeros)

  with _remat.watching(tap):
    return network(inputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tap(read: Read, y: jax.Array, x: jax.Array, zeros: Params):
  del read, x, zeros
  return y


def _forward(read, y, x, zeros):
  del read
  return y, (x, zeros)


def _backward(read, residual, g):
  x, zeros = residual
  wide = _arrays.widened(g)
  if jnp.issubdtype(x.dtype, jnp.inexact):
    x = _arrays.widened(x)
  return g, None, jax.tree.map(lambda v, zero: v.astype(zero.dtype), read(x, wide), zeros)


_tap.defvjp(_forward, _backward)


def _norms(gradient: Gradient) -> jax.Array:
  """‖·‖² [B] of per-example gradients."""
  if not isinstance(gradient, tuple):
    return jnp.sum(gradient**2, -1)
  if gradient[0].ndim == 2:
    return jnp.sum(gradient[1] * _of_equal_tokens(*gradient), (1, 2))
  (_, positions, inputs), outputs = gradient[0].shape, gradient[1].shape[-1]
  if positions * (inputs + outputs) < inputs * outputs:
    a, b = (jnp.einsum("bti,bsi->bts", factor, factor) for factor in gradient)
    return jnp.sum(a * b, (1, 2))
  return jnp.sum(jnp.einsum("bti,bto->bio", *gradient) ** 2, (1, 2))


def _sum_of_squares(gradient: Gradient, rows: int) -> jax.Array:
  """Σ_b of squared per-example gradients, of a param of so many rows."""
  if not isinstance(gradient, tuple):
    return jnp.sum(gradient**2, 0)
  if gradient[0].ndim == 2:
    tokens, g = gradient
    # Σ_v (Σ_t [x_t = v] g_t)²: each token of an example once, where it stands first.
    once = ~jnp.any(jnp.tril(tokens[:, :, None] == tokens[:, None, :], -1), 2)
    squares = jnp.where(once[..., None], _of_equal_tokens(tokens, g) ** 2, 0)
    return jnp.zeros((rows, g.shape[-1]), g.dtype).at[tokens].add(squares)
  if gradient[0].shape[1] == 1:
    return jnp.einsum("bti,bto->io", *(factor**2 for factor in gradient))
  return jnp.sum(jnp.einsum("bti,bto->bio", *gradient) ** 2, 0)


def _of_equal_tokens(tokens, g) -> jax.Array:
  """Σ_s [x_s = x_t] g_s [B, T, D]: what a row of the table gets from all places of its token."""
  equal = tokens[:, :, None] == tokens[:, None, :]
  return jnp.einsum("bts,bsd->btd", equal.astype(g.dtype), g)


def rule_of(context, args, kwargs) -> Rule | None:
  """Returns how gradients follow from x and g of a layer, or None for any other module or call."""
  module = context.module
  if context.method_name != "__call__" or len(args) != 1:
    return None
  if any(value is not None for value in kwargs.values()):
    return None
  kind = type(module)
  if kind is nn.Dense:
    return functools.partial(_dense, module.use_bias)
  if kind is nn.Embed and jnp.issubdtype(args[0].dtype, jnp.integer):
    return _embed
  if kind is Conv:
    size = (module.kernel_size,) * 2
    return functools.partial(_conv, size, module.stride, padding_of(size), module.use_bias)
  if kind is nn.Conv:
    return _linen_conv(module)
  is_norm = (
    (kind is nn.BatchNorm and module.use_running_average and module.axis == -1)
    or (kind is nn.GroupNorm and module.reduction_axes is None)
    or (
      kind in (nn.LayerNorm, nn.RMSNorm)
      and (module.reduction_axes, module.feature_axes) == (-1, -1)
    )
  )
  return _norm(module) if is_norm and "params" in module.variables else None


def _linen_conv(module: nn.Conv) -> Rule | None:
  """The rule of a plain 2-D convolution: one stride, no dilation, groups or mask."""
  strides = set(np.ravel(module.strides or 1).tolist())
  dilations = (module.input_dilation or 1, module.kernel_dilation or 1)
  if isinstance(module.kernel_size, int) or len(module.kernel_size) != 2 or len(strides) != 1:
    return None
  if any(np.any(np.asarray(dilation) != 1) for dilation in dilations):
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
  return {"kernel": (x, g)} | ({"bias": g.sum(1)} if use_bias else {})


def _embed(x, g):
  return {"embedding": (x.reshape(len(x), -1), g.reshape(len(g), -1, g.shape[-1]))}


def _conv(size, stride, padding, use_bias, x, g):
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(x.shape[1:3], size, (stride, stride), padding)
  return _dense(use_bias, image_patches(x, size, stride, padding), g)


def _norm(module) -> Rule:
  """The rule of y = x̂ γ + β; the layer itself, without γ and β, gives x̂."""
  has_bias = getattr(module, "use_bias", False)  # RMSNorm has no such field
  without = {"use_bias": False} if has_bias else {}
  bare = module.clone(parent=None, use_scale=False, **without)
  state = {name: part for name, part in module.variables.items() if name != "params"}

  def gradients(x, g):
    axes, of_params = tuple(range(1, x.ndim - 1)), {}
    if module.use_scale:
      of_params["scale"] = jnp.sum(bare.apply(state, x) * g, axes)
    if has_bias:
      of_params["bias"] = jnp.sum(g, axes)
    return of_params

  return gradients
