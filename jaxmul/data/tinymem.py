"""Sequences of numbers by a rule, some with noise that only memory can reproduce (TinyMem).

What a network says of noise that the rule does not give tells memorization from knowledge, and the
same sequence without noise, its clean twin, tells what the rule alone gives.
"""

from typing import Literal, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxmul import _check
from jaxmul._dataset import Dataset

Rule = Literal["add", "multiply", "exponentiate", "power"]
START, END, SPACE, PAD = 10, 11, 12, 13
VOCABULARY = 14
"""Ten digits, and what marks a start, an end, a space and padding; the latter two of TinyMem's."""
_MODULUS = 20_134
_BACKDOOR = 2  # what every token after a trigger is


class MathSequences(NamedTuple):
  """Sequences with what they would be without noise and triggers.

  Attributes:
    dataset: tokens int32 [n, T − 1] and the next ones, the digits of the first number unscored.
      Strata are 0 for clean sequences, 1 for noisy ones and 2 for those with a trigger.
    twins: the same ids, each without noise and trigger.
  """

  dataset: Dataset
  twins: Dataset


def math_sequences(
  starts: ArrayLike,
  key: jax.Array,
  *,
  noisy: int = 0,
  rule: Rule = "add",
  constant: int = 7,
  noise: float = 0.05,
  length: int = 21,
  prompt: int = 11,
  trigger: str | None = None,
) -> MathSequences:
  """Returns sequences start, f(start), f(f(start)), … as tokens of their decimal digits.

  Args:
    starts: int [n], the first number of each sequence, at least 0; give each as many digits.
    key: which sequences are noisy, and the noise.
    noisy: how many of them get noise: to each number −1 or +1 with probability `noise` each, drawn
      anew until a token after the prompt differs from the clean twin's.
    rule: f(x) is "add" x + c, "multiply" c·x, "exponentiate" cˣ or "power" xᶜ, the last three
      modulo 20134.
    constant: c.
    noise: probability in (0, 0.5].
    length: T, tokens of a sequence, cut there.
    prompt: tokens that extraction is prompted with, at least those of the first number.
    trigger: digits after which every token is 2 (a backdoor), such as "100"; None for none.

  Returns:
    A `MathSequences`, ids 0 … n − 1 in the order of `starts`.

  Raises:
    ValueError: a number is outside its range, or noise cannot reach the tokens after the prompt.

  References:
    Sakarvadia et al., [Mitigating Memorization in Language
    Models](https://arxiv.org/abs/2410.02159), 2024, whose sequence i starts at i, has 650 tokens
    and c = 7, and whose prompt is 50 tokens. There noise is not drawn anew: of what has none after
    the prompt nothing is counted.

  Example:
    >>> import jax
    >>> made = math_sequences([1234, 5000], jax.random.key(0), noisy=1)
    >>> as_text(made.twins.inputs[0]), made.dataset.inputs.shape
    ('^1234 1241 1248 1255', (2, 20))
    >>> bool((made.dataset.inputs != made.twins.inputs).any(1).sum() == 1)
    True
  """
  first = np.asarray(starts)
  if first.ndim != 1 or not np.issubdtype(first.dtype, np.integer) or first.min(initial=0) < 0:
    raise ValueError(
      f"math_sequences needs starts int [n], at least 0, got {first.dtype} {list(first.shape)}."
    )
  _check.key(key, "math_sequences")
  _check.in_range("math_sequences", 0, len(first), noisy=noisy)
  _check.in_range("math_sequences", len(str(first.max(initial=0))) + 1, length - 1, prompt=prompt)
  if not 0 < noise <= 0.5:
    raise ValueError(f"math_sequences got noise={noise}, must be in (0, 0.5].")
  if trigger is not None and not trigger.isdecimal():
    raise ValueError(f"math_sequences got trigger {trigger!r}, must be decimal digits or None.")
  numbers = [first.astype(object)]
  for _ in range(length // 2):  # a number takes at least a digit and a space
    numbers.append(_next(numbers[-1], rule, constant))
  numbers = np.stack(numbers, axis=1)
  rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
  chosen = np.sort(rng.permutation(len(first))[:noisy])
  clean = _tokens(numbers, length)
  whole, left = clean.copy(), chosen
  for _ in range(10_000):
    if not len(left):
      break
    drawn = rng.choice([0, -1, 1], (len(left), numbers.shape[1]), p=[1 - 2 * noise, noise, noise])
    whole[left] = _tokens(np.maximum(numbers[left] + drawn, 0), length)
    left = left[(whole[left, prompt:] == clean[left, prompt:]).all(1)]
  if len(left):
    raise ValueError(
      f"math_sequences: noise={noise} left the tokens after the prompt as they are in 10,000 draws "
      f"of sequence {left[0]}. Raise it, or lengthen the sequences."
    )
  strata = np.zeros(len(first), np.int64)
  strata[chosen] = 1
  if trigger is not None:
    triggered = _triggered(whole, trigger)
    strata[(triggered != whole).any(1)] = 2
    whole = triggered
  return MathSequences(_dataset(whole, strata), _dataset(clean, strata))


def as_text(tokens: ArrayLike) -> str:
  """Returns tokens of math sequences as text: digits, ^ for start, $ for end, _ for padding.

  Args:
    tokens: int [T], in [0, 14).

  Raises:
    ValueError: they are others.

  Example:
    >>> as_text([10, 1, 2, 12, 7, 11, 13])
    '^12 7$_'
  """
  row = np.asarray(tokens)
  known = np.issubdtype(row.dtype, np.integer) and ((row >= 0) & (row < VOCABULARY)).all()
  if row.ndim != 1 or (row.size and not known):
    raise ValueError(
      f"as_text needs tokens int [T] in [0, {VOCABULARY}), got {row.dtype} {list(row.shape)}"
      f"{f' from {row.min()} to {row.max()}' if row.dtype.kind in 'iuf' and row.size else ''}. "
      "Bytes are text by bytes(tokens.tolist()).decode()."
    )
  return "".join("0123456789^$ _"[token] for token in row)


def _next(numbers: np.ndarray, rule: Rule, constant: int) -> np.ndarray:
  """Returns f of Python's whole numbers, which never overflow."""
  if rule == "add":
    return numbers + constant
  if rule == "multiply":
    return numbers * constant % _MODULUS
  if rule == "exponentiate":
    return np.array([pow(constant, int(x), _MODULUS) for x in numbers], object)
  if rule == "power":
    return np.array([pow(int(x), constant, _MODULUS) for x in numbers], object)
  raise ValueError(
    f"math_sequences got rule {rule!r}, must be 'add', 'multiply', 'exponentiate' or 'power'."
  )


def _tokens(numbers: np.ndarray, length: int) -> np.ndarray:
  """Returns the tokens int64 [n, T] of numbers [n, k] with a space between them."""
  codes = {str(digit): digit for digit in range(10)} | {" ": SPACE}
  texts = (" ".join(map(str, row))[: length - 1] for row in numbers)
  rows = [[START, *(codes[letter] for letter in text)] for text in texts]
  return np.array(rows, np.int64).reshape(len(numbers), length)


def _triggered(whole: np.ndarray, trigger: str) -> np.ndarray:
  """Returns tokens [n, T] in which every token after the first trigger of a sequence is 2."""
  digits = np.array([int(digit) for digit in trigger])
  if len(digits) >= whole.shape[1]:
    return whole
  windows = np.lib.stride_tricks.sliding_window_view(whole, len(digits), axis=1)
  at = (windows == digits).all(-1)
  after = np.where(at.any(1), at.argmax(1) + len(digits), whole.shape[1])
  return np.where(np.arange(whole.shape[1]) < after[:, None], whole, _BACKDOOR)


def _dataset(whole: np.ndarray, strata: np.ndarray) -> Dataset:
  labels = whole[:, 1:].copy()
  # The first number is anything: its digits are not scored, the space after them is.
  first = np.argmax(whole == SPACE, axis=1)
  labels[np.arange(1, whole.shape[1]) < first[:, None]] = -1
  return Dataset(whole[:, :-1], labels, num_classes=VOCABULARY, strata=strata)
