"""A causal transformer over tokens: the block of GPT-2, small enough to retrain a hundred times.

Every param belongs to one layer that is called once, so that per-example gradient norms cost one
backward pass; only a tied head, which reads the table of tokens a second time, falls back to
`vmap(grad)`.

References:
  Radford et al., Language Models are Unsupervised Multitask Learners, 2019 (GPT-2); as tiny models
  that memorize: [Mitigating Memorization in Language Models](https://arxiv.org/abs/2410.02159).
"""

import functools
import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxmul.models._initializers import scaled_normal

Activation = Literal["gelu", "relu"]
_STD = 0.02  # of GPT-2's initial weights


class GPT(nn.Module):
  """Pre-norm causal transformer with learned positions. See `gpt`."""

  num_classes: int = 14
  length: int = 128
  width: int = 128
  depth: int = 4
  heads: int = 4
  activation: Activation = "gelu"
  tied: bool = False
  dropout: float = 0.0
  dtype: DTypeLike | None = None

  def setup(self):
    """Makes the layers."""
    table = functools.partial(
      nn.Embed,
      features=self.width,
      embedding_init=functools.partial(scaled_normal, std=_STD),
      dtype=self.dtype,
    )
    self.tokens = table(self.num_classes)
    self.positions = table(self.length)
    self.blocks = [
      Block(
        heads=self.heads,
        depth=self.depth,
        activation=self.activation,
        dropout=self.dropout,
        dtype=self.dtype,
      )
      for _ in range(self.depth)
    ]
    self.norm = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype)
    self.drop = nn.Dropout(self.dropout)
    if not self.tied:
      self.head = _dense(1, self.dtype)(self.num_classes, use_bias=False)

  def embed(self, tokens: jax.Array) -> jax.Array:
    """Returns the vectors [B, T, D] of tokens [B, T], without positions."""
    return self.tokens(tokens)

  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    is_tokens = jnp.issubdtype(x.dtype, jnp.integer)
    if x.ndim != (2 if is_tokens else 3) or not (is_tokens or x.shape[2] == self.width):
      raise ValueError(
        f"gpt needs tokens int [B, T], or their vectors [B, T, {self.width}], got {x.dtype} "
        f"{list(x.shape)}."
      )
    batch, length = x.shape[:2]
    if length > self.length:
      raise ValueError(
        f"gpt got {length} tokens, at most {self.length} have a position. Use length={length}."
      )
    x = self.embed(x) if is_tokens else x
    # One row of positions for each example: a layer's gradient is then the example's own.
    x = x + self.positions(jnp.broadcast_to(jnp.arange(length), (batch, length)))
    x = self.drop(x, deterministic=not train)
    for block in self.blocks:
      x = block(x, train)
    x = self.norm(x)
    return self.tokens.attend(x) if self.tied else self.head(x)


class Block(nn.Module):
  """Attention to what came before, then two dense layers, each added to what it was given."""

  heads: int
  depth: int
  activation: Activation
  dropout: float
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    width, norm = x.shape[-1], functools.partial(nn.LayerNorm, epsilon=1e-5, dtype=self.dtype)
    inner, residual = _dense(1, self.dtype), _dense(2 * self.depth, self.dtype)
    tokens = inner(3 * width, name="qkv")(norm(name="norm1")(x))
    q, k, v = jnp.moveaxis(tokens.reshape(*x.shape[:2], 3, self.heads, -1), 2, 0)
    seen = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape)
    seen = residual(width, name="out")(seen)
    x = x + nn.Dropout(self.dropout)(seen, deterministic=not train)
    y = inner(4 * width, name="dense1")(norm(name="norm2")(x))
    y = nn.relu(y) if self.activation == "relu" else nn.gelu(y)
    y = residual(width, name="dense2")(y)
    return x + nn.Dropout(self.dropout)(y, deterministic=not train)


def _dense(terms: int, dtype: DTypeLike | None) -> functools.partial[nn.Dense]:
  """Returns a dense layer without its size, one of as many whose outputs are added up."""
  init = functools.partial(scaled_normal, std=_STD / math.sqrt(terms))
  return functools.partial(nn.Dense, kernel_init=init, dtype=dtype)


def gpt(
  num_classes: int = 14,
  *,
  length: int = 128,
  width: int = 128,
  depth: int = 4,
  heads: int = 4,
  activation: Activation = "gelu",
  tied: bool = False,
  dropout: float = 0.0,
  dtype: DTypeLike | None = None,
) -> GPT:
  """Returns a Linen GPT: tokens int [B, T] -> logits [B, T, C] of the token after each.

  An answer at position t depends on the tokens up to t alone, whatever stands after it. A token
  from C on makes all later answers of its example NaN. In place of tokens it takes their
  vectors, float [B, T, width], as its method `embed` returns them.

  Args:
    num_classes: C, the vocabulary, of what is read and what is predicted.
    length: the most tokens of an example.
    width: D of each token's vector; `heads` divides it.
    depth: blocks.
    heads: of each attention.
    activation: "gelu" (by tanh), as GPT-2, or "relu", as TinyMem.
    tied: the head is the table of tokens, as in GPT-2. Norms of per-example gradients then cost
      `vmap(grad)`.
    dropout: share in [0, 1) of vectors' entries dropped in training, of the embedding and of what
      each half of a block adds; the attention's own weights are never dropped.
    dtype: type to compute in, such as `jnp.bfloat16`; params stay float32.

  Raises:
    ValueError: `width` is not a multiple of `heads`, `activation` is another, or `dropout` is out
      of its range; when called, if an example has more than `length` tokens.

  References:
    GPT-2; [Mitigating Memorization in Language Models](https://arxiv.org/abs/2410.02159), whose
    models are `gpt(14, activation="relu")` of one to sixteen blocks.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxmul import models
    >>> tiny = gpt(5, length=8, width=8, depth=2, heads=2)
    >>> network = models.init(tiny, jax.random.key(0), jnp.zeros((1, 8), int))
    >>> network(jnp.array([[1, 2, 3]])).shape, network.embedded(jnp.array([[1, 2, 3]])).shape
    ((1, 3, 5), (1, 3, 8))
  """
  if width % heads:
    raise ValueError(f"gpt got width={width} and heads={heads}; heads must divide the width.")
  if activation not in ("gelu", "relu"):
    raise ValueError(f"gpt got activation={activation!r}, must be 'gelu' or 'relu'.")
  if not 0 <= dropout < 1:
    raise ValueError(f"gpt got dropout={dropout}, must be in [0, 1).")
  return GPT(
    num_classes=num_classes,
    length=length,
    width=width,
    depth=depth,
    heads=heads,
    activation=activation,
    tied=tied,
    dropout=dropout,
    dtype=dtype,
  )
