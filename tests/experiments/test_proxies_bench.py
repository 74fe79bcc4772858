"""The PyTorch references of the benchmark compute what ours do: a fast straw man proves nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import models, proxies

torch = pytest.importorskip("torch")


def test_references_give_our_numbers():
  from experiments.bench import proxies_torch

  rng = np.random.default_rng(0)
  inputs = jnp.asarray(rng.uniform(size=(4, 32, 32, 3)), jnp.float32)
  labels = jnp.asarray(rng.integers(0, 10, 4))
  bound = models.init(models.cnn(), jax.random.key(0), inputs)
  batch = (inputs, labels)

  def theirs(name):
    function = getattr(proxies_torch, name)
    return proxies_torch.fastest(function, bound.params, inputs, labels)().numpy()

  np.testing.assert_allclose(theirs("grand"), proxies.grand(bound, batch), rtol=1e-4)
  rum = proxies.curvature(bound, batch, method="rum_compat")
  np.testing.assert_allclose(theirs("rum"), rum, rtol=1e-3)
  # Another random direction each, so only the size can be compared.
  many = np.mean([theirs("curvature") for _ in range(50)], 0)
  exact = proxies.curvature(bound, batch, num_probes=50)
  np.testing.assert_allclose(many, exact, rtol=0.5)
