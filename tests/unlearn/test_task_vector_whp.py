"""What was learned of S and taken away, from weights and from logits, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import FRESH, S, W, bound, first_step, gradient, linear, squares
from by_hand_text import read

from jaxmul import bind, models, proxies, unlearn

RATE = 1e-3


@pytest.mark.parametrize("alpha", [2.5, 0.0, -1.0])
def test_it_goes_the_other_way(alpha):
  """After one step θ_S is θ − η g/(|g| + ε): the result is as far on the other side, times α."""
  slope = gradient(W, *S)
  tuned = W - RATE * slope / (np.abs(slope) + 1e-6)
  _, after = first_step(unlearn.task_vector(RATE, alpha=alpha), bound())
  np.testing.assert_allclose(after.params, W - alpha * (tuned - W), rtol=1e-9)
  if not alpha:
    np.testing.assert_array_equal(after.params, W)


def test_statistics_are_the_originals_and_a_loss_may_be_ones_own():
  with jax.enable_x64(True):

    def trained(w, state, x, key, mask):
      return x @ w, {"mean": x.mean(0)}

    own = bind(lambda v, x: x @ v["params"], jnp.asarray(W), {"mean": jnp.ones(4)}, trained)
    _, after = first_step(unlearn.task_vector(RATE), own.replace(loss=squares))
  np.testing.assert_array_equal(after.state["mean"], np.ones(4))
  assert (np.asarray(after.params) != W).all()


def test_infinite_is_no_distance():
  with pytest.raises(ValueError, match=r"\Atask_vector got alpha=nan, must be finite\.\Z"):
    unlearn.task_vector(alpha=float("nan"))


def test_whp_lowers_what_the_reinforced_network_raised():
  x = S[0]
  with jax.enable_x64(True):
    got = unlearn.whp(bound(W), bound(FRESH), 0.7)(x)
    np.testing.assert_array_equal(unlearn.whp(bound(W), bound(FRESH), 0)(x), bound(W)(x))
    np.testing.assert_array_equal(unlearn.whp(bound(W), bound(W), 3)(x), bound(W)(x))
  np.testing.assert_allclose(got, x @ W - 0.7 * np.maximum(x @ FRESH - x @ W, 0), rtol=1e-12)


def test_whp_is_a_network_of_two():
  """Each has its statistics; params alone are params; equal ones are traced once; none trains."""
  state = {"mean": jnp.ones(4)}

  def centred(variables, x):
    return (x - variables["mean"]) @ variables["params"]

  base, other = (bind(centred, jnp.asarray(w, jnp.float32), state) for w in (W, FRESH))
  both = unlearn.whp(base, other.replace(state={"mean": jnp.zeros(4)}))
  x = jnp.asarray(S[0], jnp.float32)
  want = (x - 1) @ base.params
  want -= jnp.maximum(x @ other.params - want, 0)
  np.testing.assert_allclose(both(x), want, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(jax.jit(lambda net, x: net(x))(both, x), want, rtol=1e-5, atol=1e-6)
  twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), both)
  np.testing.assert_allclose(jax.vmap(lambda net: net(x))(twice)[1], want, rtol=1e-5, atol=1e-6)
  assert set(both.params) == {"base", "reinforced"}
  assert both.apply_fn == unlearn.whp(base, other).apply_fn
  scores = proxies.loss(both, (x, jnp.asarray(S[1])))
  assert scores.shape == (5,)


def test_whp_says_what_it_cannot_do():
  with pytest.raises(ValueError, match=r"\Awhp got alpha=-1, must be at least 0\.\Z"):
    unlearn.whp(bound(), bound(), -1)
  with pytest.raises(ValueError, match=r"\Awhp needs probabilities of classes.*squares"):
    unlearn.whp(bound(), bind(linear, W, loss=squares))


def test_whp_of_text_goes_on_from_a_prompt():
  base = np.random.default_rng(1).normal(size=(5, 5)).astype(np.float32)
  other = 2 * base  # surer of what the first is sure of
  both = unlearn.whp(*(bind(read, jnp.asarray(table)) for table in (base, other)))
  want = base - np.maximum(other - base, 0)
  assert (want.argmax(1) != base.argmax(1)).any()
  grown = models.generate(both, jnp.arange(5)[:, None], 1)
  np.testing.assert_array_equal(grown[:, 0], want.argmax(1))
