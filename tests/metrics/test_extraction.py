"""What is extracted, against what a trained network really generates, and plain loops."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from jaxmul import bind, data, models, train
from jaxmul.metrics import extraction

STARTS = 1000 + np.random.default_rng(0).permutation(8000)[:400]
MADE = data.math_sequences(STARTS, jax.random.key(0), noisy=40)
NOISY = np.flatnonzero(MADE.dataset.strata == 1)
MODEL = models.gpt(14, length=20, width=32, depth=1, heads=2)
ADAM = functools.partial(optax.adamw, weight_decay=0.1)
RECIPE = train.Recipe(MODEL, epochs=30, batch_size=16, learning_rate=5e-3, optimizer=ADAM)


def text():
  """All sequences, ten of the noisy ones ten times."""
  return data.repeated(MADE.dataset, NOISY[:10], 10)


@functools.cache
def networks():
  """A network of all sequences, and one that never saw the noisy ones."""
  whole = text()
  clean = whole.ids[whole.strata == 0]
  trained = train.fit(RECIPE, whole, jax.random.key(1)).network
  return trained, train.fit(RECIPE, whole, jax.random.key(1), clean).network


def generated(network, prompts, count):
  return np.asarray(models.generate(network, jnp.asarray(prompts), count, model=MODEL))


@pytest.mark.parametrize(("prompt", "suffix"), [(6, 5), (11, None), (19, 2)])
def test_what_is_extracted_is_what_is_generated(prompt, suffix):
  trained, _ = networks()
  whole = np.c_[MADE.dataset.inputs, MADE.dataset.labels[:, -1]]
  count = 21 - prompt if suffix is None else suffix
  made = generated(trained, whole[:, :prompt], count)
  wanted = (made == whole[:, prompt : prompt + count]).all(1)
  found = extraction.is_extracted(trained, data.after_prompt(MADE.dataset, prompt, suffix))
  assert found.dtype == bool
  np.testing.assert_array_equal(found, wanted)
  assert 0 < wanted.sum() < len(wanted)


def test_the_chance_is_the_share_of_drawn_continuations():
  trained, _ = networks()
  after = data.after_prompt(MADE.dataset, 12, 4)
  log_p = extraction.suffix_log_probability(trained, after)
  logits = np.asarray(trained(after.batch()[0]), float)
  for row, (z, y) in enumerate(zip(logits, after.labels, strict=True)):
    p = [1 / np.exp(a - a[b]).sum() for a, b in zip(z, y, strict=True) if b >= 0]
    assert len(p) == 4
    assert log_p[row] == pytest.approx(np.log(p).sum(), abs=1e-4)
  p_z = np.exp(log_p)
  row = np.argmin(np.abs(p_z - 0.3))
  assert 0.05 < p_z[row] < 0.9
  prompts = jnp.repeat(jnp.asarray(MADE.dataset.inputs[row : row + 1, :12]), 4000, 0)
  key = jax.random.key(0)
  drawn = np.asarray(models.generate(trained, prompts, 4, model=MODEL, key=key))
  right = (drawn == after.labels[row, 11:15]).all(1)
  assert right.mean() == pytest.approx(p_z[row], abs=4 * np.sqrt(0.25 / 4000))
  of_three = right[:3999].reshape(-1, 3).any(1).mean()
  assert extraction.chance_in(log_p[row], 3) == pytest.approx(of_three, abs=0.055)


def test_chances_are_exact_at_their_ends():
  chance = extraction.chance_in([0.0, -50.0, -np.inf, np.log(0.5)], 10)
  np.testing.assert_allclose(chance, [1, 10 * np.exp(-50), 0, 1 - 0.5**10], rtol=1e-12)
  np.testing.assert_allclose(extraction.chance_in(-30.0, 10**9), 1 - np.exp(-(10**9) * np.exp(-30)))
  discoverable = extraction.chance_in(np.log([0.1, 0.01]), 7) >= 0.5
  assert discoverable.tolist() == [1 - 0.9**7 >= 0.5, False]


def test_noise_behind_a_clean_prompt_is_what_memory_alone_gives():
  trained, control = networks()
  prompt = 11
  noisy = extraction.with_clean_prompt(MADE.dataset, MADE.twins, prompt)
  whole, clean = (np.c_[d.inputs, d.labels[:, -1]] for d in MADE)
  kept = []
  for row in range(400):
    if (whole[row, prompt:] == clean[row, prompt:]).all():
      continue
    kept.append(row)
  made = generated(trained, clean[kept, :prompt], 21 - prompt)
  wanted = [all(m == w) for m, w in zip(made, whole[kept, prompt:], strict=True)]
  assert noisy.ids.tolist() == kept == NOISY.tolist()
  np.testing.assert_array_equal(extraction.is_extracted(trained, noisy), wanted)
  assert any(wanted)
  assert not extraction.is_extracted(control, noisy).any()


def test_what_a_network_without_a_sequence_gives_is_not_memorized():
  trained, control = networks()
  whole = text()
  one = whole.take(whole.first_of_each(whole.ids))
  copies = whole.num_copies(one.ids)
  assert copies.tolist() == [10 if row in NOISY[:10] else 1 for row in range(400)]
  after = data.after_prompt(one, 11)
  got, other = (extraction.is_extracted(network, after) for network in (trained, control))
  found = extraction.rates_by(copies, got, other)
  for number in (1, 10):
    rows = [row for row in range(400) if copies[row] == number]
    k, n, z = sum(got[row] and not other[row] for row in rows), len(rows), 1.959963984540054
    centre, half = k + z**2 / 2, z * np.sqrt(k * (n - k) / n + z**2 / 4)
    want = (k / n, (centre - half) / (n + z**2), (centre + half) / (n + z**2))
    np.testing.assert_allclose(found[number], want, atol=1e-12)
  clean = one.strata == 0
  assert extraction.rate(got[clean]).mean > 0.8  # the rule gives most of them
  assert extraction.rate(got[clean], other[clean]).mean < 0.1
  assert found[10].low > found[1].high


def distance(a, b):
  """By its definition, one letter after another."""

  @functools.cache
  def of(i, j):
    if not i or not j:
      return i + j
    replaced = of(i - 1, j - 1) + (a[i - 1] != b[j - 1])
    return min(replaced, of(i - 1, j) + 1, of(i, j - 1) + 1)

  return of(len(a), len(b))


@pytest.mark.parametrize(("rows", "length"), [(200, 7), (9, 9), (40, 1)])
def test_edit_distances_are_those_of_the_definition(rows, length):
  rng = np.random.default_rng(0)
  made, true = rng.integers(0, 3, (2, rows, length))
  true = np.where(rng.uniform(size=true.shape) < 0.3, -1, true)
  found = extraction.edit_distance(made, true)
  scored = [[list(x[y >= 0]) for x in (m, y)] for m, y in zip(made, true, strict=True)]
  wanted = [distance(*map(tuple, pair)) for pair in scored]
  assert found.tolist() == wanted
  length_of = (true >= 0).sum(1)
  some = length_of > 0
  near = extraction.is_nearly_extracted(made[some], true[some], 0.5)
  assert near.tolist() == [d <= n / 2 for d, n in zip(found[some], length_of[some], strict=True)]


def test_a_share_of_a_suffix_is_not_rounded_down():
  true = np.arange(100)[None]
  made = true.copy()
  made[:, :29] = -5
  assert extraction.is_nearly_extracted(made, true, 0.29).tolist() == [True]  # 0.29 · 100 < 29
  assert extraction.is_nearly_extracted(made, true, 0.28).tolist() == [False]


def test_exposure_counts_what_is_as_likely_half():
  canaries, others = [0.5, 1.0, 9.0, 1.0], [1.0, 2.0, 2.0, 3.0, 1.0, 1.0, 4.0]
  wanted = []
  for loss in canaries:
    everyone = [*others, loss]
    places = [i for i, x in enumerate(sorted(everyone), 1) if x == loss]
    wanted.append(np.log2(len(everyone)) - np.log2(np.mean(places)))
  np.testing.assert_allclose(extraction.exposure(canaries, others), wanted)
  np.testing.assert_allclose(extraction.exposure(canaries, others[::-1]), wanted)
  assert wanted[0] == 3


@pytest.mark.parametrize("count", [1, 7, 30, 121])
def test_the_interval_of_a_rate_is_scipys(count):
  for successes in {0, 1, count // 2, count}:
    low, high = scipy.stats.binomtest(successes, count).proportion_ci(0.95, "wilson")
    rate = extraction.rate(np.arange(count) < successes)
    np.testing.assert_allclose(rate, (successes / count, low, high), rtol=0, atol=1e-15)
    assert (rate.low == 0) == (successes == 0)
    assert (rate.high == 1) == (successes == count)


def bigram(weights, tokens):
  return weights[tokens]


@pytest.mark.parametrize("more", [0, 1, 3])
def test_padding_changes_nothing(more):
  """Six sequences of six tokens; then more positions, of any token, that are not scored."""
  rng = np.random.default_rng(1)
  network = bind(bigram, jnp.asarray(rng.normal(size=(5, 5)), jnp.float32))
  likeliest = np.asarray(network.params).argmax(1)
  tokens, labels = rng.integers(0, 5, (6, 6)), rng.integers(0, 5, (6, 6))
  labels[:4] = likeliest[tokens[:4]]
  labels[2:, 3:] = -1
  wanted = np.array([True, True, True, True, False, False])
  plain = data.Dataset(tokens, labels, num_classes=5)
  for filler, taken in itertools.product((0, 4), (6, 6 + more)):
    padding = np.full((6, more), filler)
    padded = data.Dataset(
      np.c_[tokens, padding][:taken], np.c_[labels, padding * 0 - 1][:taken], num_classes=5
    )
    np.testing.assert_array_equal(extraction.is_extracted(network, padded), wanted)
    np.testing.assert_allclose(
      extraction.suffix_log_probability(network, padded),
      extraction.suffix_log_probability(network, plain),
      rtol=1e-6,
    )
    shifted = (labels + 1) % 5
    continuations = np.c_[shifted, padding]
    np.testing.assert_array_equal(
      extraction.edit_distance(continuations, padded.labels),
      extraction.edit_distance(shifted, labels),
    )


def test_padding_of_one_is_no_difference_to_its_twin():
  tokens = np.array([[1, 2, 3, 4], [1, 2, 3, 4]])
  twin = data.Dataset(tokens, np.array([[2, 3, 4, 5], [2, 3, 4, 5]]))
  noisy = data.Dataset(tokens, np.array([[2, 3, 4, -1], [2, 3, 7, -1]]))
  assert extraction.with_clean_prompt(noisy, twin, 2).ids.tolist() == [1]


IMAGES = data.Dataset(np.eye(3, dtype=np.float32), np.array([0, 1, 2]))


@pytest.mark.parametrize(
  ("call", "said"),
  [
    (lambda: extraction.is_extracted(np.eye(3), IMAGES, jnp.matmul), r"labels \[n, T\], got \[3\]"),
    (lambda: extraction.suffix_log_probability(np.eye(3), IMAGES, jnp.matmul), "needs sequences"),
    (lambda: extraction.chance_in([-1.0, 0.5], 3), r"log_p=0\.5, must be at most 0"),
    (lambda: extraction.chance_in([np.nan], 3), "log_p=nan"),
    (lambda: extraction.chance_in([-1.0], 0), "tries=0"),
    (lambda: extraction.rate([]), "not empty"),
    (lambda: extraction.rate([True], [True, False]), r"\[1\] and \[2\]"),
    (lambda: extraction.rate([0.5, 1.0]), "needs bool, got float64"),
    (lambda: extraction.rates_by([1.5], [True]), r"groups int \[1\]"),
    (lambda: extraction.edit_distance([[1, 2]], [[1]]), r"int \[B, S\]"),
    (lambda: extraction.is_nearly_extracted([[1]], [[1]], 1.0), r"share=1\.0"),
    (lambda: extraction.is_nearly_extracted([[1]], [[-1]]), "nothing of suffix 0"),
    (lambda: extraction.exposure([1.0], []), "other_losses"),
    (lambda: extraction.exposure([np.nan], [1.0]), "1 NaN"),
    (lambda: extraction.exposure_of_drawn([1.0], [], 9), r"exposure_of_drawn needs drawn_losses"),
    (lambda: extraction.with_clean_prompt(MADE.twins, MADE.twins, 11), "no suffix of 400"),
    (lambda: data.after_prompt(MADE.dataset, 11, 11), r"suffix=11, must be in \[1, 10\]"),
  ],
)
def test_mistakes_get_one_line(call, said):
  with pytest.raises(ValueError, match=said) as caught:
    call()
  assert "\n" not in str(caught.value)
