"""Text: each algorithm works at the scored positions, or says in one line that it does not.

The network answers at each position alone. Text of which one position is scored then is an image in
disguise, whatever stands at the others, and every algorithm must treat the two alike.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import bind, losses, models, testing, unlearn
from jaxmul._examples import examples_of
from jaxmul.data import Dataset, Split
from jaxmul.unlearn._whole import fisher_diagonal, full_gradient

N, WIDTH, CLASSES, BATCH = 14, 3, 2, 4
SPLIT = Split(forget=np.arange(5), retain=np.arange(5, 12))
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, WIDTH)).astype(np.float32), RNG.integers(0, CLASSES, N)
PLACE = RNG.integers(0, 100, N)


def linear(params, x):
  return x @ params["head"]["kernel"]


def answers(network, inputs):
  """Hidden states, as far as there are any."""
  return network(inputs)


def network(seed=0):
  weights = np.random.default_rng(seed).normal(size=(WIDTH, CLASSES)).astype(np.float32)
  return bind(linear, {"head": {"kernel": jnp.asarray(weights)}})


@functools.cache
def data(length):
  """The images, or text of this length whose one scored position is the image."""
  if not length:
    return Dataset(X, Y, num_classes=CLASSES)
  rows, place = np.arange(N), PLACE % length
  inputs = 9 * np.random.default_rng(1).normal(size=(N, length, WIDTH)).astype(np.float32)
  labels = np.full((N, length), losses.UNSCORED)
  inputs[rows, place], labels[rows, place] = X, Y
  return Dataset(inputs, labels, num_classes=CLASSES)


FRESH, HEAD = network(1), ("head",)
WORK = {
  "fine_tune": unlearn.fine_tune(0.1),
  "l1_sparse": unlearn.l1_sparse(0.1),
  "neg_grad": unlearn.neg_grad(0.1),
  "neg_grad_plus": unlearn.neg_grad_plus(0.1, alpha=0.8),
  "npo": unlearn.npo(0.01),
  "simnpo": unlearn.simnpo(0.01),
  "dpo": unlearn.dpo(Dataset(X[:5], 1 - Y[:5]), 0.01),
  "wga": unlearn.wga(0.01, keep="kl"),
  "ce_u": unlearn.ce_u(0.01),
  "undial": unlearn.undial(0.01, alpha=1.0),
  "rmu": unlearn.rmu(answers, (), 0.01),
  "task_vector": unlearn.task_vector(0.01),
  # Of two labels the one that is not true is the other: nothing is drawn that has a shape.
  "random_label": unlearn.random_label(0.1, never_true=True),
  "salun": unlearn.salun(0.1, never_true=True),
  "scrub": unlearn.scrub(0.1, msteps=1, beta=0.5),
  "bad_teacher": unlearn.bad_teacher(FRESH, 0.01),
  "influence": unlearn.influence(damping=0.1),
  "fisher": unlearn.fisher(1e-3),
  "ssd": unlearn.ssd(1.0),
  "cf_k": unlearn.cf_k(HEAD, learning_rate=0.1),
  "eu_k": unlearn.eu_k(HEAD, FRESH, learning_rate=0.1),
  "msg": unlearn.msg(FRESH, 0.1),
  "localized_reset": unlearn.localized_reset(FRESH, 0.1, fraction=0.5),
  "top_k": unlearn.top_k(0.1, fraction=0.5),
  "random_k": unlearn.random_k(0.1, fraction=0.5),
  "sam": unlearn.sam(unlearn.neg_grad_plus(0.1, alpha=0.8)),
  "subnet": unlearn.subnet(0.1, fraction=0.5),
  "balanced_subnet": unlearn.balanced_subnet(0.1, fraction=0.5),
  "greedy": unlearn.greedy(0.5),
  "durable": unlearn.durable(0.5),
  "durable_agg": unlearn.durable_agg(0.5),
  "obs": unlearn.obs(0.5),
  "zero_out_neurons": unlearn.zero_out_neurons(0.34, layers=HEAD),
  "integrated_gradient_neurons": unlearn.integrated_gradient_neurons(0.34, layers=HEAD),
  "slimming_neurons": unlearn.slimming_neurons(fraction=0.34, layers=HEAD),
  "hard_concrete_neurons": unlearn.hard_concrete_neurons(fraction=0.34, layers=HEAD),
  "eul": unlearn.eul(0.01, warmup=0.0),
}
REFUSE = {
  "amun": unlearn.amun(),
  "boundary_shrink": unlearn.boundary_shrink(),
  "boundary_expand": unlearn.boundary_expand(FRESH),
  "regun": unlearn.regun(data(0).take([12, 13])),
  "dmm": unlearn.dmm(np.zeros((12, 5, CLASSES)), SPLIT.train, SPLIT.forget),
  "layer_attack": unlearn.layer_attack(models.features(models.mlp(), "head"), "head"),
}

LINEN = ("activation_neurons", "kfac_edit", "low_rank")  # which need layers of Linen's


def after(algorithm, length):
  given = (algorithm, network(), data(length), SPLIT, jax.random.key(0))
  return unlearn.run(*given, epochs=2, batch_size=BATCH).params["head"]["kernel"]


def test_all_algorithms_are_here():
  made = {name for name in unlearn.__all__ if hasattr(getattr(unlearn, name), "__wrapped__")}
  assert made == {*WORK, *REFUSE, "ct", *LINEN}  # "ct" needs convolutions


@pytest.mark.parametrize("name", WORK)
def test_one_scored_position_is_an_image(name):
  """As many positions as rows of a batch, where a mask of rows could meet them, and others."""
  image = after(WORK[name], 0)
  assert np.abs(image - network().params["head"]["kernel"]).max() > 1e-4
  for length in (1, BATCH, BATCH + 3) if name == "scrub" else (BATCH,):
    np.testing.assert_allclose(after(WORK[name], length), image, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("name", REFUSE)
def test_what_needs_one_class_of_an_example_says_so(name):
  with pytest.raises(ValueError, match=rf"^{name} is for one class per example") as caught:
    after(REFUSE[name], BATCH)
  assert "labels here are [14, 4]. Use " in str(caught.value)
  assert "\n" not in str(caught.value)


def test_nothing_scored_is_refused():
  labels = np.full((2, 3), losses.UNSCORED)
  with pytest.raises(ValueError, match="without a scored position"):
    Dataset(np.zeros((2, 3), int), labels)


def text(length, scored, seed=3):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, CLASSES, (6, length))
  labels[:, scored:] = losses.UNSCORED
  inputs = rng.normal(size=(6, length, WIDTH)).astype(np.float32)
  return Dataset(inputs, labels, num_classes=CLASSES)


@pytest.mark.parametrize("length", [6, 2])
def test_a_risk_is_a_mean_over_rows_of_means_over_positions(length):
  given = text(length, length)
  labels = given.labels.copy()
  labels[0, 1:] = losses.UNSCORED  # one position of this row counts as much as all of another
  examples = examples_of(Dataset(given.inputs, labels, num_classes=CLASSES))
  got = full_gradient(network(), examples, 4)["head"]["kernel"]
  z = given.inputs @ np.asarray(network().params["head"]["kernel"])
  p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
  weight = (labels >= 0) / (labels >= 0).sum(1, keepdims=True) / len(labels)
  residual = (p - np.eye(CLASSES)[labels]) * weight[..., None]
  np.testing.assert_allclose(got, np.einsum("btd,btc->dc", given.inputs, residual), atol=1e-6)
  batch = examples.batch(0, 6, 6)
  risk, _ = unlearn.batch_risk(network(), batch, jax.random.key(0))
  own = np.log(np.take_along_axis(p, np.maximum(labels, 0)[..., None], -1)[..., 0])
  np.testing.assert_allclose(risk, -(own * weight).sum(), rtol=1e-5)


def test_fisher_information_is_over_all_texts_that_the_network_may_write():
  given = text(3, 2)
  got = fisher_diagonal(network(), examples_of(given), 4, True)["head"]["kernel"]
  theta, want = network().params, 0
  for x in given.inputs:
    p = jax.nn.softmax(linear(theta, x[:2]))
    for written in itertools.product(range(CLASSES), repeat=2):

      def loss(theta, written=written, x=x):
        return losses.cross_entropy(linear(theta, x[None, :2]), jnp.array([written]))[0]

      chance = np.prod([p[t, c] for t, c in enumerate(written)])
      want += chance * jax.grad(loss)(theta)["head"]["kernel"] ** 2 / len(given)
  np.testing.assert_allclose(got, want, rtol=1e-4)


def test_each_scored_position_is_relabelled_on_its_own():
  labels = jnp.asarray(np.where(np.arange(400) % 4 == 0, losses.UNSCORED, 3).reshape(100, 4))
  for never_true in (False, True):
    drawn = unlearn.random_labels(jax.random.key(0), labels, 5, never_true)
    assert ((drawn == losses.UNSCORED) == (labels == losses.UNSCORED)).all()
    assert set(np.unique(drawn[:, 1:])) == {0, 1, 2, 4} | (set() if never_true else {3})
    assert (drawn[:, 1] != drawn[:, 2]).any()


def test_divergence_is_a_mean_over_scored_positions():
  rng = np.random.default_rng(0)
  teacher, student = rng.normal(size=(2, 3, 3, 4)).astype(np.float32)
  labels = np.array([[0, 1, 2], [-1, 3, 0], [-1, -1, 1]])
  each = unlearn.divergence(teacher.reshape(9, 4), student.reshape(9, 4), 2.0).reshape(3, 3)
  got = unlearn.divergence(jnp.asarray(teacher), jnp.asarray(student), 2.0, labels=labels)
  want = [np.mean(row[scored]) for row, scored in zip(each, labels >= 0, strict=True)]
  np.testing.assert_allclose(got, want, rtol=1e-5)
  with pytest.raises(ValueError, match="no labels, which say what positions"):
    unlearn.divergence(jnp.asarray(teacher), jnp.asarray(student))


def test_a_teacher_of_text_is_a_network_and_of_images_a_table():
  for length, kind in ((0, jax.Array), (BATCH, type(network()))):
    examples = examples_of(data(length))
    sets = (examples.subset(SPLIT.forget), examples.subset(SPLIT.retain))
    session = unlearn.Session(*sets, 1, BATCH, jax.random.key(0))
    assert isinstance(unlearn.scrub().init(network(), session).memory, kind)


def squared(outputs, labels):
  return jnp.mean((outputs - labels) ** 2, axis=-1)


def test_a_loss_of_ones_own_is_what_is_ascended():
  numbers = np.random.default_rng(0).normal(size=(N, CLASSES)).astype(np.float32)
  given, mine = Dataset(X, numbers, classes=False), network().replace(loss=squared)

  def risk(theta, rows):
    return squared(linear(theta, X[rows]), numbers[rows]).mean()

  want = jax.grad(risk)(mine.params, SPLIT.forget)["head"]["kernel"]
  key, start = jax.random.key(0), mine.params["head"]["kernel"]
  got = unlearn.run(unlearn.neg_grad(0.1), mine, given, SPLIT, key, epochs=1, batch_size=8)
  np.testing.assert_allclose(got.params["head"]["kernel"] - start, 0.1 * want, atol=1e-6)
  for name in ("scrub", "salun", "random_label", "bad_teacher", "fisher", "amun"):
    with pytest.raises(ValueError, match=f"^{name} needs probabilities of classes.*squared"):
      unlearn.run((WORK | REFUSE)[name], mine, given, SPLIT, key, epochs=1, batch_size=8)


SMALL_GPT = models.gpt(10, length=8, width=8, depth=2, heads=2)


@functools.cache
def small_gpt():
  found, _ = testing.small_networks()["gpt"]
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 10, (24, 9))
  tokens[8:][tokens[8:] == 9] = 3  # a token that S alone has
  labels = tokens[:, 1:].copy()
  labels[:, :2], labels[::2, -1] = losses.UNSCORED, losses.UNSCORED
  given = Dataset(tokens[:, :-1], labels, np.arange(100, 124), 10)
  split = Split(forget=np.arange(100, 108), retain=np.arange(108, 120))
  fresh = jax.tree.map(lambda leaf: 0.5 * leaf[::-1], found)
  layers = ("blocks_0", "blocks_1", "norm", "head")
  # Rates at which rounding does not grow. What matters to S alone has 2.5 times the importance to S
  # that it has to both: of the attention's key biases, which do nothing, ssd sees rounding errors.
  # AdamW makes steps near the rate out of such errors, so that those of language models have
  # npo's published rate.
  algorithms = WORK | {
    "fine_tune": unlearn.fine_tune(),
    "l1_sparse": unlearn.l1_sparse(),
    "neg_grad": unlearn.neg_grad(0.01),
    "neg_grad_plus": unlearn.neg_grad_plus(),
    "npo": unlearn.npo(),
    "simnpo": unlearn.simnpo(),
    "dpo": unlearn.dpo(dataclasses.replace(given.take(split.forget), inputs=tokens[:8, 1:])),
    "wga": unlearn.wga(keep="kl"),
    "ce_u": unlearn.ce_u(),
    "undial": unlearn.undial(1e-5, alpha=1.0),
    "rmu": unlearn.rmu(models.features(SMALL_GPT, "blocks_1"), (), 1e-5, alpha=1.0),
    "task_vector": unlearn.task_vector(),
    "random_label": unlearn.random_label(0.01),
    "salun": unlearn.salun(0.01),
    "scrub": unlearn.scrub(msteps=1),
    "influence": unlearn.influence(damping=0.5, iterations=3),
    "fisher": unlearn.fisher(),
    "ssd": unlearn.ssd(2.45),
    "bad_teacher": unlearn.bad_teacher(fresh),
    "cf_k": unlearn.cf_k(layers, 2),
    "eu_k": unlearn.eu_k(layers, fresh, 2),
    "msg": unlearn.msg(fresh, 0.01),
    "localized_reset": unlearn.localized_reset(fresh),
    "top_k": unlearn.top_k(noise=0.1),
    "random_k": unlearn.random_k(),
    "sam": unlearn.sam(unlearn.scrub(msteps=1)),
    "zero_out_neurons": unlearn.zero_out_neurons(0.1),
    "activation_neurons": unlearn.activation_neurons(0.1),
    "kfac_edit": unlearn.kfac_edit(0.9),
    "integrated_gradient_neurons": unlearn.integrated_gradient_neurons(0.1, steps=3),
    "slimming_neurons": unlearn.slimming_neurons(fraction=0.1),
    "hard_concrete_neurons": unlearn.hard_concrete_neurons(fraction=0.1),
    "subnet": unlearn.subnet(),
    "balanced_subnet": unlearn.balanced_subnet(),
    "greedy": unlearn.greedy(),
    "durable": unlearn.durable(0.1),
    "durable_agg": unlearn.durable_agg(0.1),
    "obs": unlearn.obs(0.1),
    "eul": unlearn.eul(1e-5),
  }
  return found, given, split, algorithms


@pytest.mark.parametrize(
  "name", [pytest.param(name, marks=pytest.mark.slow) for name in (*WORK, *LINEN)]
)
def test_every_algorithm_that_works_keeps_the_contract_on_gpt(name):
  found, given, split, algorithms = small_gpt()
  names = testing.check_unlearner(algorithms[name], found, given, split)
  assert len(set(names)) == len(names) == 33
