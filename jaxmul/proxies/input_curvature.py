"""Loss curvature around an example: how sharply the loss bends in input space.

ℓ is the network's loss at input x, g = ∇_x ℓ, H = ∇²_x ℓ. E‖H v‖² = tr(H²) for Rademacher v, so
the mean over probes is an unbiased estimate of tr(H²). Where inputs are tokens, x are their
vectors, as the network embeds them.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from jaxmul import _check, _sharding, losses
from jaxmul._blocks import small_blocks
from jaxmul._gradients import lengths, per_example
from jaxmul.binding import ApplyFn, Network, losses_of
from jaxmul.proxies.outputs import Batch, checked

Method = Literal["hvp", "finite_difference", "rum_compat"]
_STEP = {"finite_difference": 1e-3, "rum_compat": 1e-2}


def curvature(
  params: Any,
  batch: Batch,
  apply_fn: ApplyFn | None = None,
  *,
  key: jax.Array | None = None,
  probes: jax.Array | None = None,
  num_probes: int = 10,
  method: Method = "hvp",
  h: float | None = None,
) -> jax.Array:
  """Mean of ‖H v‖² over probes v: sharp loss around an example, which the network had to memorize.

  Args:
    params: any pytree with `apply_fn`, a `Network`, or a callable pytree (NNX, Equinox). Never
      differentiated, so raw variables with batch statistics are fine.
    batch: `(inputs [B, ...], labels int [B, *P])`, inputs float or tokens; each example is
      independent of the others.
    apply_fn: `apply_fn(params, inputs) -> outputs [B, *P, C]`, evaluation mode.
    key: of the probes; None is a fixed key, so that two calls compare the same directions.
    probes: [K, ...] with one example's shape, of tokens that of their vectors, instead of random
      ones; overrides `key` and `num_probes`.
    num_probes: K, Rademacher directions shared by all examples.
    method: "hvp", the exact Hessian-vector product; "finite_difference",
      ‖∇ℓ(x + h v) − ∇ℓ(x)‖² / h², which on ReLU networks also sees kinks that the Hessian does not,
      and which divides rounding by h (1e-3 relative in float32 between two batch sizes);
      "rum_compat", ‖∇ℓ(x + z) − ∇ℓ(x)‖ along the one direction z = h sign(g) / ‖sign(g)‖, neither
      squared nor divided by h, as RUM's code.
    h: step in input units; 1e-3 for "finite_difference", 1e-2 for "rum_compat".

  Returns:
    Scores [B], float32, at least 0, in (nats per squared input unit)² ("rum_compat": nats per input
    unit); higher means more memorized.

  Raises:
    ValueError: `params` is not callable and no `apply_fn` is given; the batch, the probes or an
      option is not as above.

  References:
    Garg et al., [Memorization through the Lens of Curvature](https://arxiv.org/abs/2307.05831);
    Zhao et al., [RUM](https://arxiv.org/abs/2406.01257) for "rum_compat".

  Example:
    >>> import jax.numpy as jnp
    >>> def model(w, x): return x @ w
    >>> w, x, y = jnp.eye(2), jnp.zeros((1, 2)), jnp.array([0])
    >>> axes = 2**0.5 * jnp.eye(2)  # a full orthogonal set: exact
    >>> scores = curvature(w, (x, y), model, probes=axes)  # H = ¼ [[1, −1], [−1, 1]]
    >>> round(scores.item(), 4)
    0.25
  """
  network, inputs, labels = checked(params, batch, apply_fn, "curvature", by_inputs=True)
  if method not in ("hvp", "finite_difference", "rum_compat"):
    raise ValueError(
      f"curvature got method {method!r}: use 'hvp', 'finite_difference' or 'rum_compat'."
    )
  _check.at_least("curvature", 1, num_probes=num_probes)
  if key is not None:
    _check.key(key, "curvature")
  if h is not None:
    _check.above("curvature", 0, h=h)
  inputs = network.embedded(inputs)
  probes = None if probes is None else jnp.asarray(probes, inputs.dtype)
  if probes is not None and (not jnp.size(probes) or probes.shape[1:] != inputs.shape[1:]):
    raise ValueError(
      f"curvature needs probes [K, ...] of one example's shape {inputs.shape[1:]}, "
      f"got {jnp.shape(probes)}."
    )
  step = h if h is not None else _STEP.get(method, 0.0)
  if probes is None and method != "rum_compat":
    key = jax.random.key(0) if key is None else key
    # Drawn flat: XLA compiles random arrays of high rank slowly on CPU.
    # By coins of float32: those of the default type are others where float64 is enabled.
    up = jax.random.bernoulli(key, jnp.float32(0.5), (num_probes * inputs[0].size,))
    probes = jnp.where(up, 1, -1).astype(inputs.dtype).reshape(num_probes, *inputs.shape[1:])
  return small_blocks(lambda x, y: _scores(network, x, y, probes, method, step), inputs, labels)


def _scores(
  network: Network,
  inputs: jax.Array,
  labels: jax.Array,
  probes: jax.Array | None,
  method: Method,
  step: float,
) -> jax.Array:
  inputs = _sharding.local(inputs, network, labels, probes)

  # The loss of an impossible label is NaN under jit, but its gradient would be 0.
  if network.loss is losses.cross_entropy:
    classes = jax.eval_shape(network, inputs).shape[-1]
    wide = labels.astype(jnp.promote_types(labels.dtype, jnp.int32))  # uint8 cannot hold 256
    possible = (wide >= 0) & (wide < classes)
    if wide.ndim > 1:
      possible = (possible | (wide == losses.UNSCORED)).all(axis=tuple(range(1, wide.ndim)))
  else:
    possible = ~jnp.isnan(losses_of(network, network(inputs), labels))

  def gradients(x):
    """∇_x ℓ of every example at once: the examples do not interact."""
    return jax.grad(lambda x: losses_of(network, network(x), labels).sum())(x)

  if method == "rum_compat":
    g = gradients(inputs)
    sign = jnp.sign(g)
    norm = lengths(sign)
    z = step * sign / per_example(jnp.where(norm == 0, 1, norm), sign)
    return jnp.where(possible, lengths(gradients(inputs + z) - g), jnp.nan)

  assert probes is not None
  if method == "hvp":
    _, hessian_product = jax.linearize(gradients, inputs)

    def squared(v):
      directions = _sharding.local(jnp.broadcast_to(v, inputs.shape), inputs)
      return lengths(hessian_product(directions)) ** 2
  else:
    g = gradients(inputs)

    def squared(v):
      return (lengths(gradients(inputs + step * v[None]) - g) / step) ** 2

  one = len(probes) == 1
  scores = squared(probes[0]) if one else jnp.mean(lax.map(squared, probes), axis=0)
  return jnp.where(possible, scores, jnp.nan)
