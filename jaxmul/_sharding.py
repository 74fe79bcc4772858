"""Meshes, and nothing else in the library knows them.

Batches are split over a "data" axis, models over a "model" axis. Axes are Auto: under Explicit ones
indexing and unsharded inputs raise. Inside `shard_map` the gradient with respect to a replicated
value is summed over the axis unless it is marked as `local`; `map_models` turns that off: models
never talk to each other.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxmul import _article

Tree = TypeVar("Tree")


Devices = Mesh  # for annotations of what knows no more of it


def mesh(axis: str, devices: Sequence[object] | None = None) -> Mesh:
  """Returns a mesh of all devices, or of the given ones, along one Auto axis."""
  devices = jax.devices() if devices is None else devices
  return Mesh(np.asarray(devices), (axis,), axis_types=(AxisType.Auto,))


def chosen(devices: Sequence[object] | None, caller: str) -> Sequence[object]:
  """Returns the devices that a caller was given, all by default.

  Raises:
    ValueError: there are none, one is there twice, or it is no device.
  """
  if devices is None:
    return jax.devices()
  given = list(devices) if isinstance(devices, list | tuple | np.ndarray) else [None]
  if not given:
    raise ValueError(f"{caller} got devices=[], must be at least one. Use jax.devices() or None.")
  if not all(isinstance(each, jax.Device) for each in given) or len(set(given)) < len(given):
    raise ValueError(
      f"{caller} got devices={_article.line(devices)}, must be a list of different devices. Use "
      "jax.devices()[:2] or None."
    )
  return given


def data_mesh(devices: Sequence[object] | None, batch_size: int, caller: str) -> Mesh | None:
  """Returns the mesh that a caller's batches are split over; None for none or one of devices.

  Raises:
    ValueError: as `chosen`, or the devices do not divide the batch.
  """
  if devices is None:
    return None
  count = len(chosen(devices, caller))
  if batch_size % count:
    raise ValueError(
      f"{caller} got batch_size={batch_size} for {count} devices, which must divide it. "
      f"Use {-(-batch_size // count) * count}."
    )
  return mesh("data", devices) if count > 1 else None


def shard_batch(batch: Tree) -> Tree:
  """Returns a pytree of [B, ...] arrays split over all devices where they divide B."""
  return _sharded(batch, "data")


def place_batch(batch: Tree, over: Mesh) -> Tree:
  """Returns a pytree of [B, ...] arrays split over a mesh, which must divide B."""
  return jax.device_put(batch, NamedSharding(over, PartitionSpec("data")))


def shard_models(tree: Tree) -> Tree:
  """Returns a pytree of [M, ...] arrays split over all devices where they divide M."""
  return _sharded(tree, "model")


def _sharded(tree: Tree, axis: str) -> Tree:
  devices = jax.devices()
  if len(devices) == 1 or len(jax.tree.leaves(tree)[0]) % len(devices):
    return tree
  return jax.device_put(tree, NamedSharding(mesh(axis, devices), PartitionSpec(axis)))


def map_batch(function: Callable[..., jax.Array], over: Mesh) -> Callable[..., jax.Array]:
  """Returns a jittable `(batch, shared) -> [B]` that computes each device's rows on that device.

  The leading axis of `batch` is split over a mesh, which must divide it; nothing is
  communicated, and each device runs the same program as one device alone would on its rows.
  """
  return _mapped(function, over)


def _mapped(
  function: Callable[..., Tree], over: Mesh, tracked: bool = False
) -> Callable[..., Tree]:
  """Returns function(split, shared), on each device of a mesh of one axis its part."""
  if over.size == 1 and not tracked:
    return function
  axis = PartitionSpec(*over.axis_names)
  return jax.shard_map(
    function, mesh=over, in_specs=(axis, PartitionSpec()), out_specs=axis, check_vma=tracked
  )


def replicate(tree: Tree, over: Mesh) -> Tree:
  """Returns a pytree of arrays on every device of a mesh; those that span these devices stay."""
  everywhere = NamedSharding(over, PartitionSpec())

  def place(leaf):
    if isinstance(leaf, jax.Array) and _spans(leaf, over):
      return leaf
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    if is_key and not everywhere.is_fully_addressable:  # JAX does not put keys on other processes
      data = jax.device_put(jax.random.key_data(leaf), everywhere)
      return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return jax.device_put(leaf, everywhere)

  return jax.tree.map(place, tree)


def _spans(leaf: jax.Array, over: Mesh) -> bool:
  """Whether an array is on the devices of a mesh, in its order: a program takes no other."""
  own = leaf.sharding
  if isinstance(own, NamedSharding):
    held = own.mesh.devices
    return held is not None and tuple(held.flat) == tuple(over.devices.flat)
  return own.device_set == set(over.devices.flat)


def constrain(batch: Tree, over: Mesh) -> Tree:
  """Returns, under `jit`, a pytree of [B, ...] arrays split over a mesh, which must divide B."""
  return lax.with_sharding_constraint(batch, NamedSharding(over, PartitionSpec("data")))


def own_rows(count: int, over: Mesh) -> np.ndarray:
  """Returns which rows of [count, ...] arrays, split over a mesh, are on devices of this process.

  In rising order; the mesh must divide count. Alone, a process has all of them.
  """
  split = NamedSharding(over, PartitionSpec("data"))
  parts = split.addressable_devices_indices_map((count,)).values()
  return np.sort(np.concatenate([np.arange(count)[part] for part in parts]))


def from_processes(tree: Tree, count: int, over: Mesh) -> Tree:
  """Returns [count, ...] arrays split over a mesh, of which each process gives its `own_rows`."""
  split = NamedSharding(over, PartitionSpec("data"))

  def joined(leaf):
    return jax.make_array_from_process_local_data(split, leaf, (count, *leaf.shape[1:]))

  return jax.tree.map(joined, tree)


def constrain_whole(tree: Tree, over: Mesh) -> Tree:
  """Returns, under `jit`, a pytree of arrays that is whole on every device of a mesh."""
  return lax.with_sharding_constraint(tree, NamedSharding(over, PartitionSpec()))


def local(tree: Tree, *others: object) -> Tree:
  """Returns a pytree marked as differing over every mesh axis over which anything here does.

  Differentiate with respect to the result: inside a caller's `shard_map` the gradient with respect
  to a replicated value would be summed over the axis. Elsewhere this changes nothing.
  """
  axes = frozenset().union(*(_varying(leaf) for leaf in jax.tree.leaves((tree, others))))

  def mark(leaf):
    missing = tuple(sorted(axes - _varying(leaf)))
    if not missing:
      return leaf
    if hasattr(lax, "pcast"):
      return lax.pcast(leaf, missing, to="varying")
    return lax.pvary(leaf, missing)  # before jax 0.8  # pyright: ignore[reportAttributeAccessIssue]

  return jax.tree.map(mark, tree) if axes else tree


def _varying(leaf: object) -> frozenset[str]:
  """The mesh axes over which an array differs, as `shard_map` tracks them."""
  if not isinstance(leaf, jax.Array):
    return frozenset()
  kind = jax.typeof(leaf)
  if hasattr(kind, "manual_axis_type"):  # jax 0.10 and newer
    return kind.manual_axis_type.varying
  return getattr(kind, "vma", frozenset())


def map_models(
  function: Callable[..., Tree], devices: Sequence[object], width: int
) -> Callable[..., Tree]:
  """Returns a jittable `(xs, shared) -> ys` that computes `function(x, shared)` for each x.

  The leading axis of `xs` is split over the devices, which must divide it; each device computes
  `width` models under `vmap` at a time, one group after another. Nothing is communicated.
  """

  def local(xs, shared):
    def one(x):
      return function(x, shared)

    return lax.map(one, xs, batch_size=width) if width > 1 else lax.map(one, xs)

  return _mapped(local, mesh("model", devices))


def track_models(function: Callable[..., Tree]) -> Callable[..., Tree]:
  """Returns `(xs, shared) -> ys` as `jax.shard_map` gives it by default: replication is tracked."""
  return _mapped(function, mesh("model"), tracked=True)
