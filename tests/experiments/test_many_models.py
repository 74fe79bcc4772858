"""What benchmarks of many models train costs what its layers need, counted in two ways."""

import dataclasses

import numpy as np
import pytest

from experiments.bench import products
from experiments.bench.many_models import Task
from jaxmul import models, retraining
from jaxmul.data import Dataset


@pytest.mark.parametrize(
  ("model", "layers"),
  [
    (models.mlp((8, 6)), products.mlp((8, 6), 10, inputs=16 * 16 * 3)),
    (models.cnn((4, 6), 8), products.cnn((4, 6), 8, 10, size=16)),
  ],
)
def test_a_model_costs_what_its_layers_need(model, layers):
  count, batch_size = 320, 32  # whole batches of 224 examples, and one block of predictions
  inputs = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3)).astype(np.uint8)
  images = Dataset(inputs, np.arange(count) % 10)
  task = Task(name="", model=model, dataset=images, batch_size=batch_size, epochs=2)
  one = dataclasses.replace(task.schedule(1), num_models=1)
  assert one.subset_size == 224
  assert retraining.cost(one).flops == products.whole_model(layers, 224, 2, count)
