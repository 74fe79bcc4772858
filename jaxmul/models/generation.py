"""How a network of text goes on from a prompt: greedily, or by drawing each token.

A greedy continuation is right as long as each next token is, so that it equals a suffix exactly
where every token of the suffix is the most likely one after what is before it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmul import _check
from jaxmul.binding import Network
from jaxmul.models._additions import additions, bare
from jaxmul.models._same_model import refuse_other
from jaxmul.models.transformer import GPT


def generate(
  network: Network,
  prompts: jax.Array,
  num_tokens: int,
  *,
  model: GPT | None = None,
  key: jax.Array | None = None,
  temperature: float = 1.0,
) -> jax.Array:
  """Returns the tokens int32 [B, num_tokens] with which a network goes on from prompts.

  Args:
    network: of tokens int [B, T] to logits [B, T, C], each answer from what is before it alone.
    prompts: int [B, P], P at least 1, all of one length.
    num_tokens: how many to add, at least 1.
    model: the `models.gpt` whose params the network has. Each token is then read once, and what
      was read is kept; any other network reads all of it again for each new token.
    key: for drawing tokens from softmax(logits / temperature); None takes the most likely one, of
      equals the smallest.
    temperature: above 0.

  Raises:
    ValueError: prompts are no tokens of the network, or with what is added longer than the model
      reads; `model` is another than the network's; or there is no `Network` or no key.

  Example:
    >>> import jax, jax.numpy as jnp, jaxmul
    >>> counts = jaxmul.bind(lambda p, x: jax.nn.one_hot((x + 1) % 10, 10), {})
    >>> generate(counts, jnp.array([[4], [8]]), 3).tolist()
    [[5, 6, 7], [9, 0, 1]]
  """
  if not isinstance(network, Network):
    raise ValueError(
      f"generate needs a Network, got {type(network).__name__}. That of train.fit is .network; "
      "params of your own become one by jaxmul.bind."
    )
  _check.count(num_tokens, "num_tokens", "generate")
  given = _check.rectangular(prompts, "prompts", "generate")
  if given.ndim != 2 or not jnp.issubdtype(given.dtype, jnp.integer) or not given.size:
    raise ValueError(
      f"generate needs prompts int [B, P] of at least one token, got {given.dtype} "
      f"{list(given.shape)}. One prompt is tokens[None]."
    )
  tokens = _check.inputs(given.astype(np.int32), "generate")
  _check.tokens(network, tokens, "generate")
  if key is not None:
    _check.key(key, "generate")
  if not temperature > 0:
    raise ValueError(
      f"generate got temperature={temperature}, must be above 0; key=None takes the most likely."
    )
  if model is not None:
    _check_model(model, bare(network), given.shape[1], num_tokens)
  return _generated(network, tokens, num_tokens, model, key, temperature)


def _check_model(model: GPT, network: Network, given: int, num_tokens: int) -> None:
  """Raises ValueError where a model cannot read as much, or params are not its own."""
  if not isinstance(model, GPT):
    raise ValueError(f"generate needs model to be a models.gpt, got {type(model).__name__}.")
  longest = given + num_tokens - 1  # the last token is not read
  if longest > model.length:
    raise ValueError(
      f"generate: {given} tokens and {num_tokens} more are longer than the model's "
      f"length={model.length}. Shorten them, or train one with length={longest}."
    )
  refuse_other(model, network, "generate")


@functools.partial(jax.jit, static_argnums=(2, 3))
def _generated(network, prompts, num_tokens, model, key, temperature):
  def drawn(logits, number):
    """Returns the next token [B] after logits [B, C]."""
    if key is None:
      return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    own = jax.random.fold_in(key, number)
    return jax.random.categorical(own, logits / temperature).astype(jnp.int32)

  batch, length = prompts.shape
  if model is None:
    text = jnp.pad(prompts, ((0, 0), (0, num_tokens)))

    def add(number, text):
      logits = network(text[:, :-1])[:, length + number - 1]
      return text.at[:, length + number].set(drawn(logits, number))

    return lax.fori_loop(0, num_tokens, add, text)[:, length:]

  def read(tokens, past, start):
    with additions(network) as original:
      return model.apply(original.variables, tokens, past, start, method=model.read)

  dtype = model.dtype or jnp.result_type(*jax.tree.leaves(network.params))
  logits, past = read(prompts, model.nothing_read(batch, dtype), 0)
  first = drawn(logits[:, -1], 0)

  def step(carry, number):
    token, past = carry
    logits, past = read(token[:, None], past, length + number - 1)
    token = drawn(logits[:, 0], number)
    return (token, past), token

  _, later = lax.scan(step, (first, past), jnp.arange(1, num_tokens))
  return jnp.concatenate([first[:, None], later.T], axis=1)
