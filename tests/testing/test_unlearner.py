"""Every algorithm keeps the contract on every kind of network, and the contract can be broken."""

import dataclasses
import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer

from jaxmul import bind, models, testing, unlearn
from jaxmul.data import Dataset, Split
from jaxmul.testing import unlearner as contract


class SmallBatchNorm(nn.Module):
  """Convolution, BatchNorm, head: the least that has kernels and statistics."""

  num_classes: int

  @nn.compact
  def __call__(self, x, train=False, mask=None):
    x = models.Conv(4, use_bias=False, name="conv")(x)
    norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")
    x = nn.relu(norm(x, mask=None if mask is None else mask[:, None, None, None]))
    return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


MODELS = {
  "mlp": (lambda c: models.mlp((6,), c), (8, 8), ("Dense_0", "Dense_1")),
  "cnn": (
    lambda c: models.cnn((3, 3), 5, c),
    (8, 8, 1),
    ("Conv_0", "Conv_1", "Dense_0", "Dense_1"),
  ),
  "norm": (lambda c: SmallBatchNorm(c), (6, 6, 1), ("conv", "norm", "head")),
  "resnet18": (lambda c: models.resnet18(c, width=4), (8, 8, 1), ("stage3_block1_conv2", "head")),
}
ONLY_CONVOLUTIONS = {"ct"}


@functools.cache
def problem(network):
  """Params, data and split of a small problem; five examples are in neither set.

  BatchNorm statistics are those of the data, as of any network that was trained: a fresh residual
  network in evaluation mode multiplies what it is given, and diverges.
  """
  make, shape, _ = MODELS[network]
  rng = np.random.default_rng(0)
  data = Dataset(
    rng.normal(size=(32, *shape)).astype(np.float32), rng.integers(0, 3, 32), np.arange(100, 132)
  )
  params = models.init(make(3), jax.random.key(0), data.inputs[:1])
  forward = jax.jit(
    lambda params: params.train(data.inputs, jax.random.key(1), np.ones(32, bool))[1]
  )
  for _ in range(40 if params.state else 0):
    params = params.replace(state=forward(params))
  return params, data, Split(forget=np.arange(100, 111), retain=np.arange(111, 127))


def algorithms(network):
  make, _, layers = MODELS[network]
  _, data, split = problem(network)
  fresh = models.init(make(3), jax.random.key(1), data.inputs[:1])
  wide = models.init(make(4), jax.random.key(2), data.inputs[:1])
  heldout = Dataset(data.inputs[-6:], np.arange(6) % 3, num_classes=3)
  rng = np.random.default_rng(1)
  beta = rng.normal(size=(27, 11, 3)).astype(np.float32)
  # A ResNet stands frozen statistics only at lower rates. Those at which rounding grows until
  # float32 shows it are in GROWING, in float64.
  rate, ascent = (0.005, 1e-4) if network == "resnet18" else (0.05, 0.01)
  return {
    "fine_tune": unlearn.fine_tune(rate),
    "l1_sparse": unlearn.l1_sparse(rate),
    "neg_grad": unlearn.neg_grad(ascent),
    "neg_grad_plus": unlearn.neg_grad_plus(rate),
    "random_label": unlearn.random_label(rate),
    "salun": unlearn.salun(rate),
    "scrub": unlearn.scrub(rate / 5, msteps=1),
    "influence": unlearn.influence(damping=0.5, iterations=3),
    "fisher": unlearn.fisher(),
    "ssd": unlearn.ssd(1.0),
    "bad_teacher": unlearn.bad_teacher(fresh),
    "boundary_shrink": unlearn.boundary_shrink(rate / 5),
    "boundary_expand": unlearn.boundary_expand(wide, rate / 50),
    "cf_k": unlearn.cf_k(layers, 1),
    "eu_k": unlearn.eu_k(layers, fresh, 1),
    "msg": unlearn.msg(fresh, 0.01),
    "ct": unlearn.ct(),
    "amun": unlearn.amun(rate / 5, doublings=1, steps=3),
    "dmm": unlearn.dmm(beta, split.train, split.forget, rate / 20),
    "localized_reset": unlearn.localized_reset(fresh),
    "regun": unlearn.regun(heldout, rate / 5),
    "sam": unlearn.sam(unlearn.neg_grad_plus(rate)),
    "low_rank": unlearn.low_rank(unlearn.neg_grad_plus(rate), layers[-1:], 2),
    "eul": unlearn.eul(rate / 500),
    "top_k": unlearn.top_k(rate / 5, noise=0.1),
    "random_k": unlearn.random_k(),
    "layer_attack": unlearn.layer_attack(models.features(make(3), layers[-1]), layers[-1], steps=5),
    "subnet": unlearn.subnet(rate),
    "balanced_subnet": unlearn.balanced_subnet(rate),
    "greedy": unlearn.greedy(),
    "durable": unlearn.durable(0.1),
    "durable_agg": unlearn.durable_agg(0.1),
    "obs": unlearn.obs(0.1),
    "zero_out_neurons": unlearn.zero_out_neurons(0.2, layers=layers[-1:]),
    "activation_neurons": unlearn.activation_neurons(0.2, layers=layers[-1:]),
    "kfac_edit": unlearn.kfac_edit(0.9),
    "integrated_gradient_neurons": unlearn.integrated_gradient_neurons(
      0.2, steps=3, layers=layers[-1:]
    ),
    "slimming_neurons": unlearn.slimming_neurons(fraction=0.2, layers=layers[-1:]),
    "hard_concrete_neurons": unlearn.hard_concrete_neurons(fraction=0.2, layers=layers[-1:]),
  }


