"""Unlearning algorithms of text: with published settings, and those that may be tried."""

import dataclasses
from collections.abc import Callable

from jaxmul import models, rum, unlearn

Make = Callable[[float], unlearn.Unlearner]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TextAlgorithm:
  """One algorithm, of the one number that is tuned.

  Attributes:
    make: the number -> algorithm.
    published: the number in its paper or public code; where there is none, our default.
    tried: the numbers that the surrogate may choose among.
    epochs: of its paper.
  """

  make: Make
  published: float
  tried: tuple[float, ...]
  epochs: int

  def steps(self, batch_size: int) -> dict[str, rum.Step]:
    """Returns {number: what is done} of what may be tried."""
    return {f"{value:g}": self.step(value, batch_size) for value in self.tried}

  def step(self, value: float, batch_size: int) -> rum.Step:
    """Returns what is done with this number."""
    return rum.Step(self.make(value), self.epochs, batch_size)


def text_algorithms(learning_rate: float, model: models.GPT) -> dict[str, TextAlgorithm]:
  """Returns {name: algorithm}, of a network that was trained by AdamW at this rate.

  Published rates are of SGD on images or of AdamW on networks a thousand times as large; what is
  tried are shares of the recipe's own rate, twenty times that for SGD.
  """
  shares = (0.3, 0.03, 0.003)

  def by_rate(make: Make, published: float, epochs: int, times: float = 1.0) -> TextAlgorithm:
    tried = tuple(share * times * learning_rate for share in shares)
    return TextAlgorithm(make=make, published=published, tried=tried, epochs=epochs)

  def by_sgd(make: Make, published: float, epochs: int) -> TextAlgorithm:
    return by_rate(make, published, epochs, 20.0)

  def by_share(make: Make, published: float, tried: tuple[float, ...]) -> TextAlgorithm:
    return TextAlgorithm(make=make, published=published, tried=tried, epochs=1)

  hidden = models.features(model, "norm")  # after the last block
  few, more = (0.001, 0.01, 0.1), (0.01, 0.1, 0.3)
  return {
    "fine_tune": by_sgd(unlearn.fine_tune, 0.01, 10),
    "neg_grad": by_sgd(unlearn.neg_grad, 1e-4, 5),
    "neg_grad_plus": by_sgd(unlearn.neg_grad_plus, 0.01, 5),
    "neg_grad_plus, KL": by_sgd(lambda r: unlearn.neg_grad_plus(r, keep="kl"), 0.01, 5),
    "random_label": by_sgd(unlearn.random_label, 0.1, 10),
    "salun": by_sgd(unlearn.salun, 0.1, 10),
    "scrub": by_sgd(unlearn.scrub, 5e-3, 5),
    "l1_sparse": by_sgd(unlearn.l1_sparse, 0.01, 10),
    "npo": by_rate(unlearn.npo, 1e-5, 10),
    "npo, KL": by_rate(lambda r: unlearn.npo(r, keep="kl"), 1e-5, 10),
    "npo, low rank": by_rate(_low_rank_npo, 1e-5, 10, 10.0),
    "simnpo": by_rate(unlearn.simnpo, 1e-5, 10),
    "eul": by_rate(unlearn.eul, 5e-5, 10),
    "rmu": by_rate(lambda r: unlearn.rmu(hidden, learning_rate=r), 5e-5, 5),
    "undial": by_rate(unlearn.undial, 1e-4, 10),
    "ce_u": by_rate(unlearn.ce_u, 1e-5, 10),
    "wga": by_rate(unlearn.wga, 1e-5, 5),
    "task_vector": by_rate(unlearn.task_vector, 1e-5, 10),
    "greedy": TextAlgorithm(make=unlearn.greedy, published=0.01, tried=few, epochs=1),
    "durable": by_share(unlearn.durable, 0.01, few),
    "durable_agg": by_share(unlearn.durable_agg, 0.01, few),
    "obs": by_share(unlearn.obs, 0.01, few),
    "subnet": TextAlgorithm(make=_subnet, published=0.1, tried=more, epochs=10),
    "balanced_subnet": TextAlgorithm(make=_balanced_subnet, published=0.1, tried=more, epochs=10),
    "zero_out_neurons": by_share(unlearn.zero_out_neurons, 0.01, more),
    "activation_neurons": by_share(unlearn.activation_neurons, 0.01, more),
    "integrated_gradient_neurons": by_share(unlearn.integrated_gradient_neurons, 0.01, more),
    "slimming_neurons": TextAlgorithm(make=_slimming, published=0.01, tried=more, epochs=5),
    "hard_concrete_neurons": TextAlgorithm(
      make=_hard_concrete, published=0.01, tried=more, epochs=5
    ),
    "ssd": by_share(unlearn.ssd, 10.0, (1.0, 10.0, 100.0)),
    "kfac_edit": by_share(unlearn.kfac_edit, 0.6, (0.6, 0.9, 0.99)),
  }


def _subnet(fraction: float) -> unlearn.Unlearner:
  return unlearn.subnet(fraction=fraction)


def _balanced_subnet(fraction: float) -> unlearn.Unlearner:
  return unlearn.balanced_subnet(fraction=fraction)


def _slimming(fraction: float) -> unlearn.Unlearner:
  return unlearn.slimming_neurons(fraction=fraction)


def _hard_concrete(fraction: float) -> unlearn.Unlearner:
  return unlearn.hard_concrete_neurons(fraction=fraction)


def _low_rank_npo(learning_rate: float) -> unlearn.Unlearner:
  return unlearn.low_rank(unlearn.npo(learning_rate), ("dense1", "dense2"))
