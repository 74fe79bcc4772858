"""Every unlearning algorithm with its published rate and epochs, and what it must be given.

All but `dpo`, whose alternatives are for its user to give.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax

from experiments import setting
from jaxmul import data, memorization, models, unlearn
from jaxmul.binding import Network


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Given:
  """What factories need besides settings."""

  fresh: Network
  wide: Network
  reference: data.Dataset
  features: Callable[[Network, jax.Array], jax.Array]
  layers: tuple[str, ...]
  influence: memorization.ChosenInfluence | None = None

  def dmm(self, scale: float) -> unlearn.Unlearner:
    """Datamodel matching, by the influences."""
    if self.influence is None:
      raise ValueError("dmm needs influences: --influence-models must be at least 2.")
    influence = self.influence
    return unlearn.dmm(influence.value, influence.test_ids, influence.ids, 0.003 * scale)


# Each: (given, factor on the published rate) -> algorithm, and the published number of epochs.
ALGORITHMS: dict[str, tuple[Callable[[Given, float], unlearn.Unlearner], int]] = {
  "fine_tune": (lambda g, s: unlearn.fine_tune(0.01 * s), 10),
  "l1_sparse": (lambda g, s: unlearn.l1_sparse(0.01 * s), 10),
  "neg_grad": (lambda g, s: unlearn.neg_grad(1e-4 * s), 5),
  "neg_grad_plus": (lambda g, s: unlearn.neg_grad_plus(0.01 * s), 5),
  "npo": (lambda g, s: unlearn.npo(1e-5 * s), 10),
  "simnpo": (lambda g, s: unlearn.simnpo(1e-5 * s), 10),
  "wga": (lambda g, s: unlearn.wga(1e-5 * s), 5),
  "ce_u": (lambda g, s: unlearn.ce_u(1e-5 * s), 10),
  "undial": (lambda g, s: unlearn.undial(1e-4 * s), 10),
  "rmu": (lambda g, s: unlearn.rmu(g.features, learning_rate=5e-5 * s), 1),
  "task_vector": (lambda g, s: unlearn.task_vector(1e-5 * s), 10),
  "random_label": (lambda g, s: unlearn.random_label(0.1 * s), 10),
  "salun": (lambda g, s: unlearn.salun(0.1 * s), 10),
  "scrub": (lambda g, s: unlearn.scrub(5e-3 * s), 5),
  "influence": (lambda g, s: unlearn.influence(s), 1),
  "fisher": (lambda g, s: unlearn.fisher(1e-9 * s), 1),
  "ssd": (lambda g, s: unlearn.ssd(10.0 / s), 1),
  "bad_teacher": (lambda g, s: unlearn.bad_teacher(g.fresh, 1e-4 * s), 1),
  "eul": (lambda g, s: unlearn.eul(5e-5 * s), 5),
  "boundary_shrink": (lambda g, s: unlearn.boundary_shrink(1e-5 * s), 10),
  "boundary_expand": (lambda g, s: unlearn.boundary_expand(g.wide, 1e-5 * s), 10),
  "cf_k": (lambda g, s: unlearn.cf_k(g.layers, 1, 0.01 * s), 10),
  "eu_k": (lambda g, s: unlearn.eu_k(g.layers, g.fresh, 1, 0.01 * s), 10),
  "msg": (lambda g, s: unlearn.msg(g.fresh, 1e-3 * s), 5),
  "ct": (lambda g, s: unlearn.ct(1e-3 * s), 3),
  "amun": (lambda g, s: unlearn.amun(0.01 * s), 10),
  "dmm": (lambda g, s: g.dmm(s), 5),
  "localized_reset": (lambda g, s: unlearn.localized_reset(g.fresh, 0.01 * s), 10),
  "regun": (lambda g, s: unlearn.regun(g.reference, 0.01 * s), 5),
  "sam": (lambda g, s: unlearn.sam(unlearn.neg_grad_plus(0.01 * s)), 5),
  "low_rank": (lambda g, s: unlearn.low_rank(unlearn.neg_grad_plus(0.01 * s), g.layers[-2:]), 5),
  "top_k": (lambda g, s: unlearn.top_k(0.01 * s), 5),
  "random_k": (lambda g, s: unlearn.random_k(0.01 * s), 5),
  "layer_attack": (lambda g, s: unlearn.layer_attack(g.features, g.layers[-1], 0.01 * s), 10),
}
LAYERS = {
  "mlp": ("Dense_0", "Dense_1", "Dense_2"),
  "cnn": ("Conv_0", "Conv_1", "Conv_2", "Dense_0", "Dense_1"),
}


def runnable(model: str, *without: str) -> tuple[str, ...]:
  """Returns the names of the algorithms that a network can be given, but for some."""
  absent = {*without, *(("ct",) if model == "mlp" else ())}  # ct is of convolutions
  return tuple(name for name in ALGORITHMS if name not in absent)


def check(names: Sequence[str], model: str, *without: str) -> None:
  """Raises ValueError, before anything is trained, where one of the names cannot be run."""
  known = runnable(model, *without)
  if unknown := sorted(set(names) - set(known)):
    raise ValueError(f"--algorithms {unknown[0]}: choose among {', '.join(known)}.")


def given_of(
  config: setting.Flags, reference: data.Dataset, fresh: jax.Array, wide: jax.Array
) -> Given:
  """Returns what factories need, without influences.

  Args:
    config: of the network.
    reference: held-out examples.
    fresh: key of a network of its own.
    wide: key of one with a class more.
  """
  model, layers = setting.model_of(config, reference.num_classes), LAYERS[config.model]
  with_one_more = setting.model_of(config, reference.num_classes + 1)
  return Given(
    fresh=models.init(model, fresh, reference.example),
    wide=models.init(with_one_more, wide, reference.example),
    reference=reference,
    features=models.features(model, layers[-1]),
    layers=layers,
  )
