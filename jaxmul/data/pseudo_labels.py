"""Labels for examples that have none, by incremental self-training on a network's features.

φ are features, C the number of classes, K of clusters, R the retain set. Most algorithms need R;
where only some of its labels were kept, they can be given back, the surest first.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from numpy.typing import ArrayLike

from jaxmul import _check, _scoring
from jaxmul._arrays import Inputs
from jaxmul._dataset import Dataset
from jaxmul._kmeans import kmeans
from jaxmul._ties import scattered
from jaxmul.binding import Network, as_network

_NO_LABEL = -1  # of an example that has none yet
_RIDGE = 0.01  # of the mean square of a feature: ours, never tuned


def pseudo_label(
  network: Network,
  dataset: Dataset,
  known: ArrayLike,
  key: jax.Array,
  *,
  features: Callable[[Network, Inputs], jax.Array],
  batches: int = 10,
) -> Dataset:
  """Returns the data with labels for all examples whose label is not known.

  Features of the examples without a label are put into C clusters by k-means. The certainty of an
  example is 1 − (distance to its centre) / (distance to the next centre): 0 on the boundary of two
  clusters. The surest of every cluster make the first batch, those next to a boundary the last. The
  network, which learned from labels, answers on the first batch. Then a linear head, the ridge
  regression of one-hot labels on the features in closed form, is fitted to all that has a label by
  now, labels the next batch, and so on. On a class of which no example has a label yet, the network
  goes on to answer.

  From the paper are the order by clusters, the batches, the boundary at the end and the refit. The
  measure of certainty, the equal share of all clusters in a batch, the network as the first
  classifier and the ridge head are ours: we read no more of it than its abstract.

  Where the network was trained on the true labels of these very examples, it still knows them: on
  `mnist5k` its own answers, `batches=1`, were right on 0.999 of R and these labels on 0.993. Prefer
  them there; see docs/unlearning.md. Either way the forget set had a part in the labels, because
  the network was trained on it.

  Args:
    network: whose features and answers [B, C] are used, in evaluation mode.
    dataset: n examples of one class each; labels of examples that are not known are never looked
      at and may be any class. It must say `num_classes`, C, where no known label is the last one.
    known: int [m], ids whose labels are true: also those of the forget set. It may be empty.
    key: for the first centres of the clusters. SciPy warns where a cluster ends up empty, which
      does no harm.
    features: `(network, inputs [B, ...]) -> φ [B, F]` in evaluation mode, such as
      `models.features(module, head)`.
    batches: into how many the examples are cut; 1 returns the network's own answers.

  Returns:
    The same examples in the same order, with labels int32 [n], as `unlearn.run` takes them. The
    order of the examples does not matter, nor that of `known`.

  Raises:
    ValueError: examples have no class each, an id is not in the data, features are not [B, F] or
      not finite, the network answers a class that the data set does not have, or `batches` is no
      integer of at least 1.

  References:
    Guo et al., [Incremental Self-training for Semi-supervised
    Learning](https://arxiv.org/abs/2404.12398), 2024.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import bind
    >>> toy = Dataset(np.array([[9.0, 0], [0, 9], [9, 1], [1, 9]]), np.array([0, 1, 0, 0]))
    >>> network = bind(lambda params, inputs: inputs, {})
    >>> phi = lambda network, inputs: inputs
    >>> pseudo_label(network, toy, [0, 1], jax.random.key(0), features=phi).labels.tolist()
    [0, 1, 0, 1]
  """
  network = as_network(network, None, "pseudo_label")
  _check.key(key, "pseudo_label")
  _check.count(batches, "batches", "pseudo_label")
  if dataset.labels.ndim > 1 or not dataset.classes:
    raise ValueError(
      f"pseudo_label needs one class per example, got labels {dataset.labels.dtype} "
      f"{list(dataset.labels.shape)}. Text and numbers to predict have no such labels to give."
    )
  is_known = np.zeros(len(dataset), bool)
  is_known[dataset.rows(known)] = True
  if is_known.all():
    return dataset
  order = np.argsort(dataset.ids)  # in another order sums would round differently
  ids, is_known = dataset.ids[order], is_known[order]
  phi, answers = _seen(features, network, dataset.take(ids))
  labels = np.where(is_known, dataset.labels[order], _NO_LABEL)
  missing = np.flatnonzero(~is_known)
  turns = missing[_surest_first(phi[missing], ids[missing], key, dataset.num_classes)]
  first, *others = np.array_split(turns, min(batches, len(turns)))
  labels[first] = answers[first]
  for batch in others:
    labels[batch] = _by_head(phi, labels, batch, answers[batch])
  filled = np.empty_like(labels)
  filled[order] = labels
  return dataclasses.replace(dataset, labels=filled)


def _seen(
  features: Callable[[Network, Inputs], jax.Array], network: Network, dataset: Dataset
) -> tuple[np.ndarray, np.ndarray]:
  """Returns features float64 [n, F] and the classes int [n] that the network answers."""
  shape = jax.eval_shape(lambda inputs: features(network, inputs), dataset.example).shape
  if len(shape) != 2:
    raise ValueError(
      f"pseudo_label needs features [B, F], got {list(shape)}. Flatten them: "
      "phi.reshape(len(phi), -1)."
    )
  seen = _scoring.score(Partial(_features_and_answer, Partial(features)), network, dataset)
  phi, answers = seen[:, :-1].astype(np.float64), seen[:, -1].astype(np.int32)
  _check.finite(phi, "pseudo_label: features")
  if answers.max() >= dataset.num_classes:
    raise ValueError(
      f"pseudo_label: the network answers class {answers.max()}, the data set has "
      f"{dataset.num_classes} classes. Say how many: Dataset(..., num_classes=...)."
    )
  return phi, answers


def _features_and_answer(features, network: Network, *, batch) -> jax.Array:
  """Returns φ with the class that the network answers as its last column, float32 [B, F + 1]."""
  inputs, _ = batch
  columns = (features(network, inputs), jnp.argmax(network(inputs), -1)[:, None])
  return jnp.concatenate([column.astype(jnp.float32) for column in columns], -1)


def _surest_first(
  phi: np.ndarray, ids: np.ndarray, key: jax.Array, num_clusters: int
) -> np.ndarray:
  """Returns the rows [k] of φ [k, F], the surest of each cluster first, its boundary last."""
  from scipy.spatial.distance import cdist

  num_clusters = min(num_clusters, len(np.unique(phi, axis=0)))
  centres, cluster_of = kmeans(phi, ids, key, num_clusters)
  distances = np.sort(cdist(phi, centres), axis=1)
  doubt = np.zeros(len(phi))
  if num_clusters > 1:
    nearest, next_one = distances[:, 0], distances[:, 1]
    doubt = np.divide(nearest, next_one, out=np.ones(len(phi)), where=next_one > 0)
  tie_breaker = scattered(ids)
  share_before = np.empty(len(phi))
  for cluster in np.unique(cluster_of):
    members = np.flatnonzero(cluster_of == cluster)
    members = members[np.lexsort((tie_breaker[members], doubt[members]))]
    share_before[members] = (np.arange(len(members)) + 0.5) / len(members)
  return np.lexsort((tie_breaker, share_before))


def _by_head(
  phi: np.ndarray, labels: np.ndarray, rows: np.ndarray, answers: np.ndarray
) -> np.ndarray:
  """Returns the labels [k] that a head, fitted to all examples with a label, gives to some rows.

  Args:
    phi: [n, F].
    labels: int [n], −1 where there is none.
    rows: int [k].
    answers: int [k], what the network answers on them: taken where it is a class of no label.
  """
  has_label = labels != _NO_LABEL
  classes = np.unique(labels[has_label])
  fitted = phi[has_label]
  centre = fitted.mean(0)
  fitted = fitted - centre
  targets = (labels[has_label, None] == classes).astype(float)
  gram = fitted.T @ fitted
  gram += _RIDGE * (np.trace(gram) / len(gram) or 1.0) * np.eye(len(gram))
  kernel = np.linalg.solve(gram, fitted.T @ targets)
  values = (phi[rows] - centre) @ kernel + targets.mean(0)
  return np.where(np.isin(answers, classes), classes[values.argmax(1)], answers)
