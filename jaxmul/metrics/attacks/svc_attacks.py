"""Attacks by a support vector machine: can p_y, or five features, tell what was trained on?

An attack is fitted on members (of the retain set) and non-members (held out, never trained on and
not in the test set), and then asked about the forget set. Nothing it is fitted on is scored.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxmul._odds import log_odds
from jaxmul._scoring import score
from jaxmul.binding import ApplyFn, as_network
from jaxmul.data.dataset import Dataset
from jaxmul.metrics.attacks.leak import refuse_overlap
from jaxmul.metrics.attacks.population import entropy, modified_entropy
from jaxmul.metrics.outputs import is_correct, label_probability, log_probabilities

# Each: (logits [..., n, C], labels [n]) -> [..., n, F].
FEATURES: dict[str, Callable[[Any, Any], np.ndarray]] = {
  "correctness": lambda z, y: is_correct(z, y).astype(np.float64)[..., None],
  "confidence": lambda z, y: label_probability(z, y)[..., None],
  "entropy": lambda z, y: entropy(z)[..., None],
  "modified_entropy": lambda z, y: modified_entropy(z, y)[..., None],
  "probabilities": lambda z, y: np.exp(log_probabilities(z)),
}


def svc(members: Any, nonmembers: Any, targets: Any, *, seed: int = 0) -> float:
  """The share of targets that a support vector machine on p_y calls non-members, in [0, 1].

  RUM's attack: RBF kernel, C = 3, γ = 1 (scikit-learn's "auto" on one feature), no scaling.

  Read it beside the same rate of a retrained model: its forget set is non-members, so that rate,
  not 1, is what unlearning aims at. Where p_y tells nothing, chance is 0.5, but only on average: a
  single fit then cuts [0, 1] at an arbitrary place, and its rate can be anything.

  Args:
    members: [k], p_y in [0, 1] of examples that were trained on and kept.
    nonmembers: [k], p_y of examples never trained on; as many, so that neither class is favoured.
    targets: [t], p_y of the forget set.
    seed: given to scikit-learn; its fit draws no numbers, so that today no seed changes the rate.

  Raises:
    ValueError: not one axis, empty, outside [0, 1] or NaN; unequal counts; all p_y that the attack
      would be fitted on are one number.
    ImportError: scikit-learn is not installed.

  References:
    Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024.

  Example:
    >>> svc([0.9, 0.95, 1.0], [0.1, 0.2, 0.3], [0.15, 0.25, 0.9, 0.92])
    0.5
  """
  members = _checked(members, "members")
  nonmembers = _checked(nonmembers, "nonmembers")
  targets = _checked(targets, "targets")
  _refuse_unequal(len(members), len(nonmembers), "svc")
  known = np.concatenate([members, nonmembers])
  if np.all(known == known[0]):
    raise ValueError(
      f"svc: p_y is {known[0]} for all members and nonmembers, so there is nothing to fit. "
      "This model cannot be attacked by p_y."
    )
  attack = _machine(seed).fit(known[:, None], np.repeat([1, 0], len(members)))
  return float(np.mean(attack.predict(targets[:, None]) == 0))


def svc_scores(members: Any, nonmembers: Any, targets: Any, *, seed: int = 0) -> np.ndarray:
  """The same machine's decision function, on any feature: higher = member, 0 the boundary.

  γ is 1/F for F columns (scikit-learn's "auto"), and nothing is scaled, as in public code.

  Args:
    members: [k, F], a feature of examples that were trained on and kept, one of `svc_features`.
    nonmembers: [k, F], of as many examples never trained on.
    targets: [t, F], of what is scored; none of the known examples.
    seed: as in `svc`.

  Returns:
    Scores float64 [t]; all 0 where the feature is constant, for there is nothing to fit.

  Raises:
    ValueError: not two axes, empty, NaN, or unequal counts.
    ImportError: scikit-learn is not installed.

  Example:
    >>> scores = svc_scores([[0.9], [0.8]], [[0.1], [0.2]], [[0.95], [0.0]])
    >>> bool(scores[0] > 0 > scores[1])
    True
  """
  members, nonmembers, targets = (
    _features(values, name)
    for values, name in ((members, "members"), (nonmembers, "nonmembers"), (targets, "targets"))
  )
  _refuse_unequal(len(members), len(nonmembers), "svc_scores")
  known = np.concatenate([members, nonmembers])
  if np.all(known == known[0]):
    return np.zeros(len(targets))
  attack = _machine(seed).fit(known, np.repeat([1, 0], len(members)))
  return attack.decision_function(targets)


def svc_features(logits: Any, labels: Any) -> dict[str, np.ndarray]:
  """The five features that public code attacks with, each by a machine of its own.

  Args:
    logits: [..., n, C].
    labels: int [n].

  Returns:
    {name: float64 [..., n, F]}: correctness (0 or 1), confidence (p_y), entropy and modified
    entropy (negated, as the attacks of these names return them), F = 1 each, and the probabilities
    of all classes, F = C.

  Raises:
    ValueError: shapes do not fit, a label is no class, or NaN or inf among the logits.

  References:
    Jia et al., [Model Sparsity](https://arxiv.org/abs/2304.04934), 2023, whose code RUM's follows.

  Example:
    >>> svc_features([[0.0, 0.0]], [0])["probabilities"].tolist()
    [[0.5, 0.5]]
  """
  return {name: feature(logits, labels) for name, feature in FEATURES.items()}


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
  phi = score(_log_odds, network, dataset, batch_size=batch_size).astype(np.float64)
  bad = np.flatnonzero(np.isnan(phi))
  if len(bad):
    raise ValueError(
      f"the log-odds of id {dataset.ids[bad[0]]} are NaN ({len(bad)} of {len(dataset)} examples): "
      "these params have diverged. Lower the learning rate that made them."
    )
  # p_y = 1/(1 + e^−φ) in float64, where softmax would round a confident p_y to 1.
  return np.exp(-np.logaddexp(0, -phi))


def svc_on_split(
  params: Any,
  dataset: Dataset,
  *,
  members: Any,
  nonmembers: Any,
  targets: Any,
  apply_fn: ApplyFn | None = None,
  seed: int = 0,
) -> float:
  """`svc` by id: the share in [0, 1] of targets that are called non-members.

  Args:
    params: any pytree with `apply_fn`, a `Network`, or a callable pytree.
    dataset: where the ids are.
    members: int [k], ids of retain examples.
    nonmembers: int [k], ids never trained on and not in the test set, such as
      `data.cut_heldout(split.heldout, key).attack`.
    targets: int [t], ids of the forget set.
    apply_fn: `apply_fn(params, inputs) -> logits [B, C]`, evaluation mode.
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
  parts = {"members": members, "nonmembers": nonmembers, "targets": targets}
  parts = {name: np.asarray(ids) for name, ids in parts.items()}
  refuse_overlap(parts, "svc_on_split")
  _refuse_unequal(len(parts["members"]), len(parts["nonmembers"]), "svc_on_split")
  confidence = label_confidence(network, dataset.take(np.concatenate(list(parts.values()))))
  cuts = np.cumsum([len(ids) for ids in parts.values()])[:-1]
  return svc(*np.split(confidence, cuts), seed=seed)


def _log_odds(network, batch, apply_fn=None) -> jax.Array:
  del apply_fn
  inputs, labels = batch
  return log_odds(network(inputs), labels)


def _machine(seed: int) -> Any:
  try:
    from sklearn.svm import SVC
  except ImportError as error:
    raise ImportError(
      "svc needs scikit-learn. Install it: pip install 'jaxmul[evaluate]'."
    ) from error
  return SVC(kernel="rbf", C=3, gamma="auto", random_state=seed)


def _features(values: Any, name: str) -> np.ndarray:
  array = np.asarray(values, dtype=np.float64)
  if array.ndim != 2 or not array.size or not np.isfinite(array).all():
    raise ValueError(
      f"svc_scores needs {name} [n, F], finite and not empty, got shape {array.shape}."
    )
  return array


def _refuse_unequal(members: int, nonmembers: int, caller: str) -> None:
  if members != nonmembers:
    raise ValueError(
      f"{caller} got {members} members and {nonmembers} nonmembers; unequal classes bias it. "
      f"Draw {min(members, nonmembers)} of each at random."
    )


def _checked(values: Any, name: str) -> np.ndarray:
  array = np.asarray(values, dtype=np.float64)
  if array.ndim != 1 or not len(array):
    raise ValueError(f"svc needs {name} [n] with n of at least 1, got shape {array.shape}.")
  bad = np.flatnonzero(~((array >= 0) & (array <= 1)))
  if len(bad):
    raise ValueError(
      f"svc: {name}[{bad[0]}] is {array[bad[0]]}, must be a probability in [0, 1]. "
      "Pass attacks.label_confidence, not logits or losses."
    )
  return array
