"""Any algorithm on low-rank additions: a step by hand, what moves, and what it is merged into."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import softmax

from jaxmul import models, testing, unlearn
from jaxmul.data import Dataset, Split

RNG = np.random.default_rng(0)
DATA = Dataset(RNG.normal(size=(24, 3)).astype(np.float32), np.arange(24) % 3)
SPLIT = Split(forget=np.arange(8), retain=np.arange(8, 20))
NETWORK = models.init(models.mlp((4,), 3), jax.random.key(0), DATA.inputs[:1])
KEY = jax.random.key(0)


def run(algorithm, network=NETWORK, epochs=3):
  return unlearn.run(algorithm, network, DATA, SPLIT, KEY, epochs=epochs, batch_size=8)


def test_the_named_kernel_alone_moves_and_by_no_more_than_the_rank():
  after = run(unlearn.low_rank(unlearn.neg_grad_plus(0.3), ("Dense_0",), 1))
  moved = jax.tree.map(lambda new, old: np.asarray(new - old), after.params, NETWORK.params)
  assert np.linalg.matrix_rank(moved["Dense_0"].pop("kernel"), tol=1e-4) == 1
  assert not any(leaf.any() for leaf in jax.tree.leaves(moved))


def test_it_is_the_algorithm_on_the_network_with_the_additions():
  """What finish merges is what the same run on `with_low_rank` ends with."""
  inner = unlearn.sam(unlearn.neg_grad_plus(0.1, alpha=0.8))
  algorithm = unlearn.low_rank(inner, ("Dense_0", "Dense_1"), 2, scale=0.5)
  after = run(algorithm, epochs=2)
  init_key, _ = jax.random.split(KEY)
  adapted = models.with_low_rank(
    *(NETWORK, DATA.inputs[:1], ("Dense_0", "Dense_1"), 2),
    jax.random.fold_in(jax.random.fold_in(init_key, 2), 2),
    scale=0.5,
  )
  other = models.merge_low_rank(run(inner, adapted, epochs=2))
  for leaf, same in zip(jax.tree.leaves(after), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(leaf, same, rtol=1e-6)
  assert after.apply_fn == NETWORK.apply_fn


def test_one_step_is_that_worked_by_hand():
  """B = 0 has a gradient and A has none: K moves by −η s² A Aᵀ ∂risk/∂K."""
  with jax.enable_x64(True):
    double = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), NETWORK)
    data = Dataset(DATA.inputs.astype(np.float64), DATA.labels)
    eta, scale = 0.1, 3.0
    inner = unlearn.neg_grad_plus(eta, alpha=1.0, momentum=0.0, weight_decay=0.0)
    algorithm = unlearn.low_rank(inner, ("Dense_0",), 2, scale=scale)
    after = unlearn.run(algorithm, double, data, SPLIT, KEY, epochs=1, batch_size=16)
    init_key, _ = jax.random.split(KEY)
    fresh = models.with_low_rank(
      double,
      data.inputs[:1],
      ("Dense_0",),
      2,
      jax.random.fold_in(jax.random.fold_in(init_key, 2), 2),
    )
    a = np.asarray(fresh.params["Dense_0"]["a"])
  x, y = data.inputs[SPLIT.retain], data.labels[SPLIT.retain]
  first, last = (jax.tree.map(np.asarray, double.params[f"Dense_{i}"]) for i in (0, 1))
  z = x @ first["kernel"] + first["bias"]
  p = softmax(np.maximum(z, 0) @ last["kernel"] + last["bias"])
  slope = x.T @ ((p - np.eye(3)[y]) / len(y) @ last["kernel"].T * (z > 0))
  want = np.asarray(double.params["Dense_0"]["kernel"]) - eta * scale**2 * a @ a.T @ slope
  np.testing.assert_allclose(after.params["Dense_0"]["kernel"], want, rtol=1e-9)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: unlearn.low_rank(unlearn.ssd(), ("Dense_0",)), "low_rank got ssd, which makes no"),
    (lambda: unlearn.low_rank(unlearn.npo, ("Dense_0",)), "makes an Unlearner and is none"),
    (lambda: unlearn.low_rank(unlearn.npo(), ("Dense_0",), 0), "rank=0"),
    (lambda: run(unlearn.low_rank(unlearn.npo(), ("Dense_7",))), "no layer 'Dense_7'"),
    (lambda: unlearn.sam(unlearn.low_rank(unlearn.npo(), ("Dense_0",))), "sam got low_rank"),
  ],
)
def test_what_cannot_be_done_is_said_in_one_line(make, message):
  with pytest.raises(ValueError, match=message) as caught:
    make()
  assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_it_keeps_the_contract_on_a_gpt():
  tokens = RNG.integers(0, 7, (24, 7)).astype(np.int32)
  data = Dataset(tokens[:, :-1], tokens[:, 1:], num_classes=7)
  model = models.gpt(7, length=6, width=8, depth=1, heads=2)
  network = models.init(model, jax.random.key(0), data.inputs[:1])
  algorithm = unlearn.low_rank(unlearn.neg_grad_plus(), ("qkv", "dense2"), 2)
  assert len(testing.check_unlearner(algorithm, network, data, SPLIT)) == 33
