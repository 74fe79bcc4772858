"""The call that made an algorithm tells it from others: nothing is left out, arrays are shared."""

import dataclasses
import functools
import gc
import inspect
import weakref
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmul import bind, losses, models, unlearn
from jaxmul.data import Dataset, Split
from jaxmul.unlearn import running

LAYERS = ("Dense_0", "Dense_1")


def problem(seed=0):
  """Data, a network and other arrays of the same shapes, by seed."""
  rng = np.random.default_rng(seed)
  data = Dataset(rng.normal(size=(20, 4)).astype(np.float32), np.arange(20) % 3)
  network, fresh = (
    models.init(models.mlp((5,), 3), jax.random.key(seed + 10 * i), data.inputs[:1]) for i in (0, 1)
  )
  wide = models.init(models.mlp((5,), 4), jax.random.key(seed), data.inputs[:1])
  beta = rng.normal(size=(20, 6, 3)).astype(np.float32)
  return data, network, fresh, wide, beta


def algorithms(seed=0):
  """Each algorithm made with its least arguments."""
  data, _, fresh, wide, beta = problem(seed)
  return {
    "fine_tune": unlearn.fine_tune,
    "l1_sparse": unlearn.l1_sparse,
    "neg_grad": unlearn.neg_grad,
    "neg_grad_plus": unlearn.neg_grad_plus,
    "npo": unlearn.npo,
    "simnpo": unlearn.simnpo,
    "dpo": functools.partial(unlearn.dpo, data),
    "wga": unlearn.wga,
    "ce_u": unlearn.ce_u,
    "undial": unlearn.undial,
    "rmu": functools.partial(unlearn.rmu, jnp.tanh),
    "task_vector": unlearn.task_vector,
    "random_label": unlearn.random_label,
    "salun": unlearn.salun,
    "scrub": unlearn.scrub,
    "influence": unlearn.influence,
    "fisher": unlearn.fisher,
    "ssd": unlearn.ssd,
    "boundary_shrink": unlearn.boundary_shrink,
    "amun": unlearn.amun,
    "ct": unlearn.ct,
    "top_k": unlearn.top_k,
    "random_k": unlearn.random_k,
    "subnet": unlearn.subnet,
    "balanced_subnet": unlearn.balanced_subnet,
    "greedy": unlearn.greedy,
    "durable": unlearn.durable,
    "durable_agg": unlearn.durable_agg,
    "obs": unlearn.obs,
    "zero_out_neurons": unlearn.zero_out_neurons,
    "activation_neurons": unlearn.activation_neurons,
    "kfac_edit": unlearn.kfac_edit,
    "integrated_gradient_neurons": unlearn.integrated_gradient_neurons,
    "slimming_neurons": unlearn.slimming_neurons,
    "hard_concrete_neurons": unlearn.hard_concrete_neurons,
    "eul": unlearn.eul,
    "cf_k": functools.partial(unlearn.cf_k, LAYERS),
    "layer_attack": functools.partial(unlearn.layer_attack, jnp.tanh, "Dense_1"),
    "sam": functools.partial(unlearn.sam, unlearn.neg_grad_plus()),
    "low_rank": functools.partial(unlearn.low_rank, unlearn.neg_grad_plus(), LAYERS),
    "bad_teacher": functools.partial(unlearn.bad_teacher, fresh),
    "boundary_expand": functools.partial(unlearn.boundary_expand, wide),
    "eu_k": functools.partial(unlearn.eu_k, LAYERS, fresh),
    "msg": functools.partial(unlearn.msg, fresh),
    "localized_reset": functools.partial(unlearn.localized_reset, fresh),
    "regun": functools.partial(unlearn.regun, data),
    "dmm": functools.partial(unlearn.dmm, beta, np.arange(20), np.arange(6)),
  }


WITH_ARRAYS = (
  *("bad_teacher", "boundary_expand", "eu_k", "msg", "localized_reset", "regun", "dmm", "dpo"),
)


def test_all_algorithms_are_known_here():
  made = {
    name
    for name in unlearn.__all__
    if inspect.isfunction(f := getattr(unlearn, name))
    and hasattr(f, "__wrapped__")
    and inspect.signature(f).return_annotation is unlearn.Unlearner
  }
  assert made == set(algorithms())


