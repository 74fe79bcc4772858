"""The SVC attack where its answer is known, and ids that must not meet."""

import sys

import numpy as np
import pytest

import jaxmul
from jaxmul.data import Dataset
from jaxmul.metrics import attacks, game, oracle


def confidences(rng, size, *, member):
  return rng.beta(40, 2, size) if member else rng.beta(2, 40, size)


def test_one_of_each_is_cut_half_way():
  # Two support vectors with equal multipliers: the boundary is the midpoint, by symmetry.
  targets = np.array([0.0, 0.1, 0.49, 0.51, 1.0])
  assert attacks.svc([0.8], [0.2], targets) == 3 / 5
  assert attacks.svc([0.2], [0.8], targets) == 2 / 5


def test_separated_confidences_give_rates_near_0_and_1():
  rng = np.random.default_rng(0)
  known = confidences(rng, 300, member=True), confidences(rng, 300, member=False)
  assert attacks.svc(*known, confidences(rng, 500, member=True)) < 0.01
  assert attacks.svc(*known, confidences(rng, 500, member=False)) > 0.99


def test_on_the_cut_itself_both_ways_to_ask_say_member():
  """Of members at 1 − p for each non-member at p the machine is odd about ½, and says 0 there."""
  phi = np.array([2.0, -2.0, 0.0, -2.5])  # a member, a non-member, two targets
  models = oracle.Outputs.of_logits(
    np.arange(4), np.zeros(4, int), np.stack([phi, 0 * phi], -1)[None]
  )
  p = models.probability[0]
  assert attacks.svc_scores(p[:1, None], p[1:2, None], p[2:3, None]) == 0
  fit = game.Known(np.array([0]), np.array([1]), np.zeros(0, int))
  assert game.nonmember_rate(models, [2, 3], fit) == attacks.svc(p[:1], p[1:2], p[2:]) == 0.5


def test_equal_distributions_give_one_half_on_average():
  rng = np.random.default_rng(1)
  rates = np.array([attacks.svc(*rng.beta(5, 2, (3, 60))) for _ in range(200)])
  standard_error = rates.std(ddof=1) / np.sqrt(len(rates))
  assert standard_error < 0.03
  assert abs(rates.mean() - 0.5) < 3 * standard_error


def test_it_is_the_attack_of_the_published_code():
  from sklearn.svm import SVC

  rng = np.random.default_rng(8)
  members, nonmembers, targets = rng.beta(4, 2, 150), rng.beta(2, 2, 150), rng.random(400)
  known, labels = np.concatenate([members, nonmembers])[:, None], [1] * 150 + [0] * 150

  def rate(**options):
    machine = SVC(kernel="rbf", **options).fit(known, labels)
    return 1 - machine.predict(targets[:, None]).mean()

  wanted = rate(C=3, gamma="auto")
  for other in ({"C": 1, "gamma": "auto"}, {"C": 10, "gamma": "auto"}, {"C": 3, "gamma": "scale"}):
    assert abs(rate(**other) - wanted) > 0.01  # this data can tell them apart
  assert attacks.svc(members, nonmembers, targets) == pytest.approx(wanted, abs=1e-12)
  assert attacks.svc(members, nonmembers, targets, seed=7) == pytest.approx(wanted, abs=1e-12)


def test_the_order_of_targets_does_not_matter():
  rng = np.random.default_rng(3)
  members, nonmembers, targets = rng.beta(4, 2, 50), rng.beta(2, 2, 50), rng.beta(3, 2, 70)
  rate = attacks.svc(members, nonmembers, targets)
  assert attacks.svc(members, nonmembers, targets[::-1]) == rate


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (([0.5, 0.6], [0.1], [0.5]), "2 members and 1 nonmembers.*Draw 1 of each"),
    (([], [], [0.5]), "members"),
    (([0.5], [0.1], []), "targets"),
    (([0.5], [0.1], [[0.5]]), r"targets.*\(1, 1\)"),
    (([np.nan], [0.1], [0.5]), r"members\[0\] is nan"),
    (([0.5], [0.1], [0.5, 3.2]), r"targets\[1\] is 3.2"),
    (([1.0], [1.0], [0.5]), "nothing to fit"),
  ],
)
def test_bad_confidences_are_refused(args, message):
  with pytest.raises(ValueError, match=message) as caught:
    attacks.svc(*args)
  assert "\n" not in str(caught.value)


