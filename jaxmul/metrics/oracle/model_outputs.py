"""What models said of examples, kept by id: the common currency of attacks, KLoM and audits."""

import dataclasses
import io
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxmul._files import npz, write_atomic
from jaxmul.binding import ApplyFn
from jaxmul.data.dataset import Dataset, check_ids
from jaxmul.metrics.outputs import log_odds, logits_of
from jaxmul.retraining.chunk import Chunk
from jaxmul.retraining.schedule import Schedule

_NAMES = ("ids", "labels", "logits")


@dataclasses.dataclass(frozen=True, eq=False)
class Outputs:
  """Logits of K models on n examples.

  Attributes:
    ids: int64 [n].
    labels: int [n].
    logits: float32 [K, n, C].

  Raises:
    ValueError: lengths differ, an id is repeated, or a logit is not finite.
  """

  ids: np.ndarray
  labels: np.ndarray
  logits: np.ndarray

  def __post_init__(self):
    n = len(self.ids)
    check_ids(np.asarray(self.ids), n, "Outputs")
    if np.ndim(self.logits) != 3 or np.shape(self.logits)[1] != n or np.shape(self.labels) != (n,):
      raise ValueError(
        f"Outputs needs logits [K, {n}, C] and labels [{n}], got {np.shape(self.logits)} and "
        f"{np.shape(self.labels)}. One model is logits[None]."
      )
    finite = np.isfinite(self.logits).all((1, 2))
    if not finite.all():
      raise ValueError(
        f"Outputs: model {np.argmin(finite)} has logits that are not finite; it has diverged. "
        "Leave it out."
      )

  def __len__(self) -> int:
    return len(self.logits)

  def rows(self, ids: Any) -> np.ndarray:
    """Returns the positions int [k] of the given ids.

    Raises:
      ValueError: an id is not there, or asked for twice.
    """
    wanted = np.asarray(ids).reshape(-1)
    check_ids(wanted, len(wanted), "Outputs")
    order = np.argsort(self.ids, kind="stable")
    found = np.minimum(np.searchsorted(self.ids[order], wanted), len(order) - 1)
    missing = wanted[self.ids[order[found]] != wanted]
    if len(missing):
      raise ValueError(
        f"id {missing[0]} has no outputs ({len(missing)} of {len(wanted)} ids are missing). "
        "Give the same split as when they were computed."
      )
    return order[found]

  def take(self, ids: Any) -> "Outputs":
    """Returns the outputs on the given ids, in their order; errors as `rows`."""
    rows = self.rows(ids)
    return Outputs(self.ids[rows], self.labels[rows], self.logits[:, rows])

  def models(self, which: Any) -> "Outputs":
    """Returns the outputs of some of the models, by position or slice."""
    return Outputs(self.ids, self.labels, self.logits[which])

  @property
  def log_odds(self) -> np.ndarray:
    """φ [K, n], float64."""
    return log_odds(self.logits, self.labels)

  @property
  def accuracy(self) -> np.ndarray:
    """Accuracy [K] of each model, in [0, 1]."""
    return np.mean(np.argmax(self.logits, -1) == self.labels, 1)

  def save(self, path: Path | str) -> None:
    """Writes an `.npz` with ids, labels and logits, whole or not at all.

    Raises:
      ValueError: logits of a dtype that an `.npz` does not give back, such as bfloat16.
    """
    write_atomic(Path(path), npz({name: getattr(self, name) for name in _NAMES}))

  @classmethod
  def load(cls, path: Path | str) -> "Outputs":
    """Reads what `save`, or anything else that writes these three arrays, has written.

    Raises:
      FileNotFoundError: nothing is there.
      ValueError: the file is damaged or holds something else.
    """
    content = io.BytesIO(Path(path).read_bytes())
    try:
      with np.load(content, allow_pickle=False) as arrays:
        ids, labels, logits = (arrays[name] for name in _NAMES)
    except (ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
      raise ValueError(
        f"{path} is damaged or no .npz with ids [n], labels [n] and logits [K, n, C]. "
        "Write it with metrics.oracle.Outputs.save."
      ) from error
    return cls(ids, labels, logits)


def outputs(
  models: Sequence[Any], dataset: Dataset, ids: Any, apply_fn: ApplyFn | None = None
) -> Outputs:
  """Returns what models say of examples, such as K unlearned ones of all ids of a split.

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
  logits = np.stack([logits_of(params, taken, apply_fn) for params in models])
  return Outputs(taken.ids, taken.labels, logits)


def references(schedule: Schedule, chunks: Iterable[Chunk]) -> tuple[Outputs, np.ndarray]:
  """Turns leave-subset-out models, such as those of a ground truth, into reference models.

  For LiRA and RMIA, model k is an inside reference of example i where `seen[k, i]`, else an outside
  one; an example that is in no subset, such as a held-out one, is outside of all.

  Args:
    schedule: with test examples and target "logits".
    chunks: of that schedule, from `retraining.stream`.

  Returns:
    Outputs of M models on the schedule's test examples, and seen, bool [M, t].

  Raises:
    ValueError: the schedule keeps no logits.
  """
  if schedule.test is None or schedule.target != "logits":
    raise ValueError(
      "references needs a schedule that keeps logits. "
      "Make it with retraining.leave_out(..., test=..., target='logits')."
    )
  found = list(chunks)
  test = schedule.test
  member = np.concatenate([chunk.member for chunk in found])
  member = np.unpackbits(member, axis=1, count=len(schedule.dataset)).astype(bool)
  at = np.minimum(np.searchsorted(schedule.dataset.ids, test.ids), len(schedule.dataset) - 1)
  trained = schedule.dataset.ids[at] == test.ids
  logits = np.concatenate([chunk.test for chunk in found])
  return Outputs(test.ids, test.labels, logits), member[:, at] & trained
