"""When a request is not served: retraining is cheaper, or the network is better as it is.

What a plan costs is counted in examples that go through the network, forward and back.
"""

from collections.abc import Iterable

from jaxmul import rum
from jaxmul.deletion.request import Request
from jaxmul.metrics.figures import Figure, find

CHANGE = "change of the example gap"
_LOST = 0.05  # of accuracy, below the worst oracle


class Refused(ValueError):
  """A request that is not served: retraining is cheaper, or nothing tried is better than nothing.

  Attributes:
    figures: what was measured before it was refused.
  """

  def __init__(self, message: str, figures: Iterable[Figure] = ()):
    super().__init__(message)
    self.figures = list(figures)


def training_work(request: Request) -> float:
  """Returns examples that retraining goes through, forward and back."""
  return request.recipe.epochs * len(request.split.retain)


def epoch_work(step: rum.Step, request: Request) -> float:
  """Returns examples that an epoch of a step goes through; of one shot it is one pass over R."""
  forget, retain = len(request.split.forget), len(request.split.retain)
  if step.unlearner is None:
    return 0.0
  if step.unlearner.update is None:
    return retain / step.epochs
  if step.unlearner.passes == "forget":
    return 2.0 * forget
  if step.unlearner.passes == "retain":
    return retain * (1 + min(1, forget / step.batch_size))
  return float(forget + retain)


def refuse_dear(plan: rum.Plan, request: Request) -> None:
  """Raises Refused where a plan takes as much as retraining."""
  if sum(step.epochs * epoch_work(step, request) for step in plan.steps) >= training_work(request):
    raise Refused(cheaper(request))


def cheaper(request: Request) -> str:
  """Returns why retraining is the better answer."""
  count = len(request.groups)
  groups = "one group" if count == 1 else f"{count} groups"
  return (
    f"forget: a plan for {groups} takes as much as retraining, which is "
    f"{request.recipe.epochs} epochs on {len(request.split.retain)} examples and exact. Retrain: "
    "unlearn.retrain(recipe, dataset, split, key)."
  )


def refuse_idle(tuned: rum.Tuned) -> None:
  """Raises Refused where the plan that was chosen leaves the network as it is."""
  if all(step.unlearner is None for step in tuned.plan.steps):
    nothing = max(trial.surrogate for trial in tuned.trials if trial.name == "none")
    best = max(trial.surrogate for trial in tuned.trials if trial.name != "none")
    raise Refused(
      "forget: nothing that was tried is better than leaving the network as it is: that has a "
      f"surrogate of {nothing:.3f}, the best of the trials {best:.3f}. Give a plan of your own, or "
      "retrain without the examples: unlearn.retrain."
    )


def refuse_harm(figures: list[Figure]) -> None:
  """Raises Refused where oracles do not say that the network is nearer to them, and as accurate.

  Test examples do not count: they are for final figures only.
  """
  gap = find(figures, "example gap", "forget").value
  before = find(figures, "example gap", "forget", of="original").value
  change = [figure for figure in figures if figure.name == CHANGE]
  if gap >= before or any(figure.high >= 0 for figure in change):
    raise Refused(
      f"forget: beside oracles the example gap is {gap:.3f} after and {before:.3f} before, which "
      "is not clearly better. Retrain without the examples, or give another plan.",
      figures,
    )
  for part in ("retain", "held out"):
    own, oracles = (
      [f for f in figures if (f.name, f.part, f.of) == ("accuracy", part, of)]
      for of in ("unlearned", "oracle")
    )
    if own and own[0].value < min(oracles[0].seeds) - _LOST:
      raise Refused(
        f"forget: the accuracy on {part} examples is {own[0].value:.3f}, that of oracles "
        f"{oracles[0].value:.3f}: the plan wrecks the network. Give one with a smaller rate.",
        figures,
      )
