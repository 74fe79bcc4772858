"""Text as sequences of tokens: windows of a document, copies, and what nearly repeats them."""

import dataclasses
import os
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from jaxmul import _arrays, _check
from jaxmul._dataset import Dataset
from jaxmul._ids import rows_of
from jaxmul._paths import local
from jaxmul.data.sources import MAX_BYTES

SHINGLE = 8
"""Tokens in a row by which sequences are compared."""
_BYTES = 256


class Encoding(Protocol):
  """What a tokenizer of the package `tokenizers` returns of a text."""

  ids: list[int]


class Tokenizer(Protocol):
  """What is used of a tokenizer of the package `tokenizers`."""

  encode: Callable[[str], Encoding]
  get_vocab_size: Callable[[], int]


def text(
  source: str | os.PathLike,
  *,
  length: int,
  stride: int | None = None,
  tokenizer: Tokenizer | None = None,
) -> Dataset:
  """Returns the windows of a document as sequences that are to be continued.

  Args:
    source: the text itself, or the path of a UTF-8 file as `pathlib.Path`.
    length: T, tokens that a network reads of each window; each is scored by the token after it.
    stride: tokens from one window to the next; T where none share a token that is scored.
    tokenizer: of the package `tokenizers`; without it tokens are the 256 bytes of UTF-8.

  Returns:
    Tokens int32 [n, T] and the next ones, all scored; ids 0 … n − 1 from the start of the text.
    What is left at its end, shorter than a window, is not there.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no UTF-8, larger than `MAX_BYTES`, shorter than a window, or a str that is the
      name of a file; the tokenizer is of another package or gives a token outside its vocabulary.

  Example:
    >>> windows = text("to be or not to be", length=4)
    >>> [bytes(row.tolist()).decode() for row in windows.inputs.astype("uint8")]
    ['to b', 'e or', ' not', ' to ']
  """
  _check.count(length, "length", "text")
  stride = length if stride is None else stride
  _check.count(stride, "stride", "text")
  tokens, vocabulary = _read(source, tokenizer)
  if len(tokens) <= length:
    raise ValueError(
      f"text: {len(tokens)} tokens are shorter than a sequence of length={length} and the token "
      "after it. Give more text, or lower length."
    )
  windows = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[::stride]
  return Dataset(windows[:, :-1], windows[:, 1:], num_classes=vocabulary)


def english_prose() -> str:
  """Returns about half a megabyte of English that every CPython carries: its help on the language.

  Versions of Python differ in it: say which one, or the digest of the data set, with a result.

  Example:
    >>> "The following" in english_prose()
    True
  """
  from pydoc_data import topics

  return "\n".join(topics.topics[name] for name in sorted(topics.topics))


def after_prompt(dataset: Dataset, prompt: int, suffix: int | None = None) -> Dataset:
  """Returns sequences of which only the tokens after a prompt are scored, the suffix.

  A network is then right on a sequence exactly where its greedy continuation of the prompt is.

  Args:
    dataset: of tokens int [n, T] and labels [n, T].
    prompt: tokens that are given, from 1 to T.
    suffix: how many tokens after it are scored, from 1 to T + 1 − prompt; all by default.

  Raises:
    ValueError: the data are no sequences, or nothing of one is scored after the prompt.

  Example:
    >>> after_prompt(text("to be or not to be", length=4), 3).labels[0].tolist()
    [-1, -1, 98, 101]
  """
  if dataset.labels.ndim != 2 or not dataset.classes:
    raise ValueError(
      f"after_prompt needs sequences with labels [n, T], got {list(dataset.labels.shape)}."
    )
  _check.in_range("after_prompt", 1, dataset.labels.shape[1], prompt=prompt)
  labels = dataset.labels.copy()
  labels[:, : prompt - 1] = -1
  if suffix is not None:
    _check.in_range("after_prompt", 1, labels.shape[1] + 1 - prompt, suffix=suffix)
    labels[:, prompt - 1 + suffix :] = -1
  return dataclasses.replace(dataset, labels=labels)


def repeated(dataset: Dataset, ids: ArrayLike, copies: int) -> Dataset:
  """Returns the data with more copies of some examples, each under an id of its own.

  Args:
    dataset: n examples.
    ids: int [k], whose copies are added.
    copies: how often each of them stands in the result, at least 1.

  Returns:
    n + k (copies − 1) examples. The copies have new ids, above all others, and are of one family
    with what they copy: `Dataset.with_copies` finds them.

  Raises:
    ValueError: an id is not in the data.

  Example:
    >>> twice = repeated(text("to be or not to be", length=4), [3], 2)
    >>> twice.ids.tolist(), twice.with_copies([3]).tolist()
    ([0, 1, 2, 3, 4], [3, 4])
  """
  _check.count(copies, "copies", "repeated")
  rows = np.repeat(dataset.rows(ids), copies - 1)
  every = np.concatenate([np.arange(len(dataset)), rows])
  families = dataset.families
  if families is None:
    families = np.arange(len(dataset))
  new = dataset.ids.max(initial=-1) + 1 + np.arange(len(rows))
  names = ("inputs", "labels", "strata")
  arrays = {name: getattr(dataset, name) for name in names} | {"families": families}
  ids = np.concatenate([dataset.ids, new])
  return dataclasses.replace(dataset, ids=ids, **_arrays.rows(arrays, every))


