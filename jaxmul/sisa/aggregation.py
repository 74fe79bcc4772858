"""How the networks of all shards answer together: by their mean probability, or by vote."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxmul import losses
from jaxmul._arrays import Inputs
from jaxmul.binding import ApplyFn, Network


@dataclasses.dataclass(frozen=True)
class MeanProbability:
  """The forward pass of several networks: the log of their mean probabilities [B, *P, C].

  Attributes:
    apply_fn: that of each of them. The variables of all are stacked along a first axis.
  """

  apply_fn: ApplyFn

  def __call__(self, variables, inputs: Inputs) -> jax.Array:
    def one(own):
      return losses.log_probabilities(self.apply_fn(own, inputs))

    # Not vmap: it makes grouped convolutions of convolutions, which are slow on a CPU.
    each = lax.map(one, variables)
    return jax.nn.logsumexp(each, axis=0) - jnp.log(len(each)).astype(each.dtype)


def mean_of(networks: Sequence[Network]) -> Network:
  """Returns one network that answers with the mean probability of several of one structure."""
  params, state = jax.tree.map(
    lambda *leaves: jnp.stack(leaves), *((network.params, network.state) for network in networks)
  )
  return Network(params, state, MeanProbability(networks[0].apply_fn))


def votes_of(networks: Sequence[Network], inputs: Inputs) -> jax.Array:
  """Returns the class int32 [B, *P] that most networks name; ties go to the mean probability."""
  outputs = [network(inputs) for network in networks]
  classes = outputs[0].shape[-1]
  votes = sum(jax.nn.one_hot(each.argmax(-1), classes) for each in outputs)
  shares = sum(jnp.exp(losses.log_probabilities(each)) for each in outputs) / len(outputs)
  return jnp.argmax(votes + shares / 2, axis=-1).astype(jnp.int32)
