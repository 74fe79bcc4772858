"""Ground truth: which examples a network memorizes, from models trained without some of them."""

from jaxmul.memorization.adaptive import active
from jaxmul.memorization.chosen import ChosenInfluence, influence
from jaxmul.memorization.estimation import estimate
from jaxmul.memorization.matrix import Influence
from jaxmul.memorization.newcombe_intervals import newcombe, wilson
from jaxmul.memorization.scores import Estimate, merge

__all__ = [
  "ChosenInfluence",
  "Estimate",
  "Influence",
  "active",
  "estimate",
  "influence",
  "merge",
  "newcombe",
  "wilson",
]
