"""Every proxy of ours keeps the contract, and every clause of it catches a proxy that breaks it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxmul import losses, proxies, testing
from jaxmul.proxies import curvature, loss

OUTPUTS = ("confidence", "max_confidence", "entropy", "correctness", "loss", "margin", "el2n")


def outputs(bound):
  other = jax.tree.map(lambda w: 1.1 * w, bound)
  divergence = Partial(proxies.heldout_divergence, heldout_params=other)
  return {name: getattr(proxies, name) for name in OUTPUTS} | {"heldout_divergence": divergence}


def gradients(bound):
  del bound
  return {
    "grand": proxies.grand,
    "input_gradient": proxies.input_gradient,
    "hvp": Partial(curvature, num_probes=1),
    "finite_difference": Partial(curvature, num_probes=1, method="finite_difference", h=0.1),
    "rum_compat": Partial(curvature, method="rum_compat", h=0.1),
  }


@pytest.mark.parametrize("name", [*outputs(1.0), *gradients(1.0)])
def test_every_proxy_of_ours_keeps_the_contract(name):
  bound, batch = testing.small_networks()["mlp"]
  testing.check_proxy((outputs(bound) | gradients(bound))[name], bound, batch)


TOGETHER = [
  ("cnn", outputs),
  ("gpt", outputs),
  ("gpt", gradients),
  pytest.param("cnn", gradients, marks=pytest.mark.slow),
  pytest.param("resnet18", outputs, marks=pytest.mark.slow),
  pytest.param("resnet18", gradients, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("network", "some"), TOGETHER)
def test_together_they_keep_it_on_convolutions_batch_norm_and_text(network, some):
  """One program for several proxies: their sum, each scaled to a mean of 1."""
  bound, batch = testing.small_networks()[network]
  chosen = some(bound)
  if network in ("resnet18", "gpt") and some is gradients:
    chosen = {name: chosen[name] for name in ("grand", "input_gradient", "hvp")}  # compile time

  @jax.jit
  def means():
    return {name: jnp.abs(proxy(bound, batch=batch)).mean() for name, proxy in chosen.items()}

  scale = {name: float(mean) for name, mean in means().items()}
  assert min(scale.values()) > 0

  def together(params, batch):
    return sum(proxy(params, batch=batch) / scale[name] for name, proxy in chosen.items())

  testing.check_proxy(together, bound, batch)


def test_gpt_is_told_by_its_tokens_positions_and_labels():
  """What the contract is checked on: as many positions as rows, and some that are not scored."""
  bound, (tokens, labels) = testing.small_networks()["gpt"]
  assert tokens.shape == labels.shape == (len(tokens), 8)
  assert (labels == -1).any(0).tolist() == [True, True, *[False] * 5, True]
  assert (labels >= 0).any(1).all()
  assert np.array_equal(labels[1, 2:], [*tokens[1, 3:], labels[1, -1]])
  assert bound(tokens).shape == (*labels.shape, 10)


def test_a_token_that_is_none_in_another_row_is_caught():
  def mixes(params, batch):
    inputs, _ = batch
    return loss(params, batch) + 0 * params(inputs)[:, 0, 0].sum()

  with pytest.raises(AssertionError, match="mixes, NaN in another row: "):
    testing.check_proxy(mixes, *testing.small_networks()["gpt"])


BROKEN = {
  "shape": lambda p, batch: loss(p, batch)[:, None],
  "dtype": lambda p, batch: loss(p, batch).astype(jnp.bfloat16),
  "finite": lambda p, batch: jnp.log(loss(p, batch) - loss(p, batch)),
  "order": lambda p, batch: loss(p, batch) * jnp.arange(len(batch[1])),
  "batch size": lambda p, batch: loss(p, batch) - loss(p, batch).mean(),
  "NaN in another row": lambda p, batch: loss(p, batch) + 0 * batch[0].sum(),
}


@pytest.mark.parametrize("clause", BROKEN)
def test_each_clause_catches_what_breaks_it(clause):
  with pytest.raises(AssertionError, match=rf"^<lambda>, {clause}: [^\n]*$"):
    testing.check_proxy(BROKEN[clause], *testing.small_networks()["mlp"])


def check(proxy):
  testing.check_proxy(proxy, *testing.small_networks()["mlp"])


def test_a_proxy_that_writes_into_its_batch_is_caught():
  def writes(params, batch):
    scores = loss(params, batch)
    if isinstance(batch[0], np.ndarray):
      batch[0][:] = 0
    return scores

  with pytest.raises(AssertionError, match="writes, mutation: "):
    check(writes)


def test_a_proxy_that_remembers_is_caught():
  calls = []

  def remembers(params, batch):
    calls.append(1)
    return loss(params, batch) * len(calls)

  with pytest.raises(AssertionError, match="remembers, repetition: row 0 scores"):
    check(remembers)


def test_a_proxy_that_differs_under_jit_is_caught():
  def branches(params, batch):
    return loss(params, batch) * (2 if isinstance(batch[0], jax.core.Tracer) else 1)

  with pytest.raises(AssertionError, match="branches, jit: row 0 scores"):
    check(branches)


def test_a_proxy_that_mixes_networks_is_caught():
  def mixes(params, batch):
    return total(loss(params, batch))

  @jax.custom_batching.custom_vmap
  def total(scores):
    return scores

  @total.def_vmap
  def _(size, batched, scores):
    return jnp.broadcast_to(scores.sum(0), scores.shape), True

  with pytest.raises(AssertionError, match="mixes, vmap: row 0 of network 0 scores"):
    check(mixes)


@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs 8 devices")
def test_a_gradient_of_a_replicated_value_is_caught():
  def naive(params, batch):
    inputs, labels = batch
    total = jax.grad(lambda x: losses.cross_entropy(params(x), labels).sum())
    return jnp.sqrt((total(jnp.asarray(inputs)) ** 2).sum(-1))

  with pytest.raises(AssertionError, match=r"naive, jax\.shard_map: row 0 of network 0 scores"):
    check(naive)


def test_a_network_needs_its_batch():
  bound, (inputs, labels) = testing.small_networks()["mlp"]
  with pytest.raises(ValueError, match="params and batch together, or neither"):
    testing.check_proxy(loss, bound)
  with pytest.raises(ValueError, match="a batch of 1 rows, must be at least 2"):
    testing.check_proxy(loss, bound, (inputs[:1], labels[:1]))


def test_by_default_every_small_network_is_checked():
  def rejects_images(params, batch):
    return loss(params, batch) if batch[0].ndim == 2 else loss(params, batch)[:1]

  with pytest.raises(AssertionError, match="rejects_images, shape on cnn: scores are"):
    testing.check_proxy(rejects_images)
