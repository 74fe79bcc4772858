"""Hidden states of S are pulled to one random direction, those of R held where they were.

h are the hidden states of a middle layer, [B, *P, F]: a vector at each position of a text, and one
of an image.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxmul import _check, losses
from jaxmul._arrays import without_padding
from jaxmul._examples import Batch
from jaxmul.binding import Network
from jaxmul.unlearn._chosen import in_layers, moves_only
from jaxmul.unlearn._class_only import refuse_own_loss
from jaxmul.unlearn.objective import adamw, descend
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm

HiddenFn = Callable[[Network, jax.Array], jax.Array]


@algorithm
def rmu(
  hidden_fn: HiddenFn,
  layers: Sequence[str] = (),
  learning_rate: float = 5e-5,
  *,
  steering: float = 6.5,
  gamma: float = 1.0,
  alpha: float = 1200.0,
  weight_decay: float = 0.0,
) -> Unlearner:
  """Representation misdirection: h on S to s u/‖u‖, on R to the original's, by AdamW.

  γ L_S + α L_R, both the mean over examples of the mean over scored positions of the mean squared
  distance of an entry of h (the paper's squared norm is F times that). u in [0, 1)^F is drawn once.
  h is taken in evaluation mode: nothing is dropped, and BatchNorm statistics stay. Needs R and S;
  one epoch is a pass over R with the batches of S cycled beside it, and costs two training epochs
  on R up to that layer, and the original's forward pass on R. With α = 0 nothing of R is looked at,
  and an epoch is a pass over S. The defaults are those of zephyr-7b in the paper's code, which ran
  150 batches of 4; on another network s, α and the rate have to be found anew.

  Args:
    hidden_fn: `(network, inputs [B, ...]) -> h`, [B, *P, F] or flat, in evaluation mode, such as
      `models.features(model, "blocks_7")`, what block 7 of a `gpt` is given.
    layers: names of the layers that move; by default all do. The paper's are the second dense
      layers of three blocks.
    learning_rate: of AdamW, whose ε is 1e-6.
    steering: s, above 0, the length of what S is pulled to.
    gamma, alpha: γ and α, at least 0.
    weight_decay: of AdamW, decoupled; of what moves.

  Raises:
    ValueError: a number is outside its range. `init` raises it where the network has no such layer,
      hidden states do not have the positions of the labels, or it has a loss of its own.

  References:
    Li et al., [The WMDP Benchmark](https://arxiv.org/abs/2403.03218), 2024.

  Example:
    >>> from jaxmul import models
    >>> rmu(models.features(models.gpt(depth=4), "blocks_2")).passes
    'retain'
  """
  if not callable(hidden_fn):
    raise ValueError(
      f"rmu got hidden_fn={hidden_fn!r}, must be a function such as models.features(model, name)."
    )
  if isinstance(layers, str):
    raise ValueError(f"rmu got layers={layers!r}, must be a tuple of names.")
  _check.above("rmu", 0, steering=steering)
  _check.at_least("rmu", 0, gamma=gamma, alpha=alpha)

  def hidden(network: Network, batch: Batch) -> jax.Array:
    h = hidden_fn(network, without_padding(batch.inputs, batch.mask))
    return h.reshape(*batch.labels.shape, -1)

  def distance(h: jax.Array, target: jax.Array, batch: Batch) -> jax.Array:
    squares = losses.scored_only((h - target) ** 2, batch.labels)
    distances = losses.mean_over_positions(jnp.mean(squares, axis=-1), batch.labels)
    return losses.masked_mean(distances, batch.mask)

  def remember(network: Network, session: Session) -> tuple[jax.Array, Network | None]:
    refuse_own_loss(network, "rmu")
    in_layers(network.params, layers, "rmu")
    example = session.forget.batch(jnp.int32(0), jnp.int32(1), 1)
    shape = jax.eval_shape(lambda: hidden_fn(network, example.inputs))
    positions = example.labels.size
    is_flat = len(shape.shape) <= 2  # as models.features gives them
    if shape.size % positions or not (is_flat or shape.shape[:-1] == example.labels.shape):
      raise ValueError(
        f"rmu got hidden states {list(shape.shape)} of an example with labels "
        f"{list(example.labels.shape)}, must be a vector at each position."
      )
    drawn = jax.random.uniform(session.key, shape.size // positions, jnp.float32)
    direction = (steering * drawn / jnp.linalg.norm(drawn)).astype(shape.dtype)
    return direction, network if alpha else None

  def objective(network, turn, memory):
    direction, original = memory
    value = gamma * distance(hidden(network, turn.forget), direction, turn.forget)
    if original is not None:
      own = hidden(original, turn.retain)
      value += alpha * distance(hidden(network, turn.retain), own, turn.retain)
    return value, network

  return descend(
    objective,
    adamw(learning_rate, weight_decay),
    passes="retain" if alpha else "forget",
    remember=remember,
    reshape=moves_only(layers, "rmu") if layers else None,
  )
