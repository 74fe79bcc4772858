"""Attacks by id. No leak: what fits an attack or chooses its threshold is never what it scores."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from jaxmul import losses
from jaxmul._dataset import Dataset
from jaxmul.binding import ApplyFn, as_network, refuse_own_loss
from jaxmul.metrics._given import refuse_positions, scored
from jaxmul.metrics.attacks.rates_with_intervals import Rates, best_threshold, rates
from jaxmul.metrics.attacks.svc_attacks import refuse_unequal, svc
from jaxmul.metrics.outputs import logits_of


def label_confidence(
  params: Any, dataset: Dataset, apply_fn: ApplyFn | None = None, *, batch_size: int = 1024
) -> np.ndarray:
  """Returns p_y of every example, float64 [n] in [0, 1], in the order of `dataset.ids`.

  Of a text it is p = e^−ℓ, the geometric mean of its tokens' probabilities.

  Args:
    params: any pytree with `apply_fn`, a `Network`, or a callable pytree.
    dataset: n examples; uint8 images are scaled to [0, 1].
    apply_fn: `apply_fn(params, inputs) -> logits [B, C]`, evaluation mode.
    batch_size: examples at a time.

  Raises:
    ValueError: the data set is empty, a label is not one of the classes, or a logit is NaN.

  Example:
    >>> import numpy as np
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.ones((2, 1)), np.array([0, 1]))
    >>> label_confidence(np.zeros((1, 2)), toy, lambda w, x: x @ w).round(6).tolist()
    [0.5, 0.5]
  """
  network = as_network(params, apply_fn, "label_confidence")
  refuse_own_loss(network, "label_confidence")
  phi = scored(losses.log_odds, network, dataset, batch_size, "log-odds")
  # p_y = 1/(1 + e^−φ) in float64, where softmax would round a confident p_y to 1.
  return np.exp(-np.logaddexp(0, -phi))


def on_split(
  attack: Callable[[np.ndarray, np.ndarray], np.ndarray],
  params: Any,
  dataset: Dataset,
  apply_fn: ApplyFn | None = None,
  *,
  members: npt.ArrayLike,
  nonmembers: npt.ArrayLike,
  targets: npt.ArrayLike,
  controls: npt.ArrayLike,
  seed: int = 0,
) -> Rates:
  """Returns how well an attack tells targets from controls, its threshold chosen on others.

  Args:
    attack: `(logits [n, C], labels [n]) -> scores [n]`, higher = member: `loss`,
      `modified_entropy`, or a function of your own.
    params, apply_fn: as `label_confidence`.
    dataset: where the ids are.
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
  parts = _disjoint(
    "on_split", members=members, nonmembers=nonmembers, targets=targets, controls=controls
  )
  refuse_positions(dataset, "on_split", "Use svc_on_split, or metrics.beside_oracles")
  taken = dataset.take(np.concatenate(list(parts.values())))
  scores = attack(logits_of(network, taken), taken.labels)
  known_in, known_out, target, control = _split(scores, parts)
  return rates(target, control, threshold=best_threshold(known_in, known_out), seed=seed)


def svc_on_split(
  params: Any,
  dataset: Dataset,
  *,
  members: npt.ArrayLike,
  nonmembers: npt.ArrayLike,
  targets: npt.ArrayLike,
  apply_fn: ApplyFn | None = None,
  seed: int = 0,
) -> float:
  """`svc` by id: the share in [0, 1] of targets that are called non-members.

  Args:
    params, apply_fn: as `label_confidence`.
    dataset: where the ids are.
    members: int [k], ids of retain examples.
    nonmembers: int [k], ids never trained on and not in the test set, such as
      `data.cut_heldout(split.heldout, key).attack`.
    targets: int [t], ids of the forget set.
    seed: as in `svc`.

  Raises:
    ValueError: the same id is in two of the three, repeated or not in the data, or as `svc`.
    ImportError: scikit-learn is not installed.

  References:
    Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024.

  Example:
    >>> import numpy as np
    >>> from jaxmul.data import Dataset
    >>> images = np.array([[9.0], [8.0], [-9.0], [-8.0], [-7.0]])
    >>> toy = Dataset(images, np.zeros(5, int), num_classes=2)
    >>> weights = np.array([[1.0, -1.0]])
    >>> ids = {"members": [0, 1], "nonmembers": [2, 3], "targets": [4]}
    >>> svc_on_split(weights, toy, apply_fn=lambda w, x: x @ w, **ids)
    1.0
  """
  network = as_network(params, apply_fn, "svc_on_split")
  parts = _disjoint("svc_on_split", members=members, nonmembers=nonmembers, targets=targets)
  refuse_unequal(len(parts["members"]), len(parts["nonmembers"]), "svc_on_split")
  confidence = label_confidence(network, dataset.take(np.concatenate(list(parts.values()))))
  return svc(*_split(confidence, parts), seed=seed)


def refuse_overlap(parts: Mapping[str, npt.ArrayLike], caller: str) -> None:
  """Raises ValueError where an id is in two of the named parts.

  Args:
    parts: {name: int ids [k]}.
    caller: for the message.

  Example:
    >>> refuse_overlap({"members": [1, 2], "targets": [2]}, "svc_on_split")
    Traceback (most recent call last):
      ...
    ValueError: svc_on_split: id 2 is in members and in targets. Use disjoint ids: no example ...
  """
  for (first, a), (second, b) in itertools.combinations(parts.items(), 2):
    shared = np.intersect1d(a, b)
    if len(shared):
      raise ValueError(
        f"{caller}: id {shared[0]} is in {first} and in {second}. "
        "Use disjoint ids: no example that fits the attack may be scored."
      )


def _disjoint(caller: str, **parts: npt.ArrayLike) -> dict[str, np.ndarray]:
  """Returns named ids as arrays, of which no two share one."""
  refuse_overlap(parts, caller)
  return {name: np.asarray(ids) for name, ids in parts.items()}


def _split(values: np.ndarray, parts: dict[str, np.ndarray]) -> list[np.ndarray]:
  """Returns what was computed of all parts together, part by part."""
  return np.split(values, np.cumsum([len(ids) for ids in parts.values()])[:-1])
