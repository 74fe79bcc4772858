"""TRAK and EK-FAC are explicit matrices of whole gradients; influence is a loop over models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import data, losses, memorization, models, retraining, testing, train
from jaxmul._arrays import by_way
from jaxmul._examples import examples_of
from jaxmul.memorization import Attribution, kronecker_influence, projected_gradients

KEY = jax.random.key(5)
CLASSES = 3


def points(n, seed):
  rng = np.random.default_rng(seed)
  return data.Dataset(
    rng.normal(size=(n, 3)).astype(np.float32), np.arange(n) % CLASSES, np.arange(n) * 2 + seed
  )


TRAINING, TEST = points(24, 0), points(5, 1)


def linear(seed):
  """A layer of random weights, and its weights [4, C], the last row the bias."""
  network = models.init(models.mlp((), CLASSES), jax.random.key(seed), TRAINING.inputs[:1])
  rng = np.random.default_rng(seed)
  weights = rng.normal(size=(4, CLASSES)).astype(np.float32)
  layer = {"kernel": jnp.asarray(weights[:3]), "bias": jnp.asarray(weights[3])}
  return network.replace(params={"Dense_0": layer}), weights.astype(float)


def softmax(z):
  return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


def gradients_of_log_odds(weights, dataset):
  """∂f/∂W of f = z_y − log Σ_{c≠y} e^{z_c} [n, 4·C], and p_y [n], by hand."""
  rows, p = [], []
  for x, y in zip(dataset.inputs, dataset.labels, strict=True):
    x = np.append(x, 1.0)
    z = x @ weights
    others = np.where(np.arange(CLASSES) == y, 0, np.exp(z))
    rows.append(np.outer(x, np.eye(CLASSES)[y] - others / others.sum()).ravel())
    p.append(softmax(z)[y])
  return np.array(rows), np.array(p)


def trak_by_hand(weights):
  """Mean over networks of φ (ΦᵀΦ)⁺ Φᵀ, times the mean of 1 − p; nothing is projected."""
  products, unsure = [], []
  for own in weights:
    of_test, _ = gradients_of_log_odds(own, TEST)
    of_training, p = gradients_of_log_odds(own, TRAINING)
    gram = of_training.T @ of_training
    products.append(of_test @ np.linalg.pinv(gram, rcond=1e-10) @ of_training.T)
    unsure.append(1 - p)
  return np.mean(products, 0) * np.mean(unsure, 0)


@pytest.mark.parametrize("blocks", ["whole", "cut"])
def test_trak_of_all_directions_is_that_of_whole_gradients(blocks, monkeypatch):
  """f has (C − 1)·4 directions: eight random ones span them, and any basis gives the same."""
  jax.clear_caches()
  if blocks == "cut":  # five weights at a time of nine and three, and four examples of 24
    monkeypatch.setattr(projected_gradients, "_SIGNS", 40)
    monkeypatch.setattr("jaxmul._gradients._BUDGET", 4 * 12 * 4)
  (first, of_first), (second, of_second) = linear(1), linear(2)
  networks, weights = (first, second), (of_first, of_second)
  found = memorization.trak(networks, TRAINING, TEST, KEY, dim=8)
  wanted = trak_by_hand(weights)
  np.testing.assert_allclose(found.value, wanted, atol=2e-3 * np.abs(wanted).max())
  np.testing.assert_array_equal(found.ids, TRAINING.ids)
  np.testing.assert_array_equal(found.test_ids, TEST.ids)
  with pytest.raises(
    ValueError, match=r"trak got dim=9, .* span \d directions. Take dim=\d or less"
  ):
    memorization.trak(networks[:1], TRAINING, TEST, KEY, dim=9)


def test_an_example_helps_itself_and_hurts_its_opposite():
  network = models.init(models.mlp((), 2), jax.random.key(3), TRAINING.inputs[:1])
  labels = np.arange(len(TRAINING)) % 2
  training = data.Dataset(TRAINING.inputs, labels)
  for test, sign in ((training, 1), (data.Dataset(TRAINING.inputs, 1 - labels), -1)):
    for found in (
      memorization.trak([network], training, test, KEY, dim=4),
      memorization.ekfac_influence(network, training, test, KEY),
    ):
      assert (sign * np.diag(found.value) > 0).all()


def test_signs_are_independent_over_words():
  signs = np.asarray(projected_gradients._signs(KEY, 4096, 40, jnp.dtype(jnp.float32)))
  assert set(np.unique(signs)) == {-1.0, 1.0}
  np.testing.assert_allclose(signs.T @ signs / 4096, np.eye(40), atol=0.09)
  np.testing.assert_allclose(signs.mean(0), 0, atol=0.09)


def drawn(network, dataset):
  """The data with the labels that the curvature of EK-FAC is of."""
  labels = kronecker_influence._drawn(network, examples_of(dataset), KEY)
  return np.asarray(dataset.inputs, float), np.asarray(labels)


def test_ekfac_of_one_layer_is_its_matrix_inverted():
  """(V ⊗ U) diag(Λ + λ) (V ⊗ U)ᵀ, dense, with Λ the mean squares along each direction."""
  network, weights = linear(4)
  x, labels = drawn(network, TRAINING)

  def gradients(inputs, labels):
    inputs = np.asarray(inputs, float)
    p = softmax(inputs @ weights[:3] + weights[3])
    return inputs, p - np.eye(CLASSES)[labels]

  x, g = gradients(x, labels)
  _, v = np.linalg.eigh(x.T @ x)
  _, u = np.linalg.eigh(g.T @ g)
  axes = np.kron(v, u)  # columns are v_i ⊗ u_j, of a kernel row by row
  whole = np.einsum("bi,bo->bio", x, g).reshape(len(x), -1)
  eigenvalues = ((whole @ axes) ** 2).mean(0)
  curvature = axes @ np.diag(eigenvalues + 0.3 * eigenvalues.mean()) @ axes.T
  of_training, of_test = (
    np.einsum("bi,bo->bio", *gradients(each.inputs, each.labels)).reshape(len(each), -1)
    for each in (TRAINING, TEST)
  )
  wanted = of_test @ np.linalg.solve(curvature, of_training.T) / len(TRAINING)
  found = memorization.ekfac_influence(network, TRAINING, TEST, KEY, damping=0.3)
  np.testing.assert_allclose(found.value, wanted, atol=1e-4 * np.abs(wanted).max())
  np.testing.assert_array_equal(found.ids, TRAINING.ids)


@pytest.mark.parametrize(
  "name", ["mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cnn", "gpt"))]
)
def test_much_damping_leaves_products_of_gradients(name, monkeypatch):
  """Then H is λ of each kernel, damping · mean ‖∂ℓ/∂W‖² / size, whatever its directions are."""
  network, (inputs, labels) = testing.small_networks()[name]
  classes = network(inputs[:1]).shape[-1]
  dataset = data.Dataset(np.asarray(inputs), np.asarray(labels), num_classes=classes)
  monkeypatch.setattr(kronecker_influence, "_BLOCK", 5)  # several, the last one not full

  def kernels(labels):
    def loss(params, x, y):
      return losses.cross_entropy(network.replace(params=params)(x[None]), y[None])[0]

    tree = jax.vmap(jax.grad(loss), (None, 0, 0))(network.params, jnp.asarray(inputs), labels)
    return {
      path: np.asarray(of, float).reshape(len(labels), -1)
      for path, of in by_way(tree).items()
      if path.endswith("kernel")
    }

  own, of_drawn = kernels(jnp.asarray(labels)), kernels(jnp.asarray(drawn(network, dataset)[1]))
  parts = [own[path] @ own[path].T / (1e4 * (of_drawn[path] ** 2).mean()) for path in own]
  wanted = np.sum(parts, axis=0) / len(labels)
  test = dataset.take(dataset.ids[:7])
  found = memorization.ekfac_influence(network, dataset, test, KEY, damping=1e4)
  np.testing.assert_allclose(found.value, wanted[:7], atol=2e-2 * np.abs(wanted).max())


def test_labels_are_drawn_from_the_predictions():
  network, _ = linear(0)
  shares = np.array([0.6, 0.3, 0.1])
  layer = {"kernel": jnp.zeros((3, 3)), "bias": jnp.asarray(np.log(shares), jnp.float32)}
  network = network.replace(params={"Dense_0": layer})
  _, labels = drawn(network, points(3000, 0))
  np.testing.assert_allclose(np.bincount(labels, minlength=3) / 3000, shares, atol=0.03)
  _, (inputs, labels) = testing.small_networks()["gpt"]
  gpt = testing.small_networks()["gpt"][0]
  _, new = drawn(gpt, data.Dataset(np.asarray(inputs), np.asarray(labels), num_classes=10))
  np.testing.assert_array_equal(new == losses.UNSCORED, labels == losses.UNSCORED)
  assert (new != labels).any()


RECIPE = train.Recipe(models.mlp((6,), CLASSES), epochs=2, batch_size=8)


@pytest.mark.parametrize(
  "target",
  [
    *("log_odds", "logits"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("correct", "confidence")),
  ],
)
def test_influence_of_kept_models_is_that_of_the_stream(target, tmp_path):
  options = {"num_models": 10, "test": TEST, "target": target, "chunk_size": 4}
  schedule = retraining.leave_out(RECIPE, TRAINING, jax.random.key(1), **options)
  run = {"executor": retraining.serial, "store": tmp_path, "progress": False}
  kept = memorization.subset_models(schedule, **run)
  assert kept.member.sum(1).tolist() == [schedule.subset_size] * 10
  np.testing.assert_array_equal(kept.numbers, np.arange(10))
  if target == "logits":
    logits = np.concatenate([chunk.test for chunk in retraining.stream(schedule, store=tmp_path)])
    p = softmax(logits.astype(float))[:, np.arange(5), TEST.labels]
    np.testing.assert_allclose(kept.outputs, np.log(p / (1 - p)), atol=1e-4)
    return
  undefined = ~kept.member.any(0) | kept.member.all(0)
  ids = kept.ids[~undefined]
  wanted = memorization.influence(schedule, ids, **run).value
  if undefined.any():
    with pytest.warns(UserWarning, match="never in or never out of 10 subsets"):
      found = kept.influence()
  else:
    found = kept.influence()
  np.testing.assert_allclose(found.value[:, ~undefined], wanted, atol=1e-5)
  assert np.isnan(found.value[:, undefined]).all()
  np.testing.assert_array_equal(found.member, kept.member)


def refuse(message, call):
  with pytest.raises(ValueError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)


def test_what_cannot_be_attributed_is_refused_in_one_line():
  network, _ = linear(0)
  own = network.replace(loss=lambda outputs, labels: jnp.zeros(len(labels)))
  given = (TRAINING, TEST, KEY)
  trak, ekfac = memorization.trak, memorization.ekfac_influence
  refuse("a list of at least one", lambda: trak(network, *given, dim=2))  # pyright: ignore
  refuse("a list of at least one", lambda: trak([], *given, dim=2))
  refuse(r"dim=25, must be in \[1, 24\]", lambda: trak([network], *given, dim=25))
  refuse("got key=3", lambda: trak([network], TRAINING, TEST, 3, dim=2))  # pyright: ignore
  refuse("a loss of its own", lambda: trak([own], *given, dim=2))
  refuse("a loss of its own", lambda: ekfac(own, *given))
  refuse("damping=0, must be above 0", lambda: ekfac(network, *given, damping=0))
  refuse("needs test=Dataset of at least one", lambda: ekfac(network, TRAINING, TEST.take([]), KEY))
  nan = jax.tree.map(lambda leaf: leaf * jnp.nan, network)
  refuse("NaN, inf or all 0", lambda: ekfac(nan, *given))
  refuse("NaN, inf or all 0", lambda: trak([nan], *given, dim=2))
  one, two = np.array([1]), np.array([1, 2])
  wide = {"test_ids": two, "value": np.zeros((1, 2))}
  refuse(r"value \[1, 2\] for 2 test and 1", lambda: Attribution(ids=one, **wide))
  again = {"ids": np.array([1, 1]), "test_ids": one, "value": np.zeros((1, 2))}
  refuse("id 1 more than once", lambda: Attribution(**again))
  options = {"num_models": 4, "test": TEST}
  for schedule in (
    retraining.repeat(RECIPE, TRAINING, KEY, **options),
    retraining.leave_out(RECIPE, TRAINING, KEY, num_models=4),
  ):
    refuse(
      "leaves nothing out or keeps no outputs", lambda s=schedule: memorization.subset_models(s)
    )
