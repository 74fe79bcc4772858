"""Sharpness-aware unlearning: any algorithm, with its gradients taken at a worse place for R."""

import inspect

import jax
import jax.numpy as jnp

from jaxmul.unlearn.base import Unlearner
from jaxmul.unlearn.objective import batch_risk


def sam(unlearner: Unlearner, rho: float = 0.05) -> Unlearner:
  """Takes each gradient of an algorithm at θ + ρ ∇risk_R / ‖∇risk_R‖, and applies it to θ.

  Flat minima of the risk on R are kept while S is forgotten. Weights decay from where they are, θ.
  Needs R, and what the algorithm needs; adds one gradient on R to each step. ρ is tuned in the
  paper; 0.05, that of sharpness-aware training, is our choice.

  Args:
    unlearner: one that `descend` made, as all here that make steps; in a step without a batch of R
      nothing is added.
    rho: ρ, at least 0; 0 is the algorithm itself.

  Returns:
    An `Unlearner`.

  Raises:
    ValueError: rho is negative, or the algorithm has no gradient that could be taken elsewhere.

  References:
    Tang & Khanna, [Sharpness-Aware Machine Unlearning](https://arxiv.org/abs/2506.13715), 2025.

  Example:
    >>> from jaxmul import unlearn
    >>> sam(unlearn.neg_grad_plus()).passes
    'retain'
  """
  if not rho >= 0:
    raise ValueError(f"sam got rho={rho}, must be at least 0.")
  inner = unlearner.update
  if inner is None:
    raise ValueError(
      f"sam got {unlearner.identity!r}, which makes no steps. Give an algorithm that descends."
    )
  if "at" not in inspect.signature(inner).parameters:
    raise ValueError(
      f"sam got {unlearner.identity!r}, whose gradient it cannot take elsewhere. "
      "Make it with descend."
    )

  def update(forget, retain, state, params, key):
    def risk(theta):
      return batch_risk(params.replace(params=theta), retain, key)[0]

    gradient = jax.grad(risk)(params.params)
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))
    scale = rho / jnp.where(norm > 0, norm, 1)
    worse = jax.tree.map(lambda w, g: w + scale * g, params.params, gradient)
    at = params.replace(params=worse)
    return inner(forget, retain, state, params, key, at=at)  # pyright: ignore[reportCallIssue]

  return Unlearner(
    unlearner.init,
    update,
    unlearner.passes,
    ("sam", rho, unlearner.identity),
    start=unlearner.start,
    tick=unlearner.tick,
    finish=unlearner.finish,
    given=unlearner.given,
  )
