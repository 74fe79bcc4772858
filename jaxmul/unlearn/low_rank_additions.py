"""Any algorithm on low-rank additions to kernels, which are then made part of them.

K is the kernel of a dense layer, A and B the factors of what is added to it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmul import _check, models
from jaxmul._examples import Batch
from jaxmul.binding import Network, frozen
from jaxmul.unlearn.unlearner import Clock, Session, Unlearner, algorithm, refuse_uncalled


class _State(NamedTuple):
  """The network with fresh A and B, without what it shares with the original; and what moves them.

  Attributes:
    fresh: its state is left out.
    inner: state of the algorithm.
  """

  fresh: Network
  inner: Any


_OF_WEIGHTS = ("greedy", "subnet", "balanced_subnet", "slimming_neurons", "hard_concrete_neurons")


@algorithm
def low_rank(
  unlearner: Unlearner, layers: Sequence[str], rank: int = 8, *, scale: float = 1.0
) -> Unlearner:
  """Runs an algorithm on A and B of kernels K + s A B alone, and returns a plain network.

  Nothing else moves, and only A and B have a gradient and an optimizer state. Needs what the
  algorithm needs. A network with statistics runs in evaluation mode. The result has new kernels in
  the place of A and B; to keep them apart, so that the request can be taken back, run the algorithm
  on `models.with_low_rank(...)` or `models.with_adapters(...)`. Rank and scale are tuned in the
  paper; 8 and 1 are our choice.

  Args:
    unlearner: one that makes steps.
    layers: names of Linen's `Dense` layers, as of `models.with_low_rank`.
    rank: of each A B, at least 1.
    scale: s, α / R in the paper.

  Raises:
    ValueError: rank is below 1, or the algorithm makes no steps or only zeroes weights. `init`
      raises it where the network has no such layer.

  References:
    Hu et al., [LoRA](https://arxiv.org/abs/2106.09685), 2021.

  Example:
    >>> from jaxmul import unlearn
    >>> low_rank(unlearn.neg_grad_plus(), ("dense1", "dense2")).passes
    'retain'
  """
  refuse_uncalled(unlearner, "low_rank")
  _check.count(rank, "rank", "low_rank")
  inner_update = unlearner.update
  if inner_update is None:
    raise ValueError(
      f"low_rank got {unlearner.name}, which makes no steps. Give an algorithm that descends."
    )
  if unlearner.name in _OF_WEIGHTS:
    raise ValueError(
      f"low_rank got {unlearner.name}, which only makes weights 0, and those of B are. Give an "
      "algorithm that moves them."
    )

  def init(network: Network, session: Session) -> _State:
    inputs = session.forget.batch(jnp.int32(0), jnp.int32(1), 1).inputs
    # Of a key of its own: the algorithm inside may split that of the session.
    key = jax.random.fold_in(jax.random.fold_in(session.key, rank), rank)
    adapted = models.with_low_rank(network, inputs, layers, rank, key, scale=scale)
    return _State(adapted.replace(state=None), unlearner.init(adapted, session))

  def start(network: Network, state: _State) -> Network:
    adapted = state.fresh.replace(state=frozen(network))
    return adapted if unlearner.start is None else unlearner.start(adapted, state.inner)

  def tick(state: _State, clock: Clock) -> _State:
    return (
      state if unlearner.tick is None else state._replace(inner=unlearner.tick(state.inner, clock))
    )

  def update(
    forget: Batch, retain: Batch, state: _State, network: Network, key: jax.Array
  ) -> tuple[Network, _State]:
    updates, inner = inner_update(forget, retain, state.inner, network, key)
    return updates, state._replace(inner=inner)

  def finish(network: Network, state: _State) -> Network:
    if unlearner.finish is not None:
      network = unlearner.finish(network, state.inner)
    return models.merge_low_rank(network)

  passes = unlearner.passes
  return Unlearner(init, update, passes=passes, start=start, tick=tick, finish=finish)
