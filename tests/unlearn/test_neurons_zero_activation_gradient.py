"""Neurons that are switched off, against networks in numpy without them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import apply, run, session_of, softmax

from jaxmul import bind, models, unlearn
from jaxmul.unlearn import neurons_zero_activation_gradient as found_by
from jaxmul.unlearn._mlp_kernels import without_neurons

RNG = np.random.default_rng(4)
X, Y = RNG.normal(size=(9, 4)), RNG.integers(0, 3, 9)
FORGET, HEAD = np.arange(5), ("Dense_1",)
NEURONS = 8


def network():
  """An MLP with one hidden layer in float64, biases included, whose ReLU leaves some off."""
  made = models.init(models.mlp((NEURONS,), 3), jax.random.key(0), X[:1])
  with jax.enable_x64(True):
    leaves, tree = jax.tree.flatten(made.params)
    rng = np.random.default_rng(1)
    drawn = [jnp.asarray(rng.normal(size=leaf.shape)) for leaf in leaves]
    return made.replace(params=jax.tree.unflatten(tree, drawn))


def session():
  return session_of(jnp.asarray(X), jnp.asarray(Y), FORGET)[0]


def hidden(x):
  first = network().params["Dense_0"]
  return np.maximum(x @ np.asarray(first["kernel"]) + np.asarray(first["bias"]), 0)


def logits(x, gates):
  head = network().params["Dense_1"]
  return (hidden(x) * gates) @ np.asarray(head["kernel"]) + np.asarray(head["bias"])


def probability(gates):
  return softmax(logits(X[FORGET], gates))[np.arange(len(FORGET)), Y[FORGET]]


def scores(function, *more):
  with jax.enable_x64(True):
    (found,) = function(network(), session().forget, 2, HEAD, *more)
  return np.asarray(found)


def off(neuron):
  return 1 - np.eye(NEURONS)[neuron]


def test_zero_out_is_the_risk_without_each_neuron():
  want = [-np.log(probability(off(j))).sum() for j in range(NEURONS)]
  np.testing.assert_allclose(scores(found_by._risks_without), want, rtol=1e-12)
  # The public error: all the others are switched off in its place.
  kept = [-np.log(probability(1 - off(j))).sum() for j in range(NEURONS)]
  assert np.argsort(kept).tolist() != np.argsort(want).tolist()


def test_activations_are_means_times_the_norm_of_what_reads_them():
  norm = np.linalg.norm(network().params["Dense_1"]["kernel"], axis=1)
  want = np.abs(hidden(X[FORGET]).sum(0)) * norm
  np.testing.assert_allclose(scores(found_by._activations), want, rtol=1e-12)


def test_activations_of_text_are_means_over_scored_positions():
  rng = np.random.default_rng(0)
  h, labels = rng.normal(size=(2, 4, 3)), np.array([[-1, 1, 0, -1], [-1, -1, -1, 2]])
  got = found_by._mean(jnp.asarray(h), jnp.asarray(labels))
  np.testing.assert_allclose(got, [h[0, 1:3].mean(0), h[1, 3]], rtol=1e-6)
  image = found_by._mean(jnp.asarray(h), jnp.array([0, 1]))
  np.testing.assert_allclose(image, h.mean(1), rtol=1e-6)


def test_integrated_gradients_add_up_to_what_the_layer_gains():
  got = scores(found_by._integrated, 500)
  gain = probability(np.ones(NEURONS)).sum() - probability(np.zeros(NEURONS)).sum()
  np.testing.assert_allclose(got.sum(), gain, rtol=1e-5)
  few, step = np.zeros(NEURONS), 1e-6
  for c in (1 / 6, 3 / 6, 5 / 6):
    for j in range(NEURONS):
      ends = [probability(c + sign * step * np.eye(NEURONS)[j]).sum() for sign in (1, -1)]
      few[j] += (ends[0] - ends[1]) / (2 * step) / 3
  np.testing.assert_allclose(scores(found_by._integrated, 3), few, rtol=1e-7, atol=1e-9)


MAKE = {
  unlearn.zero_out_neurons: (found_by._risks_without, ()),
  unlearn.activation_neurons: (found_by._activations, ()),
  unlearn.integrated_gradient_neurons: (found_by._integrated, (20,)),
}


@pytest.mark.parametrize("make", MAKE, ids=lambda make: make.__name__)
def test_the_network_is_as_if_the_neurons_of_highest_score_were_0(make):
  function, more = MAKE[make]
  rank = scores(function, *more)
  gates = np.where(rank >= np.sort(rank)[-2], 0, 1)
  after = apply(make(0.25, layers=HEAD), network(), session())
  with jax.enable_x64(True):
    np.testing.assert_allclose(after(jnp.asarray(X)), logits(X, gates), rtol=1e-12)
  before = network().params
  kernel = gates[:, None] * np.asarray(before["Dense_1"]["kernel"])
  np.testing.assert_array_equal(after.params["Dense_1"]["kernel"], kernel)
  for layer, leaf in (("Dense_0", "kernel"), ("Dense_0", "bias"), ("Dense_1", "bias")):
    np.testing.assert_array_equal(after.params[layer][leaf], before[layer][leaf])


@pytest.mark.parametrize("make", [unlearn.zero_out_neurons, unlearn.integrated_gradient_neurons])
def test_a_share_of_nothing_changes_nothing(make, problem):
  data, network, split = problem
  named = network.replace(
    apply_fn=lambda theta, x: x @ theta["head"]["kernel"],
    params={"head": {"kernel": network.params}},
  )
  after = run((data, named, split), make(0.0, layers=("head",)), 1)
  np.testing.assert_array_equal(after.params["head"]["kernel"], network.params)


def test_activations_can_be_watched_in_linen_alone():
  theta = {"head": {"kernel": jnp.ones((4, 3))}}
  plain = bind(lambda theta, x: x @ theta["head"]["kernel"], theta)
  given = session_of(jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.int32), FORGET)[0]
  with pytest.raises(ValueError, match="'head': only those of a Linen network") as caught:
    unlearn.activation_neurons(layers=("head",)).init(plain, given)
  assert "\n" not in str(caught.value)


def test_neurons_of_a_convolution_are_its_input_channels():
  kernel = jnp.ones((3, 3, 4, 2))
  network = bind(lambda theta, x: x, {"kernel": kernel})
  scores = [jnp.array([0.0, 3.0, 1.0, 2.0])]
  after = without_neurons(network, {"kernel": True}, scores, 0.5).params["kernel"]
  np.testing.assert_array_equal(after, kernel * jnp.array([1, 0, 1, 0])[:, None])
