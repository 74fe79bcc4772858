"""Whether one method is better than another: differences seed by seed, with evidence."""

from collections.abc import Mapping
from typing import Any

from jaxmul.metrics.intervals import Difference, paired

_SHARED = ("oracle accuracy", "oracle attack rate")
Figures = Mapping[str, Mapping[str, Mapping[str, Any]]]


def compare(first: Figures, second: Figures) -> dict[str, dict[str, Difference]]:
  """Returns first − second, seed by seed, of every figure that both have for each seed.

  Args:
    first: of `beside_oracles`, or the "figures" of an evaluation.json.
    second: of another method, unlearned from the same originals in the same order, beside the same
      oracles.

  Returns:
    {figure: {part: Difference}}: mean, 95 % t-interval and p-value of a sign-flip test, as
    `intervals.paired`.

  Raises:
    ValueError: the two were judged beside different oracles or with different keys, or their
      numbers of seeds differ.

  Example:
    >>> one, other = (
    ...   {"ToW": {"all": {"seeds": seeds}}} for seeds in ([0.9, 0.8, 0.9], [0.7, 0.7, 0.8])
    ... )
    >>> round(compare(one, other)["ToW"]["all"].mean, 3)
    0.133
  """
  own, others = (
    [part.get("seeds") for name in _SHARED for part in found.get(name, {}).values()]
    for found in (first, second)
  )
  if own != others:
    raise ValueError(
      "compare: the two were judged beside different oracles or by attacks fitted on others, so "
      "that a part of their difference is not theirs. Judge both with one ensemble, split and key."
    )
  found = {}
  for figure, parts in first.items():
    both = {
      part: paired(each["seeds"], second[figure][part]["seeds"])
      for part, each in parts.items()
      if "seeds" in each
      and part in second.get(figure, {})
      and not figure.startswith(("oracle ", "original "))
    }
    if both:
      found[figure] = both
  return found
