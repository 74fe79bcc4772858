"""What a judge says of a network that an algorithm destroyed."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.judge import Judge, over_seeds
from jaxmul import bind, data, metrics
from jaxmul.metrics import find


def test_a_network_that_answers_all_alike_has_no_attack_rate_and_all_other_figures():
  examples = data.digits().take(range(60))
  forget, retain, test, attack = np.split(examples.ids, [10, 40, 50])
  constant = bind(lambda params, inputs: jnp.zeros((len(inputs), 10)), {})
  weights = jax.random.normal(jax.random.key(0), (64, 10))
  oracle = bind(lambda params, inputs: inputs.reshape(len(inputs), -1) @ params, weights)
  judge = Judge(
    dataset=examples,
    split=data.Split(forget=forget, retain=retain, heldout=attack, test=test),
    attack_ids=attack,
    groups={"all": forget},
    oracles=metrics.oracle.outputs([oracle, constant], examples, examples.ids),
    oracle=oracle,
    key=jax.random.key(1),
  )
  figures = judge(constant, 1.0)
  unknown = {figure.name for figure in figures if np.isnan(figure.value)}
  assert unknown == {"ToW-MIA", "attack rate"}
  seen = judge(oracle, 1.0)
  assert find(seen, "ToW-MIA").value == 1
  assert "no value" in find(over_seeds([figures, seen]), "ToW-MIA").note
