"""A causal transformer over tokens: the block of GPT-2, small enough to retrain a hundred times.

With another `Layout` it is that of GPT-NeoX or of Llama: see `neox` and `llama`. Every param
belongs to one layer that is called once, so that per-example gradient norms cost one backward pass;
only a tied head, which reads the table of tokens a second time, falls back to `vmap(grad)`.

References:
  Radford et al., Language Models are Unsupervised Multitask Learners, 2019 (GPT-2); as tiny models
  that memorize: [Mitigating Memorization in Language Models](https://arxiv.org/abs/2410.02159).
"""

import dataclasses
import functools
import math
import typing
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from jaxmul import _check
from jaxmul.models import _remat
from jaxmul.models._dense import dense, table_dtype
from jaxmul.models._initializers import scaled_normal

Activation = Literal["gelu", "relu", "exact_gelu", "silu"]
Positions = Literal["learned", "rotary"]
Past = list[tuple[jax.Array, jax.Array]]
"""Keys and values [B, length, H, D] of each block, zeros where nothing was read yet."""
_STD = 0.02  # of GPT-2's initial weights
_ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
  "gelu": nn.gelu,
  "relu": nn.relu,
  "exact_gelu": functools.partial(nn.gelu, approximate=False),
  "silu": nn.silu,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
  """What sets the blocks of GPT-NeoX and Llama apart from those of GPT-2, which are the default.

  Attributes:
    kind: "gpt2"; "neox", whose dense layers read what attention reads, not what it adds; or
      "llama", which has RMSNorm, a gate on the first dense layer, and no biases.
    inner: width between the dense layers; None is four times that of a token.
    kv_heads: heads of keys and values, each seen by as many of the queries'; None is one a head.
    rotary_share: share of the entries of each key and query that rotary positions turn.
    rotary_base: longest wave of rotary positions, in tokens over 2π.
    epsilon: added to the variance, or mean square, where vectors are normalized.
  """

  kind: Literal["gpt2", "neox", "llama"] = "gpt2"
  inner: int | None = None
  kv_heads: int | None = None
  rotary_share: float = 1.0
  rotary_base: float = 10_000.0
  epsilon: float = 1e-5


