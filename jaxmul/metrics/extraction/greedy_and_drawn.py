"""Whether a network of text goes on from a prompt with the suffix, greedily or by drawing tokens.

A greedy continuation is right as long as each next token is, and the chance of a drawn one is the
product of its tokens' probabilities: one forward pass tells both, and nothing is generated.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxmul import _check, losses
from jaxmul._dataset import Dataset
from jaxmul.binding import ApplyFn
from jaxmul.data.documents import after_prompt
from jaxmul.metrics._given import network_of_text, scored
from jaxmul.metrics.accuracies import correct_of


def is_extracted(
  params: Any, dataset: Dataset, apply_fn: ApplyFn | None = None, *, batch_size: int = 1024
) -> np.ndarray:
  """Returns whether greedy decoding from its prompt gives each sequence's suffix, bool [n].

  Args:
    params, apply_fn, batch_size: as `metrics.accuracy`.
    dataset: n sequences of which the suffix alone is scored, as `data.after_prompt` returns them;
      50 tokens after 50 are usual.

  Raises:
    ValueError: examples have one label each, or as `metrics.accuracy`.

  References:
    Carlini et al., [Quantifying Memorization](https://arxiv.org/abs/2202.07646), 2022.

  Example:
    >>> import jax
    >>> from jaxmul import bind, data
    >>> counts = bind(lambda p, x: jax.nn.one_hot((x + 1) % 10, 10), {})
    >>> text = data.Dataset(np.array([[3, 1, 2], [1, 2, 5]]), np.array([[1, 2, 3], [2, 5, 6]]))
    >>> is_extracted(counts, data.after_prompt(text, 2)).tolist()
    [True, False]
  """
  network = network_of_text(params, dataset, apply_fn, "is_extracted")
  return correct_of(network, dataset, batch_size) == 1


def suffix_log_probability(
  params: Any, dataset: Dataset, apply_fn: ApplyFn | None = None, *, batch_size: int = 1024
) -> np.ndarray:
  """Returns log p_z of each sequence's suffix z after its prompt, float64 [n] in nats, at most 0.

  p_z is the chance that drawing tokens from softmax(logits) gives the suffix exactly.

  Args:
    params, dataset, apply_fn, batch_size: as `is_extracted`.

  Raises:
    ValueError: as `is_extracted`.

  Example:
    >>> from jaxmul import data
    >>> text = data.Dataset(np.array([[1, 1, 0]]), np.array([[-1, 1, 0]]))
    >>> coin = suffix_log_probability({}, text, lambda p, x: np.zeros((*x.shape, 2)))
    >>> np.exp(coin).round(3).tolist()
    [0.25]
  """
  network = network_of_text(params, dataset, apply_fn, "suffix_log_probability")
  return scored(losses.sequence_log_probability, network, dataset, batch_size, "log-probabilities")


def chance_in(log_p: ArrayLike, tries: int) -> np.ndarray:
  """Returns the chance 1 − (1 − p_z)ⁿ that one of n drawn continuations is the suffix, in [0, 1].

  A sequence is (n, p)-discoverable where this is at least p.

  Args:
    log_p: log p_z [...], at most 0, as `suffix_log_probability` returns it.
    tries: n, at least 1.

  Returns:
    float64 [...]; exact, nothing is drawn.

  Raises:
    ValueError: a log-probability is above 0 or NaN, or there is no try.

  References:
    Hayes et al., [Probabilistic Extraction](https://arxiv.org/abs/2410.19482), 2024.

  Example:
    >>> chance_in(np.log([0.5, 0.01]), 2).round(4).tolist()
    [0.75, 0.0199]
  """
  _check.at_least("chance_in", 1, tries=tries)
  given = np.asarray(log_p, np.float64)
  wrong = given[~(given <= 0)]
  if len(wrong):
    raise ValueError(
      f"chance_in got log_p={wrong[0]}, must be at most 0. Pass "
      "extraction.suffix_log_probability, not losses or probabilities."
    )
  with np.errstate(divide="ignore"):  # of a suffix that is sure
    return -np.expm1(tries * np.log1p(-np.exp(given)))


def with_clean_prompt(
  dataset: Dataset, twins: Dataset, prompt: int, suffix: int | None = None
) -> Dataset:
  """Returns noisy sequences behind the prompts of their clean twins, the noisy suffix scored.

  No noise in the prompt then tells what follows. Sequences whose suffix is that of the clean twin
  are left out: what the rule gives says nothing of memory.

  Args:
    dataset: of tokens [n, T] and labels [n, T].
    twins: the same ids without noise, and perhaps others.
    prompt, suffix: as `data.after_prompt`.

  Returns:
    Those of the n sequences whose suffix differs from the clean one, for `is_extracted`.

  Raises:
    ValueError: an id has no twin, none differs, or as `data.after_prompt`.

  References:
    Sakarvadia et al., [Mitigating Memorization](https://arxiv.org/abs/2410.02159), 2024.

  Example:
    >>> import jax
    >>> from jaxmul import data
    >>> made = data.math_sequences([1000, 2000, 3000], jax.random.key(0), noisy=2)
    >>> noisy = with_clean_prompt(*made, prompt=11)
    >>> len(noisy), data.as_text(noisy.inputs[0][:11]), (noisy.labels[0] >= 0).sum().item()
    (2, '^1000 1007 ', 10)
  """
  whole, clean = (
    after_prompt(given, prompt, suffix) for given in (dataset, twins.take(dataset.ids))
  )
  is_scored = whole.labels != losses.UNSCORED
  differs = (is_scored & (whole.labels != clean.labels)).any(1)
  if not differs.any():
    raise ValueError(
      f"with_clean_prompt: no suffix of {len(dataset)} sequences differs from its twin's after "
      f"prompt={prompt}. Give noisy ones, or a shorter prompt."
    )
  inputs = np.concatenate([clean.inputs[:, :prompt], whole.inputs[:, prompt:]], axis=1)
  return dataclasses.replace(whole, inputs=inputs).take(whole.ids[differs])
