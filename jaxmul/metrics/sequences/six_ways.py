"""MUSE's measures of an unlearned network of text, beside networks retrained without S.

Four of its six are here: verbatim memorization, knowledge, leakage and utility. The other two,
scalability and sustainability, are these four after larger S and after one S upon another, which is
a loop: docs/muse.md has both.

References:
  Shi et al., [MUSE](https://arxiv.org/abs/2407.06460), 2024, and its code. Intervals, gaps to
  retraining and what over-forgetting is are ours; so is that a continuation is as long as the true
  one, where MUSE lets a network answer up to 32 tokens after a few examples, and cuts the answer at
  an empty line or the next question.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jaxmul import _article, losses
from jaxmul._dataset import Dataset
from jaxmul.binding import Network
from jaxmul.metrics._given import network_of_text, refuse_other_than_tokens, scored
from jaxmul.metrics.accuracies import correct_of
from jaxmul.metrics.figures import Figure
from jaxmul.metrics.sequences.greedy_continuations import continuations
from jaxmul.metrics.sequences.members_beside_heldout import priv_leak
from jaxmul.metrics.sequences.rouge_scores import rouge_l, rouge_l_of_texts
from jaxmul.metrics.sequences.text_gaps import beside_retrained

SHARE = 0.4
"""Of the tokens of a text, the least likely, whose mean loss tells members: Min-40 %."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tasks:
  """What networks are asked; give one copy of each text (`Dataset.first_of_each`).

  Attributes:
    verbatim: S, of which what follows a prompt is scored, as `data.after_prompt` returns it.
    forget: S, all of each text scored, and
    heldout: texts of the same kind that no network was trained on; both for PrivLeak.
    forget_questions: on what S says, as `data.questions` makes them, or None.
    retain_questions: on what R says, or None.
    retain: some of R, whose accuracy is its utility, such as `data.after_prompt` of it; or None.
    decode: `decode(tokens) -> str`, where ROUGE is to compare words (extra `rouge`); it is given
      the tokens of one text. Without it ROUGE compares tokens.

  Raises:
    ValueError: a part is no `Dataset` of tokens, or `decode` is no function.
  """

  verbatim: Dataset
  forget: Dataset
  heldout: Dataset
  forget_questions: Dataset | None = None
  retain_questions: Dataset | None = None
  retain: Dataset | None = None
  decode: Callable[[list[int]], str] | None = None

  def __post_init__(self):
    for field in dataclasses.fields(self):
      part = getattr(self, field.name)
      if field.name == "decode" or (part is None and field.default is None):
        continue
      if not isinstance(part, Dataset) or part.labels.ndim != 2 or not part.classes:
        raise ValueError(
          f"Tasks needs {field.name} to be a Dataset of sequences with labels [n, T], got "
          f"{type(part).__name__}. See data.after_prompt and data.questions."
        )
      refuse_other_than_tokens(part, f"Tasks({field.name}=...)")
    if self.decode is not None and not callable(self.decode):
      raise ValueError(
        f"Tasks got decode={self.decode!r}, must be a function of a list of tokens, or None."
      )


