"""Examples that are sequences as text: what they say where a run knows it, else their tokens."""

from collections.abc import Sequence

import numpy as np

_LONGEST = 400  # characters of a text on the page


def of_inputs(inputs: np.ndarray) -> list[str] | None:
  """Returns inputs as texts, or None where they are no sequences.

  Args:
    inputs: str [n], or tokens [n, T] of any integer but uint8, which is pixels.

  Example:
    >>> of_inputs(np.array([[4, 0, 1], [4, 2, 3]]))
    ['4 0 1', '4 2 3']
  """
  if inputs.dtype.kind == "U" and inputs.ndim == 1:
    # Half of a pair of surrogates, as byte tokenizers leave them, is in no UTF-8 file.
    return [text.encode(errors="replace").decode() for text in inputs.tolist()]
  if inputs.dtype.kind not in "iu" or inputs.dtype == np.uint8 or inputs.ndim != 2:
    return None
  return [" ".join(map(str, tokens)) for tokens in inputs.tolist()]


def cut(text: str, length: int) -> str:
  """Returns a text of at most so many characters; an ellipsis stands for the rest.

  Example:
    >>> cut("4 0 1 2", 4)
    '4 0…'
  """
  return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def fitted(texts: Sequence[str], max_bytes: int) -> tuple[list[str], str]:
  """Cuts texts at 400 characters, or at as many fewer as fit.

  Args:
    texts: n of them.
    max_bytes: of all of them as UTF-8.

  Returns:
    The texts, and a line on what was cut, such as "the first 400 characters".

  Raises:
    ValueError: not even one character of each fits.

  Example:
    >>> fitted(["4 0 1", "4"], 4)
    (['4…', '4'], 'the first 3 characters')
  """
  length = _LONGEST
  while length:
    shown = [cut(text, length) for text in texts]
    if sum(len(text.encode()) for text in shown) <= max_bytes:
      return shown, "whole" if shown == list(texts) else f"the first {length} characters"
    length //= 2
  raise ValueError(f"{len(texts)} texts do not fit into {max_bytes} bytes; raise max_bytes.")
