"""Every algorithm keeps the contract on every kind of network, and the contract can be broken."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import models, testing, unlearn
from jaxmul.data import Dataset, Split


class SmallBatchNorm(nn.Module):
  """Convolution, BatchNorm, head: the least that has kernels and statistics."""

  num_classes: int

  @nn.compact
  def __call__(self, x, train=False, mask=None):
    x = models.Conv(4, use_bias=False, name="conv")(x)
    norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")
    x = nn.relu(norm(x, mask=None if mask is None else mask[:, None, None, None]))
    return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


MODELS = {
  "mlp": (lambda c: models.mlp((6,), c), (8, 8), ("Dense_0", "Dense_1")),
  "cnn": (
    lambda c: models.cnn((3, 3), 5, c),
    (8, 8, 1),
    ("Conv_0", "Conv_1", "Dense_0", "Dense_1"),
  ),
  "norm": (lambda c: SmallBatchNorm(c), (6, 6, 1), ("conv", "norm", "head")),
  "resnet18": (lambda c: models.resnet18(c, width=4), (8, 8, 1), ("stage3_block1_conv2", "head")),
}
ONLY_CONVOLUTIONS = {"ct"}


@functools.cache
def problem(network):
  """Params, data and split of a small problem; five examples are in neither set."""
  make, shape, _ = MODELS[network]
  rng = np.random.default_rng(0)
  data = Dataset(
    rng.normal(size=(32, *shape)).astype(np.float32), rng.integers(0, 3, 32), np.arange(100, 132)
  )
  params = models.init(make(3), jax.random.key(0), data.images[:1])
  return params, data, Split(forget=np.arange(100, 111), retain=np.arange(111, 127))


def algorithms(network):
  make, _, layers = MODELS[network]
  _, data, split = problem(network)
  fresh = models.init(make(3), jax.random.key(1), data.images[:1])
  wide = models.init(make(4), jax.random.key(2), data.images[:1])
  heldout = Dataset(data.images[-6:], np.arange(6) % 3, num_classes=3)
  rng = np.random.default_rng(1)
  beta = rng.normal(size=(27, 11, 3)).astype(np.float32)
  return {
    "fine_tune": unlearn.fine_tune(0.05),
    "l1_sparse": unlearn.l1_sparse(0.05),
    "neg_grad": unlearn.neg_grad(0.01),
    "neg_grad_plus": unlearn.neg_grad_plus(0.05),
    "random_label": unlearn.random_label(0.05),
    "salun": unlearn.salun(0.05),
    "scrub": unlearn.scrub(0.01, msteps=1),
    "influence": unlearn.influence(damping=0.5, iterations=3),
    "fisher": unlearn.fisher(),
    "ssd": unlearn.ssd(1.0),
    "bad_teacher": unlearn.bad_teacher(fresh),
    "boundary_shrink": unlearn.boundary_shrink(0.01),
    "boundary_expand": unlearn.boundary_expand(wide, 0.01),
    "cf_k": unlearn.cf_k(layers, 1),
    "eu_k": unlearn.eu_k(layers, fresh, 1),
    "msg": unlearn.msg(fresh, 0.01),
    "ct": unlearn.ct(),
    "amun": unlearn.amun(doublings=1, steps=3),
    "dmm": unlearn.dmm(beta, split.train, split.forget),
    "localized_reset": unlearn.localized_reset(fresh),
    "regun": unlearn.regun(heldout),
    "sam": unlearn.sam(unlearn.neg_grad_plus(0.05)),
    "top_k": unlearn.top_k(),
    "random_k": unlearn.random_k(),
    "layer_attack": unlearn.layer_attack(models.features(make(3), layers[-1]), layers[-1], steps=5),
  }


NAMES = tuple(algorithms("mlp"))


# Each compiles for up to half a minute, all of them for an hour: by default only the quick ones.
QUICK_ONES = [("mlp", "fine_tune"), ("mlp", "scrub"), ("mlp", "ct")]


@pytest.mark.parametrize(
  ("network", "name"),
  [
    pytest.param(network, name, marks=() if (network, name) in QUICK_ONES else pytest.mark.slow)
    for network in ("mlp", "norm", "cnn", "resnet18")
    for name in NAMES
  ],
)
def test_every_algorithm_keeps_the_contract(network, name):
  params, data, split = problem(network)
  algorithm = algorithms(network)[name]
  if name in ONLY_CONVOLUTIONS and network == "mlp":
    with pytest.raises(ValueError, match="ct needs convolution kernels") as caught:
      testing.check_unlearner(algorithm, params, data, split)
    assert "\n" not in str(caught.value)
    return
  names = testing.check_unlearner(algorithm, params, data, split, eager=network == "mlp")
  assert len(set(names)) == len(names) >= 25


def broken(change):
  """fine_tune with its update's result changed."""
  good = unlearn.fine_tune(0.05)

  def update(forget, retain, state, params, key):
    assert good.update is not None
    return change(*good.update(forget, retain, state, params, key), forget, retain)

  return dataclasses.replace(good, update=update, identity=("broken", change))


def sees_padding(updates, state, forget, retain):
  del forget
  leak = retain.inputs.mean()
  return jax.tree.map(lambda leaf: leaf + leak, updates), state


def never_moves(updates, state, forget, retain):
  del forget, retain
  return jax.tree.map(jnp.zeros_like, updates), state


@pytest.mark.parametrize(
  ("algorithm", "clause"),
  [
    (broken(sees_padding), "padding_of_batches_is_not_seen"),
    (broken(never_moves), "something_moves"),
    (dataclasses.replace(unlearn.fine_tune(), identity=["list"]), "identity_is_hashable"),
    (
      dataclasses.replace(
        unlearn.fine_tune(), finish=lambda p, s: p.replace(params=None), identity="finish"
      ),
      "structure_is_kept",
    ),
  ],
)
def test_a_broken_algorithm_is_named_by_its_clause(algorithm, clause):
  with pytest.raises(AssertionError, match=f"^{clause}: "):
    testing.check_unlearner(algorithm, *problem("mlp"))
