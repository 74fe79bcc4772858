"""Sharpness-aware unlearning: any algorithm, with its gradients taken at a worse place for R."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from jaxmul import _check
from jaxmul.unlearn._passes import Alternate
from jaxmul.unlearn.objective import Descent, batch_risk
from jaxmul.unlearn.unlearner import Unlearner, algorithm


@algorithm
def sam(unlearner: Unlearner, rho: float = 0.05) -> Unlearner:
  """Takes each gradient of an algorithm at θ + ρ ∇risk_R / ‖∇risk_R‖, and applies it to θ.

  Flat minima of the risk on R are kept while S is forgotten. Weights decay from where they are, θ.
  Needs R, and what the algorithm needs; adds one gradient on R to each step. ρ is tuned in the
  paper; 0.05, that of sharpness-aware training, is our choice.

  Args:
    unlearner: one that `descend` made, as all here that make steps; a step without a batch of R, as
      those of `scrub` over S, is the algorithm's own.
    rho: ρ, at least 0; 0 is the algorithm itself.

  Raises:
    ValueError: rho is negative, or the algorithm has no gradient that could be taken elsewhere.

  References:
    Tang & Khanna, [Sharpness-Aware Machine Unlearning](https://arxiv.org/abs/2506.13715), 2025.

  Example:
    >>> from jaxmul import unlearn
    >>> sam(unlearn.neg_grad_plus()).passes
    'retain'
  """
  _check.at_least("sam", 0, rho=rho)
  descent = unlearner.update
  if descent is None:
    raise ValueError(
      f"sam got {unlearner.name}, which makes no steps. Give an algorithm that descends."
    )
  if not isinstance(descent, Descent):
    raise ValueError(
      f"sam got {unlearner.name}, whose gradient it cannot take elsewhere. Make it with descend."
    )

  def update(forget, retain, state, network, key):
    def risk(theta):
      return batch_risk(network.replace(params=theta), retain, key)[0]

    gradient_of = jax.grad(risk)
    if isinstance(unlearner.passes, Alternate):
      zero = functools.partial(jax.tree.map, jnp.zeros_like)
      gradient = jax.lax.cond(retain.mask.any(), gradient_of, zero, network.params)
    else:
      gradient = gradient_of(network.params)
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))
    scale = rho / jnp.where(norm > 0, norm, 1)
    worse = jax.tree.map(lambda w, g: w + scale * g, network.params, gradient)
    return descent(forget, retain, state, network, key, worse)

  return dataclasses.replace(unlearner, update=update, identity=None)
