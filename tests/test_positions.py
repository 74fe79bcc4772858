"""Labels at positions: each statistic is one mean over those scored, and no mask of rows sees them.

Masks [B] and positions [B, T] broadcast without a word where T = B, so that case is always one.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import bind, losses, models, proxies, train
from jaxmul.data import Dataset
from jaxmul.proxies import trackers

CLASSES = 5
MEANS = (losses.cross_entropy, losses.margins)
SHAPES = {
  "T = B": (4, 4),
  "T > B": (3, 6),
  "T < B": (6, 3),
  "one position": (4, 1),
  "P = (2, 3)": (4, 2, 3),
}


def example(shape, unscored=0.4):
  """Logits and labels of which about so many are −1, at least one in each example scored."""
  rng = np.random.default_rng(0)
  z = rng.normal(size=(*shape, CLASSES)).astype(np.float32)
  y = rng.integers(0, CLASSES, shape)
  hidden = rng.uniform(size=shape) < unscored
  hidden.reshape(len(y), -1)[:, 0] = False
  return z, np.where(hidden, -1, y)


def by_example(function, z, y):
  """The function of each example's scored positions, as if each were an image; a list of arrays."""
  pairs = [(a.reshape(-1, CLASSES), b.reshape(-1)) for a, b in zip(z, y, strict=True)]
  return [np.asarray(function(jnp.asarray(a[b >= 0]), jnp.asarray(b[b >= 0]))) for a, b in pairs]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("loss", [*MEANS, losses.token_accuracy], ids=lambda f: f.__name__)
def test_a_loss_is_the_mean_over_scored_positions(loss, shape):
  z, y = example(shape)
  want = [each.mean() for each in by_example(loss, z, y)]
  got = jax.jit(loss)(z, y)
  assert got.shape == shape[:1]
  np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1, 30])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_log_odds_are_those_of_the_mean_loss(shape, scale):
  z, y = example(shape)
  with jax.enable_x64(True):
    loss = np.asarray(losses.cross_entropy(jnp.float64(scale * z), y))
  want = -loss - np.log(-np.expm1(-loss))
  np.testing.assert_allclose(jax.jit(losses.log_odds)(scale * z, y), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_an_example_is_right_where_all_scored_positions_are(shape):
  z, y = example(shape)
  predicted = z.argmax(-1)
  right = np.arange(len(y)) % 2 == 0
  y = np.where(y < 0, -1, predicted)
  y.reshape(len(y), -1)[~right, 0] = (predicted.reshape(len(y), -1)[~right, 0] + 1) % CLASSES
  assert jax.jit(losses.is_correct)(z, y).tolist() == right.tolist()


@pytest.mark.parametrize(
  "loss", [*MEANS, losses.is_correct, losses.token_accuracy], ids=lambda f: f.__name__
)
def test_with_one_label_an_example_the_program_is_the_same_as_ever(loss):
  """One position that is scored gives the same bits as no positions."""
  z, y = example((6, 1), 0)
  np.testing.assert_array_equal(jax.jit(loss)(z, y), jax.jit(loss)(z[:, 0], y[:, 0]))
  ops = [str(eqn.primitive) for eqn in jax.make_jaxpr(loss)(z[:, 0], y[:, 0]).jaxpr.eqns]
  values, labels = jnp.ones(3), jnp.zeros(3, int)
  assert "div" not in ops
  assert not jax.make_jaxpr(losses.mean_over_positions)(values, labels).jaxpr.eqns
  assert not jax.make_jaxpr(losses.scored_only)(values[:, None], labels).jaxpr.eqns


@pytest.mark.parametrize(
  "loss", [*MEANS, losses.log_odds, losses.token_accuracy], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf, 1e30])
def test_what_stands_at_an_unscored_position_touches_nothing(loss, hole):
  z, y = example((4, 4))
  holed = np.where((y < 0)[..., None], hole, z)

  def total(z):
    each = loss(z, y)
    return each.sum(), each

  (_, want), gradient = jax.value_and_grad(total, has_aux=True)(jnp.asarray(z))
  (_, got), holed_gradient = jax.value_and_grad(total, has_aux=True)(jnp.asarray(holed))
  np.testing.assert_array_equal(got, want)
  np.testing.assert_array_equal(holed_gradient, gradient)
  assert not np.asarray(holed_gradient)[y < 0].any()