@pytest.mark.parametrize("name", algorithms())
def test_each_setting_counts(name):
  """Every argument is changed in turn, by its least step where it is a number."""
  make = algorithms()[name]
  first = make()
  assert first == make()
  assert hash(first) == hash(make())
  assert first.name == name
  assert list(first.identity.arguments) == list(
    inspect.signature(getattr(unlearn, name)).parameters
  )
  changed = 0
  for argument, value in first.identity.arguments.items():
    if isinstance(value, bool):
      other = not value
    elif isinstance(value, float):
      other = float(np.nextafter(value, 0.33))
    elif isinstance(value, int):
      other = value + 1 if argument != "k" else 2
    else:
      continue
    second = make(**{argument: other})
    assert second != first, argument
    assert second.words() != first.words(), argument
    changed += 1
  assert changed >= 1


def test_settings_that_are_no_numbers_count():
  assert unlearn.cf_k(("a", "b")) != unlearn.cf_k(("a", "c"))
  assert unlearn.sam(unlearn.fine_tune(0.1)) == unlearn.sam(unlearn.fine_tune(0.1))
  assert unlearn.sam(unlearn.fine_tune(0.1)) != unlearn.sam(unlearn.fine_tune(0.2))
  assert unlearn.influence(loss=losses.cross_entropy) != unlearn.influence()
  assert unlearn.influence(loss=jnp.add) != unlearn.influence()
  first, second = (lambda network, inputs: inputs for _ in range(2))
  assert unlearn.layer_attack(first, "a") == unlearn.layer_attack(first, "a")
  assert unlearn.layer_attack(first, "a") != unlearn.layer_attack(second, "a")


@unlearn.algorithm
def plain(rate=0.1, more=None):
  """Descent on R; `more` is a setting that does nothing."""
  del more

  def objective(network, turn, memory):
    return unlearn.batch_risk(network, turn.retain, turn.key)

  return unlearn.descend(objective, optax.sgd(rate))


def test_numbers_count_with_their_types():
  """Their constants differ: NumPy's float64 decides a dtype, and Python's float does not."""
  values = (
    1,
    1.0,
    True,
    np.float32(1),
    np.float64(1),
    np.ones(()),
    jnp.ones(()),
    jnp.ones((), int),
  )
  assert len({plain(more=value) for value in values}) == len(values)
  assert len({plain(more=value) for value in (0.0, -0.0, None, (), (None,))}) == 5
  assert plain(more=jnp.float32(0.1)) == plain(more=jnp.float32(0.1))
  assert plain(more=jnp.float32(0.1)) != plain(more=jnp.float32(0.2))
  assert plain(more={"a": [1, (2,)]}) == plain(more={"a": [1, (2,)]})
  assert plain(more={"a": [1, (2,)]}) != plain(more={"a": [1, (3,)]})


@dataclasses.dataclass(frozen=True)
class Schedule:
  steps: tuple[float, ...]


def test_numbers_in_a_dataclass_count_with_their_types():
  assert Schedule((1.0,)) == Schedule((1,))
  assert plain(more=Schedule((1.0,))) == plain(more=Schedule((1.0,)))
  assert plain(more=Schedule((1.0,))) != plain(more=Schedule((1,)))
  assert plain(more=Schedule((1.0,))).words().endswith(f"more={__name__}.Schedule(steps=(1.0)))")


def test_defaults_are_in_the_identity_and_its_words():
  assert plain() == plain(0.1) == plain(rate=0.1, more=None)
  assert plain().words() == f"{__name__}.plain(rate=0.1, more=None)"
  assert str(plain().identity) == "plain(rate=0.1, more=None)"
  assert unlearn.neg_grad().words() == "neg_grad(learning_rate=0.0001, momentum=0.9)"
  inner = "neg_grad(learning_rate=0.0001, momentum=0.9)"
  assert unlearn.sam(unlearn.neg_grad()).words() == f"sam(unlearner={inner}, rho=0.05)"