def near_duplicates(dataset: Dataset, ids: ArrayLike, *, share: float = 0.5) -> np.ndarray:
  """Returns the ids int64 [m], sorted, of the other sequences that nearly repeat some of these.

  What is to be forgotten is not, as long as another sequence says the same.

  Args:
    dataset: of tokens int [n, T].
    ids: int [k], sequences to look for.
    share: of the runs of 8 tokens of a sequence that also stand in those of `ids`, from which on it
      nearly repeats them, in (0, 1].

  Raises:
    ValueError: the data are no sequences of at least 8 tokens, an id is not in them, or `share` is
      outside its range.

  Example:
    >>> copied = repeated(text("to be or not to be, that is", length=8), [0], 2)
    >>> near_duplicates(copied, [0]).tolist()
    [3]
  """
  tokens, kind = dataset.inputs, _arrays.kinds(dataset.inputs)
  if kind != "int32" or tokens.shape[1] < SHINGLE:
    shape = f" {list(tokens.shape)}" if hasattr(tokens, "shape") else ""
    raise ValueError(
      f"near_duplicates needs tokens int [n, T] with T of at least {SHINGLE}, got {kind}{shape}."
    )
  if not 0 < share <= 1:
    raise ValueError(f"near_duplicates got share={share}, must be in (0, 1].")
  rows = rows_of(dataset.ids, ids, "near_duplicates", "is not in the data", "Ids are Dataset.ids.")
  weights = np.random.default_rng(0).integers(1, 2**63, SHINGLE, dtype=np.uint64)
  shingles = np.zeros((len(tokens), tokens.shape[1] - SHINGLE + 1), np.uint64)
  with np.errstate(over="ignore"):  # a hash modulo 2⁶⁴
    for place, weight in enumerate(weights):
      part = tokens[:, place : place + shingles.shape[1]].astype(np.uint64)
      shingles += (part + np.uint64(1)) * weight
  near = np.isin(shingles, shingles[rows]).mean(1) >= share
  near[rows] = False
  return np.sort(dataset.ids[near])


def _read(source: str | os.PathLike, tokenizer: Tokenizer | None) -> tuple[np.ndarray, int]:
  """Returns the tokens of a text or file, and the size of their vocabulary."""
  if isinstance(source, os.PathLike):
    path = local(source)
    if not path.is_file():
      raise FileNotFoundError(f"text: there is no file {path}. Pass a path, or the text as str.")
    if path.stat().st_size > MAX_BYTES:
      raise ValueError(f"text: {path} has {path.stat().st_size} bytes, at most {MAX_BYTES}.")
    try:
      source = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
      raise ValueError(
        f"text: {path} is no UTF-8 at byte {error.start}. Convert it from what it is, such as by "
        "iconv -f latin1 -t utf-8."
      ) from error
  elif not isinstance(source, str):
    raise ValueError(f"text needs a str or a pathlib.Path, got {type(source).__name__}.")
  elif os.path.isfile(source):
    raise ValueError(
      f"text got the name of a file, {source!r}, as the text. To read it pass pathlib.Path(...)."
    )
  try:
    content = source.encode()
  except UnicodeEncodeError as error:
    raise ValueError(
      f"text holds half of a pair of surrogates at character {error.start}, which is no UTF-8. "
      "Decode it anew: source.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')."
    ) from error
  if tokenizer is None:
    return np.frombuffer(content, np.uint8).astype(np.int32), _BYTES
  if not hasattr(tokenizer, "get_vocab_size"):
    raise ValueError(
      f"text needs a tokenizer of the package tokenizers, got {type(tokenizer).__name__}. Of a "
      "fast one of transformers that is .backend_tokenizer."
    )
  tokens, vocabulary = np.array(tokenizer.encode(source).ids, np.int64), tokenizer.get_vocab_size()
  if tokens.max(initial=0) >= vocabulary or tokens.min(initial=0) < 0:
    raise ValueError(
      f"text: the tokenizer gives token {tokens.max()} outside its vocabulary of {vocabulary}. "
      "Is it another model's?"
    )
  return tokens.astype(np.int32), vocabulary
