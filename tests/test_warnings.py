"""What passes silently with wrong numbers elsewhere gets one line here; ordinary data get none.

Warnings are errors in this suite: that each other test passes says that nothing ordinary warns.
"""

import contextlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import bind, models, proxies, unlearn
from jaxmul.data import Dataset, Split
from jaxmul.metrics.outputs import logits_of

RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
TOY = Dataset(RNG.normal(size=(12, 4)).astype(np.float32), np.arange(12) % 3)
SPLIT = Split(forget=np.arange(3), retain=np.arange(3, 12))


def linear(w, x):
  return x @ w


def softmax(w, x):
  return jax.nn.softmax(x @ w)


def run(network):
  return unlearn.run(unlearn.fine_tune(), network, TOY, SPLIT, jax.random.key(0), epochs=1)


# Each where a network and data enter together.
ENTRANCES = {
  "score": lambda network: proxies.score(proxies.loss, network, TOY),
  "score of another proxy": lambda network: proxies.score(proxies.grand, network, TOY),
  "logits_of": lambda network: logits_of(network, TOY),
  "unlearn.run": run,
  "heldout_divergence": lambda network: proxies.heldout_divergence(network, network, TOY.batch()),
} | {
  name: lambda network, name=name: getattr(proxies, name)(network, TOY.batch())
  for name in ("confidence", "max_confidence", "entropy", "correctness", "loss", "margin", "el2n")
}


def told(function, *arguments):
  """The messages of a call, as a script gets them: one from each line."""
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("default")
    function(*arguments)
  return [(str(each.message), each.filename) for each in caught if each.category is UserWarning]


@pytest.mark.parametrize("name", ENTRANCES)
def test_probabilities_given_as_logits_are_told_once(name):
  (message, file), *more = told(ENTRANCES[name], bind(softmax, W))
  assert not more
  assert "takes logits, but this network's outputs lie in [0, 1] and sum to 1" in message
  assert "Return what its softmax is given" in message
  assert "\n" not in message
  assert file == __file__ or name == "logits_of"
  assert not told(ENTRANCES[name], bind(linear, W))


def test_a_loop_is_told_once():
  def loop():
    for _ in range(3):
      proxies.confidence(W, TOY.batch(), softmax)
      proxies.score(proxies.grand, W, TOY, softmax)

  assert len(told(loop)) == 2


def test_nothing_is_told_under_jit():
  """Values are unknown there, as they are to every other check."""
  assert not told(jax.jit(lambda w: proxies.confidence(w, TOY.batch(), softmax)), W)
  assert not told(jax.vmap(lambda w: proxies.loss(w, TOY.batch(), softmax)), W[None])


@pytest.mark.parametrize(
  "outputs",
  [
    np.eye(3),  # of a toy, or of a network that is sure of all
    np.eye(3) / 2 + np.array([0.0, 0.0, 0.4]),  # sums to 0.9
    np.array([[0.5, 0.6, -0.1]]),  # sums to 1
    np.array([[0.2, 0.3, 0.5], [0.2, 0.3, 0.6]]),  # one row does, the next does not
    np.zeros((2, 3)),
  ],
)
def test_outputs_that_are_no_probabilities_are_not_told_of(outputs):
  batch = (jnp.asarray(outputs, jnp.float32), jnp.zeros(len(outputs), int))
  assert not told(lambda: proxies.loss(jnp.eye(3), batch, linear))


def test_a_softmax_that_rounds_to_zero_and_one_is_told_of():
  outputs = jax.nn.softmax(jnp.asarray([[200.0, 0, 0], [200.0, 198.0, 0]]))
  assert (outputs[0] == jnp.asarray([1.0, 0, 0])).all()
  assert told(lambda: proxies.loss(jnp.eye(3), (outputs, jnp.zeros(2, int)), linear))


def test_uint8_images_are_scaled_before_the_look_at_the_outputs():
  images = Dataset(np.full((4, 3), 255, np.uint8), np.arange(4) % 3)
  network = bind(lambda w, x: jnp.where(x > 1, 0.0, x @ w), jnp.full((3, 3), 1 / 9))
  assert told(lambda: proxies.score(proxies.loss, network, images))


BYTES = RNG.integers(0, 256, (4, 8, 8))


@pytest.mark.parametrize(
  "images",
  [BYTES.astype(np.float32), BYTES.astype(float), BYTES.reshape(4, -1) / 2 + 1],
  ids=["float32", "float64", "flat, up to 128"],
)
def test_float_images_of_bytes_are_told_once(images):
  (message, file), *more = told(lambda: Dataset(images, np.arange(4)))
  assert not more
  assert file == __file__
  assert f"float inputs in [{images.min():g}, {images.max():g}]" in message
  assert "Pass them as uint8, or divide them by 255" in message
  assert "\n" not in message
  whole = Dataset(BYTES.astype(np.uint8), np.arange(4))
  assert not told(lambda: whole.take([1, 2]))


def test_a_part_of_a_data_set_is_not_told_of_again():
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    whole = Dataset(BYTES.astype(np.float32), np.arange(4))
  assert not told(lambda: whole.take([3, 1]).take([1]))


@pytest.mark.parametrize(
  "images",
  [
    BYTES.astype(np.uint8),
    BYTES / 255,
    (BYTES - 128) / 64,
    BYTES - 128.0,  # has negative values
    100 * RNG.normal(size=(4, 8)),  # features of any unit
    1000 * RNG.random((4, 8)),  # no byte is above 255
    np.round(16 * RNG.random((4, 8))),  # scikit-learn's digits
    100 * RNG.random((4, 8)),  # per cent
    np.zeros((0, 8)),
  ],
)
def test_ordinary_images_are_not_told_of(images):
  assert not told(Dataset, images, np.arange(len(images)))


@pytest.mark.parametrize(
  "model",
  [
    models.resnet18(3, width=2),
    models.vgg16(3, width=1),
    models.vit(3, patch=1, width=8, depth=1, heads=2),
    models.cnn((2,), 3, 3),
  ],
  ids=["resnet18", "vgg16", "vit", "cnn"],
)
def test_channels_before_rows_are_told_of(model):
  def shapes(*shape):
    inputs = jax.ShapeDtypeStruct(shape, jnp.float32)
    network = models.shapes(model, inputs)
    jax.eval_shape(lambda network, inputs: network(inputs), network, inputs)

  def turned():
    with contextlib.suppress(ValueError):  # of three rows vgg16 has none left to pool
      shapes(2, 3, 32, 32)

  (message, _), *more = told(turned)
  assert not more  # neither for making the network and calling it, nor for another trace
  assert "images [2, 3, 32, 32] and reads them as [B, H, W, channels]" in message
  assert "images.transpose(0, 2, 3, 1)" in message
  assert "\n" not in message
  assert not told(shapes, 2, 32, 32, 3)
  assert not told(shapes, 2, 32, 32)
  assert not told(shapes, 2, 32, 32, 1)
