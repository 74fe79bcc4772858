"""A network with a loss of its own: what needs no classes works with it, all else says so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import bind, data, losses, metrics, proxies, testing, train, unlearn
from jaxmul.proxies import trackers

N, WIDTH, TASKS = 8, 3, 2


def squared(outputs, labels):
  """Half the squared error, the mean over what is predicted."""
  return 0.5 * jnp.mean((outputs - labels) ** 2, axis=-1)


def several(outputs, labels):
  """Binary cross-entropy of several labels: the mean over them."""
  signs = 1 - 2 * labels.astype(outputs.dtype)
  return jnp.mean(jax.nn.softplus(signs * outputs), axis=-1)


def linear(w, x):
  return x @ w


def start(loss):
  def model(key, inputs):
    del key
    w = np.random.default_rng(1).normal(size=(inputs.shape[1], TASKS))
    return bind(linear, jnp.asarray(w, jnp.float32), loss=loss)

  return model


MODELS = {squared: start(squared), several: start(several)}


def toy(loss):
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(N, WIDTH)).astype(np.float32)
  labels = rng.normal(size=(N, TASKS)) if loss is squared else rng.integers(0, 2, (N, TASKS))
  return data.Dataset(inputs, labels, classes=False)


@pytest.mark.parametrize("loss", MODELS, ids=lambda f: f.__name__)
def test_point_proxies_are_of_that_loss(loss):
  given, network = toy(loss), MODELS[loss](None, np.zeros((1, WIDTH)))
  assert given.labels.dtype == (np.float32 if loss is squared else np.int32)
  x, y = given.batch()

  def one(w, x, y):
    return loss(x[None] @ w, y[None])[0]

  def references(x, y):
    by_params, by_inputs = jax.grad(one, (0, 1))(network.params, x, y)
    hessian = jax.hessian(one, 1)(network.params, x, y)
    norms = (jnp.linalg.norm(each) for each in (by_params, by_inputs))
    return one(network.params, x, y), *norms, jnp.sum(hessian**2)

  axes = np.sqrt(WIDTH) * np.eye(WIDTH, dtype=np.float32)
  exact = jax.tree_util.Partial(proxies.curvature, probes=axes)
  chosen = (proxies.loss, proxies.grand, proxies.input_gradient, exact)
  for proxy, want in zip(chosen, jax.vmap(references)(x, y), strict=True):
    np.testing.assert_allclose(proxies.score(proxy, network, given), want, 1e-4)


@pytest.mark.parametrize("name", ["loss", "grand", "input_gradient", "curvature"])
def test_they_keep_the_contract(name):
  given, network = toy(squared), MODELS[squared](None, np.zeros((1, WIDTH)))
  proxy = getattr(proxies, name)
  if name == "curvature":
    proxy = jax.tree_util.Partial(proxy, num_probes=1)
  testing.check_proxy(proxy, network, (given.inputs, given.labels))


@pytest.mark.parametrize("loss", MODELS, ids=lambda f: f.__name__)
def test_a_recipe_trains_the_networks_own_loss(loss):
  given = toy(loss)
  recipe = train.Recipe(MODELS[loss], epochs=1, batch_size=N, learning_rate=0.3, weight_decay=0)
  some = {name: getattr(trackers, name)() for name in ("cumulative_loss", "loss_iqr", "tracin")}
  fit = train.fit(recipe, given, jax.random.key(0), trackers=some)
  network = MODELS[loss](None, given.inputs)
  x, y = given.batch()
  risk, gradient = jax.value_and_grad(lambda w: loss(x @ w, y).mean())(network.params)
  np.testing.assert_allclose(fit.network.params, network.params - 0.3 * gradient, 1e-5, 1e-6)
  np.testing.assert_allclose(fit.history.loss, [risk], 1e-5)
  assert np.isnan(fit.history.accuracy).all()
  assert fit.network.loss is loss
  np.testing.assert_allclose(fit.scores["cumulative_loss"], loss(x @ network.params, y), 1e-5)
  grand = proxies.score(proxies.grand, network, given)
  np.testing.assert_allclose(fit.scores["tracin"], 0.3 * grand**2, 1e-4)


def test_least_squares_are_reached():
  given = toy(squared)
  recipe = train.Recipe(
    MODELS[squared], epochs=300, batch_size=N, learning_rate=0.5, weight_decay=0
  )
  fit = train.fit(recipe, given, jax.random.key(0))
  want = np.linalg.lstsq(given.inputs, given.labels, rcond=None)[0]
  np.testing.assert_allclose(fit.network.params, want, atol=1e-3)


NEED_CLASSES = ("confidence", "max_confidence", "entropy", "correctness", "margin", "el2n")
TRACK_CLASSES = (
  *("learning_events", "area_under_margin", "forgetting_events", "late_learning", "vog"),
)


def one_line(pattern):
  return pytest.raises(ValueError, match=rf"\A[^\n]*{pattern}[^\n]*\Z")


@pytest.mark.parametrize("name", NEED_CLASSES)
def test_what_needs_classes_says_so(name):
  given, network = toy(squared), MODELS[squared](None, np.zeros((1, WIDTH)))
  with one_line(f"{name} needs probabilities of classes, but the network is bound with a loss of"):
    getattr(proxies, name)(network, given.batch())


def test_holdout_divergence_needs_classes():
  given, network = toy(squared), MODELS[squared](None, np.zeros((1, WIDTH)))
  with one_line("heldout_divergence needs probabilities of classes"):
    proxies.heldout_divergence(network, network, given.batch())


@pytest.mark.parametrize("name", TRACK_CLASSES)
def test_trackers_of_classes_are_refused_before_training(name):
  recipe = train.Recipe(MODELS[squared], epochs=1)
  some = {"": getattr(trackers, name)()}
  with one_line("the tracker of .* needs probabilities of classes"):
    train.fit(recipe, toy(squared), jax.random.key(0), trackers=some)


def test_a_loss_that_is_no_number_an_example_is_refused():
  def per_task(outputs, labels):
    return (outputs - labels) ** 2

  given = toy(squared)
  network = bind(linear, jnp.zeros((WIDTH, TASKS)), loss=per_task)
  says = r"loss to return \[B\] = \[8\], one number an example, got \(8, 2\)"
  for call in (
    lambda: proxies.loss(network, given.batch()),
    lambda: proxies.score(proxies.grand, network, given),
    lambda: train.fit(train.Recipe(start(per_task)), given, jax.random.key(0)),
  ):
    with one_line(says):
      call()
  with pytest.raises(ValueError, match=r"loss to return \[B\]"):  # where labels cannot be read
    jax.jit(proxies.grand)(network, batch=given.batch())


def test_numbers_are_labels_only_where_the_data_say_so():
  given = toy(squared)
  with one_line("Dataset needs integer labels, got float"):
    data.Dataset(given.inputs, given.labels)
  network = bind(linear, jnp.zeros((WIDTH, TASKS)))  # cross-entropy
  flat = data.Dataset(given.inputs, given.labels[:, 0], classes=False)
  for call in (
    lambda: proxies.loss(network, flat.batch()),
    lambda: proxies.score(proxies.loss, network, flat),
  ):
    with one_line("needs integer labels, got float32"):
      call()
  with one_line(r"Dataset: labels hold nan at \(0, 0\)"):
    data.Dataset(given.inputs, np.full((N, TASKS), np.nan), classes=False)
  with one_line("holdout goes by the class of an example, but labels are float32"):
    data.holdout(given, jax.random.key(0), heldout=2, test=2)


@pytest.mark.parametrize("name", ["loss", "embed"])
def test_bind_takes_functions(name):
  with one_line(f"bind needs {name} to be a function, got str"):
    bind(linear, jnp.zeros((WIDTH, TASKS)), **{name: "hinge"})


def test_the_loss_travels_with_the_network():
  network = MODELS[squared](None, np.zeros((1, WIDTH)))
  mapped = jax.tree.map(lambda leaf: 2 * leaf, network)
  assert mapped.loss is squared
  assert bind(linear, jnp.zeros(2)).loss is losses.cross_entropy


SPLIT = data.Split(forget=np.arange(3), retain=np.arange(3, N))


@pytest.mark.parametrize("loss", MODELS, ids=lambda f: f.__name__)
def test_algorithms_that_take_gradients_take_those_of_that_loss(loss):
  """One full batch of each set: a step is worked by hand."""
  given, network = toy(loss), MODELS[loss](None, np.zeros((1, WIDTH)))
  (x, y), w = given.batch(), network.params

  def gradient(rows):
    return jax.grad(lambda w: loss(x[rows] @ w, y[rows]).mean())(w)

  def importance(rows):
    each = jax.vmap(jax.grad(lambda w, x, y: loss(x[None] @ w, y[None])[0]), (None, 0, 0))
    return jnp.mean(each(w, x[rows], y[rows]) ** 2, axis=0)

  of_s, of_r = gradient(SPLIT.forget), gradient(SPLIT.retain)
  f_s, f_d = importance(SPLIT.forget), importance(np.arange(N))
  plain = {"momentum": 0, "weight_decay": 0}
  for algorithm, want in (
    (unlearn.fine_tune(0.1, **plain), w - 0.1 * of_r),
    (unlearn.neg_grad(0.1, momentum=0), w + 0.1 * of_s),
    (unlearn.neg_grad_plus(0.1, alpha=0.9, **plain), w - 0.1 * (0.9 * of_r - 0.1 * of_s)),
    (unlearn.ssd(1.0), jnp.where(f_s > f_d, w * jnp.minimum(f_d / f_s, 1), w)),
  ):
    after = unlearn.run(algorithm, network, given, SPLIT, jax.random.key(0), epochs=1, batch_size=N)
    np.testing.assert_allclose(after.params, want, rtol=1e-5, atol=1e-6, err_msg=algorithm.name)


def test_the_influence_step_is_exact_on_least_squares():
  given, network = toy(squared), MODELS[squared](None, np.zeros((1, WIDTH)))
  (x, y), w = given.batch(), network.params
  rows, kept = SPLIT.forget, SPLIT.retain
  curvature = x[kept].T @ x[kept] / (TASKS * len(kept)) + 0.01 * np.eye(WIDTH)
  pulled = x[rows].T @ (x[rows] @ w - y[rows]) / (TASKS * len(kept))
  after = unlearn.run(
    unlearn.influence(damping=0.01), network, given, SPLIT, jax.random.key(0), epochs=1
  )
  np.testing.assert_allclose(after.params, w + jnp.linalg.solve(curvature, pulled), atol=1e-4)


@pytest.mark.parametrize("loss", MODELS, ids=lambda f: f.__name__)
def test_figures_of_classes_are_refused_also_where_labels_could_be_classes(loss):
  network = MODELS[loss](None, np.zeros((1, WIDTH)))
  given = data.Dataset(toy(loss).inputs, np.arange(N) % 2)
  recipe = train.Recipe(MODELS[loss], epochs=1)
  for call in (
    lambda: metrics.accuracy(network, given),
    lambda: metrics.attacks.label_confidence(network, given),
    lambda: metrics.oracle.outputs([network], given, given.ids),
    lambda: metrics.oracle.oracles(recipe, given, SPLIT, jax.random.key(0), num_models=2),
  ):
    with pytest.raises(ValueError, match=r"needs probabilities of classes, but .* loss of its own"):
      call()