def test_functions_of_one_name_are_not_one_algorithm():
  """As where a cell of a notebook is edited and run again."""

  def edited(sign):
    @unlearn.algorithm
    def mine(rate=0.1):
      def objective(network, turn, memory):
        risk, network = unlearn.batch_risk(network, turn.retain, turn.key)
        return sign * risk, network

      return unlearn.descend(objective, optax.sgd(rate))

    return mine

  up, down = edited(-1), edited(1)
  assert up() == up()
  assert up() != down()
  with pytest.raises(ValueError, match=r"edited.<locals>.mine cannot be told .* not be resumed"):
    up().words()
  assert up().words(lasting=False) == "mine(rate=0.1)"


def outcome(algorithm, seed=0):
  data, network, *_ = problem(seed)
  split = Split(forget=np.arange(6), retain=np.arange(6, 20))
  return unlearn.run(algorithm, network, data, split, jax.random.key(1), epochs=2, batch_size=8)


def check_equal(a, b):
  chex.assert_trees_all_equal((a.params, a.state), (b.params, b.state))


@pytest.mark.parametrize("name", WITH_ARRAYS)
def test_one_program_serves_all_arrays_and_holds_none(name):
  first, second = (algorithms(seed)[name]() for seed in (0, 1))
  assert first == second
  assert first.words() != second.words()
  assert first.words() == algorithms(0)[name]().words()
  outcome(first)
  programs = running._epoch._cache_size()
  shared = outcome(second)
  assert running._epoch._cache_size() == programs
  anew = outcome(dataclasses.replace(second, identity=object()))
  assert running._epoch._cache_size() == programs + 1
  check_equal(shared, anew)
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), shared.params, outcome(first).params)
  assert max(jax.tree.leaves(moved)) > 1e-6


def careless(how):
  """An algorithm whose update holds what it should remember: each way of holding it."""

  @unlearn.algorithm
  def mine(weights, rate=0.1):
    total = float(np.sum(jax.tree.leaves(weights)[0]))

    def objective(network, turn, memory):
      risk, network = unlearn.batch_risk(network, turn.retain, turn.key)
      return how(weights, total) * risk, network

    return unlearn.descend(objective, optax.sgd(rate))

  return mine


HELD = {
  "an array": lambda weights, total: weights[0],
  "an array in a tree": lambda weights, total: jax.tree.leaves(weights)[0].sum(),
  "a number read off it": lambda weights, total: total,
}


@pytest.mark.parametrize("how", HELD)
def test_what_an_update_holds_is_never_that_of_another(how):
  mine = careless(HELD[how])
  one, same, two = (mine(np.full(3, value, np.float32)) for value in (1, 1, 2))
  assert one == same
  assert one != two
  first, second = outcome(one), outcome(two)
  anew = outcome(dataclasses.replace(two, identity=object()))
  check_equal(second, anew)
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), first.params, second.params)
  assert max(jax.tree.leaves(moved)) > 1e-3


def test_held_functions_defaults_methods_and_objects_are_looked_into():
  class Scale:
    def __init__(self, by):
      self.by = by

    def times(self, x):
      return self.by * x

  def maker(hold):
    @unlearn.algorithm
    def mine(weights):
      held = hold(weights)
      return unlearn.Unlearner(lambda network, session: (), lambda *given: held(given))

    return mine

  def with_default(weights):
    def f(x, w=weights):
      return w

    return f

  def recursive(weights):
    def f(x):
      return f(x) if x else weights

    return f

  network = bind(lambda w, x: x @ w, jnp.ones((4, 3)))
  for hold in (
    with_default,
    recursive,
    lambda weights: functools.partial(jnp.add, weights),
    lambda weights: lambda x: (lambda y: weights)(x),
    lambda weights: Dataset(weights[:, None], np.zeros(3, int)).rows,
    lambda weights: network.replace(params=weights),
  ):
    mine = maker(hold)
    assert mine(np.ones(3, np.float32)) == mine(np.ones(3, np.float32))
    assert mine(np.ones(3, np.float32)) != mine(np.zeros(3, np.float32))
  unknown = maker(lambda weights: Scale(weights).times)  # what it holds cannot be seen
  assert unknown(np.ones(3)) != unknown(np.ones(3))


