"""Population attacks by id: the threshold comes from known examples, the rates from others."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxmul.binding import ApplyFn, as_network
from jaxmul.data.dataset import Dataset
from jaxmul.metrics._positions import refuse_positions
from jaxmul.metrics.attacks.leak import refuse_overlap
from jaxmul.metrics.attacks.success_rates import Rates, best_threshold, rates
from jaxmul.metrics.outputs import logits_of


def on_split(
  attack: Callable[[np.ndarray, np.ndarray], np.ndarray],
  params: Any,
  dataset: Dataset,
  apply_fn: ApplyFn | None = None,
  *,
  members: Any,
  nonmembers: Any,
  targets: Any,
  controls: Any,
  seed: int = 0,
) -> Rates:
  """Returns how well an attack tells targets from controls, its threshold chosen on others.

  Args:
    attack: `(logits [n, C], labels [n]) -> scores [n]`, higher = member: `loss`,
      `modified_entropy`, or a function of your own.
    params: any pytree with `apply_fn`, a `Network`, or a callable pytree.
    dataset: where the ids are.
    apply_fn: `apply_fn(params, inputs) -> logits [B, C]`, evaluation mode.
    members: int [k], ids of retain examples, for the threshold.
    nonmembers: int [l], held-out ids, for the threshold.
    targets: int [t], ids that are called members if the attack succeeds, such as the forget set.
    controls: int [c], ids never trained on, such as other held-out ones.
    seed: of the bootstrap over examples.

  Raises:
    ValueError: the same id is in two of the four, repeated or not in the data; a logit is not
      finite; examples do not have one label each.

  Example:
    >>> import numpy as np
    >>> from jaxmul.data import Dataset
    >>> from jaxmul.metrics import attacks
    >>> toy = Dataset(np.array([[4.0], [3.0], [-2.0], [-3.0]]), np.zeros(4, int), num_classes=2)
    >>> ids = {"members": [0], "nonmembers": [2], "targets": [1], "controls": [3]}
    >>> found = on_split(attacks.loss, np.array([[1.0, -1.0]]), toy, lambda w, x: x @ w, **ids)
    >>> found.auc.mean, found.balanced_accuracy.mean
    (1.0, 1.0)
  """
  network = as_network(params, apply_fn, "on_split")
  parts = {"members": members, "nonmembers": nonmembers, "targets": targets, "controls": controls}
  parts = {name: np.asarray(ids) for name, ids in parts.items()}
  refuse_overlap(parts, "on_split")
  refuse_positions(dataset, "on_split", "Use svc_on_split, or metrics.beside_oracles")
  taken = dataset.take(np.concatenate(list(parts.values())))
  scores = attack(logits_of(network, taken), taken.labels)
  known_in, known_out, target, control = np.split(
    scores, np.cumsum([len(ids) for ids in parts.values()])[:-1]
  )
  return rates(target, control, threshold=best_threshold(known_in, known_out), seed=seed)