@pytest.mark.parametrize("loss", MEANS, ids=lambda f: f.__name__)
def test_an_example_without_a_scored_position_has_a_loss_and_gradient_of_zero(loss):
  z, y = example((3, 3))
  y[1] = -1
  each, gradient = loss(z, y), jax.grad(lambda z: loss(z, y).sum())(jnp.asarray(z))
  assert np.isfinite(each).all()
  assert np.isfinite(gradient).all()
  assert each[1] == 0
  assert not gradient[1].any()
  assert gradient[0].any()


@pytest.mark.parametrize("label", [-2, CLASSES])
def test_an_impossible_label_at_a_position_is_nan(label):
  z, y = example((3, 4), 0)
  y[1, 2] = label
  assert np.isnan(jax.jit(losses.cross_entropy)(z, y)).tolist() == [False, True, False]


def test_a_mask_of_rows_cannot_meet_positions():
  values, mask = jnp.ones((3, 3)), jnp.array([True, False, True])
  for call in (
    lambda: losses.masked_mean(values, mask),
    lambda: losses.masked_mean(values[0], mask[:, None]),
    lambda: losses.mean_over_positions(values, mask.astype(int)),
    lambda: losses.cross_entropy(values, jnp.zeros((3, 3), int)),
    lambda: losses.is_correct(values, jnp.zeros((3, 3), int)),
    lambda: losses.cross_entropy(values[None], jnp.zeros(1, int)),
  ):
    with pytest.raises(ValueError, match=r"\A[^\n]*got[^\n]*\Z"):
      call()


# A network that answers at each position from a table: what is scored can be computed by hand.


def table(key, inputs):
  del key
  return _table(inputs.shape[1])


@functools.cache
def _table(length):
  rng = np.random.default_rng(length)
  weights = jnp.asarray(rng.normal(size=(length, CLASSES, CLASSES)), jnp.float32)

  def embed(w, tokens):
    del w
    return jax.nn.one_hot(tokens, CLASSES)

  def apply_fn(w, x):
    x = x if jnp.issubdtype(x.dtype, jnp.floating) else embed(w, x)
    return jnp.einsum("btv,tvc->btc", x, w)

  return bind(apply_fn, weights, embed=embed)


def text(n, length):
  tokens = np.random.default_rng(1).integers(0, CLASSES, (n, length))
  return Dataset(tokens, example((n, length))[1], num_classes=CLASSES)


POINT = ("confidence", "max_confidence", "entropy", "correctness", "loss", "margin", "el2n")


@pytest.mark.parametrize("shape", [(4, 4), (5, 2)])
def test_proxies_are_means_over_scored_positions(shape):
  data, network = text(*shape), _table(shape[1])
  z, y = np.asarray(network(data.batch()[0])), data.labels

  def as_images(proxy):
    def scores(z, y):
      return getattr(proxies, proxy)(1.0, (z, y), lambda _, z: z)

    return by_example(scores, z, y)

  for name in POINT:
    each = as_images("loss" if name == "confidence" else name)
    want = [scores.max() if name == "correctness" else scores.mean() for scores in each]
    want = -np.expm1(-np.array(want)) if name == "confidence" else want
    got = proxies.score(getattr(proxies, name), network, data)
    np.testing.assert_allclose(got, want, 1e-5, 1e-6, err_msg=name)
  other = network.replace(params=network.params * 1.3)
  moved = jax.tree_util.Partial(proxies.heldout_divergence, heldout_params=other)
  q = np.asarray(other(data.batch()[0]))
  each = [
    np.asarray(proxies.heldout_divergence(1.0, 1.3, (jnp.asarray(a[b >= 0]), b[b >= 0]), scaled))
    for a, b in zip(z, y, strict=True)
  ]
  assert np.allclose(q, 1.3 * z, atol=1e-5)
  got = proxies.score(moved, network, data)
  np.testing.assert_allclose(got, [scores.mean() for scores in each], 1e-4, 1e-6)


def scaled(w, z):
  return w * z


