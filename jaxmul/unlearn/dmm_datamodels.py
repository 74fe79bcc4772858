"""Datamodel matching: the logits that influences predict without S are what is descended to."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import _check, losses
from jaxmul._ids import check_ids, find
from jaxmul.binding import Network
from jaxmul.unlearn._class_only import refuse_positions
from jaxmul.unlearn._teachers import own_logits
from jaxmul.unlearn._whole import is_member
from jaxmul.unlearn.objective import descend, merged, sgd, train_logits
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


@algorithm
def dmm(
  influence: jax.Array | np.ndarray,
  targets: np.ndarray,
  sources: np.ndarray,
  learning_rate: float = 0.003,
  *,
  momentum: float = 0.9,
) -> Unlearner:
  """Datamodel matching: descends ‖s(x) − ẑ(x)‖² on S and R, ẑ the logits predicted without S.

  ẑ(x) = z(x) − Σ_{j ∈ S} β_j(x), z the original network's logits and β_j(x) [C] the effect of
  having example j in the training set on the logits of x, estimated from leave-subset-out runs.
  (The effect on 0/1 correctness has the wrong unit.) Needs R, S and β; one epoch costs one training
  epoch on both. The paper tunes rate and epochs; 0.003 and 5 epochs are our choice.

  Args:
    influence: β [t, rows, C], finite: of each source on the logits of each target.
    targets: int [t], ids of the examples x, each once; S ∪ R, or more.
    sources: int [rows], ids of the examples j, each once; S, or more.
    learning_rate: η, constant.
    momentum: μ.

  Raises:
    ValueError: the shapes do not fit, an id is there twice, β is not finite, or a number is outside
      its range. `init` raises it where an id of S ∪ R is missing, the network has another number of
      classes, or examples do not have one class each.

  References:
    Georgiev et al., [Attribute-to-Delete](https://arxiv.org/abs/2410.23232), 2024.

  Example:
    >>> import numpy as np
    >>> dmm(np.zeros((4, 1, 3)), targets=np.arange(4), sources=np.array([2])).passes
    'union'
  """
  targets, sources = np.asarray(targets), np.asarray(sources)
  if np.ndim(influence) != 3 or np.shape(influence)[:2] != (len(targets), len(sources)):
    raise ValueError(
      f"dmm got influence {list(np.shape(influence))} for {len(targets)} targets and "
      f"{len(sources)} sources, must be [{len(targets)}, {len(sources)}, C]."
    )
  for name, ids in (("targets", targets), ("sources", sources)):
    check_ids(ids, len(ids), f"dmm: {name}")
  beta = np.asarray(influence)
  if not np.isfinite(beta).all():
    raise ValueError(
      f"dmm got {np.sum(~np.isfinite(beta))} influences that are not finite. NaN is of an example "
      "that was never left out, or always: train more models."
    )

  def remember(network: Network, session: Session) -> jax.Array:
    refuse_positions(network, session, "dmm")
    if session.ids is None:
      raise ValueError("dmm joins its influence by id, but the session has no ids. Use run.")
    in_forget, in_retain = is_member(session.forget), is_member(session.retain)
    everyone = len(session.ids)  # a row out of bounds, which nothing is scattered to
    places = (find(session.ids, ids) for ids in (targets, sources))
    targets_at, sources_at = (np.where(rows < 0, everyone, rows) for rows in places)
    _refuse_missing(in_forget | in_retain, targets_at, session.ids, "targets")
    _refuse_missing(in_forget, sources_at, session.ids, "sources")
    gone = in_forget.at[sources_at].get(mode="fill", fill_value=False)
    effects = jnp.asarray(beta)
    removed = jnp.einsum("tjc,j->tc", effects, gone.astype(effects.dtype))
    logits = own_logits(network, session)
    if logits.shape[-1] != beta.shape[-1]:
      raise ValueError(
        f"dmm got influences on {beta.shape[-1]} logits for a network of {logits.shape[-1]} "
        'classes. Estimate them with target="logits".'
      )
    return logits.at[targets_at].add(-removed.astype(logits.dtype), mode="drop")

  def objective(network, turn, predicted):
    batch = merged(turn.forget, turn.retain)
    student, new = train_logits(network, batch, turn.key)
    distances = jnp.sum((student - predicted[batch.rows]) ** 2, axis=-1)
    return losses.masked_mean(distances, batch.mask), new

  return descend(objective, sgd(learning_rate, momentum), passes="union", remember=remember)


def _refuse_missing(wanted: jax.Array, rows: np.ndarray, ids: np.ndarray, name: str) -> None:
  if _check.is_concrete(wanted):
    missing = np.setdiff1d(np.flatnonzero(wanted), rows)
    if len(missing):
      raise ValueError(
        f"dmm: id {ids[missing].min()} is not among the {name} ({len(missing)} are missing). "
        "Estimate the influence for all of them."
      )
