"""Factors, kept directions, the edit and the share are those of explicit per-position products."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxmul import data, models, proxies, testing, unlearn
from jaxmul._examples import examples_of
from jaxmul._kronecker import bases_of, kernels_of
from jaxmul.binding import bind, losses_of


@pytest.fixture
def double():
  with jax.enable_x64(True):
    yield


def in_float64(name):
  """A small network of float64, its batch, and the batch as a data set."""
  network, (inputs, labels) = testing.small_networks()[name]
  network = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), network)
  inputs = np.asarray(inputs)
  if inputs.dtype.kind == "f":
    inputs = inputs.astype(np.float64)
  classes = network(inputs).shape[-1]
  return network, data.Dataset(inputs, np.asarray(labels), num_classes=classes)


def session_of(dataset):
  """Unlearning of all examples with all of them kept: blocks of three rows."""
  rows = examples_of(dataset)
  return unlearn.Session(rows, rows, 1, 3, jax.random.key(0), dataset.ids)


def leaf_of(params, path):
  return functools.reduce(lambda tree, key: tree[key], path.split("/"), params)


def positions_of(network, inputs, labels):
  """{path: (a [B, T, I], g [B, T, O])} from what is added to each dense layer's output."""
  given = {}

  def path_of(module):
    return "/".join(module.path) + "/kernel"

  def outputs(added):
    def tap(next_fn, args, kwargs, context):
      y = next_fn(*args, **kwargs)
      if not isinstance(context.module, nn.Dense):
        return y
      given[path_of(context.module)] = args[0], y
      return y + added[path_of(context.module)] if added else y

    with nn.intercept_methods(tap):
      return network(inputs)

  outputs(None)
  a = {
    path: np.asarray(x, float).reshape(len(labels), -1, x.shape[-1])
    for path, (x, _) in given.items()
  }
  zeros = {path: jnp.zeros_like(y) for path, (_, y) in given.items()}
  g = jax.grad(lambda added: losses_of(network, outputs(added), labels).sum())(zeros)
  return {
    path: (a[path], np.asarray(g[path]).reshape(len(labels), -1, g[path].shape[-1])) for path in a
  }


def bases(network, dataset, keep, layers=None, size=3):
  examples = session_of(dataset).retain
  zeros = kernels_of(network, examples, layers, "test")
  return bases_of(network, examples, size, zeros, keep)


def kept_by_hand(a, g, keep):
  """Directions of a kernel in numpy: eigenvectors and a bool [I, O], one product at a time."""
  passed = [
    (x, d) for of_x, of_d in zip(a, g, strict=True) for x, d in zip(of_x, of_d, strict=True)
  ]
  passed = [(x, d) for x, d in passed if d.any()]
  of_inputs, v = np.linalg.eigh(sum(np.outer(x, x) for x, _ in passed))
  of_outputs, u = np.linalg.eigh(sum(np.outer(d, d) for _, d in passed))
  mass = np.outer(of_inputs.clip(0), of_outputs.clip(0))
  kept, sum_kept = np.zeros(mass.shape, bool), 0.0
  for place in np.argsort(-mass, axis=None):
    if sum_kept >= keep * mass.sum():
      break
    kept.flat[place] = True
    sum_kept += mass.flat[place]
  return v, u, kept


@pytest.mark.parametrize("name", ["mlp", "gpt"])
def test_kernels_lose_what_lies_in_directions_of_low_curvature(name, double):
  network, dataset = in_float64(name)
  explicit = positions_of(network, dataset.inputs, dataset.labels)
  session = session_of(dataset)
  layers = tuple({path.split("/")[-2] for path in explicit})
  edited = unlearn.kfac_edit(0.7, layers=layers).init(network, session)
  assert set(bases(network, dataset, 0.7)) == set(explicit)
  for path, (a, g) in explicit.items():
    v, u, kept = kept_by_hand(a, g, 0.7)
    assert 0 < kept.sum() < kept.size
    w, got = (leaf_of(each.params, path) for each in (network, edited))
    want = v @ np.where(kept, v.T @ np.asarray(w) @ u, 0) @ u.T
    np.testing.assert_allclose(got, want, atol=1e-10 * np.abs(w).max())
    assert np.abs(np.asarray(got) - np.asarray(w)).max() > 1e-3 * np.abs(w).max()


@pytest.mark.parametrize("name", ["mlp", "gpt"])
def test_the_share_is_that_of_whole_gradients(name, double):
  network, dataset = in_float64(name)
  basis = proxies.curvature_basis(network, dataset, keep=0.7, batch_size=3)
  got = proxies.low_curvature(network, basis, (dataset.inputs, dataset.labels))
  explicit = positions_of(network, dataset.inputs, dataset.labels)
  want = []
  for row in range(len(dataset)):
    whole = rest = 0.0
    for a, g in explicit.values():
      v, u, kept = kept_by_hand(a, g, 0.7)
      components = (v.T @ (a[row].T @ g[row]) @ u) ** 2
      whole, rest = whole + components.sum(), rest + components[~kept].sum()
    want.append(rest / whole)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  assert np.ptp(want) > 1e-2


