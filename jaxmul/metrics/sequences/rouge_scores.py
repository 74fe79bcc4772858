"""ROUGE-L: how much of a true text a continuation repeats in order, with gaps allowed.

With l the length of the longest common subsequence of a continuation of a tokens and a true one of
b, precision is l / a, recall l / b, and their harmonic mean F1 = 2 l / (a + b).

References:
  Lin, [ROUGE](https://aclanthology.org/W04-1013/), 2004; the package `rouge-score`, which MUSE
  takes without its stemmer.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from jaxmul import _article, losses


def rouge_l(continuations: ArrayLike, labels: ArrayLike) -> np.ndarray:
  """Returns ROUGE-L's F1 of continuations beside true tokens, float64 [B] in [0, 1].

  Args:
    continuations: int [B, A] tokens, as `sequences.continuations` or `models.generate` return
      them; −1 is no token.
    labels: int [B, T], the true tokens, −1 where a position is not scored.

  Returns:
    0 where nothing is in common, or the continuation is empty; NaN where nothing is scored.

  Raises:
    ValueError: the two are not of whole numbers, or not of the same examples.

  Example:
    >>> rouge_l([[1, 2, 9, 4], [7, 7, -1, -1]], [[1, 2, 3, 4], [5, 6, 7, -1]]).tolist()
    [0.75, 0.4]
  """
  made, true = np.asarray(continuations), np.asarray(labels)
  is_whole = all(np.issubdtype(tokens.dtype, np.integer) for tokens in (made, true))
  if made.ndim != 2 or true.ndim != 2 or len(made) != len(true) or not is_whole:
    raise ValueError(
      f"rouge_l needs continuations int [B, A] and labels int [B, T], got {made.dtype} "
      f"{list(made.shape)} and {true.dtype} {list(true.shape)}. One text is tokens[None]."
    )
  is_true = true != losses.UNSCORED
  # row[b, j]: of the tokens made so far and the first j true ones, the longest in common.
  row = np.zeros((len(true), true.shape[1] + 1), np.int64)
  for token in made.T:
    matched = row[:, :-1] + ((token[:, None] == true) & is_true)
    row[:, 1:] = np.maximum.accumulate(np.maximum(matched, row[:, 1:]), axis=1)
  lengths = np.sum(made != losses.UNSCORED, axis=1), np.sum(is_true, axis=1)
  score = 2 * row[:, -1] / np.maximum(lengths[0] + lengths[1], 1)
  return np.where(lengths[1] > 0, score, np.nan)


def rouge_l_of_texts(continuations: Sequence[str], texts: Sequence[str]) -> np.ndarray:
  """Returns ROUGE-L's F1 over words, float64 [B] in [0, 1], by `rouge-score` without stemmer.

  Words are runs of letters a to z and digits, in lower case: all else separates them.

  Args:
    continuations: B texts that a network has made.
    texts: B true ones.

  Returns:
    As `rouge_l`: NaN where the true text has no word, for which `rouge-score` says 0.

  Raises:
    ImportError: `rouge-score` is not installed.
    ValueError: there are not as many of each, or they are no strings.
  """
  for several in (continuations, texts):
    if isinstance(several, str) or not isinstance(several, Iterable):
      raise ValueError(
        f"rouge_l_of_texts needs lists of strings, got {_article.of(several)}. One text is [text]."
      )
  made, true = list(continuations), list(texts)
  if len(made) != len(true) or not all(isinstance(text, str) for text in (*made, *true)):
    raise ValueError(
      f"rouge_l_of_texts needs as many strings of each, got {len(made)} and {len(true)}, of "
      f"{sorted({type(text).__name__ for text in (*made, *true)})}. Tokens go to rouge_l."
    )
  try:
    from rouge_score import rouge_scorer  # pyright: ignore[reportMissingImports]
  except ImportError as error:
    raise ImportError(
      f"rouge_l_of_texts needs rouge-score, which does not import ({error}). "
      "Run: pip install 'jaxmul[rouge]'"
    ) from error
  scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
  pairs = zip(true, made, strict=True)
  scores = np.array([scorer.score(*pair)["rougeL"].fmeasure for pair in pairs], np.float64)
  # A text has a word where it has something in common with itself.
  has_words = [scorer.score(text, text)["rougeL"].fmeasure > 0 for text in true]
  return np.where(has_words, scores, np.nan)