class GPT(nn.Module):
  """Pre-norm causal transformer. See `gpt`, `neox` and `llama`."""

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
  layout: Layout = dataclasses.field(default=Layout(), metadata={"later": True})
  remat: bool = dataclasses.field(default=False, metadata={"later": True})

  def setup(self):
    """Makes the layers."""
    table = functools.partial(
      nn.Embed,
      features=self.width,
      embedding_init=functools.partial(scaled_normal, std=_STD),
      dtype=self.dtype,
      promote_dtype=table_dtype,
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
        layout=self.layout,
      )
      for _ in range(self.depth)
    ]
    self.norm = _norm(self.layout, self.dtype)()
    self.drop = nn.Dropout(self.dropout)
    if not self.tied:
      init = functools.partial(scaled_normal, std=_STD)
      self.head = nn.Dense(self.num_classes, use_bias=False, kernel_init=init, dtype=self.dtype)

  def embed(self, tokens: jax.Array) -> jax.Array:
    """Returns the vectors [B, T, D] of tokens [B, T], without positions."""
    return self._low(self.tokens(tokens))

  def _low(self, x):
    return x if self.dtype is None else x.astype(self.dtype)

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
    heads = self.layout.kv_heads or self.heads
    shape = (batch, self.length, heads, self.width // self.heads)
    return [(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(self.depth)]

  def _answers(self, x, train, past=None, start: int | jax.Array = 0):
    if self.positions == "learned":
      # One row of positions for each example: a layer's gradient is then the example's own.
      places = jnp.broadcast_to(start + jnp.arange(x.shape[1]), x.shape[:2])
      x = x + self._low(self.places(places))
    x = self.drop(x, deterministic=not train)
    read: Past = []
    for number, block in enumerate(self.blocks):
      if past is None:
        x = _remat.block(_added, self.remat, block, x, train)
      else:
        x, kept = block(x, train, past[number], start)
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
  layout: Layout

  @nn.compact
  def __call__(self, x, train, past=None, start: int | jax.Array = 0):
    """Returns x [B, T, D] with what was added to it, and the keys and values that it looked at."""
    width, layout = x.shape[-1], self.layout
    norm, is_llama = _norm(layout, self.dtype), layout.kind == "llama"
    inner, residual = (
      functools.partial(_dense(terms, self.dtype), use_bias=not is_llama)
      for terms in (1, 2 * self.depth)
    )
    size, kv_heads = width // self.heads, layout.kv_heads or self.heads
    tokens = inner((self.heads + 2 * kv_heads) * size, name="qkv")(norm(name="norm1")(x))
    tokens = tokens.reshape(*x.shape[:2], -1, size)
    q, k, v = jnp.split(tokens, (self.heads, self.heads + kv_heads), axis=2)
    if self.rotary:
      q, k = (_rotated(vectors, start, layout) for vectors in (q, k))
    if past is not None:
      add = functools.partial(lax.dynamic_update_slice_in_dim, start_index=start, axis=1)
      k, v = (add(kept, new) for kept, new in zip(past, (k, v), strict=True))
    seen = _attention(q, k, v, start).reshape(x.shape)
    seen = residual(width, name="out")(seen)
    added = x + nn.Dropout(self.dropout)(seen, deterministic=not train)
    read = norm(name="norm2")(x if layout.kind == "neox" else added)
    act, hidden = _ACTIVATIONS[self.activation], layout.inner or 4 * width
    y = inner(hidden, name="dense1")(read)
    y = act(inner(hidden, name="gate")(read)) * y if is_llama else act(y)
    y = residual(width, name="dense2")(y)
    return added + nn.Dropout(self.dropout)(y, deterministic=not train), (k, v)


def _added(block: Block, x: jax.Array, train: bool) -> jax.Array:
  """Returns x with what a block adds to it where nothing was read before."""
  return block(x, train)[0]


def _attention(q: jax.Array, k: jax.Array, v: jax.Array, start: int | jax.Array) -> jax.Array:
  """Returns what q [B, T, H, D] at positions from `start` sees of k, v [B, S, K, D] up to it.

  K divides H: as many queries after each other see the same keys.
  """
  seen = jnp.arange(k.shape[1]) <= start + jnp.arange(q.shape[1])[:, None]
  if q.dtype != jnp.float64:
    return jax.nn.dot_product_attention(q, k, v, mask=seen[None, None])
  # JAX's function takes its softmax in float32, whatever the type.
  k, v = (jnp.repeat(each, q.shape[2] // each.shape[2], axis=2) for each in (k, v))
  scores = jnp.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.shape[-1])
  weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
  return jnp.einsum("bhts,bshd->bthd", weights, v)


def _rotated(x: jax.Array, start: int | jax.Array, layout: Layout) -> jax.Array:
  """Returns vectors x [B, T, H, D], each pair (i, i + R/2) of entries turned by its position.

  R is the rotary share of D; what comes after is left as it is.
  """
  half = int(layout.rotary_share * x.shape[-1]) // 2
  places = (start + jnp.arange(x.shape[1]))[:, None, None]
  angles = places * layout.rotary_base ** (-jnp.arange(half) / half)
  angles = angles.astype(jnp.promote_types(x.dtype, "f4"))
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  first, second, rest = jnp.split(x, (half, 2 * half), axis=-1)
  turned = (first * cos - second * sin, second * cos + first * sin)
  return jnp.concatenate((*turned, rest), axis=-1).astype(x.dtype)


def _norm(layout: Layout, dtype: DTypeLike | None) -> functools.partial[nn.LayerNorm | nn.RMSNorm]:
  """Returns a layer that normalizes vectors, without its name."""
  kind = nn.RMSNorm if layout.kind == "llama" else nn.LayerNorm
  return functools.partial(kind, epsilon=layout.epsilon, dtype=dtype)


def _dense(terms: int, dtype: DTypeLike | None) -> Callable[..., Callable[[jax.Array], jax.Array]]:
  """Returns a dense layer without its size, one of as many whose outputs are added up."""
  init = functools.partial(scaled_normal, std=_STD / math.sqrt(terms))
  return functools.partial(dense, kernel_init=init, dtype=dtype)


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
  remat: bool = False,
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
    activation: "gelu" (by tanh), as GPT-2, "relu", as TinyMem, "exact_gelu" or "silu".
    positions: "learned", as GPT-2, or "rotary", which turn keys and queries.
    tied: the head is the table of tokens, as in GPT-2. Norms of per-example gradients then cost
      `vmap(grad)`.
    dropout: share in [0, 1) of vectors' entries dropped in training, of the embedding and of what
      each half of a block adds; the attention's own weights are never dropped.
    dtype: type to compute in, such as `jnp.bfloat16`; params stay float32.
    remat: compute what is inside a block again in the backward pass: less memory,
      more time; XLA for CPUs undoes it. Names of params and numbers are the same.

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
  model = GPT(
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
    remat=remat,
  )
  return checked(model, "gpt")


def checked(model: GPT, caller: str) -> GPT:
  """Returns a model whose fields fit together, or raises ValueError."""
  width, heads, layout = model.width, model.heads, model.layout
  for name in ("num_classes", "length", "width", "depth", "heads"):
    _check.count(getattr(model, name), name, caller)
  if width % heads:
    raise ValueError(f"{caller} got width={width} and heads={heads}; heads must divide the width.")
  if model.positions not in typing.get_args(Positions):
    raise ValueError(f"{caller} got positions={model.positions!r}, must be 'learned' or 'rotary'.")
  turned = layout.rotary_share * (width // heads)
  _check.in_range(caller, 0, 1, rotary_share=layout.rotary_share)
  if model.positions == "rotary" and (int(turned) % 2 or turned < 2):
    raise ValueError(
      f"{caller} got width={width} and heads={heads}: rotary positions turn pairs, and each head "
      f"has {int(turned)} entries to turn. Use an even number of at least 2."
    )
  if model.activation not in _ACTIVATIONS:
    raise ValueError(
      f"{caller} got activation={model.activation!r}, must be one of {', '.join(_ACTIVATIONS)}."
    )
  if not 0 <= model.dropout < 1:
    raise ValueError(f"{caller} got dropout={model.dropout}, must be in [0, 1).")
  for name in ("inner", "kv_heads"):
    if (size := getattr(layout, name)) is not None:
      _check.count(size, name, caller)
  if heads % (layout.kv_heads or heads):
    raise ValueError(
      f"{caller} got heads={heads} and kv_heads={layout.kv_heads}; kv_heads must divide the heads."
    )
  _check.above(caller, 0, rotary_base=layout.rotary_base, epsilon=layout.epsilon)
  return model
