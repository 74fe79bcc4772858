"""SISA beside training by hand, training on what is left, and what the paper says of it."""

import dataclasses
import re
import tempfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmul import bind, models, sisa, train
from jaxmul._blocks import even_rows, shuffled_rows
from jaxmul._files import equal
from jaxmul.data import Dataset
from jaxmul.sisa import shard_training as module
from jaxmul.sisa.aggregation import mean_of, votes_of
from jaxmul.sisa.shards_and_slices import epochs_of, places_of
from jaxmul.sisa.slice_checkpoints import names_of
from jaxmul.sisa.slice_training import dealt, order_of

KEY = jax.random.key(5)
RNG = np.random.default_rng(0)
LABELS = np.arange(40) % 2
TOY = Dataset((RNG.normal(size=(40, 3)) + LABELS[:, None]).astype(np.float32), LABELS)
TOY = dataclasses.replace(TOY, ids=TOY.ids * 7 + 3)
RECIPE = train.Recipe(models.mlp((5,), 2), epochs=3, batch_size=8)


def fitted(dataset=TOY, *, shards=3, slices=3, recipe=RECIPE, store=None):
  store = tempfile.mkdtemp() if store is None else store
  return sisa.fit(recipe, dataset, KEY, shards=shards, slices=slices, store=store)


@pytest.fixture(scope="module")
def trained():
  return fitted()


def without(ids, dataset=TOY):
  return dataset.take(np.setdiff1d(dataset.ids, ids))


def same(one, other):
  """Whether two trees are equal bit for bit."""
  pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  return all(equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


def in_slice(ensemble, shard, number):
  """The first id of a slice."""
  own = ensemble.shards[shard]
  return own.ids[own.slice_of == number][0]


def files(ensemble):
  return {path.name: path.read_bytes() for path in ensemble.store.iterdir()}


@pytest.mark.parametrize("shards", [1, 2])
def test_with_one_slice_each_network_is_that_of_train_fit(shards, trained):
  del trained  # compiles what the others share
  ensemble = fitted(shards=shards, slices=1)
  for number, shard in enumerate(ensemble.shards):
    alone = train.fit(RECIPE, TOY, jax.random.fold_in(KEY, number), ids=shard.ids)
    assert same(alone.network.params, shard.network.params)
  assert np.array_equal(ensemble.ids, TOY.ids)


def test_a_weighting_begins_as_in_train_fit_and_is_kept_from_slice_to_slice(tmp_path):
  recipe = dataclasses.replace(RECIPE, weighting=train.LossTruncation(0.3, window=20))
  alone = train.fit(recipe, TOY, jax.random.fold_in(KEY, 0)).network
  assert same(alone.params, fitted(shards=1, slices=1, recipe=recipe).shards[0].network.params)
  assert not same(alone.params, train.fit(RECIPE, TOY, jax.random.fold_in(KEY, 0)).network.params)
  whole = fitted(shards=1, slices=2, recipe=recipe, store=tmp_path)
  last = max(tmp_path.iterdir(), key=lambda path: "slice1" in path.name)
  last.unlink()
  again = fitted(shards=1, slices=2, recipe=recipe, store=tmp_path)
  assert same(whole.shards[0].network.params, again.shards[0].network.params)


class Normed(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))
    return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(x))


def test_a_network_with_a_training_mode_is_dealt_even_steps():
  recipe = train.Recipe(Normed(), epochs=3, batch_size=16)
  ensemble = fitted(shards=1, slices=1, recipe=recipe)
  alone = train.fit(recipe, TOY, jax.random.fold_in(KEY, 0)).network
  of_all = ensemble.shards[0].network
  assert same((alone.params, alone.state), (of_all.params, of_all.state))
  inputs = TOY.batch()[0]
  two = fitted(shards=2, slices=1, recipe=recipe)
  for trained in (ensemble, two):
    each = [jax.nn.softmax(shard.network(inputs)) for shard in trained.shards]
    np.testing.assert_allclose(np.exp(trained.network(inputs)), np.mean(each, 0), rtol=1e-5)


