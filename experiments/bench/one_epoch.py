"""One epoch of unlearning as `unlearn.run` runs it: order, batches, updates, one program."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import unlearn
from jaxmul._examples import examples_of
from jaxmul.binding import Network
from jaxmul.data import Dataset
from jaxmul.unlearn import Unlearner
from jaxmul.unlearn._passes import Sets, walk_over
from jaxmul.unlearn.running import _epoch
from jaxmul.unlearn.unlearner import Steps


def ours(
  algorithm: Unlearner, network: Network, dataset: Dataset, *, forget: int, batch_size: int
) -> Callable[[], None]:
  """Returns an epoch from the same network each time; the first `forget` examples are S."""
  count, everything = len(dataset), examples_of(dataset)
  rows = np.split(np.arange(count), [forget])
  sets = Sets(*(everything.subset(part, count) for part in rows))
  session = unlearn.Session(*sets, epochs=1, batch_size=batch_size, key=jax.random.key(1))
  state = algorithm.init(network, session)
  sizes, even = (forget, count - forget), network.train_fn is not None
  walk = walk_over(algorithm.passes, batch_size, sizes, even=even)

  def epoch():
    before, key = (network, state), jax.random.key(2)
    jax.block_until_ready(_epoch(Steps.of(algorithm), walk, sets, before, key, jnp.int32(0)))

  return epoch
