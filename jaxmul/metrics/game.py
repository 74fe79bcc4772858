"""The game "unlearned or oracle": can outputs on forgotten examples tell the two kinds apart?

Members are outputs of unlearned models on the scored examples, non-members those of oracles on the
same examples. Everything else that an attack needs comes from other ids (of R and of the held-out
attack part) and, for LiRA and RMIA, from other models: originals, the first half of both kinds, and
leave-subset-out models where there are any. The second half of both kinds is attacked.
"""

from collections.abc import Sequence

import jax
import numpy as np
import numpy.typing as npt

from jaxmul import _check
from jaxmul.data.split import Split
from jaxmul.metrics import attacks
from jaxmul.metrics._attackers import ATTACKS, OF_LOGITS, Given, Known, Scores
from jaxmul.metrics.attacks.svc_attacks import nonmember_share
from jaxmul.metrics.oracle.ensembles import Ensemble
from jaxmul.metrics.oracle.model_outputs import Outputs

__all__ = ["Known", "Scores", "attack", "attack_all", "known", "nonmember_rate"]


def known(split: Split, attack_ids: npt.ArrayLike, key: jax.Array) -> Known:
  """Returns ids to fit attacks with: half of the held-out attack ids, and as many of R; z the rest.

  Args:
    split: whose retain set gives the members.
    attack_ids: int [h], `data.cut_heldout(split.heldout, key).attack`.
    key: of the draw.

  Raises:
    ValueError: fewer than 4 ids, or one that is in the forget, retain or test set.
  """
  ids = np.sort(np.asarray(attack_ids))
  if len(ids) < 4:
    raise ValueError(f"attacks got {len(ids)} held-out ids, need at least 4. Hold out more.")
  parts = {"forget": split.forget, "retain": split.retain, "test": split.test}
  attacks.refuse_overlap({"attack_ids": ids} | parts, "metrics.game")
  _check.key(key, "attacks")
  keys = jax.random.split(key)
  ids = ids[np.asarray(jax.random.permutation(keys[0], len(ids)))]
  cut = min(len(ids) // 2, len(split.retain))
  order = np.asarray(jax.random.permutation(keys[1], len(split.retain)))
  members = np.sort(split.retain)[order[:cut]]
  return Known(members=members, nonmembers=ids[:cut], population=ids[cut:])


def attack(
  unlearned: Outputs,
  oracles: Outputs,
  originals: Outputs,
  scored: npt.ArrayLike,
  fit: Known,
  *,
  references: tuple[Outputs, np.ndarray] | None = None,
  names: Sequence[str] | None = None,
) -> dict[str, Scores]:
  """Runs attacks.

  Args:
    unlearned: K models.
    oracles: L models; as many of both are used, at least 4.
    originals: at least 2 models trained on S and R, none of them attacked.
    scored: int [n], ids to score, such as the forget set or a group of it.
    fit: ids to fit with.
    references: more reference models for LiRA and RMIA, of `oracle.references`, with outputs on the
      scored ids and on the population.
    names: which attacks, by default all; where outputs have no logits, all that need none.

  Returns:
    {name: Scores} for RUM's SVC on p_y ("svc") and public code's on four other features, loss,
    entropy, modified entropy, and on half of the models LiRA (inside: originals; or offline),
    U-LiRA (inside: unlearned models) and RMIA. LiRA has one variance for all examples below 64
    reference models a side.

  Raises:
    ValueError: a scored id is also one to fit with, an id has no outputs, or too few models; an
      attack is named that needs logits, and outputs have none.
  """
  count = min(len(unlearned), len(oracles))
  if count < 4 or len(originals) < 2:
    raise ValueError(
      f"attacks need 4 models of each kind and 2 originals, got {count} and {len(originals)}. "
      "Train more seeds."
    )
  attacks.refuse_overlap({"scored": scored} | fit._asdict(), "metrics.game")
  given = Given(
    sides=(unlearned.models(slice(count)), oracles.models(slice(count))),
    originals=originals,
    references=references,
    scored=scored,
    fit=fit,
  )
  names = _possible(names, all(side.logits is not None for side in given.sides))
  return {name: ATTACKS[name](given) for name in names}


def _possible(names: Sequence[str] | None, logits: bool) -> Sequence[str]:
  """Returns which attacks to run; raises ValueError where one needs logits that are not there."""
  if names is None:
    return [name for name in ATTACKS if logits or name not in OF_LOGITS]
  if not logits and OF_LOGITS & set(names):
    raise ValueError(
      f"attack {min(OF_LOGITS & set(names))!r} needs the logits of one label per example, which "
      "these outputs do not keep. Use 'loss', 'svc', 'lira' or 'rmia'."
    )
  return names


def nonmember_rate(models: Outputs, scored: npt.ArrayLike, fit: Known) -> np.ndarray:
  """Returns the share [K] of scored examples that RUM's SVC on p_y calls non-members.

  0 for a model whose p_y is one number for all that it would be fitted on.
  """
  attacks.refuse_overlap({"scored": scored} | fit._asdict(), "metrics.game")
  parts = (fit.members, fit.nonmembers, scored)
  p = zip(*(models.take(ids).probability[..., None] for ids in parts), strict=True)
  return np.array([nonmember_share(attacks.svc_scores(*of_model)) for of_model in p])


def attack_all(
  unlearned: Outputs,
  ensemble: Ensemble,
  scored: npt.ArrayLike,
  fit: Known,
  references: tuple[Outputs, np.ndarray] | None,
) -> dict[str, Scores]:
  """Returns `attack` beside an ensemble, none where models are too few.

  Originals with the number of a model that is attacked are no references: it may come from them.
  """
  count = min(len(unlearned), len(ensemble.oracles))
  numbers = np.delete(np.arange(len(ensemble.originals)), slice(count // 2, count))
  if count < 4 or len(numbers) < 2:
    return {}
  others = ensemble.originals.models(numbers)
  return attack(unlearned, ensemble.oracles, others, scored, fit, references=references)
