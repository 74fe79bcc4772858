"""All algorithms: settings out of range, published defaults, what is fine-tuning in the limit."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import ETA, FRESH, bound, first_step, linear

from jaxmul import bind, models, unlearn
from jaxmul.data import Dataset


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: unlearn.neg_grad_plus(alpha=1.5), r"alpha=1.5, must be in \[0, 1\]"),
    (lambda: unlearn.salun(fraction=-1), r"fraction=-1, must be in \[0, 1\]"),
    (lambda: unlearn.saliency_mask(jnp.ones(3), 2.0), r"fraction=2.0, must be in \[0, 1\]"),
    (lambda: unlearn.boundary_shrink(radius=-1), "radius=-1, must be at least 0"),
    (lambda: unlearn.amun(radius=-1), "radius=-1, must be above 0"),
    (lambda: unlearn.amun(steps=0), "steps=0, must be at least 1"),
    (lambda: unlearn.amun(doublings=-1), "doublings=-1, must be at least 0"),
    (lambda: unlearn.scrub(gamma=-1), "gamma=-1, must be at least 0"),
    (lambda: unlearn.scrub(temperature=0), "temperature=0, must be above 0"),
    (lambda: unlearn.l1_sparse(alpha=-1), "alpha=-1, must be at least 0"),
    (lambda: unlearn.sam(unlearn.ssd()), "makes no steps"),
    (lambda: unlearn.low_rank(unlearn.greedy(), ("a",)), "which only makes weights 0"),
    (lambda: unlearn.dpo({0: "x"}), "dpo got a dict as alternatives, must be a Dataset"),
    (lambda: unlearn.rmu("blocks_7"), "rmu got hidden_fn='blocks_7', must be a function"),
    (lambda: unlearn.rmu(jnp.tanh, "dense2"), "rmu got layers='dense2', must be a tuple"),
    (lambda: unlearn.fine_tune("0.1"), "learning_rate='0.1', must be a number"),
    (lambda: unlearn.greedy("a"), "greedy got fraction='a', must be a number"),
    (lambda: unlearn.cf_k(("a", "b"), k=3), r"k must be in \[1, 2\]"),
    (lambda: unlearn.msg(None, fraction=2), r"fraction=2, must be in \[0, 1\]"),
    (lambda: unlearn.top_k(noise=-1), "noise=-1, must be at least 0"),
    (lambda: unlearn.influence(damping=-1), "damping=-1"),
    (lambda: unlearn.fisher(-1.0), "alpha=-1.0, must be at least 0"),
    (lambda: unlearn.ssd(0.0), "alpha=0.0"),
    (lambda: unlearn.subnet(fraction=2), r"subnet got fraction=2, must be in \[0, 1\]"),
    (lambda: unlearn.balanced_subnet(alpha=-1), r"alpha=-1, must be in \[0, 1\]"),
    (lambda: unlearn.greedy(-1), r"fraction=-1, must be in \[0, 1\]"),
    (lambda: unlearn.durable(1.5), r"durable got fraction=1.5, must be in"),
    (lambda: unlearn.durable_agg(1.5), r"durable_agg got fraction=1.5, must be in"),
    (lambda: unlearn.obs(block=0), "obs got block=0, must be an integer of at least 1"),
    (lambda: unlearn.obs(damping=0.0), "damping=0.0, must be above 0"),
    (lambda: unlearn.zero_out_neurons(2), r"fraction=2, must be in \[0, 1\]"),
    (lambda: unlearn.integrated_gradient_neurons(steps=0), "steps=0, must be an integer of at"),
    (lambda: unlearn.slimming_neurons(penalty=-1), "penalty=-1, must be at least 0"),
    (lambda: unlearn.hard_concrete_neurons(temperature=0), "temperature=0, must be above 0"),
    (lambda: unlearn.layer_attack(models.features, "head", alpha=2), "alpha=2"),
    (lambda: unlearn.layer_attack(models.features, "head", steps=0), "steps=0, must be"),
    (lambda: unlearn.dmm(np.zeros((2, 1, 3)), [4, 4], [4]), "dmm: targets got id 4 more than once"),
    (lambda: unlearn.dmm(np.zeros((1, 2, 3)), [4], [4, 4]), "dmm: sources got id 4 more than once"),
    (lambda: unlearn.dmm(np.full((1, 1, 3), np.nan), [4], [4]), "3 influences that are not finite"),
    (lambda: unlearn.regun(Dataset(np.ones((0, 2)), np.ones(0, int))), "no held-out examples"),
    (lambda: unlearn.fine_tune(-0.1), r"learning_rate=-0.1, must be in \[0, inf\)"),
    (lambda: unlearn.fine_tune(np.inf), "learning_rate=inf, must be in"),
    (lambda: unlearn.fine_tune(momentum=1), r"momentum=1, must be in \[0, 1\)"),
    (lambda: unlearn.salun(weight_decay=-1), "weight_decay=-1, must be in"),
    (lambda: unlearn.bad_teacher(None, -0.1), "learning_rate=-0.1, must be in"),
    (lambda: unlearn.msg(None, rest=-1), "rest=-1, must be at least 0"),
    (lambda: unlearn.scrub(msteps=2.5), "msteps=2.5, must be whole epochs"),
    (lambda: unlearn.npo(weight_decay=-1), "weight_decay=-1, must be in"),
    (lambda: unlearn.simnpo(beta=0), "beta=0, must be above 0"),
    (lambda: unlearn.dpo(Dataset(np.ones((1, 2)), [0]), beta=0), "beta=0, must be above 0"),
    (lambda: unlearn.wga(beta=-1), "beta=-1, must be at least 0"),
    (lambda: unlearn.ce_u(gamma=-1), "ce_u got gamma=-1, must be at least 0"),
    (lambda: unlearn.undial(beta=-1), "beta=-1, must be at least 0"),
    (lambda: unlearn.rmu(models.features, steering=0), "steering=0, must be above 0"),
    (lambda: unlearn.task_vector(-1.0), "learning_rate=-1.0, must be in"),
    (lambda: unlearn.eul(gamma=-1), "gamma=-1, must be at least 0"),
    (lambda: unlearn.eul(warmup=1), r"warmup=1, must be in \[0, 1\)"),
  ],
)
def test_hyperparameters_out_of_range_get_one_line(make, message):
  with pytest.raises(ValueError, match=message) as caught:
    make()
  assert "\n" not in str(caught.value)


# Of objectives for language models the defaults are open-unlearning's.
LANGUAGE = {"learning_rate": 1e-5, "gamma": 1.0, "alpha": 1.0, "weight_decay": 0.0, "keep": "risk"}
# What the papers print; what they tune is our choice and may change.
PUBLISHED = {
  unlearn.fine_tune: {"learning_rate": 0.01},
  unlearn.l1_sparse: {"learning_rate": 0.01},
  unlearn.neg_grad: {"learning_rate": 1e-4},
  unlearn.neg_grad_plus: {"learning_rate": 0.01, "alpha": 0.97},
  unlearn.npo: LANGUAGE | {"beta": 0.1},
  unlearn.simnpo: LANGUAGE | {"beta": 4.5, "delta": 0.0, "gamma": 0.125},
  unlearn.dpo: LANGUAGE | {"beta": 0.1},
  unlearn.wga: LANGUAGE | {"beta": 1.0},
  unlearn.ce_u: LANGUAGE | {"alpha": 0.0},
  unlearn.undial: LANGUAGE | {"learning_rate": 1e-4, "beta": 10.0, "alpha": 0.0},
  unlearn.rmu: {"learning_rate": 5e-5, "steering": 6.5, "alpha": 1200.0, "weight_decay": 0.0},
  unlearn.task_vector: {"learning_rate": 1e-5, "alpha": 1.0, "weight_decay": 0.0},
  unlearn.random_label: {"learning_rate": 0.1, "never_true": False},
  unlearn.salun: {"learning_rate": 0.1, "fraction": 0.5, "never_true": False},
  unlearn.scrub: {"learning_rate": 5e-3, "msteps": 4, "temperature": 4.0}
  | {"gamma": 0.99, "beta": 0.001},  # those of its published code
  unlearn.influence: {"alpha": 1.0},
  unlearn.fisher: {"rum_compat": False},
  unlearn.ssd: {"alpha": 10.0, "dampening": 1.0},
  unlearn.subnet: {"learning_rate": 0.1},
  unlearn.balanced_subnet: {"learning_rate": 0.1, "alpha": 0.05},
  unlearn.obs: {"block": 50, "damping": 1e-7},
  unlearn.bad_teacher: {"learning_rate": 1e-4},
  unlearn.eul: {"learning_rate": 5e-5, "alpha": 0.8, "task": 1.0, "gamma": 0.2, "warmup": 0.06},
  unlearn.boundary_shrink: {"learning_rate": 1e-5},
  unlearn.boundary_expand: {"learning_rate": 1e-5},
  unlearn.amun: {"steps": 50},
  unlearn.msg: {"learning_rate": 1e-3, "fraction": 0.3, "rest": 0.1},
  unlearn.layer_attack: {"alpha": 0.5, "temperature": 4.0},
}


@pytest.mark.parametrize("make", PUBLISHED, ids=lambda make: make.__name__)
def test_defaults_are_those_that_are_published(make):
  defaults = {name: each.default for name, each in inspect.signature(make).parameters.items()}
  training = {"momentum": 0.9, "weight_decay": 5e-4}
  published = {name: training[name] for name in training if name in defaults} | PUBLISHED[make]
  assert {name: defaults[name] for name in published} == published


@pytest.mark.parametrize(
  "algorithm",
  [
    unlearn.top_k(ETA, noise=0.0),
    unlearn.random_k(ETA, noise=0.0),
    unlearn.top_k(ETA, fraction=0.0),
    unlearn.localized_reset(bind(linear, FRESH), ETA, fraction=0.0),
    unlearn.sam(unlearn.fine_tune(ETA), rho=0.0),
    unlearn.msg(bind(linear, FRESH), ETA, fraction=0.0, rest=1.0),
  ],
)
def test_with_nothing_damaged_it_is_fine_tune(algorithm):
  _, after = first_step(algorithm, bound(), epochs=1)
  _, tuned = first_step(unlearn.fine_tune(ETA), bound())
  np.testing.assert_allclose(after.params, tuned.params, rtol=1e-12)
