"""Worked by hand in float64: a linear classifier, its sets, and one step of an algorithm."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import bind, unlearn

ETA, DECAY = 0.1, 0.01


def linear(w, x):
  return x @ w


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def gradient(w, x, y):
  """∇ of the mean cross-entropy of a linear classifier, in numpy."""
  return x.T @ (softmax(x @ w) - np.eye(w.shape[1])[y]) / len(y)


RNG = np.random.default_rng(0)


W, FRESH = RNG.normal(size=(2, 4, 3))


S = RNG.normal(size=(5, 4)), np.array([0, 1, 2, 0, 1])


R = RNG.normal(size=(6, 4)), RNG.integers(0, 3, 6)


def bound(w=W):
  with jax.enable_x64(True):
    return bind(linear, jnp.asarray(w))


def first_step(algorithm, params, *, epochs=1, key=0):
  """Returns params where the descent begins and after its first step, on all of S and R."""
  with jax.enable_x64(True):
    images, labels = (
      jnp.concatenate([jnp.asarray(a), jnp.asarray(b)]) for a, b in ((S[0], R[0]), (S[1], R[1]))
    )
    sets = [
      unlearn.Examples(
        images, labels, jnp.asarray(np.r_[rows, np.zeros(11 - len(rows), int)]), count
      )
      for rows, count in ((np.arange(5), jnp.int32(5)), (np.arange(5, 11), jnp.int32(6)))
    ]
    session = unlearn.Session(*sets, epochs, 4, jax.random.key(key), np.arange(11))
    batches = [each.batch(0, each.count, int(each.count)) for each in sets]
    state = algorithm.init(params, session)
    begun = params if algorithm.start is None else algorithm.start(params, state)
    zero = jnp.int32(0)
    state = algorithm.tick(state, unlearn.Clock(zero, zero, zero + 1))
    updates, state = algorithm.update(*batches, state, begun, jax.random.key(1))
    after = jax.tree.map(jnp.add, begun, updates)
    if algorithm.finish is not None:
      after = algorithm.finish(after, state)
    return begun, after


def deep():
  """Two layers, so that there is a last one."""

  def apply_fn(theta, x):
    return jnp.tanh(x @ theta["first"]["kernel"]) @ theta["head"]["kernel"] + theta["head"]["bias"]

  with jax.enable_x64(True):
    rng = np.random.default_rng(7)
    theta = {
      "first": {"kernel": jnp.asarray(rng.normal(size=(4, 4)))},
      "head": {"kernel": jnp.asarray(W), "bias": jnp.zeros(3)},
    }
    return bind(apply_fn, theta)


def hidden(params, x):
  return jnp.tanh(x @ params.params["first"]["kernel"])


def session_on(x):
  rows = unlearn.Examples(jnp.asarray(x), jnp.zeros(len(x), int), jnp.arange(len(x)), jnp.int32(4))
  return unlearn.Session(rows, rows, 1, 4, jax.random.key(0))


def divergence_gradient(x, teacher, student, temperature=1.0):
  """∇_w of mean T² KL(teacher‖student) of a linear classifier with student logits x w."""
  return (
    temperature * x.T @ (softmax(student / temperature) - softmax(teacher / temperature)) / len(x)
  )


def one_update(algorithm, w, s, r, *, meets=("forget", "retain"), at=None):
  """Params after one update of an algorithm that was initialised at w and is applied at `at`."""
  with jax.enable_x64(True):
    params = bind(linear, jnp.asarray(w))
    images, labels = (
      jnp.concatenate([jnp.asarray(a), jnp.asarray(b)]) for a, b in zip(s, r, strict=True)
    )
    n, k = len(labels), len(s[1])
    sets = [
      unlearn.Examples(
        images, labels, jnp.asarray(np.r_[rows, np.zeros(n - len(rows), int)]), count
      )
      for rows, count in ((np.arange(k), jnp.int32(k)), (np.arange(k, n), jnp.int32(n - k)))
    ]
    session = unlearn.Session(*sets, 1, 4, jax.random.key(0), np.arange(n))
    batches = [
      each.batch(0, each.count if name in meets else 0, int(each.count))
      for name, each in zip(("forget", "retain"), sets, strict=True)
    ]
    state = algorithm.init(params, session)
    now = params if at is None else params.replace(params=jnp.asarray(at))
    updates, _ = algorithm.update(*batches, state, now, jax.random.key(1))
    return np.asarray(now.params + updates.params)


def run(problem, algorithm, epochs, batch_size=8):
  data, params, split = problem
  return unlearn.run(
    algorithm, params, data, split, jax.random.key(0), epochs=epochs, batch_size=batch_size
  )


def squares(logits, labels):
  return 0.5 * jnp.sum((logits - jax.nn.one_hot(labels, logits.shape[-1])) ** 2, axis=-1)


def session_of(x, y, forget):
  n = len(y)
  retain = np.setdiff1d(np.arange(n), forget)
  sets = [
    unlearn.Examples(
      x, y, jnp.asarray(np.r_[rows, np.zeros(n - len(rows), int)]), jnp.int32(len(rows))
    )
    for rows in (forget, retain)
  ]
  return unlearn.Session(*sets, 1, 4, jax.random.key(0), np.arange(n)), retain


def apply(algorithm, params, session):
  with jax.enable_x64(True):
    return algorithm.start(params, algorithm.init(params, session))


def squared_gradients(params, x, y, expected):
  """Mean over examples of (p − e)² x², the Fisher diagonal of a linear classifier, in numpy."""
  w = np.asarray(params.params, float)
  z = x @ w
  p = np.exp(z - z.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  if expected:
    each = [p[:, c : c + 1] * (p - np.eye(3)[c]) ** 2 for c in range(3)]
    delta = sum(each)
  else:
    delta = (p - np.eye(3)[y]) ** 2
  return np.einsum("ni,nc->ic", x**2, delta) / len(x)