NAMES = tuple(algorithms("mlp"))


# Each compiles for up to half a minute, all of them for an hour: by default only the quick ones.
QUICK_ONES = [("mlp", "fine_tune"), ("mlp", "scrub"), ("mlp", "ct")]


@pytest.mark.parametrize(
  ("network", "name"),
  [
    pytest.param(network, name, marks=() if (network, name) in QUICK_ONES else pytest.mark.slow)
    for network in ("mlp", "norm", "cnn", "resnet18")
    for name in NAMES
  ],
)
def test_every_algorithm_keeps_the_contract(network, name):
  params, data, split = problem(network)
  algorithm = algorithms(network)[name]
  if name in ONLY_CONVOLUTIONS and network == "mlp":
    with pytest.raises(ValueError, match="ct needs convolution kernels") as caught:
      testing.check_unlearner(algorithm, params, data, split)
    assert "\n" not in str(caught.value)
    return
  names = testing.check_unlearner(algorithm, params, data, split, eager=network == "mlp")
  assert len(set(names)) == len(names) == (33 if network == "mlp" else 32)


# At these rates two epochs on a ResNet let rounding grow: in float32 eight devices differ by more
# than 1e-5. In float64 they agree to 1e-10, so that nothing but rounding differs.
GROWING = {
  "neg_grad": lambda wide, heldout, beta, split: unlearn.neg_grad(0.001),
  "amun": lambda wide, heldout, beta, split: unlearn.amun(doublings=1, steps=3),
  "boundary_expand": lambda wide, heldout, beta, split: unlearn.boundary_expand(wide, 0.001),
  "regun": lambda wide, heldout, beta, split: unlearn.regun(heldout, 0.005),
  "dmm": lambda wide, heldout, beta, split: unlearn.dmm(beta, split.train, split.forget, 0.001),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GROWING)
