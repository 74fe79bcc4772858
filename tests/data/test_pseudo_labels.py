"""Labels by incremental self-training: against a slow form, its limits, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import bind, data, models, unlearn
from jaxmul._ties import scattered

KEY = jax.random.key(0)
NAMES = np.random.default_rng(9).permutation(10**6)  # ids of no order


def same(network, inputs):
  del network
  return inputs


def answering(kernel):
  """A linear network, whose features are its inputs."""
  return bind(lambda params, inputs: inputs @ params, jnp.asarray(kernel, jnp.float32))


def blobs():
  """Three classes in four dimensions, nearly apart, and a network that is often wrong."""
  rng = np.random.default_rng(1)
  labels = rng.integers(0, 3, 90)
  centres = np.array([[4.0, 0, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0]])
  inputs = centres[labels] + rng.normal(size=(90, 4)) * 1.2
  kernel = np.array([[1, 0.5, -0.2], [-0.4, 1, 0.6], [0.7, -0.3, 0.5], [0.3, 0.3, -0.3]])
  dataset = data.Dataset(inputs, labels, NAMES[:90], num_classes=3)
  return dataset, answering(kernel), centres


def pseudo_label(network, dataset, known, key=KEY, **options):
  return data.pseudo_label(network, dataset, known, key, **{"features": same} | options)


def slowly(network, dataset, known, centres, batches):
  """The same in plain loops; clusters by Lloyd's steps from these centres."""
  phi = {i: np.asarray(x, float) for i, x in zip(dataset.ids, dataset.inputs, strict=True)}
  answers = np.asarray(network(jnp.asarray(dataset.inputs))).argmax(-1)
  answer = dict(zip(dataset.ids, answers, strict=True))
  labels = {i: y for i, y in zip(dataset.ids, dataset.labels, strict=True) if i in set(known)}
  missing = [i for i in dataset.ids if i not in labels]

  def nearest(i):
    return sorted((np.sqrt(((phi[i] - c) ** 2).sum()), k) for k, c in enumerate(centres))

  for _ in range(100):
    clusters = {i: nearest(i)[0][1] for i in missing}
    centres = [
      np.mean([phi[i] for i in missing if clusters[i] == k], axis=0) for k in range(len(centres))
    ]
  certainty = {i: 1 - nearest(i)[0][0] / nearest(i)[1][0] for i in missing}
  tie = dict(zip(dataset.ids, scattered(dataset.ids), strict=True))
  place = {}
  for k in range(len(centres)):
    members = sorted((i for i in missing if clusters[i] == k), key=lambda i: -certainty[i])
    place |= {i: (2 * rank + 1) / len(members) for rank, i in enumerate(members)}
  order = sorted(missing, key=lambda i: (place[i], tie[i]))
  for number, batch in enumerate(np.array_split(order, batches)):
    if number == 0:
      labels |= {i: answer[i] for i in batch}
      continue
    classes = sorted(set(labels.values()))
    x = np.array([[1.0, *phi[i]] for i in labels])
    y = np.array([[float(labels[i] == c) for c in classes] for i in labels])
    spread = x[:, 1:].var(0).sum() * len(x) / 4
    penalty = np.sqrt(0.01 * spread) * np.eye(5)[1:]  # none on the bias
    head = np.linalg.lstsq(np.vstack([x, penalty]), np.vstack([y, np.zeros((4, y.shape[1]))]))[0]
    given = {i: classes[int(np.argmax(np.array([1.0, *phi[i]]) @ head))] for i in batch}
    labels |= {i: given[i] if answer[i] in classes else answer[i] for i in batch}
  return [int(labels[i]) for i in dataset.ids]


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("batches", [1, 2, 7])
def test_labels_are_those_of_the_slow_form(batches, share):
  dataset, network, centres = blobs()
  known = dataset.ids[: round(share * len(dataset))]
  labelled = pseudo_label(network, dataset, known, batches=batches)
  assert labelled.labels.tolist() == slowly(network, dataset, known, centres, batches)


def test_batches_and_known_labels_matter_and_help_here():
  """Else the test above would compare nothing. The network alone is right on 73 %."""
  dataset, network, _ = blobs()
  right = {
    (batches, count): (
      pseudo_label(network, dataset, dataset.ids[:count], batches=batches).labels[30:]
      == dataset.labels[30:]
    ).mean()
    for batches in (1, 2, 7)
    for count in (0, 30)
  }
  assert len(set(right.values())) >= 4
  assert right[1, 0] == right[1, 30] < 0.75
  assert right[7, 30] > right[1, 30] + 0.1


def test_one_batch_is_the_networks_own_answer_and_known_labels_stay():
  dataset, network, _ = blobs()
  answers = np.asarray(network(jnp.asarray(dataset.inputs))).argmax(-1)
  assert pseudo_label(network, dataset, [], batches=1).labels.tolist() == answers.tolist()
  known = dataset.ids[:20]
  labelled = pseudo_label(network, dataset, known)
  assert labelled.labels[:20].tolist() == dataset.labels[:20].tolist()
  assert labelled.labels.dtype == np.int32
  assert pseudo_label(network, dataset, dataset.ids) is dataset
  almost = pseudo_label(network, dataset, dataset.ids[1:], batches=50)  # more than there are
  assert almost.labels[1:].tolist() == dataset.labels[1:].tolist()


