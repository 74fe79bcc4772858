"""The flags of the main job."""

import dataclasses
from pathlib import Path
from typing import Literal

from experiments.truth import TruthFlags
from jaxmul import checkpoint, rum
from jaxmul._command import export as exports
from jaxmul._command import own

EVENTS = ("confidence", "max_confidence", "correctness", "entropy")
RIDING = (*EVENTS, "cumulative_loss")
PROXIES = (*EVENTS, "curvature", "heldout_divergence")
ModelName = Literal["mlp", "cnn", "resnet8", "resnet18", "resnet50", "vgg16", "vit"]
PLANS = {"neg_grad_plus": rum.neg_grad_plus_plan, "salun": rum.salun_plan}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TruthFlags):
  """RUM end to end.

  Attributes:
    model: network to train; vgg16 needs images of 32 pixels a side, vit sides divisible by 8.
    proxy: memorization proxies to refine the forget set with: confidence, max_confidence,
      correctness, entropy and cumulative_loss over the epochs of training, curvature,
      heldout_divergence, or package.module:name of a function of your own, (params, batch) -> [B].
    rank: more of them, that are compared with the ground truth and refine nothing.
    method: package.module:name of an unlearning method of your own, an Unlearner or a rum.Step, or
      a function that returns one; it gets a row of the table.
    export: also write the table, with intervals, as table.csv, table.tex or table.parquet.
    plan: what RUM does to the groups: a published plan, salun (none, fine-tune, SalUn) or
      neg_grad_plus (three times); both, each with rows of its own; or auto, the autopilot, for each
      refinement anew.
    forget: what is to be deleted: memorization (RUM's three groups), random, or a class by its
      number, all of it; the latter two are cut into three groups by the ground truth.
    folds: K of the K networks, each trained without one K-th of the data, that tell the autopilot
      what a network says of an example that it never saw.
    cross_fit: .npz of an Estimate of this data by such networks, which takes their place; its
      seconds are not known.
    trials: settings that the autopilot may try for all groups together, at least 3.
    first_seed: number of the first of the training seeds, to confirm a result on seeds that were
      never seen.
    truth: .npz of an Estimate of this data and recipe, which takes their place; its seconds are not
      known.
    group_size: examples in each of the three forget groups; 0 is n/45, at least 80. A class is
      forgotten whole.
    batch_size: examples a step, in training and unlearning.
    audit_models: originals and oracles (each) that the evaluator is audited with; 0 leaves it out.
    checkpoints: keep every network, so that a run that is stopped goes on within a seed.
  """

  model: ModelName = "mlp"
  proxy: tuple[str, ...] = PROXIES
  rank: tuple[str, ...] = ()
  method: tuple[str, ...] = ()
  export: exports.Kind | None = None
  plan: Literal["salun", "neg_grad_plus", "both", "auto"] = "salun"
  forget: str = "memorization"
  folds: int = 5
  cross_fit: Path | None = None
  trials: int = 12
  first_seed: int = 0
  group_size: int = 0
  audit_models: int = 24
  checkpoints: bool = False
  out: Path = Path("runs/rum")

  def __post_init__(self):
    super().__post_init__()
    if self.first_seed < 0:
      raise ValueError(f"--first-seed {self.first_seed}: must be at least 0.")
    if self.audit_models and self.audit_models < 8:
      raise ValueError(f"--audit-models {self.audit_models}: must be at least 8, or 0 for none.")
    if len(set(self.scored)) != len(self.scored) or not self.proxy:
      raise ValueError(f"--proxy {' '.join(self.scored)}: name each proxy once, at least one.")
    known = dict.fromkeys((*PROXIES, *RIDING))
    for name in self.scored:
      if name not in known and ":" not in name:
        raise ValueError(
          f"--proxy {name}: must be one of {', '.join(known)}, or package.module:name of yours."
        )
    labels = [*map(own.label, (*self.scored, *self.method)), "shuffle", "original", "retrain"]
    if len(set(labels)) != len(labels):
      raise ValueError(f"--proxy and --method: two of {', '.join(labels)} have one name.")
    if self.forget not in ("memorization", "random") and not self.forget.isdecimal():
      raise ValueError(
        f"--forget {self.forget}: must be memorization, random or the number of a class."
      )
    if self.folds < 2 or self.trials < 3:
      raise ValueError(
        f"--folds {self.folds}: must be at least 2; --trials {self.trials}: at least 3."
      )
    if self.checkpoints:
      checkpoint.refuse_path(self.out)

  @property
  def plans(self) -> dict[str, str]:
    """{plan: what the name of its rows ends with}; none where the autopilot chooses for all."""
    if self.plan == "both":
      return {"salun": "", "neg_grad_plus": ", NegGrad+"}
    return {} if self.plan == "auto" else {self.plan: ""}

  @property
  def scored(self) -> tuple[str, ...]:
    """All proxies."""
    return (*self.proxy, *self.rank)
