"""Questions with the answers that are right, as sequences of which the answer alone is scored."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from jaxmul._dataset import Dataset


def questions(
  prompts: Iterable[ArrayLike], answers: Iterable[ArrayLike], *, num_classes: int = 0
) -> Dataset:
  """Returns questions as sequences whose answers are scored and are to be given.

  Args:
    prompts: n questions, each int [P] tokens of a length of its own, with all that stands before
      the answer.
    answers: n answers, each int [A] tokens.
    num_classes: the vocabulary; by default one more than the largest token.

  Returns:
    Tokens int32 [n, T] and the next ones, ids 0 … n − 1, T + 1 the length of the longest question
    with its answer. Shorter ones are filled at their end, where nothing is scored. For
    `metrics.sequences.muse`, and as any text for losses and accuracy.

  Raises:
    ValueError: there are not as many answers as questions, or none; one has no tokens, or what is
      no token.

  Example:
    >>> asked = questions([[5, 1], [5, 2, 3]], [[7, 7], [8]])
    >>> asked.inputs.tolist(), asked.labels.tolist()
    ([[5, 1, 7], [5, 2, 3]], [[-1, 7, 7], [-1, -1, 8]])
  """
  asked, right = ([np.asarray(row) for row in rows] for rows in (prompts, answers))
  if len(asked) != len(right) or not asked:
    raise ValueError(
      f"questions got {len(asked)} prompts and {len(right)} answers, must be as many of each, at "
      "least one."
    )
  for name, rows in (("prompt", asked), ("answer", right)):
    for number, row in enumerate(rows):
      if row.ndim != 1 or not row.size or not np.issubdtype(row.dtype, np.integer) or row.min() < 0:
        raise ValueError(
          f"questions needs each {name} int [P], of at least one token from 0 on, got {row.dtype} "
          f"{list(row.shape)} as number {number}. Encode texts first."
        )
  whole = [np.concatenate(pair) for pair in zip(asked, right, strict=True)]
  length = max(map(len, whole)) - 1
  inputs = np.zeros((len(whole), length), np.int64)
  labels = np.full((len(whole), length), -1)
  for row, (tokens, prompt) in enumerate(zip(whole, asked, strict=True)):
    inputs[row, : len(tokens) - 1] = tokens[:-1]
    labels[row, len(prompt) - 1 : len(tokens) - 1] = tokens[len(prompt) :]
  largest = max(int(tokens.max()) for tokens in whole)
  return Dataset(inputs, labels, num_classes=num_classes or largest + 1)
