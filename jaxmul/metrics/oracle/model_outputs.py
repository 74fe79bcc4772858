"""What models said of examples, kept by id: the common currency of attacks, KLoM and audits."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from jaxmul import losses
from jaxmul._dataset import Dataset
from jaxmul._files import npz, read_npz, write_atomic
from jaxmul._ids import check_ids, find, rows_of
from jaxmul._paths import local
from jaxmul._scoring import score
from jaxmul.binding import ApplyFn, Network, as_network
from jaxmul.metrics.outputs import log_odds, logits_of
from jaxmul.retraining.chunk import Chunk, members_of
from jaxmul.retraining.leave_out_schedule import Schedule

_WITH_LOGITS, _WITHOUT = ("ids", "labels", "logits"), ("ids", "log_odds", "correct")


@dataclasses.dataclass(frozen=True, eq=False)
class Outputs:
  """What K models say of n examples; made of logits by `Outputs.of_logits`.

  Attributes:
    ids: int64 [n].
    log_odds: φ = log p − log(1 − p), float64 [K, n]; p is p_y, and of a text e^−ℓ.
    correct: bool [K, n], whether the label is predicted; of a text at all scored positions.
    logits: float32 [K, n, C], or None where they are not kept, as of text. Some attacks and figures
      need them, and are left out without.
    labels: int [n], with logits.

  Raises:
    ValueError: lengths differ, an id is repeated, a number is not finite, or log-odds and correct
      are not those of the logits.
  """

  ids: np.ndarray
  log_odds: np.ndarray
  correct: np.ndarray
  _: dataclasses.KW_ONLY
  logits: np.ndarray | None = None
  labels: np.ndarray | None = None

  def __post_init__(self):
    n = len(self.ids)
    check_ids(np.asarray(self.ids), n, "Outputs")
    phi, correct = np.asarray(self.log_odds), np.asarray(self.correct)
    if phi.ndim != 2 or phi.shape[1] != n or correct.shape != phi.shape or correct.dtype != bool:
      raise ValueError(
        f"Outputs needs log_odds [K, {n}] and correct bool [K, {n}], got {phi.shape} and "
        f"{correct.dtype} {correct.shape}. Of logits make them with Outputs.of_logits."
      )
    _refuse_infinite(phi[..., None], "log-odds")
    if self.logits is not None:
      own = Outputs._said(self.ids, np.asarray(self.labels), self.logits)
      if not (np.array_equal(own[0], phi) and np.array_equal(own[1], correct)):
        raise ValueError(
          "Outputs got log-odds or correct that are not those of its logits. Make it anew with "
          "Outputs.of_logits(ids, labels, logits)."
        )

  @classmethod
  def of_logits(cls, ids: np.ndarray, labels: np.ndarray, logits: np.ndarray) -> "Outputs":
    """Returns the outputs of models on examples of one label each, logits included.

    Args:
      ids: int [n].
      labels: int [n].
      logits: float32 [K, n, C].

    Raises:
      ValueError: lengths differ, an id is repeated, a label is no class, or a logit is not finite.

    Example:
      >>> Outputs.of_logits(np.array([7]), np.array([1]), np.array([[[0.0, 1.0]]])).log_odds
      array([[1.]])
    """
    check_ids(np.asarray(ids), len(ids), "Outputs")
    phi, correct = cls._said(ids, labels, logits)
    return cls._kept(ids=ids, log_odds=phi, correct=correct, logits=logits, labels=labels)

  @staticmethod
  def _said(
    ids: np.ndarray, labels: np.ndarray, logits: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    n = len(ids)
    if np.ndim(logits) != 3 or np.shape(logits)[1] != n or np.shape(labels) != (n,):
      raise ValueError(
        f"Outputs needs logits [K, {n}, C] and labels [{n}], got {np.shape(logits)} and "
        f"{np.shape(labels)}. One model is logits[None]."
      )
    _refuse_infinite(logits, "logits")
    # Model by model: φ takes several arrays of float64 of the logits' shape.
    phi = np.stack([log_odds(of_model, labels) for of_model in logits])
    return phi, np.argmax(logits, -1) == labels

  @classmethod
  def _kept(cls, **fields: np.ndarray | None) -> "Outputs":
    """Returns outputs of all fields, which were checked with others."""
    kept = object.__new__(cls)
    vars(kept).update(fields)
    return kept

  def __len__(self) -> int:
    return len(self.log_odds)

  def rows(self, ids: npt.ArrayLike) -> np.ndarray:
    """Returns the positions int [k] of the given ids.

    Raises:
      ValueError: an id is not there, or asked for twice.
    """
    cure = "Give the same split as when they were computed."
    return rows_of(self.ids, ids, "Outputs", "has no outputs", cure)

  def take(self, ids: npt.ArrayLike) -> "Outputs":
    """Returns the outputs on the given ids, in their order; errors as `rows`."""
    rows = self.rows(ids)
    return Outputs._kept(
      ids=self.ids[rows],
      log_odds=self.log_odds[:, rows],
      correct=self.correct[:, rows],
      logits=None if self.logits is None else self.logits[:, rows],
      labels=None if self.labels is None else self.labels[rows],
    )

  def models(self, which: slice | Sequence[int] | np.ndarray) -> "Outputs":
    """Returns the outputs of some of the models, by position or slice."""
    return Outputs._kept(
      ids=self.ids,
      log_odds=self.log_odds[which],
      correct=self.correct[which],
      logits=None if self.logits is None else self.logits[which],
      labels=self.labels,
    )

  @property
  def probability(self) -> np.ndarray:
    """p [K, n] in [0, 1], of the label, float64; of a text e^−ℓ."""
    return np.exp(-np.logaddexp(0, -self.log_odds))

  @property
  def accuracy(self) -> np.ndarray:
    """Accuracy [K] of each model, in [0, 1]."""
    return np.mean(self.correct, 1)

  def save(self, path: Path | str) -> None:
    """Writes an `.npz` with ids, labels and logits, whole or not at all.

    Without logits it holds ids, log_odds and correct.

    Raises:
      ValueError: logits of a dtype that an `.npz` does not give back, such as bfloat16.
    """
    names = _WITHOUT if self.logits is None else _WITH_LOGITS
    write_atomic(local(path), npz({name: getattr(self, name) for name in names}))

  @classmethod
  def load(cls, path: Path | str) -> "Outputs":
    """Reads what `save`, or anything else that writes these three arrays, has written.

    Raises:
      FileNotFoundError: nothing is there.
      ValueError: the file is damaged or holds something else.
    """
    path = local(path)
    try:
      arrays = read_npz(path)
      names = _WITH_LOGITS if "logits" in arrays else _WITHOUT
      fields = [arrays[name] for name in names]
    except (ValueError, KeyError) as error:
      raise ValueError(
        f"{path} is damaged or no .npz with ids [n], labels [n] and logits [K, n, C], or with ids, "
        "log_odds [K, n] and correct [K, n]. Write it with metrics.oracle.Outputs.save."
      ) from error
    return cls.of_logits(*fields) if names == _WITH_LOGITS else cls(*fields)


def outputs_of(schedule: Schedule, chunks: Sequence[Chunk]) -> Outputs:
  """Returns what the models of chunks said of the schedule's test examples."""
  test = schedule.test
  assert test is not None
  said = np.concatenate([chunk.test for chunk in chunks])
  if schedule.target == "logits":
    return Outputs.of_logits(test.ids, test.labels, said)
  return Outputs(test.ids, said[..., 0].astype(np.float64), said[..., 1] == 1)


