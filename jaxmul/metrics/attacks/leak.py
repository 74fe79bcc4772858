"""No leak: an example that fits an attack or chooses its threshold is never one that it scores."""

import itertools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt


def refuse_overlap(parts: Mapping[str, npt.ArrayLike], caller: str) -> None:
  """Raises ValueError where an id is in two of the named parts.

  Args:
    parts: {name: int ids [k]}.
    caller: for the message.

  Example:
    >>> refuse_overlap({"members": [1, 2], "targets": [2]}, "svc_on_split")
    Traceback (most recent call last):
      ...
    ValueError: svc_on_split: id 2 is in members and in targets. Use disjoint ids: no example ...
  """
  for (first, a), (second, b) in itertools.combinations(parts.items(), 2):
    shared = np.intersect1d(a, b)
    if len(shared):
      raise ValueError(
        f"{caller}: id {shared[0]} is in {first} and in {second}. "
        "Use disjoint ids: no example that fits the attack may be scored."
      )