def test_labels_that_are_not_known_are_never_looked_at():
  dataset, network, _ = blobs()
  known = dataset.ids[5:30]
  labels = dataset.labels.copy()
  labels[:5], labels[30:] = 0, 2
  blank = data.Dataset(dataset.inputs, labels, dataset.ids, num_classes=3)
  one, other = (pseudo_label(network, given, known) for given in (dataset, blank))
  assert one.labels.tolist() == other.labels.tolist()


def test_neither_the_order_of_the_data_nor_that_of_the_known_ids_matters():
  dataset, network, _ = blobs()
  known = dataset.ids[:25]
  labelled = pseudo_label(network, dataset, known)
  turned = pseudo_label(network, dataset.take(dataset.ids[::-1]), known[::-1])
  assert turned.ids.tolist() == dataset.ids[::-1].tolist()
  assert turned.take(dataset.ids).labels.tolist() == labelled.labels.tolist()


def test_all_but_the_labels_stays_as_it_is():
  dataset, network, _ = blobs()
  kinds = {"strata": np.arange(90) % 7, "families": np.arange(90) % 5}
  dataset = data.Dataset(dataset.inputs, dataset.labels, dataset.ids, 3, **kinds)
  labelled = pseudo_label(network, dataset, dataset.ids[:5])
  for name in ("inputs", "ids", "strata", "families", "num_classes"):
    np.testing.assert_array_equal(getattr(labelled, name), getattr(dataset, name))


def test_on_a_class_without_a_label_the_network_answers():
  """Two examples between the clusters, the last to get a label, are the only ones of class 2."""
  rng = np.random.default_rng(0)
  line = np.concatenate([rng.normal(place, 1, 20) for place in (0, 100, 200)] + [[149, 151]])
  inputs = np.stack([line, np.abs(line - 150) < 5], 1)
  network = answering([[-1, 1, 0], [0, 0, 1e4]])
  dataset = data.Dataset(inputs, np.zeros(62, int), num_classes=3)
  labelled = pseudo_label(network, dataset, [], batches=4)
  assert labelled.labels[60:].tolist() == [2, 2]
  assert set(labelled.labels[:60]) == {0, 1}


def test_equal_features_are_one_cluster():
  dataset = data.Dataset(np.ones((5, 2)), np.array([1, 0, 0, 0, 0]), num_classes=3)
  labelled = pseudo_label(answering([[0, 1, 0], [0, 0, 0.0]]), dataset, [0], batches=2)
  assert labelled.labels.tolist() == [1] * 5


def test_what_it_returns_can_be_unlearned_from():
  digits = data.digits().take(np.arange(64))
  model = models.mlp((8,))
  network = models.init(model, KEY, digits.example)
  split = data.Split(forget=np.arange(8), retain=np.arange(8, 64))
  labelled = pseudo_label(
    network, digits, split.forget, features=models.features(model, "Dense_1"), batches=3
  )
  assert 1 < len(set(labelled.labels[8:])) <= 10
  after = unlearn.run(unlearn.fine_tune(), network, labelled, split, KEY, epochs=1, batch_size=64)
  assert np.isfinite(np.asarray(after(labelled.batch()[0]))).all()


def deep(network, inputs):
  return inputs[:, None]


def empty(network, inputs):
  return inputs / 0


@pytest.mark.parametrize(
  ("options", "parts"),
  [
    ({"batches": 0}, ["batches=0", "at least 1"]),
    ({"key": 0}, ["key=0", "jax.random.key(0)"]),
    ({"known": [-1]}, ["id -1 is not in the data"]),
    ({"features": deep}, ["features [B, F]", "reshape"]),
    ({"features": empty}, ["features hold", "finite"]),
    ({"network": None}, ["pseudo_label"]),
    ({"num_classes": 2}, ["answers class 2", "has 2 classes", "num_classes="]),
    ({"labels": np.ones((4, 4), int)}, ["one class per example", "int32 [4, 4]"]),
    ({"labels": np.ones(4), "classes": False}, ["one class per example", "float32 [4]"]),
  ],
)
def test_what_it_cannot_label_is_refused_in_one_line(options, parts):
  given = {"known": [0], "network": answering(np.eye(4)[:, :3]), "labels": np.zeros(4, int)}
  given |= {"num_classes": 3, "key": KEY} | options
  fields = {"num_classes": given.pop("num_classes"), "classes": given.pop("classes", True)}
  dataset = data.Dataset(np.eye(4), given.pop("labels"), **fields)
  with pytest.raises(ValueError, match=r"\A[^\n]*\Z") as caught:
    pseudo_label(dataset=dataset, **given)
  for part in parts:
    assert part in str(caught.value)
