"""What is known of each example: how far unlearned models are from oracles on it, by id."""

import jax
import numpy as np
import numpy.typing as npt

from jaxmul.data.split import Split
from jaxmul.metrics.game import attack_all, known
from jaxmul.metrics.oracle.challenge_epsilon import epsilon
from jaxmul.metrics.oracle.disagreement import churn, total_variation
from jaxmul.metrics.oracle.ensembles import Ensemble
from jaxmul.metrics.oracle.kl_of_margins import klom
from jaxmul.metrics.oracle.model_outputs import Outputs


def by_example(
  unlearned: Outputs,
  ensemble: Ensemble,
  split: Split,
  attack_ids: npt.ArrayLike,
  key: jax.Array,
  *,
  references: tuple[Outputs, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
  """Returns what the figures of `beside_oracles` are made of: each forgotten example's own.

  Args:
    unlearned, ensemble, split, attack_ids, key, references: as `beside_oracles`.

  Returns:
    {"ids": int64 [n], the forget set; "klom", "epsilon", "churn", "total variation", and
    "attack <name>" for each attack: float64 [n]}. An attack's is the share of pairs (unlearned
    model, oracle) that it tells apart on this example, ties half: 0.5 is chance, and with few
    models it is coarse. Below 4 models of each kind and 2 other originals there are no attacks.

  Raises:
    ValueError: as `beside_oracles`.
  """
  ids = split.forget
  agreement = agreement_of_examples(unlearned.take(ids), ensemble.oracles.take(ids))
  fit = known(split, attack_ids, key)
  game = attack_all(unlearned, ensemble, ids, fit, references)
  attacked = {f"attack {name}": scores.auc_of_examples for name, scores in game.items()}
  return {"ids": ids, **agreement, **attacked}


def agreement_of_examples(unlearned: Outputs, oracles: Outputs) -> dict[str, np.ndarray]:
  """Returns KLoM, ε, churn and total variation of each example.

  Args:
    unlearned: K models on n examples.
    oracles: L models on the same.

  Returns:
    {"klom", "epsilon", "churn", "total variation"}: float64 [n], in nats the first two, in [0, 1]
    the others, which are left out where outputs have no logits.

  Example:
    >>> ids, labels = np.arange(2), np.zeros(2, int)
    >>> models = Outputs.of_logits(ids, labels, np.array([[[1.0, 0.0], [0.0, 1.0]]]))
    >>> agreement_of_examples(models, models)["churn"].tolist()
    [0.0, 0.0]
  """
  phi = unlearned.log_odds, oracles.log_odds
  agreement = {"klom": klom(*phi), "epsilon": epsilon(*phi)}
  if unlearned.logits is None or oracles.logits is None:
    return agreement
  logits = unlearned.logits, oracles.logits
  return agreement | {"churn": churn(*logits), "total variation": total_variation(*logits)}