def test_eight_devices_differ_by_rounding_alone(name):
  params, data, split = problem("resnet18")
  rng = np.random.default_rng(1)
  with jax.enable_x64(True):
    double = functools.partial(jax.tree.map, lambda leaf: jnp.asarray(leaf, jnp.float64))
    images = data.inputs.astype(np.float64)
    wide = double(models.init(MODELS["resnet18"][0](4), jax.random.key(2), images[:1]))
    heldout = Dataset(images[-6:], np.arange(6) % 3, num_classes=3)
    algorithm = GROWING[name](wide, heldout, rng.normal(size=(27, 11, 3)), split)
    one, eight = (
      unlearn.run(
        *(algorithm, double(params), Dataset(images, data.labels, data.ids, 3), split),
        jax.random.key(0),
        epochs=2,
        batch_size=8,
        devices=devices,
      )
      for devices in (None, jax.devices())
    )
  assert {leaf.dtype for leaf in jax.tree.leaves(one)} == {np.dtype("float64")}
  assert contract._gap(one, params) > 1e-3
  assert contract._relative(eight, one) < 1e-10


def broken(change):
  """fine_tune with its update's result changed."""
  good = unlearn.fine_tune(0.05)

  def update(forget, retain, state, params, key):
    assert good.update is not None
    return change(*good.update(forget, retain, state, params, key), forget, retain)

  return dataclasses.replace(good, update=update)


def sees_padding(updates, state, forget, retain):
  del forget
  leak = retain.inputs.mean()
  return jax.tree.map(lambda leaf: leaf + leak, updates), state


def never_moves(updates, state, forget, retain):
  del forget, retain
  return jax.tree.map(jnp.zeros_like, updates), state


@pytest.mark.parametrize(
  ("algorithm", "clause"),
  [
    (broken(sees_padding), "padding_of_batches_is_not_seen"),
    (broken(never_moves), "something_moves"),
    (unlearn.neg_grad(1e30), "params_are_finite"),
    (dataclasses.replace(unlearn.fine_tune(), identity=["list"]), "identity_is_hashable"),
    (
      dataclasses.replace(unlearn.fine_tune(), finish=lambda p, s: p.replace(params=None)),
      "structure_is_kept",
    ),
  ],
)
def test_a_broken_algorithm_is_named_by_its_clause(algorithm, clause):
  with pytest.raises(AssertionError, match=f"^{clause}: "):
    testing.check_unlearner(algorithm, *problem("mlp"))


# The least that can be broken: a linear network with a statistic, and constant steps for both.


def centred(variables, x):
  return (x - variables["mean"]) @ variables["params"]


def trained(w, state, x, key, mask):
  del key, mask
  return (x - state["mean"]) @ w, state


def linear(n=24):
  """Params, data and split; four examples are in neither set. Params are numpy: they can change."""
  rng = np.random.default_rng(0)
  data = Dataset(rng.normal(size=(n, 4)).astype(np.float32), np.arange(n) % 3)
  w = rng.normal(size=(4, 3)).astype(np.float32)
  params = bind(centred, w, {"mean": np.ones(4, np.float32)}, trained)
  return params, data, Split(forget=np.arange(4, 10), retain=np.arange(10, n))


def constant(
  by=lambda params, state: 0.1, init=lambda params, session: (), *, thaws=False, **parts
):
  """Moves each param by `by`, and the statistic too in training mode, or always if it `thaws`."""

  def update(forget, retain, state, params, key):
    del forget, retain, key
    step = by(params, state)
    moves = thaws or params.train_fn is not None
    rates = params.replace(params=1.0, state={"mean": 1.0 if moves else 0.0})
    return jax.tree.map(lambda rate, leaf: jnp.full_like(leaf, rate * step), rates, params), state

  return unlearn.Unlearner(init, update, **parts)


def counted(value=lambda number: number):
  """Returns a function that returns something else at each call, as no part of one may."""
  numbers = itertools.count(1)
  return lambda *given: value(next(numbers))


def remembers(memory):
  """Moves by a number that `init` makes of the session."""
  return constant(lambda params, state: state, lambda params, session: memory(session))


def reads(value):
  """Moves by a number that is read off the batch of R."""

  def update(forget, retain, state, params, key):
    del forget, key
    step = value(retain, state)
    return params.replace(params=jnp.full_like(params.params, step), state={"mean": 0.0}), state

  return unlearn.Unlearner(lambda params, session: session.retain.inputs[:, 0], update)