def test_arrays_are_found_by_contents_where_a_function_has_no_text():
  """A network bound to a lambda, as the original may be, is told by its arrays."""
  one, two = (bind(lambda w, x: x @ w, np.full((4, 3), value)) for value in (1.0, 2.0))
  assert unlearn.bad_teacher(one).words() != unlearn.bad_teacher(two).words()
  again = bind(lambda w, x: x @ w, np.full((4, 3), 1.0))
  assert unlearn.bad_teacher(one).words() == unlearn.bad_teacher(again).words()


def test_without_the_decorator_it_equals_nothing_and_cannot_be_resumed():
  def made():
    return unlearn.descend(lambda network, turn, memory: (0.0, network), optax.sgd(0.1))

  assert made() != made()
  with pytest.raises(ValueError, match=r"could not be resumed\. Make it .* @unlearn\.algorithm"):
    made().words()


@pytest.mark.parametrize("part", ["init", "update", "start", "tick", "finish"])
@pytest.mark.parametrize("made", [unlearn.fine_tune(), unlearn.descend(jnp.add, optax.sgd(0.1))])
def test_a_copy_with_another_function_is_another_algorithm(made, part):
  """Under the old identity it would run what was compiled of the old function."""
  one, two = (dataclasses.replace(made, **{part: lambda *given: given}) for _ in range(2))
  assert len({made, one, two}) == 3
  assert dataclasses.replace(made) == made


@pytest.mark.parametrize("made", [unlearn.fine_tune(), unlearn.random_label()])
def test_a_copy_that_walks_otherwise_does_not_go_by_the_name_of_the_call(made):
  other = "union" if made.passes != "union" else "forget"
  copy = dataclasses.replace(made, passes=other)
  assert copy != made
  with pytest.raises(ValueError, match=r"made outside of unlearn\.algorithm"):
    copy.words()


@unlearn.algorithm
def wrong():
  return 3


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (wrong, "wrong returned an int, must return an unlearn.Unlearner"),
    (lambda: plain(more={1, 2}), "plain got more=set, which cannot be compared"),
    (lambda: plain(more=[{1}]), "plain got more=list, which cannot be compared"),
  ],
)
def test_a_call_that_cannot_be_an_identity_gets_one_line(call, message):
  with pytest.raises(ValueError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)


def test_no_module_has_the_name_of_what_the_package_exports():
  folder = Path(unlearn.__file__).parent
  assert not {path.stem for path in folder.glob("*.py")} & set(unlearn.__all__)


@pytest.mark.parametrize("name", algorithms())
def test_an_algorithm_is_in_a_file_that_names_it(name):
  """A file begins with the name of its algorithm, a family's with what its members share."""
  made = getattr(unlearn, name)
  file = Path(inspect.getfile(inspect.unwrap(made))).stem
  families = {"boundary_shrink": "boundary", "boundary_expand": "boundary"}
  families |= {"neg_grad": "neg_gradients", "neg_grad_plus": "neg_gradients"}
  neurons = {
    "neurons_zero_activation_gradient": ("zero_out", "activation", "integrated_gradient"),
    "neurons_slimming_hard_concrete": ("slimming", "hard_concrete"),
  }
  families |= {f"{each}_neurons": stem for stem, members in neurons.items() for each in members}
  assert file == families.get(name, file)
  assert name in families or name in file


def test_a_compiled_epoch_holds_nothing_of_what_an_algorithm_was_given():
  toy = Dataset(np.eye(8, dtype=np.float32), np.arange(8) % 2)
  heldout = Dataset(np.eye(8, dtype=np.float32), np.arange(8) % 2)
  network = models.init(models.mlp((4,), 2), jax.random.key(0), toy.inputs)
  split = Split(forget=np.array([3]), retain=np.array([0, 1, 2, 4]))
  algorithm, given = unlearn.regun(heldout), weakref.ref(heldout)
  unlearn.run(algorithm, network, toy, split, jax.random.key(0), epochs=1)
  del algorithm, heldout
  gc.collect()
  assert given() is None
