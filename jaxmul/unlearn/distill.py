"""Distillation: teach the network chosen outputs on S, and its own on R.

t outputs to be imitated (of the original network, of a random one, …), s those of the network that
is being unlearned. KL(t‖s) at temperature T is that of softmax(t/T) and softmax(s/T); the factor T²
keeps the size of its gradient. The outputs to imitate are computed once, as a table [N, C]: no step
can move a teacher, and none is run again.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmul import _check, losses
from jaxmul.binding import Network
from jaxmul.data.dataset import Dataset
from jaxmul.unlearn._passes import Alternate
from jaxmul.unlearn._whole import all_logits, is_member
from jaxmul.unlearn.base import Session, Unlearner
from jaxmul.unlearn.objective import batch_risk, descend, merged, sgd, train_logits


def divergence(teacher: jax.Array, student: jax.Array, temperature: float = 1.0) -> jax.Array:
  """Returns T² KL(softmax(t/T) ‖ softmax(s/T)) [B] in nats, at least 0, from logits [B, C].

  Example:
    >>> import jax.numpy as jnp
    >>> divergence(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 2.0]]), 4.0).tolist()
    [0.0]
  """
  log_t, log_s = (losses.log_probabilities(z / temperature) for z in (teacher, student))
  return temperature**2 * jnp.sum(jnp.exp(log_t) * (log_t - log_s), axis=-1)


def scrub(
  learning_rate: float = 5e-3,
  *,
  gamma: float = 0.99,
  beta: float = 0.001,
  msteps: int = 4,
  temperature: float = 4.0,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
) -> Unlearner:
  """Away from the original network on S, and back to it on R, in turns.

  In each of the first `msteps` epochs a pass over S ascends T² KL(t‖s); then, in every epoch, a
  pass over R descends γ risk_R + β T² KL(t‖s), t the original network. Published for 5 epochs.
  Needs R and S; an epoch costs one training epoch on both, and the teacher one forward pass over
  both in all. γ and β are tuned in the paper; the defaults are those of its published code. One
  optimizer serves both kinds of pass, as there, so that momentum goes on between them; the ascent
  is not decayed. BatchNorm statistics follow R only.

  Args:
    learning_rate: η, constant.
    gamma: γ, at least 0.
    beta: β, at least 0.
    msteps: epochs that pass over S.
    temperature: T, above 0.
    momentum: μ.
    weight_decay: λ, in the passes over R.

  Returns:
    An `Unlearner`.

  Raises:
    ValueError: a number is outside its range.

  References:
    Kurmanji et al., [Towards Unbounded Machine Unlearning](https://arxiv.org/abs/2302.09880), 2023.

  Example:
    >>> scrub(msteps=2).passes
    Alternate(forget_epochs=2)
  """
  for name, value in (("gamma", gamma), ("beta", beta), ("msteps", msteps)):
    if not value >= 0:
      raise ValueError(f"scrub got {name}={value}, must be at least 0.")
  if msteps != int(msteps):
    raise ValueError(f"scrub got msteps={msteps}, must be whole epochs.")
  if not temperature > 0:
    raise ValueError(f"scrub got temperature={temperature}, must be above 0.")

  def apart(network, turn, teacher):
    student, _ = train_logits(network, turn.forget, turn.key)
    each = divergence(teacher[turn.forget.rows], student, temperature)
    # The decay that the optimizer adds is taken out again: this is pure ascent.
    decay = 0.5 * weight_decay * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(network.params))
    return -losses.masked_mean(each, turn.forget.mask) - decay, network

  def together(network, turn, teacher):
    student, new = train_logits(network, turn.retain, turn.key)
    risk = losses.cross_entropy(student, turn.retain.labels)
    each = gamma * risk + beta * divergence(teacher[turn.retain.rows], student, temperature)
    return losses.masked_mean(each, turn.retain.mask), new

  def objective(network, turn, teacher):
    return jax.lax.cond(turn.forget.mask.any(), apart, together, network, turn, teacher)

  return descend(
    objective,
    sgd(learning_rate, momentum, weight_decay),
    identity=("scrub", learning_rate, gamma, beta, msteps, temperature, momentum, weight_decay),
    passes=Alternate(msteps),
    remember=_own_logits,
  )


def bad_teacher(
  initial: Network, learning_rate: float = 1e-4, *, temperature: float = 1.0
) -> Unlearner:
  """Imitates a random network on S and the original one on R: KL(t‖s) on both, by Adam.

  Published for 1 epoch. Needs R and S; one epoch costs one training epoch on both, and the teachers
  one forward pass in all. Adam's ε is 1e-6: the gradient on R begins as mere rounding errors,
  which at the usual 1e-8 become steps of full length, and others on other devices.

  Args:
    initial: a network with fresh params and as many classes, the incompetent teacher.
    learning_rate: of Adam.
    temperature: T, above 0.

  Returns:
    An `Unlearner`. Its `init` raises ValueError where `initial` has another number of classes.

  Raises:
    ValueError: a number is outside its range.

  References:
    Chundawat et al., [Can Bad Teaching Induce Forgetting?](https://arxiv.org/abs/2205.08096), 2022.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxmul import models
    >>> fresh = models.init(models.mlp((4,), 2), jax.random.key(0), jnp.ones((1, 3)))
    >>> bad_teacher(fresh).passes
    'union'
  """
  _check.rate(learning_rate, "learning_rate", np.inf)
  if not temperature > 0:
    raise ValueError(f"bad_teacher got temperature={temperature}, must be above 0.")

  def remember(network: Network, session: Session) -> jax.Array:
    good = all_logits(network, session.retain, session.batch_size)
    bad = all_logits(initial, session.forget, session.batch_size)
    if bad.shape != good.shape:
      raise ValueError(
        f"bad_teacher got an initial network of {bad.shape[-1]} classes, must have the "
        f"{good.shape[-1]} of the original."
      )
    return good + bad

  def objective(network, turn, teacher):
    batch = merged(turn.forget, turn.retain)
    student, new = train_logits(network, batch, turn.key)
    each = divergence(teacher[batch.rows], student, temperature)
    return losses.masked_mean(each, batch.mask), new

  return descend(
    objective,
    optax.adam(learning_rate, eps=1e-6),
    identity=("bad_teacher", learning_rate, temperature),
    given=initial,
    passes="union",
    remember=remember,
  )


def regun(
  heldout: Dataset,
  learning_rate: float = 0.01,
  *,
  weight: float = 1.0,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
) -> Unlearner:
  """Makes S look held out: w KL(q‖s) on S plus risk_R.

  q is the mean of the original network's softmax outputs on held-out examples with the mix of
  classes of the batch of S: the mean over that batch of its classes' held-out means (the paper
  draws as many held-out examples of each class; this is their expectation). Needs R, S and held-out
  data; one epoch is a pass over R with S cycled beside it, and costs two training epochs on R. The
  paper tunes rate, epochs and weight; 0.01, 5 epochs and 1 are our choice. BatchNorm statistics
  follow R only.

  Held-out examples of a class are no target where R holds nothing of it, as when a whole class is
  forgotten: a network that never saw the class never predicts it. There (the paper has no such
  case) the probability of every class without a retained example is taken out of each held-out
  output, the rest is scaled to sum to 1, and q is the mean of that: 0 for these classes, and for
  the others what the original says an example looks like otherwise. One retained example is enough
  to keep a class: how much less a network learns from a few than the original did from all cannot
  be read off the original, so that there the target is too sure of the class. With an oracle or an
  estimate, compare.

  Args:
    heldout: examples never trained on, such as the `proxy` part of `data.cut_heldout`; at least one
      of each class in S.
    learning_rate: η, constant.
    weight: w, at least 0; 0 is `fine_tune`.
    momentum: μ.
    weight_decay: λ.

  Returns:
    An `Unlearner`. Its `init` raises ValueError where a class of S has no held-out example.

  Raises:
    ValueError: a number is outside its range.

  References:
    Mirlach et al., [Reference-Guided Machine Unlearning](https://arxiv.org/abs/2603.11210), 2026.

  Example:
    >>> import numpy as np
    >>> from jaxmul.data import Dataset
    >>> regun(Dataset(np.eye(2), np.array([0, 1]))).passes
    'retain'
  """
  if not weight >= 0:
    raise ValueError(f"regun got weight={weight}, must be at least 0.")
  if not len(heldout):
    raise ValueError("regun got no held-out examples, must be at least one of each class in S.")

  def remember(network: Network, session: Session) -> jax.Array:
    inputs, labels = heldout.batch()
    logits = network(inputs)
    classes = jnp.arange(logits.shape[-1])
    forgotten, retained = (
      jnp.zeros(len(classes), bool).at[examples.labels].max(is_member(examples))
      for examples in (session.forget, session.retain)
    )
    members = labels == classes[:, None]
    _refuse_unknown_class(forgotten & ~members.any(1))
    outputs = jnp.exp(losses.log_probabilities(jnp.where(retained, logits, -jnp.inf)))
    return members @ outputs / jnp.maximum(members.sum(1), 1)[:, None]

  def objective(network, turn, references):
    risk, new = batch_risk(network, turn.retain, turn.key)
    student, _ = train_logits(network, turn.forget, jax.random.fold_in(turn.key, 1))
    share = turn.forget.mask / jnp.maximum(turn.forget.mask.sum(), 1)
    reference = share.astype(references.dtype) @ references[turn.forget.labels]
    each = divergence(jnp.log(jnp.maximum(reference, jnp.finfo(reference.dtype).tiny)), student)
    return risk + weight * losses.masked_mean(each, turn.forget.mask), new

  return descend(
    objective,
    sgd(learning_rate, momentum, weight_decay),
    identity=("regun", learning_rate, weight, momentum, weight_decay),
    given=heldout.batch(),
    remember=remember,
  )


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

  Returns:
    An `Unlearner`. Its `init` raises ValueError where an id of S ∪ R is missing, or the network has
    another number of classes.

  Raises:
    ValueError: the shapes do not fit, an id is there twice, β is not finite, or a number is outside
      its range.

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
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
      raise ValueError(
        f"dmm got id {values[counts > 1][0]} more than once in {name}. Give each id once."
      )
  beta = np.asarray(influence)
  if not np.isfinite(beta).all():
    raise ValueError(
      f"dmm got {np.sum(~np.isfinite(beta))} influences that are not finite. NaN is of an example "
      "that was never left out, or always: train more models."
    )

  def remember(network: Network, session: Session) -> jax.Array:
    if session.ids is None:
      raise ValueError("dmm joins its influence by id, but the session has no ids. Use run.")
    in_forget, in_retain = is_member(session.forget), is_member(session.retain)
    targets_at, sources_at = (_rows_of(ids, session.ids) for ids in (targets, sources))
    _refuse_missing(in_forget | in_retain, targets_at, session.ids, "targets")
    _refuse_missing(in_forget, sources_at, session.ids, "sources")
    gone = in_forget.at[sources_at].get(mode="fill", fill_value=False)
    effects = jnp.asarray(beta)
    removed = jnp.einsum("tjc,j->tc", effects, gone.astype(effects.dtype))
    logits = _own_logits(network, session)
    if logits.shape[-1] != beta.shape[-1]:
      raise ValueError(
        f"dmm got influences on {beta.shape[-1]} logits for a network of {logits.shape[-1]} "
        'classes. Estimate them with target="logits".'
      )
    return logits.at[targets_at].add(-removed.astype(logits.dtype), mode="drop")

  def objective(network, turn, predicted):
    batch = merged(turn.forget, turn.retain)
    student, new = train_logits(network, batch, turn.key)
    each = jnp.sum((student - predicted[batch.rows]) ** 2, axis=-1)
    return losses.masked_mean(each, batch.mask), new

  return descend(
    objective,
    sgd(learning_rate, momentum),
    identity=("dmm", learning_rate, momentum),
    given=(beta, targets, sources),
    passes="union",
    remember=remember,
  )


def _own_logits(network: Network, session: Session) -> jax.Array:
  """The original network's logits [N, C] of S and R."""
  logits = all_logits(network, session.retain, session.batch_size)
  return logits + all_logits(network, session.forget, session.batch_size)


def _rows_of(ids: np.ndarray, all_ids: np.ndarray) -> np.ndarray:
  """Returns where each id is among all ids; their number, out of bounds, where it is not."""
  order = np.argsort(all_ids)
  at = order[np.minimum(np.searchsorted(all_ids, ids, sorter=order), len(all_ids) - 1)]
  return np.where(all_ids[at] == ids, at, len(all_ids))


def _refuse_missing(wanted: jax.Array, rows: np.ndarray, ids: np.ndarray, name: str) -> None:
  if _check.is_concrete(wanted):
    missing = np.setdiff1d(np.flatnonzero(wanted), rows)
    if len(missing):
      raise ValueError(
        f"dmm: id {ids[missing].min()} is not among the {name} ({len(missing)} are missing). "
        "Estimate the influence for all of them."
      )


def _refuse_unknown_class(unknown: jax.Array) -> None:
  if _check.is_concrete(unknown) and unknown.any():
    raise ValueError(
      f"regun: class {int(jnp.argmax(unknown))} is in the forget set, but not held out. "
      "Hold out examples of each class."
    )
