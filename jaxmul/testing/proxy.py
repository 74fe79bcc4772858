"""The contract of a point proxy: one score an example, whatever it shares a batch with."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxmul import _sharding, losses, models
from jaxmul.binding import Network

Batch = tuple[np.ndarray, np.ndarray]
_ROWS = 8


def check_proxy(
  proxy: Callable[..., jax.Array],
  params: Network | None = None,
  batch: Batch | None = None,
  *,
  rtol: float = 1e-4,
) -> None:
  """Checks that a point proxy works under every transform, with the same numbers.

  The clauses, in this order: scores are [B], float32 and finite; nothing passed in is changed; the
  same call gives the same scores; `jit` does too; neither the order nor the size of the batch
  matters; an input of NaN, or a token that is none, stays in its row; networks under `vmap`, a
  batch split over all devices, networks split over all devices, and networks in a caller's
  `jax.shard_map` with a replicated batch score as they do one at a time. That higher means more
  memorized cannot be checked.

  Run it on several devices, real or simulated: with one the last three see no split.

  Args:
    proxy: `proxy(params, batch) -> [B]`, params bound; options go in by `jax.tree_util.Partial`.
    params: a network; by default each of `small_networks()` in turn.
    batch: `(inputs [B, ...], labels [B, *P])` for it, at least 2 rows; the devices must divide B.
    rtol: scores a and b are equal where |a − b| ≤ rtol · max(|b|, mean |b|).

  Raises:
    AssertionError: a clause does not hold; its message names the clause, the network and the row.
    ValueError: one of `params` and `batch` is given without the other, or B is not as above.

  Example:
    >>> from jaxmul import models, proxies, testing
    >>> testing.check_proxy(proxies.el2n, *testing.small_networks()["mlp"])
    >>> def centred(params, batch): return proxies.loss(params, batch) - params(batch[0]).mean()
    >>> testing.check_proxy(centred, *testing.small_networks()["mlp"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    AssertionError: centred, batch size: row 0 scores ...; it must not depend on other examples.
  """
  if (params is None) != (batch is None):
    raise ValueError("check_proxy needs params and batch together, or neither.")
  if params is None or batch is None:
    for name, (network, its_batch) in small_networks().items():
      _check(proxy, network, its_batch, rtol, f" on {name}")
    return
  size, devices = len(batch[1]), len(jax.devices())
  if size < 2 or size % devices:
    raise ValueError(
      f"check_proxy got a batch of {size} rows, must be at least 2 and divisible by the "
      f"{devices} devices."
    )
  _check(proxy, params, batch, rtol, "")


def small_networks() -> dict[str, tuple[Network, Batch]]:
  """Returns {"mlp", "cnn", "resnet18", "gpt"}: (network, batch) of few weights.

  Statistics are random. The batch of "gpt", of two blocks, is tokens int [B, 8] and the next token
  of each, −1 at the first positions and, of every other example, at the last one.

  Example:
    >>> sorted(small_networks())
    ['cnn', 'gpt', 'mlp', 'resnet18']
  """
  chosen = {
    "mlp": (models.mlp((8,)), (6,)),
    "cnn": (models.cnn((3, 4), 6), (8, 8, 3)),
    "resnet18": (models.resnet18(width=2), (8, 8, 3)),
  }
  devices = len(jax.devices())
  rows = -(-_ROWS // devices) * devices
  made = {}
  for name, (model, shape) in chosen.items():
    rng = np.random.default_rng(0)
    inputs = rng.uniform(size=(rows, *shape)).astype(np.float32)
    made[name] = _filled(model, inputs, rng), (inputs, rng.integers(0, 10, rows))
  rng = np.random.default_rng(0)
  text = rng.integers(0, 10, (rows, 9)).astype(np.int32)
  labels = text[:, 1:].copy()
  labels[:, :2], labels[::2, -1] = losses.UNSCORED, losses.UNSCORED
  model = models.gpt(10, length=8, width=8, depth=2, heads=2)
  return made | {"gpt": (_filled(model, text[:, :-1], rng), (text[:, :-1], labels))}


def _filled(model: models.Model, inputs: np.ndarray, rng: np.random.Generator) -> Network:
  network = jax.eval_shape(functools.partial(models.init, model), jax.random.key(0), inputs)

  # Values of every leaf are random: statistics of 0 and 1 would hide that they are not used.
  def fill(path, leaf):
    name, shape = path[-1].key, leaf.shape
    spread = np.sqrt(2 / np.prod(shape[:-1])) if name == "kernel" else 0.1
    values = spread * rng.normal(size=shape) + (name in ("scale", "var"))
    return jnp.asarray(values, leaf.dtype)

  return jax.tree_util.tree_map_with_path(fill, network)


def _check(proxy, network, batch, rtol, where):
  called = getattr(getattr(proxy, "func", proxy), "__name__", type(proxy).__name__)

  def fail(clause: str, message: str):
    raise AssertionError(f"{called}, {clause}{where}: {message}")

  def same(got: ArrayLike, want: ArrayLike, clause: str, cure: str):
    got, want = np.asarray(got), np.asarray(want)
    if got.shape != want.shape:
      fail(clause, f"scores are {list(got.shape)}, should be {list(want.shape)}; {cure}.")
    limit = rtol * np.maximum(np.abs(want), np.abs(want).mean())
    bad = np.argwhere(~(np.abs(got - want) <= limit))
    if len(bad):
      first = tuple(map(int, bad[0]))
      place = f"row {first[-1]}" + (f" of network {first[0]}" if len(first) > 1 else "")
      fail(clause, f"{place} scores {got[first]:.3g}, should be {want[first]:.3g}; {cure}.")

  def score(params, batch):
    return proxy(params, batch=batch)

  inputs, labels = map(np.array, batch)
  given = jax.tree.map(np.array, (network, (inputs, labels)))
  scores = score(network, (inputs, labels))
  if np.shape(scores) != labels.shape[:1]:
    fail("shape", f"scores are {list(np.shape(scores))}, should be [B] = [{len(labels)}].")
  if scores.dtype != jnp.float32:
    fail("dtype", f"scores are {scores.dtype}, should be float32.")
  if not np.isfinite(scores).all():
    row = int(np.flatnonzero(~np.isfinite(scores))[0])
    fail("finite", f"row {row} scores {scores[row]} on finite inputs.")
  left = (network, (inputs, labels))
  changed = jax.tree.structure(left) != jax.tree.structure(given) or not all(
    np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (left, given)), strict=True)
  )
  if changed:
    fail("mutation", "params or batch changed while they were scored; copy before writing.")

  jitted = jax.jit(score)
  same(score(network, (inputs, labels)), scores, "repetition", "a call must not depend on others")
  same(jitted(network, (inputs, labels)), scores, "jit", "branch on shapes, not on values")
  backwards = jitted(network, (inputs[::-1], labels[::-1]))[::-1]
  alone = "it must not depend on other examples"
  same(backwards, scores, "order", alone)
  few = len(labels) // 2
  same(jitted(network, (inputs[:few], labels[:few])), scores[:few], "batch size", alone)
  poisoned = np.array(inputs)
  is_tokens = np.issubdtype(inputs.dtype, np.integer)
  poisoned[-1] = np.iinfo(inputs.dtype).max if is_tokens else np.nan
  same(jitted(network, (poisoned, labels))[:-1], scores[:-1], "NaN in another row", alone)

  split = _sharding.shard_batch((inputs, labels))
  same(jitted(network, split), scores, "data-sharded", "each row must stay on its device")

  factors = 1 + 0.1 * np.arange(max(2, len(jax.devices())), dtype=np.float32)
  networks = [jax.tree.map(lambda w, f=f: (w * f).astype(w.dtype), network) for f in factors]
  want = np.stack([jitted(network, (inputs, labels)) for network in networks])
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
  batch = (jnp.asarray(inputs), jnp.asarray(labels))
  every = jax.vmap(score, (0, None))
  same(jax.jit(every)(stacked, batch), want, "vmap", "networks must not see each other")
  across = _sharding.shard_models(stacked)
  same(jax.jit(every)(across, batch), want, "model-sharded", "networks must not see each other")
  mapped = jax.jit(_sharding.track_models(every))(across, batch)
  cure = "differentiate with respect to values marked as varying (jax.lax.pcast)"
  same(mapped, want, "jax.shard_map", cure)
