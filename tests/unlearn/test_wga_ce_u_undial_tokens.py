"""What is said of each answer on S, by hand; and what public code counts that is not scored."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand_text import (
  CLASSES,
  ETA,
  FORGET,
  NOW,
  ORIGINAL,
  RETAIN,
  by_labels,
  check_step,
  gradient,
  kl,
  log_p,
  log_softmax,
  network,
  risk,
  toward,
  up,
  value_of,
)

from jaxmul import unlearn

NOTHING = np.zeros(5), np.zeros((5, 4, CLASSES))


def wga(beta):
  _, own, scored = log_p(NOW, FORGET)
  share = scored / scored.sum(1, keepdims=True)
  weight = share * np.exp(beta * own)
  return (weight * own).sum(1), weight[..., None] * up(NOW, FORGET)


def ce_u():
  others = np.where(by_labels(FORGET) > 0, 0, np.exp(log_p(NOW, FORGET)[0]))
  return toward(NOW, FORGET, others / others.sum(-1, keepdims=True))


def undial(beta):
  lowered = ORIGINAL[FORGET[0]] - beta * by_labels(FORGET)
  return toward(NOW, FORGET, np.exp(log_softmax(lowered)))


@pytest.mark.parametrize(("keep", "of_retain"), [("risk", risk), ("kl", kl)])
def test_a_step_is_the_one_by_hand(keep, of_retain):
  common = {"gamma": 2.0, "alpha": 0.7, "keep": keep}
  kept, weights = of_retain(NOW, RETAIN), {"gamma": 2.0, "alpha": 0.7}
  check_step(unlearn.wga(ETA, beta=1.5, **common), wga(1.5), kept, **weights)
  check_step(unlearn.ce_u(ETA, weight_decay=0.1, **common), ce_u(), kept, **weights, decay=0.1)
  check_step(unlearn.undial(ETA, beta=3.0, **common), undial(3.0), kept, **weights)


def slope_of(algorithm, now=NOW):
  with jax.enable_x64(True):
    return value_of(algorithm, network(ORIGINAL), network(now), FORGET, RETAIN)[1]


def test_without_a_weight_it_is_ascent_on_the_risk():
  got = slope_of(unlearn.wga(beta=0, alpha=0))
  np.testing.assert_allclose(got, -gradient(FORGET, risk(NOW, FORGET)[1]), rtol=1e-12)


def test_without_beta_undial_stays_where_it_was():
  assert np.abs(slope_of(unlearn.undial(beta=0), ORIGINAL)).max() < 1e-15
  assert np.abs(slope_of(unlearn.undial(), ORIGINAL)).max() > 1e-2


def test_what_is_not_scored_may_be_anything():
  """Logits of NaN too, in their value and in the gradient."""
  x, y = FORGET
  asked = (np.where(y < 0, CLASSES, x), y), RETAIN
  tables = [np.vstack([table, np.full(CLASSES, np.nan)]) for table in (ORIGINAL, NOW)]
  for make in (unlearn.wga, unlearn.ce_u, unlearn.undial, unlearn.simnpo, unlearn.npo):
    with jax.enable_x64(True):
      _, slope = value_of(make(alpha=0), *map(network, tables), *asked)
    np.testing.assert_allclose(slope[:-1], slope_of(make(alpha=0)), rtol=1e-12, atol=1e-15)
    assert (np.asarray(slope[-1]) == 0).all(), make


def with_pads(network, turn, memory):
  """Open-unlearning's: the mean is over all positions, and −1 lowers the logit of a class."""
  del memory
  z, labels = network(turn.forget.inputs), turn.forget.labels
  target = jax.nn.softmax(ORIGINAL[turn.forget.inputs] - 3 * jax.nn.one_hot(labels % 5, 5))
  return -jnp.mean(jnp.sum(target * jax.nn.log_softmax(z), -1)), network


def test_pads_in_the_loss_are_seen():
  good = unlearn.undial(ETA, beta=3.0)
  wrong = dataclasses.replace(good, update=dataclasses.replace(good.update, objective=with_pads))
  check_step(good, undial(3.0), NOTHING, gamma=1, alpha=0)
  with pytest.raises(AssertionError):
    check_step(wrong, undial(3.0), NOTHING, gamma=1, alpha=0)