def test_running_means_go_on_from_slice_to_slice():
  """Steps of all examples at rate 0: only the statistics move, by 1 % a step."""
  recipe = train.Recipe(Normed(), epochs=3, batch_size=40, learning_rate=0.0)
  (shard,) = fitted(shards=1, recipe=recipe).shards
  dense, mean = shard.network.params["Dense_0"], np.zeros(4)
  for at in (0, 1, 1, 2):
    inputs = TOY.take(shard.ids[shard.slice_of <= at]).inputs
    mean = 0.99 * mean + 0.01 * (inputs @ dense["kernel"] + dense["bias"]).mean(0)
  mine = shard.network.state["batch_stats"]["BatchNorm_0"]["mean"]
  np.testing.assert_allclose(mine, mean, rtol=1e-4, atol=1e-6)
  module.refuse_few(shard.network, recipe, 0, np.array([0, 0, 1]), "fit")  # steps of 2 and 3
  with pytest.raises(ValueError, match="a batch of 1 example"):
    module.refuse_few(shard.network, recipe, 0, np.array([0, 1, 1]), "fit")


def test_forgetting_is_training_on_the_rest_bit_for_bit(trained):
  ids = [in_slice(trained, 0, 1), in_slice(trained, 0, 2), in_slice(trained, 2, 0)]
  left, afresh = sisa.forget(trained, TOY, ids), fitted(without(ids))
  for one, other, before in zip(left.shards, afresh.shards, trained.shards, strict=True):
    assert same(one.network, other.network)
    assert np.array_equal(one.ids, other.ids)
    assert np.array_equal(one.slice_of, other.slice_of)
    assert same(one.network, before.network) == (one is left.shards[1])
  assert same(left.network, afresh.network)
  assert files(left) == files(afresh)
  # And the request after it, of data from which the first one's examples are gone.
  more = [in_slice(left, 1, 2)]
  again = sisa.forget(left, without(ids), more)
  assert same(again.network, fitted(without([*ids, *more])).network)


def test_only_touched_shards_are_trained_and_only_from_the_slice_on(monkeypatch):
  ensemble = fitted()
  before, seen = files(ensemble), []

  def counted(recipe, key, carry, part):
    seen.append(part.count * len(part.epochs))
    return trained_on(recipe, key, carry, part)

  trained_on = module.trained_on
  monkeypatch.setattr(module, "trained_on", counted)
  ids = [in_slice(ensemble, 1, 1)]
  expected = sisa.cost(ensemble, ids)
  left = sisa.forget(ensemble, TOY, ids)
  assert left.shards[0] is ensemble.shards[0]
  assert left.shards[2] is ensemble.shards[2]
  # Of the touched one what comes before the slice stays, and nothing that has seen the example.
  gone = set(ensemble.shards[1].files[1:])
  assert set(files(left)) == (set(before) - gone) | set(left.shards[1].files[1:])
  assert left.shards[1].files[0] == ensemble.shards[1].files[0]
  assert not gone & set(left.shards[1].files)
  own = left.shards[1].slice_of
  assert seen == [int((own <= at).sum()) * epochs_of(3, 3)[at] for at in (1, 2)]
  assert expected == sum(seen) / (RECIPE.epochs * (len(TOY) - 1))
  seen.clear()
  assert sisa.forget(left, TOY, []).network is not None
  assert sisa.cost(left, []) == 0
  assert not seen


def gradient_by_hand(weights, x, y):
  """Of the mean cross-entropy of x → ReLU(x a + b) c + d, in NumPy."""
  a, b, c, d = weights
  hidden = np.maximum(x @ a + b, 0)
  outputs = np.exp(hidden @ c + d)
  back = (outputs / outputs.sum(1, keepdims=True) - np.eye(2)[y]) / len(x)
  behind = back @ c.T * (hidden > 0)
  return [x.T @ behind, behind.sum(0), hidden.T @ back, back.sum(0)]


def layers(network):
  return [network.params[f"Dense_{at}"][name] for at in (0, 1) for name in ("kernel", "bias")]


@dataclasses.dataclass(frozen=True)
class Fading:
  """A weighting of 1 / (1 + s) in step s."""

  def init(self):
    return jnp.zeros(())

  def update(self, state, losses, mask):
    del mask
    return jnp.full(losses.shape, 1 / (1 + state)), state + 1