def _refuse_infinite(values: np.ndarray, name: str) -> None:
  finite = np.isfinite(values).all((1, 2))
  if not finite.all():
    raise ValueError(
      f"Outputs: model {np.argmin(finite)} has {name} that are not finite; it has diverged. "
      "Leave it out."
    )


def outputs(
  models: Sequence[Any], dataset: Dataset, ids: npt.ArrayLike, apply_fn: ApplyFn | None = None
) -> Outputs:
  """Returns what models say of examples, such as K unlearned ones of all ids of a split.

  Logits are kept of examples that have one label each.

  Args:
    models: K params: `Network`s, callable pytrees, or pytrees with `apply_fn`.
    dataset: where the ids are.
    ids: int [n].
    apply_fn: `apply_fn(params, inputs) -> logits [B, C]`, evaluation mode.

  Raises:
    ValueError: no models, an id is not in the data, or a model has diverged.

  Example:
    >>> import numpy as np
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.eye(3), np.array([0, 1, 2]))
    >>> found = outputs([np.eye(3), -np.eye(3)], toy, [2, 0], lambda w, x: x @ w)
    >>> found.logits.shape, found.accuracy.tolist()
    ((2, 2, 3), [1.0, 0.0])
  """
  if not len(models):
    raise ValueError("outputs got no models. Pass a list of at least one.")
  taken = dataset.take(ids)
  if taken.labels.ndim == 1:
    logits = np.stack([logits_of(params, taken, apply_fn) for params in models])
    return Outputs.of_logits(taken.ids, taken.labels, logits)
  networks = (as_network(params, apply_fn, "outputs") for params in models)
  said = np.stack([score(_log_odds_and_correct, network, taken) for network in networks])
  return Outputs(taken.ids, said[..., 0].astype(np.float64), said[..., 1] == 1)


def _log_odds_and_correct(network: Network, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
  return losses.log_odds_and_correct(network(batch[0]), batch[1])


def references(schedule: Schedule, chunks: Iterable[Chunk]) -> tuple[Outputs, np.ndarray]:
  """Turns leave-subset-out models, such as those of a ground truth, into reference models.

  For LiRA and RMIA, model k is an inside reference of example i where `seen[k, i]`, else an outside
  one; an example that is in no subset, such as a held-out one, is outside of all.

  Args:
    schedule: with test examples and target "logits" or "log_odds".
    chunks: of that schedule, from `retraining.stream`.

  Returns:
    Outputs of M models on the schedule's test examples, and seen, bool [M, t].

  Raises:
    ValueError: the schedule keeps neither.
  """
  if schedule.test is None or schedule.target not in ("logits", "log_odds"):
    raise ValueError(
      "references needs a schedule that keeps logits or log-odds. Make it with "
      "retraining.leave_out(..., test=..., target='logits'), of text target='log_odds'."
    )
  chunks = list(chunks)
  member = np.concatenate([members_of(schedule, chunk) for chunk in chunks])
  rows = find(schedule.dataset.ids, schedule.test.ids)
  return outputs_of(schedule, chunks), member[:, rows] & (rows >= 0)