def keeps_outside():
  """Moves by a number that `init` leaves where a compiled program does not look for it again."""
  kept = []

  def init(params, session):
    del session
    kept.append(float(params.params.sum()))
    return ()

  return constant(lambda params, state: kept[-1], init)


def finishes(change):
  return constant(finish=lambda params, state: change(params))


def gives_up(message, kept):
  """Raises Diverged itself."""

  def init(params, session):
    if not np.isfinite(params.params).all():
      raise unlearn.Diverged(message, kept(params))
    return ()

  return constant(init=init)


def writes(params, session):
  params.params[0, 0] += 1
  return ()


def called_back(value):
  return lambda *given: jax.pure_callback(value, jax.ShapeDtypeStruct((), jnp.float32))


VALUES, RUNS, ORDERS, STEP = contract._values, contract._runs, contract._orders, contract._step
BROKEN = {
  "state_holds_arrays_only": (VALUES, constant(init=lambda params, session: 1.0)),
  "apply_fn_is_kept": (VALUES, finishes(lambda p: p.replace(apply_fn=lambda v, x: x))),
  "shapes_are_kept": (VALUES, finishes(lambda p: p.replace(params=p.params[:, :1]))),
  "dtypes_are_kept": (VALUES, finishes(lambda p: p.replace(params=p.params.astype("float16")))),
  "params_are_finite": (VALUES, finishes(lambda p: p.replace(params=p.params * jnp.nan))),
  "network_state_is_finite": (
    VALUES,
    finishes(lambda p: p.replace(state=jax.tree.map(lambda leaf: leaf * jnp.inf, p.state))),
  ),
  "params_given_are_not_changed": (VALUES, constant(init=writes)),
  "outputs_are_finite": (VALUES, finishes(lambda p: p.replace(params=p.params * 1e38))),
  "equal_keys_give_equal_bits": (RUNS, remembers(counted(jnp.float32))),
  "one_trace": (RUNS, constant(init=counted(jnp.zeros))),
  "frozen_statistics_stay": (RUNS, constant(thaws=True)),
  "devices_do_not_matter": (RUNS, constant(counted())),
  "divergence_stops": (
    RUNS,
    constant(start=lambda params, state: params.replace(params=jnp.ones_like(params.params))),
  ),
  "divergence_says_so_in_one_line": (RUNS, gives_up("two\nlines", lambda params: params)),
  "divergence_keeps_the_last_good": (RUNS, gives_up("one line", lambda params: None)),
  "order_of_the_data_does_not_matter": (
    ORDERS,
    remembers(lambda session: session.forget.rows[0].astype(float)),
  ),
  "what_is_outside_is_not_seen": (ORDERS, remembers(lambda session: session.forget.inputs.mean())),
  "step_is_pure": (STEP, constant(called_back(counted(np.float32)))),
  "amount_of_padding_is_not_seen": (STEP, reads(lambda batch, state: batch.mask.mean())),
  "what_is_remembered_is_in_the_state": (RUNS, keeps_outside()),
  "padding_of_sets_is_not_seen": (
    STEP,
    remembers(lambda session: session.forget.inputs[session.forget.rows].mean()),
  ),
  "eager_equals_jit": (
    STEP,
    constant(lambda params, state: 0.1 if isinstance(params.params, Tracer) else 0.2),
  ),
  "it_lowers_for_accelerators": (STEP, constant(called_back(lambda: np.float32(0.1)))),
}


def first_broken(family, algorithm, n=24):
  given = contract._Problem(algorithm, *linear(n), epochs=1, batch_size=8, eager=True)
  return next((name for name, holds, _ in family(given) if not holds), None)


@pytest.mark.parametrize("clause", BROKEN)
def test_each_clause_names_what_breaks_it(clause):
  assert first_broken(*BROKEN[clause]) == clause