@pytest.mark.parametrize("weighting", [None, Fading()])
def test_training_by_hand(weighting):
  """One shard, three slices of 1, 2 and 1 epochs: SGD with momentum and decay, in NumPy."""
  (shard,) = fitted(shards=1, recipe=dataclasses.replace(RECIPE, weighting=weighting)).shards
  init_key, order_key = jax.random.split(jax.random.fold_in(KEY, 0))
  network = models.init(RECIPE.model, init_key, jnp.zeros((1, 3)))
  weights = [np.asarray(leaf, float) for leaf in layers(network)]
  velocities = [np.zeros_like(leaf) for leaf in weights]
  steps = 0
  for number, at in enumerate((0, 1, 1, 2)):
    part = TOY.take(shard.ids[shard.slice_of <= at])
    rate = 0.1 * 0.5 * (1 + np.cos(np.pi * number / 4))
    order = order_of(jax.random.split(jax.random.fold_in(order_key, number))[0], len(part))
    for start in range(0, len(part), 8):
      rows = order[start : start + 8]
      gradients = gradient_by_hand(weights, part.inputs[rows], part.labels[rows])
      for leaf, velocity, gradient in zip(weights, velocities, gradients, strict=True):
        velocity *= 0.9
        velocity += (gradient if weighting is None else gradient / (1 + steps)) + 5e-4 * leaf
        leaf -= rate * velocity
      steps += 1
  for mine, theirs in zip(layers(shard.network), weights, strict=True):
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_neither_the_order_of_the_data_nor_other_examples_matter_to_a_place(trained):
  backwards = TOY.take(TOY.ids[::-1])
  assert same(fitted(backwards).network, trained.network)
  shard, part = places_of(TOY, KEY, 3, 3)
  few = TOY.take(TOY.ids[5:9])
  assert [x.tolist() for x in places_of(few, KEY, 3, 3)] == [
    shard[5:9].tolist(),
    part[5:9].tolist(),
  ]
  other, _ = places_of(TOY, jax.random.key(6), 3, 3)
  assert (other != shard).any()


