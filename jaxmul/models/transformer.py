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
from jax import lax
from jax.typing import DTypeLike

from jaxmul.models._initializers import scaled_normal

Activation = Literal["gelu", "relu"]
Positions = Literal["learned", "rotary"]
Past = list[tuple[jax.Array, jax.Array]]
"""Keys and values [B, length, H, D] of each block, zeros where nothing was read yet."""
_STD = 0.02  # of GPT-2's initial weights
_WAVES = 10_000.0  # longest wave of rotary positions, in tokens over 2π


class GPT(nn.Module):
  """Pre-norm causal transformer. See `gpt`."""

  num_classes: int = 14
  length: int = 128
  width: int = 128
  depth: int = 4
  heads: int = 4
  activation: Activation = "gelu"
  positions: Positions = "learned"
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
    if self.positions == "learned":
      self.places = table(self.length, name="positions")
    self.blocks = [
      Block(
        heads=self.heads,
        depth=self.depth,
        activation=self.activation,
        rotary=self.positions == "rotary",
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
        f"{list(x.shape)}. uint8 are taken for pixels: tokens.astype('int32')."
      )
    if x.shape[1] > self.length:
      raise ValueError(
        f"gpt got {x.shape[1]} tokens, at most {self.length} have a position. Use "
        f"length={x.shape[1]}."
      )
    return self._answers(self.embed(x) if is_tokens else x, train)[0]

  def read(self, tokens: jax.Array, past: Past, start: int | jax.Array) -> tuple[jax.Array, Past]:
    """Returns logits [B, T, C] of tokens int [B, T] at positions from `start`, and the new past.

    Args:
      tokens: of which `start` before them, and no others, are in the past.
      past: as `nothing_read` makes it.
      start: number of tokens read before.
    """
    return self._answers(self.embed(tokens), False, past, start)

  def nothing_read(self, batch: int, dtype: DTypeLike) -> Past:
    """Returns the `Past` of `batch` examples before their first token."""
    shape = (batch, self.length, self.heads, self.width // self.heads)
    return [(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(self.depth)]

  def _answers(self, x, train, past=None, start: int | jax.Array = 0):
    if self.positions == "learned":
      # One row of positions for each example: a layer's gradient is then the example's own.
      x = x + self.places(jnp.broadcast_to(start + jnp.arange(x.shape[1]), x.shape[:2]))
    x = self.drop(x, deterministic=not train)
    read: Past = []
    for number, block in enumerate(self.blocks):
      x, kept = block(x, train, None if past is None else past[number], start)
      read.append(kept)
    x = self.norm(x)
    return self.tokens.attend(x) if self.tied else self.head(x), read


class Block(nn.Module):
  """Attention to what came before, then two dense layers, each added to what it was given."""

  heads: int
  depth: int
  activation: Activation
  rotary: bool
  dropout: float
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, x, train, past=None, start: int | jax.Array = 0):
    """Returns x [B, T, D] with what was added to it, and the keys and values that it looked at."""
    width, norm = x.shape[-1], functools.partial(nn.LayerNorm, epsilon=1e-5, dtype=self.dtype)
    inner, residual = _dense(1, self.dtype), _dense(2 * self.depth, self.dtype)
    tokens = inner(3 * width, name="qkv")(norm(name="norm1")(x))
    q, k, v = jnp.moveaxis(tokens.reshape(*x.shape[:2], 3, self.heads, -1), 2, 0)
    if self.rotary:
      q, k = (_rotated(vectors, start) for vectors in (q, k))
    if past is not None:
      add = functools.partial(lax.dynamic_update_slice_in_dim, start_index=start, axis=1)
      k, v = (add(kept, new) for kept, new in zip(past, (k, v), strict=True))
    seen = _attention(q, k, v, start).reshape(x.shape)
    seen = residual(width, name="out")(seen)
    x = x + nn.Dropout(self.dropout)(seen, deterministic=not train)
    y = inner(4 * width, name="dense1")(norm(name="norm2")(x))
    y = nn.relu(y) if self.activation == "relu" else nn.gelu(y)
    y = residual(width, name="dense2")(y)
    return x + nn.Dropout(self.dropout)(y, deterministic=not train), (k, v)


def _attention(q: jax.Array, k: jax.Array, v: jax.Array, start: int | jax.Array) -> jax.Array:
  """Returns what q [B, T, H, D] at positions from `start` sees of k, v [B, S, H, D] up to it."""
  seen = jnp.arange(k.shape[1]) <= start + jnp.arange(q.shape[1])[:, None]
  if q.dtype != jnp.float64:
    return jax.nn.dot_product_attention(q, k, v, mask=seen[None, None])
  # JAX's function takes its softmax in float32, whatever the type.
  scores = jnp.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.shape[-1])
  weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
  return jnp.einsum("bhts,bshd->bthd", weights, v)


def _rotated(x: jax.Array, start: int | jax.Array) -> jax.Array:
  """Returns vectors x [B, T, H, D], each pair (i, i + D/2) of entries turned by its position."""
  half = x.shape[-1] // 2
  places = (start + jnp.arange(x.shape[1]))[:, None, None]
  angles = (places * _WAVES ** (-jnp.arange(half) / half)).astype(jnp.promote_types(x.dtype, "f4"))
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  first, second = x[..., :half], x[..., half:]
  turned = (first * cos - second * sin, second * cos + first * sin)
  return jnp.concatenate(turned, axis=-1).astype(x.dtype)


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
  positions: Positions = "learned",
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
    positions: "learned", as GPT-2, or "rotary", which turn keys and queries.
    tied: the head is the table of tokens, as in GPT-2. Norms of per-example gradients then cost
      `vmap(grad)`.
    dropout: share in [0, 1) of vectors' entries dropped in training, of the embedding and of what
      each half of a block adds; the attention's own weights are never dropped.
    dtype: type to compute in, such as `jnp.bfloat16`; params stay float32.

  Raises:
    ValueError: `width` is not a multiple of `heads`, or with rotary positions of twice as many;
      `activation` or `positions` is another; `dropout` is out of its range; when called, if an
      example has more than `length` tokens.

  References:
    GPT-2; [Mitigating Memorization in Language Models](https://arxiv.org/abs/2410.02159), whose
    models are `gpt(14, activation="relu")` of one to sixteen blocks; rotary positions:
    [RoFormer](https://arxiv.org/abs/2104.09864).

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
  if positions not in ("learned", "rotary"):
    raise ValueError(f"gpt got positions={positions!r}, must be 'learned' or 'rotary'.")
  if positions == "rotary" and width // heads % 2:
    raise ValueError(
      f"gpt got width={width} and heads={heads}: rotary positions turn pairs, and each head has "
      f"{width // heads} entries. Use an even number."
    )
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
    positions=positions,
    tied=tied,
    dropout=dropout,
    dtype=dtype,
  )
