"""Scores of single tokens are those of a few lines of numpy and zlib."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmul
from jaxmul import models, proxies
from jaxmul.data import Dataset

MODEL = models.gpt(9, length=16, width=8, depth=1, heads=2)


def setting(n=40, length=11):
  rng = np.random.default_rng(0)
  whole = rng.integers(0, 9, (n, length + 1))
  labels = whole[:, 1:].copy()
  labels[rng.random(labels.shape) < 0.3] = -1
  labels[:, 5] = whole[:, 6]
  network = models.init(MODEL, jax.random.key(0), jnp.zeros((1, length), jnp.int32))
  params = jax.tree.map(lambda leaf: 8 * leaf, network.params)
  return network.replace(params=params), Dataset(whole[:, :-1], labels, num_classes=9)


def by_hand(network, text, share, *, standardised):
  logits = np.asarray(network(jnp.asarray(text.inputs)), float)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  scores = []
  for rows, labels in zip(log_p, text.labels, strict=True):
    values = []
    for row, label in zip(rows, labels, strict=True):
      if label >= 0:
        value, p = row[label], np.exp(row)
        if standardised:
          mean = p @ row
          value = (value - mean) / np.sqrt(p @ row**2 - mean**2)
        values.append(value)
    lowest = np.sort(values)[: max(int(share * len(values)), 1)]
    scores.append(-lowest.mean())
  return np.array(scores)


@pytest.mark.parametrize("share", [0.05, 0.4, 1.0])
def test_min_k_is_that_of_a_few_lines(share):
  network, text = setting()
  for proxy, standardised in ((proxies.min_k, False), (proxies.min_k_plus, True)):
    want = by_hand(network, text, share, standardised=standardised)
    assert np.ptp(want) > 0.1
    bound = jax.tree_util.Partial(proxy, share=share)
    np.testing.assert_allclose(proxies.score(bound, network, text), want, rtol=2e-4)


def test_all_tokens_are_the_loss_and_each_is_seen():
  network, text = setting()
  batch = text.batch()
  each = proxies.token_losses(network, batch)
  np.testing.assert_array_equal(np.isnan(each), text.labels < 0)
  loss = proxies.loss(network, batch)
  np.testing.assert_allclose(np.nanmean(each, 1), loss, rtol=1e-5)
  np.testing.assert_allclose(proxies.min_k(network, batch, share=1.0), loss, rtol=1e-5)


def test_zlib_ratio_is_that_of_zlib():
  network, text = setting()
  loss = proxies.score(proxies.loss, network, text)
  got = proxies.zlib_ratio(loss, text)
  row = text.inputs[3].astype(np.uint8).tobytes()
  want = loss[3] * (text.labels[3] >= 0).sum() / (8 * len(zlib.compress(row)))
  assert got[3] == pytest.approx(want)
  wide = Dataset(text.inputs, text.labels, num_classes=300)
  assert (proxies.zlib_ratio(loss, wide) < got).all()


def test_padding_changes_no_score_and_a_sure_token_none():
  network, text = setting()
  longer = Dataset(
    np.pad(text.inputs, ((0, 0), (0, 3)), constant_values=2),
    np.pad(text.labels, ((0, 0), (0, 3)), constant_values=-1),
    num_classes=9,
  )
  for proxy in (proxies.min_k, proxies.min_k_plus):
    want = proxies.score(proxy, network, text)
    np.testing.assert_allclose(proxies.score(proxy, network, longer), want, rtol=1e-4)
  sure = jaxmul.bind(lambda p, x: jnp.where(jax.nn.one_hot(x, 3) > 0, 0.0, -jnp.inf), {})
  batch = (jnp.array([[1, 2]]), jnp.array([[1, 2]]))
  assert proxies.min_k_plus(sure, batch).tolist() == proxies.min_k(sure, batch).tolist() == [0.0]


def test_bad_input_gets_one_line():
  network, text = setting()
  batch = text.batch()
  for proxy in (proxies.min_k, proxies.min_k_plus):
    with pytest.raises(ValueError, match=r"\A\w+ got share=0, must be in \(0, 1\]\.\Z"):
      proxy(network, batch, share=0)
  linear = jaxmul.bind(lambda w, x: x @ w, jnp.eye(2))
  for proxy in (proxies.min_k, proxies.token_losses):
    with pytest.raises(ValueError, match=r"\A\w+ needs labels int \[B, T\], one a token, got \[1"):
      proxy(linear, (jnp.ones((1, 2)), jnp.array([0])))
  with pytest.raises(ValueError, match=r"\Azlib_ratio got losses \[3\] for 40 sequences"):
    proxies.zlib_ratio(np.zeros(3), text)
  with pytest.raises(ValueError, match=r"\Azlib_ratio needs tokens int \[n, T\], got float32"):
    proxies.zlib_ratio(np.zeros(2), Dataset(np.eye(2), np.arange(2)))
  with pytest.raises(ValueError, match=r"\Azlib_ratio needs .* got a dict of arrays \['a'\] with"):
    proxies.zlib_ratio(np.zeros(1), Dataset({"a": np.ones((1, 2))}, np.ones((1, 2), int)))
