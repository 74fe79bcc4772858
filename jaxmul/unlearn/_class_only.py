"""What an example is to be answered with, where an algorithm cannot do with just any labels.

Most algorithms need no more than the loss of each example. Some need probabilities of classes, and
some of these one class for each example. They say so when they are given something else, before
anything is traced.
"""

from jaxmul import binding
from jaxmul.binding import Network
from jaxmul.unlearn.unlearner import Session


def refuse_own_loss(
  network: Network,
  caller: str,
  cure: str = "Use neg_grad_plus, neg_grad, ssd or another that works from the loss",
) -> None:
  """Raises ValueError where a network is not trained with cross-entropy: it has no classes."""
  binding.refuse_own_loss(network, caller, cure)


def refuse_positions(network: Network, session: Session, caller: str) -> None:
  """Raises ValueError where examples do not have one class each."""
  refuse_own_loss(network, caller)
  labels = session.forget.labels
  if labels.ndim > 1:
    raise ValueError(
      f"{caller} is for one class per example; labels here are {list(labels.shape)}. "
      "Use neg_grad_plus, scrub, random_label or another that works at each position."
    )
