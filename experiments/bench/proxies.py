"""What proxies cost: in plain gradients of the same network, and beside PyTorch.

The network is `cnn` at batch 128 on 32 × 32 × 3 inputs. A plain gradient is our jitted parameter
gradient of the mean loss. The PyTorch references are in `proxies_torch`, with the same weights.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.pairs import alternate
from jaxmul import losses, models, proxies, train
from jaxmul._examples import examples_of
from jaxmul.data import Dataset
from jaxmul.proxies import trackers

STEPS, BATCH = 20, 128
GOALS = {
  "trackers_overhead": "at most 0.05",
  "curvature_in_gradients": "at most 1.6",
  "grand_in_gradients": "at most 1.5",
  "curvature_over_torch": "at least 1.0",
  "rum_curvature_over_torch": "at least 1.0",
  "grand_over_torch": "at least 2.0",
}
FREE = (
  trackers.learning_events,
  trackers.cumulative_loss,
  trackers.area_under_margin,
  trackers.forgetting_events,
  trackers.late_learning,
  trackers.loss_iqr,
)


def measure(pairs: int, seconds: float) -> dict[str, float]:
  """Returns the figures of `GOALS`, and the milliseconds that they come from."""
  from experiments.bench import proxies_torch

  options = {"pairs": pairs, "seconds": seconds}
  rng = np.random.default_rng(0)
  inputs = jnp.asarray(rng.uniform(size=(BATCH, 32, 32, 3)), jnp.float32)
  labels = jnp.asarray(rng.integers(0, 10, BATCH))
  network = models.init(models.cnn(), jax.random.key(0), inputs)

  def gradient(network, batch):
    def risk(theta):
      return losses.cross_entropy(network.replace(params=theta)(batch[0]), batch[1]).mean()

    return jax.grad(risk)(network.params)

  def of(function, **static):
    compiled = jax.jit(lambda network, batch: function(network, batch, **static))
    return lambda: jax.block_until_ready(compiled(network, (inputs, labels)))

  def torch(function):
    return proxies_torch.fastest(function, network.params, inputs, labels)

  plain, grand = of(gradient), of(proxies.grand)
  curvature = of(proxies.curvature, num_probes=1)
  rum = of(proxies.curvature, method="rum_compat")
  found = {
    "trackers": alternate(*training(), **options),
    "curvature": alternate(curvature, plain, **options),
    "grand": alternate(grand, plain, **options),
    "curvature_torch": alternate(curvature, torch(proxies_torch.curvature), **options),
    "rum_torch": alternate(rum, torch(proxies_torch.rum), **options),
    "grand_torch": alternate(grand, torch(proxies_torch.grand), **options),
  }
  return {
    "trackers_overhead": found["trackers"]["ratio"] - 1,
    "curvature_in_gradients": found["curvature"]["ratio"],
    "grand_in_gradients": found["grand"]["ratio"],
    "curvature_over_torch": 1 / found["curvature_torch"]["ratio"],
    "rum_curvature_over_torch": 1 / found["rum_torch"]["ratio"],
    "grand_over_torch": 1 / found["grand_torch"]["ratio"],
    "step_ms": 1e3 * found["trackers"]["reference"] / STEPS,
    "gradient_ms": 1e3 * found["grand"]["reference"],
    "grand_ms": 1e3 * found["grand"]["ours"],
    "curvature_ms": 1e3 * found["curvature"]["ours"],
    "rum_curvature_ms": 1e3 * found["rum_torch"]["ours"],
    "grand_torch_ms": 1e3 * found["grand_torch"]["reference"],
    "curvature_torch_ms": 1e3 * found["curvature_torch"]["reference"],
    "rum_curvature_torch_ms": 1e3 * found["rum_torch"]["reference"],
  }


def training():
  """An epoch of 20 steps with every output tracker, and the same without."""
  rng = np.random.default_rng(0)
  count = STEPS * BATCH
  inputs = rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
  examples = examples_of(Dataset(inputs, rng.integers(0, 10, count)))
  recipe = train.Recipe(models.cnn(), epochs=1, batch_size=BATCH, learning_rate=0.01)
  run = jax.jit(train.run, static_argnums=(0, 1))

  def epoch(some):
    key = jax.random.key(1)
    jax.block_until_ready(run(recipe, some, examples, key))

  every = tuple(make() for make in FREE)
  return lambda: epoch(every), lambda: epoch(())
