"""Attacks by a support vector machine: can p_y, or five features, tell what was trained on?

An attack is fitted on members (of the retain set) and non-members (held out, never trained on and
not in the test set), and then asked about the forget set. Nothing it is fitted on is scored.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from jaxmul.metrics._given import probabilities
from jaxmul.metrics.attacks.population import entropy, modified_entropy
from jaxmul.metrics.outputs import is_correct, label_probability, log_probabilities

if TYPE_CHECKING:  # it takes a second, and is loaded where a machine is fitted
  from sklearn.svm import SVC

# Each: (logits [..., n, C], labels [n]) -> [..., n, F].
FEATURES: dict[str, Callable[[npt.ArrayLike, npt.ArrayLike], np.ndarray]] = {
  "correctness": lambda z, y: is_correct(z, y).astype(np.float64)[..., None],
  "confidence": lambda z, y: label_probability(z, y)[..., None],
  "entropy": lambda z, y: entropy(z)[..., None],
  "modified_entropy": lambda z, y: modified_entropy(z, y)[..., None],
  "probabilities": lambda z, y: np.exp(log_probabilities(z)),
}


def svc(
  members: npt.ArrayLike, nonmembers: npt.ArrayLike, targets: npt.ArrayLike, *, seed: int = 0
) -> float:
  """The share of targets that a support vector machine on p_y calls non-members, in [0, 1].

  RUM's attack: RBF kernel, C = 3, γ = 1 (scikit-learn's "auto" on one feature), no scaling.

  Read it beside the same rate of a retrained model: its forget set is non-members, so that rate,
  not 1, is what unlearning aims at. Where p_y tells nothing, chance is 0.5, but only on average: a
  single fit then cuts [0, 1] at an arbitrary place, and its rate can be anything. A target on the
  cut itself counts as a member, as in scikit-learn.

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
  given = {"members": members, "nonmembers": nonmembers, "targets": targets}
  known_in, known_out, scored = (_confidences(values, name) for name, values in given.items())
  machine = _fitted(known_in, known_out, seed, "svc")
  if machine is None:
    raise ValueError(
      f"svc: p_y is {known_in[0, 0]} for all members and nonmembers, so there is nothing to fit. "
      "This model cannot be attacked by p_y."
    )
  return nonmember_share(machine.decision_function(scored))


def nonmember_share(scores: np.ndarray) -> float:
  """The share of decisions [t] that say non-member: those below 0. On 0 itself nothing tells."""
  return float(np.mean(scores < 0))


def svc_scores(
  members: npt.ArrayLike, nonmembers: npt.ArrayLike, targets: npt.ArrayLike, *, seed: int = 0
) -> np.ndarray:
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
  given = {"members": members, "nonmembers": nonmembers, "targets": targets}
  known_in, known_out, scored = (_features(values, name) for name, values in given.items())
  machine = _fitted(known_in, known_out, seed, "svc_scores")
  return np.zeros(len(scored)) if machine is None else machine.decision_function(scored)


def svc_features(logits: npt.ArrayLike, labels: npt.ArrayLike) -> dict[str, np.ndarray]:
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


def _fitted(members: np.ndarray, nonmembers: np.ndarray, seed: int, caller: str) -> "SVC | None":
  """Returns a machine that tells [k, F] from [k, F], None where all of them are one point."""
  refuse_unequal(len(members), len(nonmembers), caller)
  known = np.concatenate([members, nonmembers])
  if np.all(known == known[0]):
    return None
  try:
    from sklearn.svm import SVC
  except ImportError as error:
    raise ImportError("svc needs scikit-learn: pip install 'jaxmul[evaluate]'.") from error
  machine = SVC(kernel="rbf", C=3, gamma="auto", random_state=seed)
  return machine.fit(known, np.repeat([1, 0], len(members)))


def _confidences(values: npt.ArrayLike, name: str) -> np.ndarray:
  """Returns p_y [n] as a feature [n, 1]."""
  p = np.asarray(values, dtype=np.float64)
  if p.ndim != 1 or not len(p):
    raise ValueError(f"svc needs {name} [n] with n of at least 1, got shape {p.shape}.")
  return probabilities(p, "svc", name)[:, None]


def _features(values: npt.ArrayLike, name: str) -> np.ndarray:
  array = np.asarray(values, dtype=np.float64)
  if array.ndim != 2 or not array.size or not np.isfinite(array).all():
    raise ValueError(
      f"svc_scores needs {name} [n, F], finite and not empty, got shape {array.shape}."
    )
  return array


def refuse_unequal(members: int, nonmembers: int, caller: str) -> None:
  """Raises ValueError where a machine would be fitted on more of one kind."""
  if members != nonmembers:
    raise ValueError(
      f"{caller} got {members} members and {nonmembers} nonmembers; unequal classes bias it. "
      f"Draw {min(members, nonmembers)} of each at random."
    )