def test_a_convolution_is_a_dense_layer_over_patches(double):
  network, dataset = in_float64("cnn")
  basis = bases(network, dataset, 0.7)
  assert len(basis) > 1
  one = dataset.take(dataset.ids[:1])
  gradient = jax.grad(
    lambda theta: losses_of(network, network.replace(params=theta)(one.inputs), one.labels).sum()
  )(network.params)
  whole = rest = 0.0
  for path, of_kernel in basis.items():
    dense = np.asarray(leaf_of(gradient, path))
    dense = dense.reshape(-1, dense.shape[-1])
    components = (of_kernel.inputs.T @ dense @ of_kernel.outputs) ** 2
    whole += components.sum()
    rest += np.where(of_kernel.kept, 0, components).sum()
  got = proxies.low_curvature(network, basis, (one.inputs, one.labels))
  np.testing.assert_allclose(got, rest / whole, rtol=1e-6)


def test_all_of_the_curvature_changes_nothing_and_other_layers_stay():
  network, batch = testing.small_networks()["gpt"]
  dataset = data.Dataset(*batch, num_classes=network(batch[0]).shape[-1])
  session = session_of(dataset)
  same = unlearn.kfac_edit(1.0).init(network, session)
  jax.tree.map(np.testing.assert_array_equal, same.params, network.params)
  edited = unlearn.kfac_edit(0.3).init(network, session)  # by default the MLPs
  for path, leaf in jax.tree_util.tree_leaves_with_path(edited.params):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    moved = bool(np.any(np.asarray(leaf) != np.asarray(leaf_of(network.params, name))))
    assert moved == (name.endswith(("dense1/kernel", "dense2/kernel"))), name


def test_what_padding_holds_is_in_no_factor():
  """Tokens after the last scored one, rows of padding and the block's size do not matter."""
  network, (inputs, labels) = testing.small_networks()["gpt"]
  inputs, labels = np.array(inputs), np.array(labels)
  labels[:, -2:] = -1
  classes = network(inputs).shape[-1]
  other = inputs.copy()
  other[:, -2:] = (other[:, -2:] + 1) % classes
  results = [
    proxies.curvature_basis(network, data.Dataset(x, labels, num_classes=classes), batch_size=size)
    for x, size in ((inputs, 8), (other, 8), (inputs, 3))
  ]
  for path in results[0]:
    assert {tuple(np.flatnonzero(basis[path].kept)) for basis in results} == {
      tuple(np.flatnonzero(results[0][path].kept))
    }
    for basis in results[1:]:
      np.testing.assert_allclose(
        np.abs(basis[path].outputs.T @ results[0][path].outputs)[-1, -1], 1, rtol=1e-3
      )


@pytest.mark.parametrize(
  "name",
  ["mlp", "gpt", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cnn", "resnet18"))],
)
def test_the_share_keeps_the_contract_of_proxies(name):
  network, batch = testing.small_networks()[name]
  dataset = data.Dataset(*map(np.asarray, batch), num_classes=network(batch[0]).shape[-1])
  basis = proxies.curvature_basis(network, dataset)
  testing.check_proxy(Partial(proxies.low_curvature, basis=basis), network, batch)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: unlearn.kfac_edit(0.0), "keep=0.0, must be above 0"),
    (lambda: unlearn.kfac_edit(1.5), r"keep=1.5, must be in \[0, 1\]"),
    (
      lambda: _basis_of(layers=("nowhere",)),
      "no dense or convolution layer 'nowhere'. It has Dense",
    ),
    (lambda: _basis_of(network=bind(lambda p, x: x @ p, jnp.eye(6))), "found no flax.linen.Dense"),
    (lambda: _basis_of(network=None), "needs a Network, got a NoneType"),
    (lambda: _basis_of(layers="Dense_0"), "layers='Dense_0', must be a tuple of names"),
    (
      lambda: _edit_of_what_is_not_read(),
      "cannot read the curvature of odd/kernel, .*layers=.'plain',.",
    ),
    (lambda: _share_of_another(8, 7), "the basis has Dense_0/kernel of .6, 8., the network .7, 8."),
    (lambda: _share_of_another(9, 6), "the basis has .* Make the basis of this network"),
  ],
)
def test_mistakes_get_one_line(call, message):
  with pytest.raises(ValueError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)


def _basis_of(network=..., layers=None):
  mlp, (inputs, labels) = testing.small_networks()["mlp"]
  dataset = data.Dataset(np.asarray(inputs), np.asarray(labels) % 2)
  return proxies.curvature_basis(mlp if network is ... else network, dataset, layers=layers)


def _share_of_another(width, inputs):
  basis = _basis_of()
  other = models.init(models.mlp((width,)), jax.random.key(0), jnp.zeros((1, inputs)))
  return proxies.low_curvature(other, basis, (jnp.zeros((1, inputs)), jnp.zeros(1, int)))


class _General(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(2, name="plain")(nn.DenseGeneral(3, name="odd")(x))


def _edit_of_what_is_not_read():
  dataset = data.Dataset(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]))
  network = models.init(_General(), jax.random.key(0), dataset.inputs[:1])
  return unlearn.kfac_edit().init(network, session_of(dataset))