@pytest.mark.parametrize("shape", [(4, 4), (5, 2)])
def test_gradient_proxies_are_those_of_the_mean(shape):
  data, network = text(*shape), _table(shape[1])
  tokens, y = data.batch()
  x = network.embedded(tokens)

  def loss(w, x, y):
    log_p = jax.nn.log_softmax(network.apply_fn(w, x[None])[0])
    scored = y >= 0
    picked = jnp.take_along_axis(log_p, jnp.maximum(y, 0)[:, None], 1)[:, 0]
    return -jnp.sum(jnp.where(scored, picked, 0)) / jnp.sum(scored)

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(None, 0, 0))
  def references(w, x, y):
    by_params, by_inputs = jax.grad(loss, (0, 1))(w, x, y)
    hessian = jax.hessian(loss, 1)(w, x, y).reshape(x.size, -1)
    return jnp.linalg.norm(by_params), jnp.linalg.norm(by_inputs), jnp.sum(hessian**2)

  axes = np.sqrt(x[0].size) * np.eye(x[0].size).reshape(-1, *x.shape[1:])
  exact = jax.tree_util.Partial(proxies.curvature, probes=axes)
  chosen = (proxies.grand, proxies.input_gradient, exact)
  for proxy, want in zip(chosen, references(network.params, x, y), strict=True):
    np.testing.assert_allclose(jax.jit(proxy)(network, batch=(tokens, y)), want, 1e-4)


@pytest.mark.parametrize("shape", [(4, 4), (5, 2)])
def test_a_step_and_its_trackers_see_examples_and_no_positions(shape):
  """One epoch of one step: everything is what the initial network says, and the risk its mean."""
  data, network = text(*shape), _table(shape[1])
  batch_size = len(data) + 2  # and two rows of padding
  recipe = train.Recipe(table, epochs=1, batch_size=batch_size, learning_rate=0.5, weight_decay=0)
  names = ("learning_events", "cumulative_loss", "area_under_margin", "forgetting_events")
  more = ("late_learning", "cumulative_gradient", "tracin", "curvature")
  some = {name: getattr(trackers, name)() for name in (*names, *more)}
  fit = train.fit(recipe, data, jax.random.key(0), trackers=some)
  point = {"cumulative_loss": "loss", "area_under_margin": "margin", "curvature": "curvature"}
  point |= {"cumulative_gradient": "input_gradient", "late_learning": "correctness"}
  for name in ("confidence", "max_confidence", "correctness", "entropy", *point):
    proxy = getattr(proxies, point.get(name, name))
    if name == "curvature":
      proxy = jax.tree_util.Partial(proxy, num_probes=1)
    want = proxies.score(proxy, network, data)
    np.testing.assert_allclose(fit.scores[name], want, 1e-5, 1e-6, err_msg=name)
  grand = proxies.score(proxies.grand, network, data)
  np.testing.assert_allclose(fit.scores["tracin"], 0.5 * grand**2, 1e-5)
  right = 1 - proxies.score(proxies.correctness, network, data)
  np.testing.assert_allclose(fit.history.accuracy, right.mean()[None], 1e-6)
  tokens, y = data.batch()

  def risk(w):
    return losses.cross_entropy(network.replace(params=w)(tokens), y).mean()

  np.testing.assert_allclose(fit.history.loss, [risk(network.params)], 1e-5)
  want = network.params - 0.5 * jax.grad(risk)(network.params)
  np.testing.assert_allclose(fit.network.params, want, 1e-5, 1e-6)


def test_labels_at_other_positions_than_the_network_answers_are_refused_in_one_line():
  data, network = text(4, 4), _table(4)
  tokens, y = data.batch()
  images = Dataset(np.eye(4, dtype=np.float32), np.zeros(4, int), num_classes=CLASSES)
  mlp = train.Recipe(models.mlp((4,), CLASSES))
  key = jax.random.key(0)
  for call, says in [
    (lambda: proxies.loss(network, (tokens, y[:, :3])), r"loss needs labels \[4, 4\] .* \(4, 3\)"),
    (lambda: proxies.grand(network, (tokens, y[:, 0])), r"grand needs labels \[4, 4\] .* \(4,\)"),
    (
      lambda: proxies.loss(network, (tokens, y.at[1].set(-1))),
      r"without a scored position \(row 1",
    ),
    (lambda: proxies.loss(network, (tokens, y.at[1, 0].set(-2))), r"label -2, outside \[0, 5\)"),
    (lambda: train.fit(mlp, Dataset(images.inputs, data.labels), key), r"needs labels \[B\]"),
    (
      lambda: train.fit(train.Recipe(table), Dataset(data.inputs, images.labels), key),
      r"fit needs labels \[4, 4\] for logits \[4, 4, 5\], got shape \(4,\)",
    ),
  ]:
    with pytest.raises(ValueError, match=rf"\A[^\n]*{says}[^\n]*\Z"):
      call()
