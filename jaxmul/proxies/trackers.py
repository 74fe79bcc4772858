"""Proxies gathered while a model trains, from the training step's own forward pass.

Each is a `train.Tracker`; hand any of them to `train.fit(..., trackers={...})`. All are oriented:
higher = more memorized.
"""

import jax
import jax.numpy as jnp

from jaxmul import losses
from jaxmul.proxies.outputs import entropies
from jaxmul.train import Step, Tracker


def learning_events() -> Tracker:
  """Four means over epochs of what the network said of an example while it learned.

  Returns:
    A Tracker whose scores [n], float32, are `confidence` 1 − mean p_y, `max_confidence`
    1 − mean max_c p_c, `correctness` 1 − mean 1[argmax = y] (these in [0, 1]) and `entropy`, the
    mean of −Σ p log p (in [0, log C] nats, with 0·log 0 = 0).

  References:
    Jiang et al., [Characterizing Structural Regularities](https://arxiv.org/abs/2002.03206), 2021;
    as proxies for unlearning, [2410.16516](https://arxiv.org/abs/2410.16516).

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import models, proxies, train
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]))
    >>> recipe = train.Recipe(models.mlp((8,), 2), epochs=2)
    >>> events = {"events": proxies.trackers.learning_events()}
    >>> sorted(train.fit(recipe, toy, jax.random.key(0), trackers=events).scores)
    ['confidence', 'correctness', 'entropy', 'max_confidence']
  """
  return Tracker(_start_events, _add_events, _score_events)


def _start_events(n: int) -> dict[str, jax.Array]:
  names = ("confidence", "max_confidence", "correctness", "entropy")
  return {name: jnp.zeros(n) for name in names} | {"epochs": jnp.zeros((), jnp.int32)}


def _add_events(state: dict[str, jax.Array], step: Step) -> dict[str, jax.Array]:
  log_p = losses.log_probabilities(step.logits)
  values = {
    "confidence": -jnp.expm1(-step.losses),
    "max_confidence": -jnp.expm1(jnp.max(log_p, axis=-1)),
    "correctness": 1.0 - losses.is_correct(step.logits, step.labels),
    "entropy": entropies(step.logits),
  }
  added = {name: state[name].at[step.ids].add(value, mode="drop") for name, value in values.items()}
  return added | {"epochs": step.epoch + 1}


def _score_events(state: dict[str, jax.Array]) -> dict[str, jax.Array]:
  epochs = state["epochs"]
  return {name: total / epochs for name, total in state.items() if name != "epochs"}
