"""What estimates of attribution by gradients refuse."""

import jax
import numpy as np

from jaxmul import _article, _check
from jaxmul.binding import Network
from jaxmul.data.dataset import Dataset


def check_examples(network: Network, dataset: Dataset, test: Dataset, caller: str) -> None:
  """Raises ValueError where training and test examples are not what a network is scored on."""
  if not isinstance(network, Network):
    raise ValueError(f"{caller} needs a Network, got {_article.of(network)}. See jaxmul.bind.")
  for name, data in (("dataset", dataset), ("test", test)):
    if not isinstance(data, Dataset) or not len(data):
      raise ValueError(
        f"{caller} needs {name}=Dataset of at least one example. Make one: "
        "data.Dataset(inputs, labels)."
      )
    _check.tokens(network, data.inputs, caller)
    _check.answers(network, data.example, data.labels, caller)


def check_finite(value: jax.Array | np.ndarray, caller: str) -> None:
  """Raises ValueError where gradients gave NaN or inf, which no sum of scores survives."""
  if not np.isfinite(value).all():
    raise ValueError(
      f"{caller} got gradients of the network that are NaN, inf or all 0. Look at its outputs on "
      "these examples; give a network that is trained and has not diverged."
    )
