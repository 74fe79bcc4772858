"""Text by hand in float64: a table of logits for each token read, and ∂L/∂z of objectives in numpy.

Each objective of S is a function of log p [B, T, C] and labels: what it says of each example [B],
and its derivative by the logits [B, T, C]. −1 is not scored; examples have different lengths.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import bind, unlearn

CLASSES, ETA, EPSILON = 5, 1e-3, 1e-6
RNG = np.random.default_rng(0)
ORIGINAL, NOW = RNG.normal(size=(2, CLASSES, CLASSES))


def texts(count, length):
  x, y = RNG.integers(0, CLASSES, (2, count, length))
  y[:, 0] = -1
  y[-1, 2:] = -1
  return x, y


FORGET, RETAIN = texts(3, 4), texts(5, 4)


def read(table, x):
  return table[x]


def network(table):
  with jax.enable_x64(True):
    return bind(read, jnp.asarray(table))


def log_softmax(z):
  z = z - z.max(-1, keepdims=True)
  return z - np.log(np.exp(z).sum(-1, keepdims=True))


def log_p(table, text):
  """The log-probabilities [B, T, C] of a text, the labels' own [B, T] and which are scored."""
  x, y = text
  rows, scored = log_softmax(table[x]), y >= 0
  own = np.take_along_axis(rows, np.maximum(y, 0)[..., None], -1)[..., 0]
  return rows, np.where(scored, own, 0), scored


def by_labels(text):
  """One-hot labels [B, T, C], 0 where a position is not scored."""
  return np.where(text[1][..., None] == np.arange(CLASSES), 1.0, 0.0)


def up(table, text):
  """∂ log p / ∂z of each scored label, [B, T, C]."""
  rows, _, scored = log_p(table, text)
  return np.where(scored[..., None], by_labels(text) - np.exp(rows), 0)


def toward(table, text, target):
  """Cross-entropy to targets [B, T, C], and its derivative: means over scored positions."""
  rows, _, scored = log_p(table, text)
  share = (scored / scored.sum(1, keepdims=True))[..., None]
  return -(share * target * rows).sum((1, 2)), share * (np.exp(rows) - target)


def risk(table, text):
  return toward(table, text, by_labels(text))


def kl(table, text):
  """KL(θ₀‖θ), the mean over scored positions."""
  first, _, scored = log_p(ORIGINAL, text)
  share = (scored / scored.sum(1, keepdims=True))[..., None]
  value, slope = toward(table, text, np.exp(first))
  return value + (share * np.exp(first) * first).sum((1, 2)), slope


def gradient(text, residual):
  """The table's gradient of a mean over examples."""
  total = np.zeros((CLASSES, CLASSES))
  np.add.at(total, text[0], residual / len(text[0]))
  return total


def value_of(algorithm, original, now, forget, retain):
  """What an algorithm descends, for a network and batches (inputs, labels), and its gradient."""
  (s, r), state = begun(algorithm, original, forget, retain)
  turn = unlearn.Turn(s, r, key=jax.random.key(1), clock=state.clock, epochs=state.epochs)

  def value(theta):
    return algorithm.update.objective(now.replace(params=theta), turn, state.memory)[0]

  return jax.value_and_grad(value)(now.params)


def begun(algorithm, original, forget, retain, kept=True):
  """Whole batches of S and of R, of padding alone unless it is kept, and the state after init."""
  n = len(forget[1])
  x, y = (jnp.concatenate(pair) for pair in zip(forget, retain, strict=True))
  sets = [
    unlearn.Examples(x, y, jnp.arange(len(y)), jnp.int32(n)),
    unlearn.Examples(x, y, jnp.roll(jnp.arange(len(y)), -n), jnp.int32(len(y) - n)),
  ]
  session = unlearn.Session(*sets, 1, 4, jax.random.key(0), np.arange(len(y)))
  state = algorithm.init(original, session)
  sizes = int(sets[0].count), int(sets[1].count)
  s, r = (each.batch(jnp.int32(0), jnp.int32(k), k) for each, k in zip(sets, sizes, strict=True))
  return (s, r if kept else r._replace(mask=jnp.zeros_like(r.mask))), state


def check_step(algorithm, of_forget, of_retain, *, gamma, alpha, decay=0.0):
  """A step of AdamW at `NOW`, of an algorithm begun at `ORIGINAL`, is the one worked by hand.

  Args:
    of_forget, of_retain: values [B] and derivatives [B, T, C] of S and R.
  """
  value = gamma * of_forget[0].mean() + alpha * of_retain[0].mean()
  slope = gamma * gradient(FORGET, of_forget[1]) + alpha * gradient(RETAIN, of_retain[1])
  with jax.enable_x64(True):
    original, now = network(ORIGINAL), network(NOW)
    got, by_params = value_of(algorithm, original, now, FORGET, RETAIN)
    np.testing.assert_allclose(got, value, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(by_params, slope, rtol=1e-10, atol=1e-13)
    batches, state = begun(algorithm, original, FORGET, RETAIN)
    updates, after = algorithm.update(*batches, state, now, jax.random.key(1))
    moved = -ETA * (slope / (np.abs(slope) + EPSILON) + decay * NOW)
    np.testing.assert_allclose(updates.params, moved, rtol=1e-6, atol=1e-13)
    # No step moves a teacher.
    jax.tree.map(np.testing.assert_array_equal, after.memory, state.memory)
