"""A stream of requests: what is deleted is not met again, one trace, keys, and the ledger."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import bind, models, proxies, rum, unlearn
from jaxmul.data import Dataset
from jaxmul.rum.ledger import plan_words

LOG: list[int] = []


def tracer():
  """A data set whose labels are its ids, and an algorithm that logs the labels it is given."""

  def update(forget, retain, state, params, key):
    del key
    for batch in (forget, retain):
      jax.debug.callback(
        lambda ids, mask: LOG.extend(np.asarray(ids)[np.asarray(mask)].tolist()),
        batch.labels,
        batch.mask,
      )
    return jax.tree.map(jnp.ones_like, params), state

  witness = unlearn.Unlearner(
    lambda params, session: (), update, passes="union", identity=("tracer",)
  )
  toy = Dataset(np.arange(30, dtype=np.float32)[:, None], np.arange(30))
  return witness, toy, bind(lambda w, x: x @ w, jnp.zeros((1, 30)))


def test_a_stream_of_five_requests_never_touches_deleted_data_again(tmp_path):
  witness, toy, params = tracer()
  plan = rum.Plan([rum.Step(None), rum.Step(witness, 2, 8)])
  seen_params, asked = [], []

  def score(params, part):
    seen_params.append(float(params.params[0, 0]))
    LOG.extend(part.ids.tolist())
    return part.ids.astype(float)

  def queue():
    for start in range(0, 15, 3):
      jax.effects_barrier()
      asked.append(list(LOG))
      LOG.clear()
      yield [start, start + 2, start + 1]

  served = list(
    rum.stream(plan, params, toy, queue(), jax.random.key(0), score=score, store=tmp_path)
  )
  jax.effects_barrier()
  batches = [*asked[1:], list(LOG)]
  assert len(served) == len(batches) == 5
  for number, touched in enumerate(batches):
    # A request is scored, and its upper group unlearned, before it is gone.
    assert set(touched) == set(range(3 * number, 30))
    assert not set(touched) & set(range(3 * number))
  steps = np.diff([*seen_params, float(served[-1].network.params[0, 0])])
  assert (steps > 0).all()  # scores are computed on the current network
  lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
  assert [sorted(itertools.chain(*line["groups"])) for line in lines] == [
    [start, start + 1, start + 2] for start in range(0, 15, 3)
  ]
  assert all(a["after"] == b["before"] for a, b in itertools.pairwise(lines))
  assert lines[-1]["after"] == rum.params_hash(served[-1].network)
  assert "tracer" in lines[0]["plan"]


def test_a_stream_refuses_what_was_deleted_before():
  witness, toy, params = tracer()
  plan = rum.Plan([rum.Step(witness, 1, 8)])
  served = rum.stream(
    plan, params, toy, [[1, 2], [2, 3]], jax.random.key(0), score=lambda p, d: d.ids * 1.0
  )
  next(served)
  with pytest.raises(ValueError, match="request 1: id 2 was deleted before"):
    next(served)


@pytest.mark.parametrize(
  ("request_", "message"),
  [
    ([1.5, 2.5], "request 0 needs integer ids .*, got float64"),
    ([1], "request 0 has 1 ids for 2 steps of the plan, must have one for each"),
    ([1, 1], "request 0 got id 1 more than once"),
  ],
)
def test_a_request_that_cannot_be_served_gets_one_line(request_, message):
  witness, toy, params = tracer()
  plan = rum.Plan([rum.Step(None), rum.Step(witness, 1, 8)])
  served = rum.stream(
    plan, params, toy, [request_], jax.random.key(0), score=lambda p, d: d.ids * 1.0
  )
  with pytest.raises(ValueError, match=message) as caught:
    next(served)
  assert "\n" not in str(caught.value)


def test_a_request_of_copies_is_as_small_as_what_it_repeats():
  witness, toy, params = tracer()
  toy = dataclasses.replace(toy, families=np.r_[0, 0, 0, np.arange(1, 28)])
  plan = rum.Plan([rum.Step(None), rum.Step(witness, 1, 8), rum.Step(None)])
  given = (plan, params, toy, [[0, 1, 2]], jax.random.key(0))

  def score(params, part):
    del params
    return part.ids * 1.0

  with pytest.raises(ValueError, match="has 3 ids, 1 without copies, for 3 steps of the plan"):
    next(rum.stream(*given, score=score))
  done = next(rum.stream(*given, score=score, cuts=(0.0, 1.0)))
  assert done.entry.groups == ((), (0, 1, 2), ())  # all by the score of the first


@pytest.mark.parametrize(
  ("cuts", "message"),
  [
    ((0.5,), "got 1 cuts for 3 steps of the plan, must be one fewer"),
    ((0.8, 0.2), r"cuts=\[0\.8, 0\.2\], none may be below the one before"),
  ],
)
def test_cuts_that_do_not_fit_the_plan_are_refused(cuts, message):
  witness, toy, params = tracer()
  plan = rum.Plan([rum.Step(None), rum.Step(witness, 1, 8), rum.Step(None)])
  served = rum.stream(
    plan, params, toy, [[1]], jax.random.key(0), score=lambda p, d: d.ids * 1.0, cuts=cuts
  )
  with pytest.raises(ValueError, match=message) as caught:
    next(served)
  assert "\n" not in str(caught.value)


def test_a_stream_without_a_store_takes_algorithms_that_hold_a_lambda(tmp_path):
  witness, toy, params = tracer()
  mine = unlearn.Unlearner(
    witness.init, witness.update, passes="union", identity=("mine", lambda x: x)
  )
  plan = rum.Plan([rum.Step(mine, 1, 8)])
  given = (plan, params, toy, [[1, 2]], jax.random.key(0))
  (done,) = rum.stream(*given, score=lambda p, d: d.ids * 1.0)
  assert "mine" in done.entry.plan
  with pytest.raises(ValueError, match="could not be resumed"):
    next(rum.stream(*given, score=lambda p, d: d.ids * 1.0, store=tmp_path))


def test_scores_of_a_stream_can_be_any_proxy():
  rng = np.random.default_rng(0)
  toy = Dataset(rng.normal(size=(40, 6)).astype(np.float32), rng.integers(0, 3, 40))
  params = models.init(models.mlp((5,), 3), jax.random.key(0), toy.inputs[:1])
  plan = rum.Plan([rum.Step(None), rum.Step(unlearn.fine_tune(), 1, 8)])
  served = rum.stream(
    plan,
    params,
    toy,
    [np.arange(6)],
    jax.random.key(0),
    score=lambda p, d: proxies.score(proxies.loss, p, d),
  )
  (done,) = served
  low, high = done.entry.groups
  losses = dict(zip(range(6), proxies.score(proxies.loss, params, toy)[:6], strict=True))
  assert max(losses[i] for i in low) <= min(losses[i] for i in high)


def by_id(params, part):
  return part.ids.astype(float)


def still(handed, traces):
  """An algorithm that moves nothing, and logs the data it is handed and how often it is traced."""

  def init(params, session):
    handed.append((np.asarray(session.retain.inputs), np.asarray(session.retain.labels)))
    return ()

  def update(forget, retain, state, params, key):
    traces.append(1)
    return jax.tree.map(jnp.zeros_like, params), state

  return unlearn.Unlearner(init, update, identity=("still", len(handed)))


def test_a_stream_is_traced_once_and_hands_on_zeros_for_what_is_deleted():
  handed, traces = [], []
  toy = Dataset(1 + np.arange(40, dtype=np.float32)[:, None], 1 + np.arange(40))
  params = bind(lambda w, x: x @ w, jnp.zeros((1, 41)))
  plan = rum.Plan([rum.Step(still(handed, traces), 2, 8)])
  asked = [[30, 2, 4], [0, 1, 39, 7], [5, 6]]
  list(rum.stream(plan, params, toy, asked, jax.random.key(0), score=by_id))
  assert len(traces) == 1
  for number, arrays in enumerate(handed):
    gone = np.isin(toy.ids, list(itertools.chain(*asked[:number])))
    for array, original in zip(arrays, (toy.inputs, toy.labels), strict=True):
      np.testing.assert_array_equal(array[gone], 0)
      np.testing.assert_array_equal(array[~gone], original[~gone])
  assert toy.inputs.min() == toy.labels.min() == 1  # the caller's own arrays are as they were


def test_each_step_of_each_request_has_its_own_key():
  seen = []

  def init(params, session):
    seen.append(tuple(jax.random.key_data(session.key).tolist()))
    return params

  shot = unlearn.Unlearner(init, None, identity=("key",), start=lambda params, state: state)
  plan = rum.Plan([rum.Step(None), rum.Step(shot), rum.Step(shot)])
  toy, key = Dataset(np.zeros((12, 1)), np.arange(12) % 2), jax.random.key(3)
  params = bind(lambda w, x: x @ w, jnp.zeros((1, 2)))
  list(rum.stream(plan, params, toy, [[1, 2, 3], [4, 5, 6]], key, score=by_id))
  expected = [
    jax.random.split(jax.random.fold_in(jax.random.fold_in(key, request), step))[0]
    for request in (0, 1)
    for step in (1, 2)
  ]
  assert seen == [tuple(jax.random.key_data(key).tolist()) for key in expected]
  assert len(set(seen)) == 4


def bump():
  """One shot that adds 1 to all params: nothing to compile."""
  return unlearn.Unlearner(
    lambda params, session: jax.tree.map(lambda leaf: leaf + 1, params),
    None,
    identity=("bump",),
    start=lambda params, state: state,
  )


def bumped(store, *, requests=((1, 2), (5, 3), (8, 9)), start=0.0, **settings):
  toy = Dataset(np.zeros((12, 1)), np.arange(12) % 2)
  params = bind(lambda w, x: x @ w, jnp.full((1, 2), start))
  plan = rum.Plan([rum.Step(bump(), **settings)])
  return rum.stream(plan, params, toy, requests, jax.random.key(0), score=by_id, store=store)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
  """A store of three requests that are finished, and the three lines of its ledger."""
  store = tmp_path_factory.mktemp("served")
  list(bumped(store))
  return store, (store / "ledger.jsonl").read_bytes().splitlines(keepends=True)


def test_a_restarted_stream_leaves_finished_lines_of_the_ledger_as_they_are(served):
  store, lines = served
  assert len(lines) == 3
  restarted, finished = bumped(store), [json.loads(line)["finished"] for line in lines]
  for when in finished:
    assert next(restarted).entry.finished == when
    assert (store / "ledger.jsonl").read_bytes() == b"".join(lines)  # all of it, at any time
  (store / "ledger.jsonl").write_bytes(lines[0])  # as if killed after request 0
  list(bumped(store))
  first, *others = (store / "ledger.jsonl").read_bytes().splitlines(keepends=True)
  assert first == lines[0]
  for new, old in zip(others, lines[1:], strict=True):
    assert json.loads(new)["finished"] > json.loads(old)["finished"]
    assert json.loads(new) | {"finished": 0} == json.loads(old) | {"finished": 0}
  (store / "ledger.jsonl").write_bytes(b"".join(lines))


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"freeze_statistics": True}, "request 0 with plan .* × 5 of 256, not .* statistics frozen"),
    ({"start": 1.0}, "request 0 with before "),
    ({"requests": ((1, 2), (5, 4))}, r"request 1 with groups \(\(3, 5\),\), not \(\(4, 5\),\)"),
  ],
)
def test_a_ledger_of_something_else_is_kept_and_refused_before_anything_is_done(
  served, changed, message
):
  store, lines = served
  steps = set(store.glob("request*/*"))
  with pytest.raises(ValueError, match=message) as caught:
    list(bumped(store, **changed))
  assert "\n" not in str(caught.value)
  assert "another store" in str(caught.value)
  assert (store / "ledger.jsonl").read_bytes() == b"".join(lines)
  assert set(store.glob("request*/*")) == steps


def test_a_ledger_that_is_damaged_or_tells_another_end_is_refused(served):
  store, lines = served
  for line, message in (
    (lines[1][:40] + b"\n", "line 2 of .* is damaged"),
    (
      json.dumps(json.loads(lines[1]) | {"after": "0"}).encode() + b"\n",
      "request 1 with after 0, ",
    ),
  ):
    (store / "ledger.jsonl").write_bytes(lines[0] + line)
    with pytest.raises(ValueError, match=message) as caught:
      list(bumped(store))
    assert "\n" not in str(caught.value)
  (store / "ledger.jsonl").write_bytes(b"".join(lines))


def test_the_words_of_a_plan_tell_the_arrays_of_its_algorithms_apart():
  """Else a ledger would go on under other held-out examples or another teacher."""

  def words(value):
    teacher = bind(by_id, np.full((2, 3), value, np.float32))
    return plan_words(rum.Plan([rum.Step(unlearn.bad_teacher(teacher), 1, 8)]))

  assert words(1) == words(1)
  assert words(1) != words(2)
