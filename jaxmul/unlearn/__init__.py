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
from jaxmul.unlearn.greedy_durable_agg import durable, durable_agg, greedy
from jaxmul.unlearn.influence_step import influence
from jaxmul.unlearn.kfac_edit_low_curvature import kfac_edit
from jaxmul.unlearn.layer_attack_features import layer_attack
from jaxmul.unlearn.low_rank_additions import low_rank
from jaxmul.unlearn.msg_ct_localized_reset import ct, localized_reset, msg
from jaxmul.unlearn.neg_gradients import neg_grad, neg_grad_plus
from jaxmul.unlearn.neurons_slimming_hard_concrete import hard_concrete_neurons, slimming_neurons
from jaxmul.unlearn.neurons_zero_activation_gradient import (
  activation_neurons,
  integrated_gradient_neurons,
  zero_out_neurons,
)
from jaxmul.unlearn.npo_simnpo_dpo_preference import dpo, npo, simnpo
from jaxmul.unlearn.objective import Turn, batch_risk, descend, one_shot
from jaxmul.unlearn.obs_fisher_blocks import obs
from jaxmul.unlearn.random_label_salun import random_label, random_labels, saliency_mask, salun
from jaxmul.unlearn.regun_reference import regun
from jaxmul.unlearn.rmu_representation import rmu
from jaxmul.unlearn.running import Diverged, retrain, run
from jaxmul.unlearn.sam_sharpness import sam
from jaxmul.unlearn.scrub_bad_teacher import bad_teacher, scrub
from jaxmul.unlearn.subnet_balanced_subnet import balanced_subnet, subnet
from jaxmul.unlearn.task_vector_whp import task_vector, whp
from jaxmul.unlearn.top_k_random_k import random_k, top_k
from jaxmul.unlearn.unlearner import Clock, Session, Unlearner, algorithm
from jaxmul.unlearn.wga_ce_u_undial_tokens import ce_u, undial, wga

__all__ = [
  "Alternate",
  "Batch",
  "Clock",
  "Diverged",
  "Examples",
  "Session",
  "Turn",
  "Unlearner",
  "activation_neurons",
  "algorithm",
  "amun",
  "bad_teacher",
  "balanced_subnet",
  "batch_risk",
  "boundary_expand",
  "boundary_shrink",
  "ce_u",
  "cf_k",
  "ct",
  "descend",
  "divergence",
  "dmm",
  "dpo",
  "durable",
  "durable_agg",
  "eu_k",
  "eul",
  "fine_tune",
  "fisher",
  "greedy",
  "hard_concrete_neurons",
  "influence",
  "integrated_gradient_neurons",
  "kfac_edit",
  "l1_sparse",
  "layer_attack",
  "localized_reset",
  "low_rank",
  "msg",
  "neg_grad",
  "neg_grad_plus",
  "npo",
  "obs",
  "one_shot",
  "random_k",
  "random_label",
  "random_labels",
  "regun",
  "retrain",
  "rmu",
  "run",
  "saliency_mask",
  "salun",
  "sam",
  "scrub",
  "simnpo",
  "slimming_neurons",
  "ssd",
  "subnet",
  "task_vector",
  "top_k",
  "undial",
  "wga",
  "whp",
  "zero_out_neurons",
]
