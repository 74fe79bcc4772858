"""A score of texts under unlearned networks, under retrained ones, and the gap between the two."""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from jaxmul.metrics._given import numbers, of_both
from jaxmul.metrics.figures import EXAMPLES, RATE, Figure, over_seeds, with_interval
from jaxmul.metrics.intervals import over_examples

_GAP = (-1.0, 1.0)
_FORGET = "forget"


def beside_retrained(
  unlearned: ArrayLike, retrained: ArrayLike, *, name: str, part: str = _FORGET
) -> list[Figure]:
  """Returns the figures of a score that is higher the more a network knows of a text.

  Args:
    unlearned: [n] or [K, n] in [0, 1], of n texts under K unlearned networks, such as `rouge_l`,
      `exact_memorization` or `extraction_strength`.
    retrained: [n] or [L, n], of the same texts under L networks retrained without the forget set.
    name: of the score, such as "VerbMem".
    part: what the texts are of: "forget", "retain", ...

  Returns:
    `name` of "unlearned" and of "oracle", and `name` + " gap", unlearned − oracle, where the
    oracles are one mean and taken as they are. Of several networks the interval is over them, of
    one it is over texts. A gap below 0 on the forget set is more forgotten than retraining would:
    its note says over-forgetting.

  Raises:
    ValueError: the texts differ in number, or a score is NaN or outside [0, 1].

  Example:
    >>> figures = beside_retrained([0.0, 0.0, 0.1], [0.5, 0.4, 0.6], name="VerbMem")
    >>> [(figure.title, round(figure.value, 2)) for figure in figures]
    [('VerbMem', 0.03), ('oracle VerbMem', 0.5), ('VerbMem gap', -0.47)]
    >>> figures[2].note
    '95 % bootstrap over examples; over-forgetting'
  """
  both = {"unlearned": unlearned, "retrained": retrained}
  ours, theirs = (
    np.atleast_2d(numbers(scores, "beside_retrained", name)) for name, scores in both.items()
  )
  ours, theirs = of_both(ours, theirs, "beside_retrained")
  for scores in (ours, theirs):
    outside = scores[(scores < 0) | (scores > 1)]
    if len(outside):
      raise ValueError(
        f"beside_retrained got a score {outside[0]}, must be in [0, 1]. Give shares, not percent."
      )
  gap = _mean(ours - theirs.mean(0), _GAP, name=f"{name} gap", part=part)
  return [
    _mean(ours, RATE, name=name, part=part),
    _mean(theirs, RATE, name=name, part=part, of="oracle"),
    noting_over_forgetting(gap) if part == _FORGET else gap,
  ]


def noting_over_forgetting(gap: Figure) -> Figure:
  """Returns the gap of a forget set with a note where it is below 0, which is not better."""
  if not gap.value < 0:
    return gap
  remark = "over-forgetting" if gap.high < 0 else "over-forgetting, or chance"
  return dataclasses.replace(gap, note="; ".join(filter(None, (gap.note, remark))))


def _mean(scores: np.ndarray, within: tuple[float, float], **what: str) -> Figure:
  """Returns the mean of scores [K, n], over networks where there are several, else over texts."""
  if len(scores) > 1:
    return over_seeds(scores.mean(1), within=within, **what)
  figure = with_interval(over_examples(scores[0]), EXAMPLES, **what)
  if scores.shape[1] > 1:
    return figure
  return dataclasses.replace(figure, note="one text under one network gives no interval")
