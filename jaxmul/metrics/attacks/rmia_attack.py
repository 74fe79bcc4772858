"""RMIA: an example is a member if its p_y gained more by training than that of most others did.

Λ(x) = Pr_z[(p_θ(x)/p̄(x)) / (p_θ(z)/p̄(z)) ≥ γ], z from a population of non-members, p̄ the mean of
p_y over reference models.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jaxmul import _check
from jaxmul.metrics._given import probabilities

_LEAST = 1e-30


class Reference(NamedTuple):
  """p_y in [0, 1] under reference models: of the examples [M, n] and of the population [M, z].

  NaN where a model is on the other side of an example.
  """

  examples: npt.ArrayLike
  population: npt.ArrayLike


def rmia(
  observed: npt.ArrayLike,
  population: npt.ArrayLike,
  outside: Reference,
  inside: Reference | None = None,
  *,
  a: float = 0.3,
  gamma: float = 1.0,
) -> np.ndarray:
  """Returns Λ [n] or [K, n] in [0, 1], higher = member.

  Args:
    observed: [n] or [K, n], p_y under the models that are attacked.
    population: [z] or [K, z], p_y of the same models on a population that neither they nor a
      reference model trained on and that is not scored: disjoint from R, S and T.
    outside: reference models that did not see the examples.
    inside: reference models that did: p̄ is then ½(p̄_in + p̄_out). Without, the attack is offline,
      p̄ = ½((1 + a) p̄_out + 1 − a).
    a: of the offline form, in [0, 1].
    gamma: γ, above 0.

  Raises:
    ValueError: shapes do not fit, or a number is outside its range.

  References:
    Zarifzadeh et al., [Low-Cost High-Power Membership Inference](https://arxiv.org/abs/2312.03262).

  Example:
    >>> others = Reference([[0.5, 0.5]], [[0.5, 0.5]])
    >>> rmia([0.9, 0.4], [0.5, 0.8], others, others).tolist()
    [1.0, 0.0]
  """
  _check.in_range("rmia", 0, 1, a=a)
  _check.above("rmia", 0, gamma=gamma)
  x = probabilities(observed, "rmia", "observed")
  z = probabilities(population, "rmia", "population")
  if x.shape[:-1] != z.shape[:-1] or x.ndim not in (1, 2):
    raise ValueError(
      f"rmia needs observed [K, n] and population [K, z] of the same models, got {list(x.shape)} "
      f"and {list(z.shape)}."
    )
  gain_x = x / _mean(outside.examples, inside and inside.examples, a, x.shape[-1])
  gain_z = z / _mean(outside.population, inside and inside.population, a, z.shape[-1])
  passed = [
    np.searchsorted(np.sort(others), own / gamma, side="right") / len(others)
    for own, others in zip(np.atleast_2d(gain_x), np.atleast_2d(gain_z), strict=True)
  ]
  return np.stack(passed).reshape(x.shape)


def _mean(outside: npt.ArrayLike, inside: npt.ArrayLike | None, a: float, size: int) -> np.ndarray:
  """Returns p̄ [n] of the examples or of the population."""
  p_out = _reference(outside, size)
  p = ((1 + a) * p_out + 1 - a) / 2 if inside is None else (_reference(inside, size) + p_out) / 2
  return np.maximum(p, _LEAST)


def _reference(values: npt.ArrayLike, size: int) -> np.ndarray:
  """Returns the mean p_y [n] of the reference models that are on this side of each example."""
  p = np.asarray(values, dtype=np.float64)
  known = ~np.isnan(p)
  if p.ndim != 2 or p.shape[1] != size or not known.any(0).all():
    raise ValueError(
      f"rmia needs reference models [M, {size}], one or more for each example, got {list(p.shape)}."
    )
  probabilities(p[known], "rmia", "reference models")
  return np.where(known, p, 0).sum(0) / known.sum(0)
