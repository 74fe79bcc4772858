"""Causal transformers laid out as GPT-NeoX (Pythia) and as Llama: a `GPT` with another `Layout`.

References:
  Black et al., [GPT-NeoX-20B](https://arxiv.org/abs/2204.06745), 2022; Biderman et al.,
  [Pythia](https://arxiv.org/abs/2304.01373), 2023; Touvron et al.,
  [LLaMA](https://arxiv.org/abs/2302.13971), 2023. RMSNorm: [1910.07467](https://arxiv.org/abs/1910.07467);
  SwiGLU: [2002.05202](https://arxiv.org/abs/2002.05202); grouped keys and values:
  [2305.13245](https://arxiv.org/abs/2305.13245).
"""

from jax.typing import DTypeLike

from jaxmul.models.transformer import GPT, Layout, checked


def neox(
  num_classes: int = 14,
  *,
  length: int = 128,
  width: int = 128,
  depth: int = 4,
  heads: int = 4,
  inner: int | None = None,
  rotary_share: float = 0.25,
  dtype: DTypeLike | None = None,
  remat: bool = False,
) -> GPT:
  """Returns a Linen GPT-NeoX, as Pythia is: tokens int [B, T] -> logits [B, T, C].

  A `gpt` whose attention and dense layers read the same vectors and are added up (a parallel
  residual), with rotary positions of a part of each key and query, GELU by erf and an untied head.
  All else is as in `gpt`, fresh weights too; there is no dropout.

  Args:
    num_classes: C, the vocabulary.
    length: the most tokens of an example.
    width: D of each token's vector; `heads` divides it.
    depth: blocks.
    heads: of each attention.
    inner: width between the dense layers; None is 4 · `width`.
    rotary_share: share in (0, 1] of the entries of keys and queries that positions turn.
    dtype: type to compute in, such as `jnp.bfloat16`; params stay float32.
    remat: compute what is inside a block again in the backward pass: less memory,
      more time; XLA for CPUs undoes it. Names of params and numbers are the same.

  Raises:
    ValueError: `width` is not a multiple of `heads`, or entries to turn are no pairs; a size is no
      integer of at least 1; when called, if an example has more than `length` tokens.

  References:
    [GPT-NeoX-20B](https://arxiv.org/abs/2204.06745), 2022; Pythia-70M is
    `neox(50304, length=2048, width=512, depth=6, heads=8)`.

  Example:
    >>> neox(5, width=32, heads=4).layout.rotary_share  # two of eight entries
    0.25
  """
  model = GPT(
    num_classes=num_classes,
    length=length,
    width=width,
    depth=depth,
    heads=heads,
    activation="exact_gelu",
    positions="rotary",
    dtype=dtype,
    remat=remat,
    layout=Layout(kind="neox", inner=inner, rotary_share=rotary_share),
  )
  return checked(model, "neox")


def llama(
  num_classes: int = 14,
  *,
  length: int = 128,
  width: int = 128,
  depth: int = 4,
  heads: int = 4,
  kv_heads: int | None = None,
  inner: int | None = None,
  rotary_base: float = 10_000.0,
  epsilon: float = 1e-5,
  tied: bool = False,
  dtype: DTypeLike | None = None,
  remat: bool = False,
) -> GPT:
  """Returns a Linen Llama: tokens int [B, T] -> logits [B, T, C].

  A `gpt` with RMSNorm, rotary positions, a first dense layer that is multiplied by the SiLU of
  another (SwiGLU), and no biases. All else is as in `gpt`, fresh weights too; there is no dropout.

  Args:
    num_classes: C, the vocabulary.
    length: the most tokens of an example.
    width: D of each token's vector; `heads` divides it.
    depth: blocks.
    heads: of each attention.
    kv_heads: of keys and values, which divide `heads`; None is as many.
    inner: width between the dense layers; None is 4 · `width`, and Llama's is less.
    rotary_base: longest wave of positions, in tokens over 2π; 500,000 in Llama 3.
    epsilon: added to the mean square in RMSNorm.
    tied: the head is the table of tokens. Norms of per-example gradients then cost `vmap(grad)`.
    dtype: type to compute in, such as `jnp.bfloat16`; params stay float32.
    remat: compute what is inside a block again in the backward pass: less memory,
      more time; XLA for CPUs undoes it. Names of params and numbers are the same.

  Raises:
    ValueError: `width` is not a multiple of `heads`, `heads` not one of `kv_heads`, or entries of a
      head are no pairs; a size is no integer of at least 1; when called, if an example has more
      than `length` tokens.

  References:
    [LLaMA](https://arxiv.org/abs/2302.13971), 2023; grouped keys and values:
    [2305.13245](https://arxiv.org/abs/2305.13245). TinyLlama is `llama(32000, length=2048,
    width=2048, depth=22, heads=32, kv_heads=4, inner=5632)`.

  Example:
    >>> llama(5, width=32, heads=4, kv_heads=2, inner=48).layout.kv_heads
    2
  """
  model = GPT(
    num_classes=num_classes,
    length=length,
    width=width,
    depth=depth,
    heads=heads,
    activation="silu",
    positions="rotary",
    tied=tied,
    dtype=dtype,
    remat=remat,
    layout=Layout(
      kind="llama",
      inner=inner,
      kv_heads=kv_heads,
      rotary_base=rotary_base,
      epsilon=epsilon,
    ),
  )
  return checked(model, "llama")