def test_a_missing_scikit_learn_names_the_cure(monkeypatch):
  monkeypatch.setitem(sys.modules, "sklearn.svm", None)
  with pytest.raises(ImportError, match=r"pip install 'jaxmul\[evaluate\]'") as caught:
    attacks.svc([0.9], [0.1], [0.5])
  assert "\n" not in str(caught.value)


def logits_from(w, x):
  return x * w


@pytest.fixture(scope="module")
def dataset():
  """Images are the logits themselves: members 100 … 139 are sure, 200 … 259 are not."""
  rng = np.random.default_rng(4)
  labels = rng.integers(0, 3, 100)
  logits = rng.normal(size=(100, 3))
  logits[np.arange(40), labels[:40]] += 8
  return Dataset(logits, labels, np.r_[100:140, 200:260], 3)


ONES = np.ones(3, np.float32)


def test_label_confidence_is_the_softmax_at_the_label(dataset):
  p = np.exp(dataset.inputs.astype(float))
  wanted = p[np.arange(100), dataset.labels] / p.sum(-1)
  for batch_size in (7, 1024):
    values = attacks.label_confidence(ONES, dataset, logits_from, batch_size=batch_size)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, wanted, rtol=1e-5)


def test_label_confidence_resolves_what_float32_rounds_to_one():
  logits = np.array([[20.0, 0.0], [0.0, 20.0], [1e5, 0.0], [0.0, 1e5]])
  toy = Dataset(logits, np.zeros(4, int), num_classes=2)
  sure, unsure, *extremes = attacks.label_confidence(np.ones(2), toy, logits_from)
  assert extremes == [1, 0]
  assert 1 - sure == pytest.approx(np.exp(-20.0), rel=1e-4)
  assert unsure == pytest.approx(np.exp(-20.0), rel=1e-4)


def test_params_that_diverged_are_refused(dataset):
  with pytest.raises(ValueError, match=r"id 100 are NaN.*diverged"):
    attacks.label_confidence(ONES * np.nan, dataset, logits_from)


def test_by_id_is_the_same_attack(dataset):
  rng = np.random.default_rng(5)
  members, nonmembers = rng.permutation(np.r_[100:130]), rng.permutation(np.r_[200:230])
  params = jaxmul.bind(logits_from, ONES)
  p_y = dict(zip(dataset.ids.tolist(), attacks.label_confidence(params, dataset), strict=True))
  for targets in (np.r_[130:140], np.r_[230:260]):
    rate = attacks.svc_on_split(
      params, dataset, members=members, nonmembers=nonmembers, targets=targets
    )
    known = ([p_y[i] for i in ids] for ids in (members, nonmembers, targets))
    assert rate == attacks.svc(*known)
    assert rate < 0.2 if targets[0] < 200 else rate > 0.8


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"targets": [100, 230]}, "id 100 is in members and in targets"),
    ({"targets": [230, 201]}, "id 201 is in nonmembers and in targets"),
    ({"nonmembers": [200, 101]}, "id 101 is in members and in nonmembers"),
    ({"members": [100, 101, 102]}, "3 members and 2 nonmembers"),
    ({"members": [100, 100]}, "id 100 "),
    ({"targets": [999]}, "id 999 is not in the data"),
  ],
)
def test_ids_that_must_not_meet_are_refused(dataset, changed, message):
  ids = {"members": [100, 101], "nonmembers": [200, 201], "targets": [230]} | changed
  with pytest.raises(ValueError, match=message) as caught:
    attacks.svc_on_split(ONES, dataset, apply_fn=logits_from, **ids)
  assert "\n" not in str(caught.value)