def test_places_are_even_and_copies_share_one():
  many = Dataset(np.zeros((9000, 1), np.float32), np.zeros(9000, int), num_classes=2)
  shard, part = places_of(many, KEY, 3, 3)
  counts = np.bincount(3 * shard + part, minlength=9)
  assert ((counts - 1000) ** 2 / 1000).sum() < 26.1  # χ² of 8 degrees, 0.999
  copies = dataclasses.replace(many, families=np.arange(9000) // 3)
  for places in places_of(copies, KEY, 3, 3):
    assert (places.reshape(-1, 3) == places[::3, None]).all()
    assert len(set(places.tolist())) == 3


@pytest.mark.parametrize("epochs", [1, 2, 10, 30])
def test_slices_make_about_as_many_passes_as_training_without_them(epochs):
  for slices in range(1, 2 * epochs):
    of_each = epochs_of(epochs, slices)
    assert min(of_each) >= 1
    passes = sum(count * (at + 1) / slices for at, count in enumerate(of_each))
    assert abs(passes - epochs) < 1
    if 2 * epochs % (slices + 1) == 0:
      assert passes == pytest.approx(epochs)
    assert max(of_each) - min(of_each) <= 1
  assert epochs_of(epochs, 1) == [epochs]


def test_orders_and_batches_are_those_of_training():
  for count in (13, 1700):
    order = order_of(KEY, count)
    assert np.array_equal(order, jax.random.permutation(KEY, count))
  for count, size in ((13, 4), (3, 4)):
    order = order_of(KEY, count)
    even, plain = (dealt(order, size, 100, even=even) for even in (True, False))
    for mine, theirs in ((even, even_rows), (plain, shuffled_rows)):
      rows = np.asarray(theirs(KEY, count, size))
      assert np.array_equal(mine, np.where(rows < count, rows, rows - count + 100))


def test_networks_answer_with_the_mean_probability_or_by_vote():
  def network(logits):
    return bind(lambda w, x: x @ w, jnp.asarray(logits, jnp.float32))

  p = np.array([[[0.6, 0.4, 0.0]], [[0.6, 0.4, 0.0]], [[0.0, 0.9, 0.1]]]) + 1e-9
  apply_fn = network(np.log(p[0])).apply_fn
  networks = [  # logits are log-probabilities up to a constant, of which nothing may depend
    network(np.log(part) + shift).replace(apply_fn=apply_fn)
    for part, shift in zip(p, (-2, 3, 0), strict=True)
  ]
  together, one = mean_of(networks), jnp.ones((1, 1))
  np.testing.assert_allclose(np.exp(together(one)), p.mean(0), rtol=1e-5)
  assert together(one).argmax() == 1
  assert votes_of(networks, one).tolist() == [0]
  assert votes_of(networks[1:], one).tolist() == [1]  # one vote each, 1 the more probable


def test_all_networks_of_an_ensemble_answer(trained):
  inputs = (3 * RNG.normal(size=(400, 3))).astype(np.float32)
  each = np.stack([jax.nn.softmax(shard.network(inputs)) for shard in trained.shards])
  np.testing.assert_allclose(np.exp(trained.network(inputs)), each.mean(0), rtol=1e-5)
  votes = (each.argmax(-1) == 1).sum(0) >= 2
  np.testing.assert_array_equal(trained.vote(inputs), votes)
  assert (votes != each.mean(0).argmax(-1)).any(), "the mean says the same"


class Killed(Exception):
  pass


def killed_after(writes, monkeypatch):
  """Writes so many checkpoints, then fails as a kill would end it."""
  left = iter(range(writes))
  write = module.Checkpoints.write

  def last(self, *given):
    if next(left, None) is None:
      raise Killed
    write(self, *given)

  monkeypatch.setattr(module.Checkpoints, "write", last)


def test_a_killed_training_goes_on_where_it_was(tmp_path, monkeypatch, trained):
  with monkeypatch.context() as patched:
    killed_after(4, patched)
    with pytest.raises(Killed):
      fitted(store=tmp_path)
  finished = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
  assert len(finished) == 4
  assert same(fitted(store=tmp_path).network, trained.network)
  assert all((tmp_path / name).stat().st_mtime_ns == at for name, at in finished.items())
  with monkeypatch.context() as patched:  # nothing is trained where all is there
    patched.setattr(module, "trained_on", None)
    assert same(fitted(store=tmp_path).network, trained.network)


def test_a_killed_request_leaves_nothing_that_has_seen_the_examples(tmp_path, monkeypatch):
  ensemble = fitted(store=tmp_path)
  ids = [in_slice(ensemble, 0, 0), in_slice(ensemble, 1, 1)]
  # Of another version, and of a write that was killed: they may have seen the examples too.
  older, part = "shard0-slice0-0123456789abcdef.npz", f".{ensemble.shards[0].files[0]}.x1.tmp"
  for name in (older, part, "notes.txt"):
    (tmp_path / name).touch()
  with monkeypatch.context() as patched:
    killed_after(1, patched)
    with pytest.raises(Killed):
      sisa.forget(ensemble, TOY, ids)
  stale = {*ensemble.shards[0].files, *ensemble.shards[1].files[1:]}
  assert not ({*stale, older, part}) & {path.name for path in tmp_path.iterdir()}
  (tmp_path / "notes.txt").unlink()
  afresh = fitted(without(ids))
  assert same(fitted(without(ids), store=tmp_path).network, afresh.network)
  assert {path.name for path in tmp_path.iterdir()} == set(files(afresh))


def test_a_damaged_checkpoint_is_computed_again(tmp_path, trained):
  ensemble = fitted(store=tmp_path)
  path = tmp_path / ensemble.shards[0].files[2]
  damaged = bytearray(path.read_bytes())
  damaged[len(damaged) // 2] ^= 1
  path.write_bytes(damaged)
  others = [tmp_path / name for shard in ensemble.shards for name in shard.files]
  others.remove(path)
  written = [other.stat().st_mtime_ns for other in others]
  with pytest.warns(UserWarning, match="is damaged and is computed again"):
    assert same(fitted(store=tmp_path).network, trained.network)
  assert [other.stat().st_mtime_ns for other in others] == written


def test_other_data_or_recipes_find_nothing(tmp_path):
  ensemble = fitted(store=tmp_path)
  first = {shard.files[0] for shard in ensemble.shards}
  moved = dataclasses.replace(TOY, inputs=TOY.inputs + 1)
  for changed in (
    {"dataset": moved},
    {"recipe": dataclasses.replace(RECIPE, learning_rate=0.2)},
    {"slices": 2},
  ):
    other = fitted(**{"dataset": TOY, "store": tmp_path} | changed)
    assert not first & {shard.files[0] for shard in other.shards}


def test_files_are_named_by_all_that_decides_them(monkeypatch):
  def names(recipe=RECIPE, key=KEY, parts=(TOY, TOY)):
    return names_of(recipe, key, 0, parts)

  first, last = names()
  assert names() == (first, last)
  few, other = TOY.take(TOY.ids[1:]), jax.random.key(6)
  assert names(parts=(TOY, few))[0] == first
  changed = [names(key=other), names(dataclasses.replace(RECIPE, momentum=0.8))]
  changed += [names(parts=(few, TOY)), names(parts=(TOY,) * 3)]
  with jax.default_matmul_precision("highest"):
    changed.append(names())
  monkeypatch.setattr("jaxmul._identity.versions", lambda: {"jax": "0.0"})
  changed.append(names())
  assert not {first, last} & {name for one in changed for name in one}
  assert len({one[0] for one in changed}) == len(changed)


@pytest.mark.parametrize("recipe", [RECIPE, train.Recipe(Normed(), epochs=3, batch_size=16)])
def test_slices_that_lose_all_of_their_examples_are_passed_over(recipe):
  ensemble = fitted(shards=1, recipe=recipe)
  (shard,) = ensemble.shards
  ids = shard.ids[shard.slice_of < 2]
  left = sisa.forget(ensemble, TOY, ids)
  assert same(left.network, fitted(without(ids), shards=1, recipe=recipe).network)
  assert np.isfinite(left.network(TOY.inputs)).all()


def test_the_state_of_adam_goes_on_from_slice_to_slice():
  recipe = dataclasses.replace(RECIPE, optimizer=optax.adam, learning_rate=0.01)
  ensemble = fitted(shards=1, recipe=recipe)
  ids = [in_slice(ensemble, 0, 2)]
  left = sisa.forget(ensemble, TOY, ids)
  assert same(left.network, fitted(without(ids), shards=1, recipe=recipe).network)
  assert not same(left.network, ensemble.network)


def test_what_diverges_says_so():
  recipe = dataclasses.replace(RECIPE, learning_rate=1e30)
  with pytest.raises(train.Diverged, match=r"shard 0 diverged in epoch [12] of 4.*Lower") as error:
    fitted(recipe=recipe)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(error.value.fit.network.params))


def squared(outputs, labels):
  return (outputs[:, 0] - labels) ** 2


def one_output(key, inputs):
  del key
  return bind(lambda w, x: x @ w, jnp.zeros((inputs.shape[-1], 1)), loss=squared)


def test_mistakes_are_one_line_and_leave_the_store_as_it_was(trained):
  before = files(trained)
  few = TOY.take(TOY.ids[:3])
  one = trained.shards[0].ids
  mistakes = {
    "slices=6 for 3 epochs, must be at most 5": lambda: fitted(slices=6),
    "shards=0, must be an integer of at least 1": lambda: fitted(shards=0),
    "slices=1.5, must be an integer": lambda: fitted(slices=1.5),
    "key=0, must be one key": lambda: sisa.fit(RECIPE, TOY, 0, shards=1, store="x"),  # pyright: ignore[reportArgumentType]
    "use train.Recipe": lambda: fitted(recipe=models.mlp()),  # pyright: ignore[reportArgumentType]
    "would have no examples. Use fewer shards": lambda: fitted(few, shards=9),
    "no training examples": lambda: fitted(TOY.take([])),
    "loss of its own, squared": lambda: fitted(recipe=train.Recipe(one_output)),
    "id 4 is in no shard (1 of 2 ids": lambda: sisa.forget(trained, TOY, [3, 4]),
    "id 3 more than once": lambda: sisa.forget(trained, TOY, [3, 3]),
    "id 5 is in no shard": lambda: sisa.cost(trained, [5]),
    "shard 0 would have no examples": lambda: sisa.forget(trained, TOY, one),
    "is not in the data": lambda: sisa.forget(trained, few, [10]),
    "gs://bucket/x is a URL": lambda: fitted(store="gs://bucket/x"),
    "nothing is left": lambda: sisa.cost(trained, TOY.ids),
    "a batch of 1 example": lambda: fitted(
      few, shards=1, slices=2, recipe=train.Recipe(Normed(), epochs=2)
    ),
  }
  for words, call in mistakes.items():
    with pytest.raises(ValueError, match=re.escape(words)) as error:
      call()
    assert "\n" not in str(error.value)
  assert files(trained) == before