def mixed(w, state, x, key, mask):
  """A training pass that takes no account of the mask."""
  del key, mask
  return (x - x.mean(0)) @ w, {"mean": x.mean(0)}


def test_a_network_that_sees_padding_is_held_to_the_other_clauses():
  params, data, split = linear(23)
  params = params.replace(train_fn=mixed)
  problem = (params, data, split)
  names = testing.check_unlearner(unlearn.fine_tune(0.05), *problem, epochs=1, eager=False)
  assert "padding_of_batches_is_not_seen" in names
  assert "amount_of_padding_is_not_seen" not in names
  assert len(names) == 31  # nor "eager_equals_jit"
  seeing = reads(lambda batch, state: batch.labels.mean())
  with pytest.raises(AssertionError, match=r"^padding_of_batches_is_not_seen: "):
    testing.check_unlearner(seeing, *problem, epochs=1, eager=False)


@pytest.mark.parametrize(
  "read",
  [lambda batch, state: batch.labels.mean(), lambda batch, state: state[batch.rows].mean()],
  ids=["labels", "what was remembered of rows"],
)
def test_padding_is_seen_by_other_things_than_inputs(read):
  assert first_broken(STEP, reads(read)) == "padding_of_batches_is_not_seen"


def test_data_that_an_algorithm_writes_to_are_named():
  params, data, split = linear()

  def init(params, session):
    data.inputs[0] += 1
    return ()

  with pytest.raises(AssertionError, match=r"^data_given_is_not_changed: "):
    testing.check_unlearner(constant(init=init), params, data, split, epochs=1)


@pytest.mark.parametrize(
  ("family", "clause", "spoil"),
  [
    (VALUES, "train_fn_is_kept", lambda after, given: after.replace(train_fn=None)),
    (
      RUNS,
      "frozen_runs_keep_train_fn",
      lambda after, given: (
        after.replace(train_fn=None) if given.get("freeze_statistics") else after
      ),
    ),
    (
      ORDERS,
      "order_of_forget_does_not_matter",
      lambda after, given: after.replace(params=after.params + given["split"].forget[0]),
    ),
    (
      ORDERS,
      "order_of_retain_does_not_matter",
      lambda after, given: after.replace(params=after.params + given["split"].retain[0]),
    ),
  ],
)
def test_what_the_loop_itself_keeps_to_is_checked_too(family, clause, spoil, monkeypatch):
  good = unlearn.run
  monkeypatch.setattr(
    contract.unlearn, "run", lambda *args, **given: spoil(good(*args, **given), given)
  )
  assert first_broken(family, constant()) == clause


def test_data_of_any_size_are_sharded_over_all_devices(monkeypatch):
  """23 examples on 8 devices: left whole, they would say nothing about sharding."""
  good, split = contract._sharding.shard_batch, []

  def watched(batch):
    split.extend(len(leaf.sharding.device_set) for leaf in jax.tree.leaves(good(batch)))
    return good(batch)

  monkeypatch.setattr(contract._sharding, "shard_batch", watched)
  assert len(testing.check_unlearner(constant(), *linear(23), epochs=1)) == 33
  assert split == [8, 8]
  sees = remembers(lambda session: session.forget.inputs[session.forget.rows[0]].mean())
  monkeypatch.setattr(
    contract._sharding, "shard_batch", lambda batch: good((batch[0] * 2, batch[1]))
  )
  assert first_broken(STEP, sees, 23) == "sharded_data_give_the_same_step"


def test_one_device_checks_no_sharding_and_says_so(monkeypatch):
  device = jax.devices()[:1]
  monkeypatch.setattr(jax, "devices", lambda: device)
  with pytest.warns(UserWarning, match="one device and left out devices_do_not_matter") as caught:
    names = testing.check_unlearner(constant(), *linear(), epochs=1)
  assert "\n" not in str(caught[0].message)
  assert not {"devices_do_not_matter", "sharded_data_give_the_same_step"} & set(names)
  assert len(names) == 31
