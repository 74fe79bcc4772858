"""S is learned even better, and what changed is taken away: from weights, or from logits.

θ params of the original network, θ_S of one that was tuned on S.
"""

import dataclasses
import math

import jax

from jaxmul import _article, _check
from jaxmul.binding import ApplyFn, Network, bind
from jaxmul.unlearn._class_only import refuse_own_loss
from jaxmul.unlearn.objective import adamw, batch_risk, descend
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


@algorithm
def task_vector(
  learning_rate: float = 1e-5, *, alpha: float = 1.0, weight_decay: float = 0.0
) -> Unlearner:
  """Tunes on S by AdamW, then goes as far the other way: θ − α (θ_S − θ).

  Published for 10 epochs on language models. Needs S only; one epoch costs one training epoch on S.
  BatchNorm statistics are the original's.

  Args:
    learning_rate: of AdamW, whose ε is 1e-6.
    alpha: α; 0 leaves the network as it was, −1 gives θ_S, the network tuned on S. The paper tunes
      it; MUSE's script takes 5.
    weight_decay: of AdamW, decoupled.

  Raises:
    ValueError: a number is outside its range.

  References:
    Ilharco et al., [Editing Models with Task Arithmetic](https://arxiv.org/abs/2212.04089), 2022.
    Rate and epochs are those of [MUSE](https://arxiv.org/abs/2407.06460).

  Example:
    >>> task_vector(alpha=5.0).passes
    'forget'
  """
  if not math.isfinite(alpha):
    raise ValueError(f"task_vector got alpha={alpha}, must be finite.")

  def remember(network: Network, session: Session) -> Network:
    del session
    return network

  def objective(network, turn, original):
    del original
    return batch_risk(network, turn.forget, turn.key)

  def finish(tuned: Network, original: Network) -> Network:
    def opposite(own: jax.Array, moved: jax.Array) -> jax.Array:
      return own - alpha * (moved - own)

    params = jax.tree.map(opposite, original.params, tuned.params)
    return tuned.replace(params=params, state=original.state)

  optimizer = adamw(learning_rate, weight_decay)
  return descend(objective, optimizer, passes="forget", remember=remember, finish=finish)


def whp(network: Network, reinforced: Network, alpha: float = 1.0) -> Network:
  """Returns a network whose logits are z − α max(z_S − z, 0): what S raised is lowered.

  z are logits of the original network, z_S those of one tuned on S. The two stay side by side, so
  that it costs two forward passes, and what it forgets is still in its params: it hides S, and no
  more. It is a function and no Unlearner, whose result has the params of the network it was given
  and their forward pass; this one's are {"base", "reinforced"}. It predicts, and does not train;
  tokens are embedded by both, so that it has no `embed`. The paper trains one network to imitate
  these logits on texts whose names were replaced; this much of it is what MUSE compares with.

  Args:
    network: the original.
    reinforced: of as many classes, such as `run(task_vector(alpha=-1), ...)` returns.
    alpha: α, at least 0; 0 is the original.

  Raises:
    ValueError: α is below 0, or a network has a loss of its own.

  References:
    Eldan and Russinovich, [Who's Harry Potter?](https://arxiv.org/abs/2310.02238), 2023; in this
    form: [MUSE](https://arxiv.org/abs/2407.06460).

  Example:
    >>> import jax.numpy as jnp, jaxmul
    >>> network, reinforced = (jaxmul.bind(lambda w, x: x * w, w) for w in (1.0, 3.0))
    >>> whp(network, reinforced)(jnp.array([[2.0, -2.0]])).tolist()
    [[-2.0, -2.0]]
  """
  _check.at_least("whp", 0, alpha=alpha)
  both = {"base": network, "reinforced": reinforced}
  for own in both.values():
    if not isinstance(own, Network):
      raise ValueError(f"whp needs two networks, got {_article.of(own)}. See jaxmul.bind.")
    refuse_own_loss(own, "whp")
  params = {name: own.params for name, own in both.items()}
  state = {name: own.state for name, own in both.items()}
  return bind(_Lowered(network.apply_fn, reinforced.apply_fn, alpha), params, state)


@dataclasses.dataclass(frozen=True)
class _Lowered:
  """The evaluation pass of two networks; equal for equal ones, so that nothing is traced twice."""

  base: ApplyFn
  reinforced: ApplyFn
  alpha: float

  def __call__(self, variables, inputs):
    def logits(name: str, apply_fn: ApplyFn) -> jax.Array:
      return Network(variables["params"][name], variables[name], apply_fn)(inputs)

    z = logits("base", self.base)
    return z - self.alpha * jax.nn.relu(logits("reinforced", self.reinforced) - z)
