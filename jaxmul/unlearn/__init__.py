"""Unlearning algorithms as short pure updates, and the loop that runs them.

Each algorithm is a function of its settings that returns an `Unlearner`. A file begins with the
name of its algorithm, or with what its two or three share; none has the name of a function.
`unlearner` says what an algorithm is, `objective` makes one from what it descends, and `running`
runs it.
"""

from jaxmul._examples import Batch, Examples
from jaxmul.unlearn._passes import Alternate
from jaxmul.unlearn._teachers import divergence
from jaxmul.unlearn.amun_adversarial import amun
from jaxmul.unlearn.boundary import boundary_expand, boundary_shrink
from jaxmul.unlearn.cf_k_eu_k import cf_k, eu_k
from jaxmul.unlearn.dmm_datamodels import dmm
from jaxmul.unlearn.eul_teacher_student import eul
from jaxmul.unlearn.fine_tune_l1_sparse import fine_tune, l1_sparse
from jaxmul.unlearn.fisher_ssd import fisher, ssd
from jaxmul.unlearn.influence_step import influence
from jaxmul.unlearn.layer_attack_features import layer_attack
from jaxmul.unlearn.low_rank_additions import low_rank
from jaxmul.unlearn.msg_ct_localized_reset import ct, localized_reset, msg
from jaxmul.unlearn.neg_gradients import neg_grad, neg_grad_plus
from jaxmul.unlearn.npo_preference import npo
from jaxmul.unlearn.objective import Turn, batch_risk, descend, one_shot
from jaxmul.unlearn.random_label_salun import random_label, random_labels, saliency_mask, salun
from jaxmul.unlearn.regun_reference import regun
from jaxmul.unlearn.running import Diverged, retrain, run
from jaxmul.unlearn.sam_sharpness import sam
from jaxmul.unlearn.scrub_bad_teacher import bad_teacher, scrub
from jaxmul.unlearn.top_k_random_k import random_k, top_k
from jaxmul.unlearn.unlearner import Clock, Session, Unlearner, algorithm

__all__ = [
  "Alternate",
  "Batch",
  "Clock",
  "Diverged",
  "Examples",
  "Session",
  "Turn",
  "Unlearner",
  "algorithm",
  "amun",
  "bad_teacher",
  "batch_risk",
  "boundary_expand",
  "boundary_shrink",
  "cf_k",
  "ct",
  "descend",
  "divergence",
  "dmm",
  "eu_k",
  "eul",
  "fine_tune",
  "fisher",
  "influence",
  "l1_sparse",
  "layer_attack",
  "localized_reset",
  "low_rank",
  "msg",
  "neg_grad",
  "neg_grad_plus",
  "npo",
  "one_shot",
  "random_k",
  "random_label",
  "random_labels",
  "regun",
  "retrain",
  "run",
  "saliency_mask",
  "salun",
  "sam",
  "scrub",
  "ssd",
  "top_k",
]