def muse(
  unlearned: Network | Sequence[Network],
  retrained: Network | Sequence[Network],
  tasks: Tasks,
  *,
  batch_size: int = 1024,
) -> list[Figure]:
  """Returns MUSE's measures of unlearned networks, of retrained ones, and the gaps between them.

  Args:
    unlearned: a network, or several of other training seeds.
    retrained: networks trained by the same recipe without S, one or more.
    tasks: what they are asked.
    batch_size: examples at a time; bounds the memory and does not change a figure.

  Returns:
    A list of `Figure`, `metrics.find` picks one: "VerbMem" on "forget", the mean ROUGE-L of greedy
    continuations beside the true ones; "KnowMem" on "forget" and "retain", that of answers, where
    there are questions; "accuracy" on "retain", where there are texts of it; each of "unlearned"
    and "oracle", and as a gap, see `beside_retrained`. "Min-K AUC" and "PrivLeak" are those of
    `priv_leak`. Nothing is better by being lower: 0 is the best gap, and the best PrivLeak.

  Raises:
    ValueError: there is no retrained network, a network has diverged or is not of the texts' kind,
      or the answer to a question has no words.
    ImportError: `decode` is given and `rouge-score` is not installed.

  Example:
    >>> import jax
    >>> from jaxmul import bind, data
    >>> text = data.Dataset(np.array([[1, 2, 3], [4, 5, 7]]), np.array([[2, 3, 4], [5, 6, 1]]))
    >>> counts, constant = (
    ...   bind(lambda p, x, step=step: jax.nn.one_hot((x + step) % 8, 8), {}) for step in (1, 0)
    ... )
    >>> after = data.after_prompt(text, 1)
    >>> tasks = Tasks(verbatim=after, forget=text.take([0]), heldout=text.take([1]))
    >>> figures = muse(counts, constant, tasks)
    >>> [(figure.title, round(figure.value, 2)) for figure in figures[:3]]
    [('VerbMem', 0.83), ('oracle VerbMem', 0.0), ('VerbMem gap', 0.83)]
  """
  if not isinstance(tasks, Tasks):
    raise ValueError(f"muse got {_article.of(tasks)}, must be sequences.Tasks(verbatim=...).")
  sides = [_networks(unlearned, tasks, "unlearned"), _networks(retrained, tasks, "retrained")]

  def beside(function: Callable[[Network], np.ndarray], name: str, part: str) -> list[Figure]:
    scores = [np.stack([function(network) for network in side]) for side in sides]
    return beside_retrained(*scores, name=name, part=part)

  def repeats(dataset: Dataset) -> Callable[[Network], np.ndarray]:
    return lambda network: _rouge(network, dataset, tasks.decode, batch_size)

  figures = beside(repeats(tasks.verbatim), "VerbMem", "forget")
  for part, asked in (("forget", tasks.forget_questions), ("retain", tasks.retain_questions)):
    if asked is not None:
      figures += beside(repeats(asked), "KnowMem", part)
  retain = tasks.retain
  if retain is not None:
    figures += beside(lambda network: correct_of(network, retain, batch_size), "accuracy", "retain")
  members, nonmembers = (
    [
      np.stack([scored(_least_likely, network, dataset, batch_size, "losses") for network in side])
      for side in sides
    ]
    for dataset in (tasks.forget, tasks.heldout)
  )
  return figures + priv_leak((members[0], nonmembers[0]), (members[1], nonmembers[1]))


def _networks(given: Network | Sequence[Network], tasks: Tasks, side: str) -> list[Network]:
  networks = list(given) if isinstance(given, list | tuple) else [given]
  if given is None or not networks:
    raise ValueError(
      f"muse got no {side} network. Each measure stands beside one that was trained without the "
      "forget set: unlearn.retrain(recipe, dataset, split, key).network."
    )
  return [network_of_text(network, tasks.forget, None, "muse") for network in networks]


def _rouge(
  network: Network,
  dataset: Dataset,
  decode: Callable[[list[int]], str] | None,
  batch_size: int,
) -> np.ndarray:
  """Returns ROUGE-L of a network's continuations beside the true ones, float64 [n]."""
  made = continuations(network, dataset, batch_size=batch_size)
  if decode is None:
    return rouge_l(made, dataset.labels)
  is_scored = dataset.labels != losses.UNSCORED
  said, true = (
    [decode(row[scored].tolist()) for row, scored in zip(tokens, is_scored, strict=True)]
    for tokens in (made, dataset.labels)
  )
  scores = rouge_l_of_texts(said, true)
  empty = np.flatnonzero(np.isnan(scores))
  if len(empty):
    raise ValueError(
      f"muse: what id {dataset.ids[empty[0]]} should say has no word of letters or digits "
      f"({len(empty)} of {len(dataset)}). Leave it out, or leave out decode to compare tokens."
    )
  return scores


def _least_likely(logits: jax.Array, labels: jax.Array) -> jax.Array:
  return losses.mean_of_least_likely(logits, labels, SHARE)
