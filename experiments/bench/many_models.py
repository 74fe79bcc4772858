"""A ground truth that benchmarks take samples of: many models, each on a random 70 % of the data.

A measured model is trained for fewer epochs than EPOCHS, and counts as its share of the work of a
whole one.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax

from jaxmul import data, models, retraining, train

if TYPE_CHECKING:
  from experiments.bench.torch_training import Training

EPOCHS, FRACTION = 10, 0.7


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Task:
  """A network and its data.

  Attributes:
    name: mlp, cnn or resnet18.
    model: the network.
    dataset: n training examples.
    batch_size: of its training.
    epochs: of a measured model.
  """

  name: str
  model: Any
  dataset: data.Dataset
  batch_size: int
  epochs: int

  def schedule(self, chunk_size: int) -> retraining.Schedule:
    """Returns a schedule that no measurement comes to the end of."""
    recipe = train.Recipe(
      self.model, epochs=self.epochs, batch_size=self.batch_size, learning_rate=0.05
    )
    return retraining.leave_out(
      recipe,
      self.dataset,
      jax.random.key(0),
      num_models=10**6,
      fraction=FRACTION,
      chunk_size=chunk_size,
    )

  def training(self) -> "Training":
    """Returns the same for PyTorch."""
    from experiments.bench.torch_training import Training

    schedule = self.schedule(1)
    numbers = ("epochs", "batch_size", "learning_rate", "momentum", "weight_decay")
    return Training(
      network=self.name,
      images=self.dataset.inputs,
      labels=self.dataset.labels,
      subset_size=schedule.subset_size,
      **{name: getattr(schedule.recipe, name) for name in numbers},
    )

  def share(self) -> float:
    """Returns the work of a measured model over that of a whole one, in forward passes.

    They are 3 for a training step on an example and 1 for its prediction.
    """
    per_epoch, evaluation = 3 * self.schedule(1).subset_size, len(self.dataset)
    return (per_epoch * self.epochs + evaluation) / (per_epoch * EPOCHS + evaluation)

  def network(self) -> Any:
    """Returns an untrained network."""
    return models.init(self.model, jax.random.key(0), self.dataset.example)
