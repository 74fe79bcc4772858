"""Ground truth: which examples a network memorizes, from models trained without some of them."""

from jaxmul._attribution import Attribution, SubsetModels
from jaxmul._proportions import newcombe, wilson
from jaxmul.memorization.adaptive import active
from jaxmul.memorization.chosen import ChosenInfluence, influence
from jaxmul.memorization.estimation import estimate
from jaxmul.memorization.kept_outputs import subset_models
from jaxmul.memorization.kronecker_influence import ekfac_influence
from jaxmul.memorization.matrix import Influence
from jaxmul.memorization.projected_gradients import trak
from jaxmul.memorization.scores import Estimate, merge

__all__ = [
  "Attribution",
  "ChosenInfluence",
  "Estimate",
  "Influence",
  "SubsetModels",
  "active",
  "ekfac_influence",
  "estimate",
  "influence",
  "merge",
  "newcombe",
  "subset_models",
  "trak",
  "wilson",
]
