"""How well texts were forgotten: MUSE's six measures, TOFU's two, and what can still be extracted.

Nothing here is better by being lower: each measure of an unlearned network stands beside that of
networks retrained without the texts, and forgetting more than they do is said to be so.
"""

from jaxmul.metrics.sequences.greedy_continuations import continuations
from jaxmul.metrics.sequences.members_beside_heldout import priv_leak
from jaxmul.metrics.sequences.relearning import relearned, steps_until
from jaxmul.metrics.sequences.rouge_scores import rouge_l, rouge_l_of_texts
from jaxmul.metrics.sequences.rounded_weights import quantized
from jaxmul.metrics.sequences.six_ways import Tasks, muse
from jaxmul.metrics.sequences.suffix_shares import exact_memorization, extraction_strength
from jaxmul.metrics.sequences.text_gaps import beside_retrained
from jaxmul.metrics.sequences.truth_ratios import forget_quality, truth_ratio

__all__ = [
  "Tasks",
  "beside_retrained",
  "continuations",
  "exact_memorization",
  "extraction_strength",
  "forget_quality",
  "muse",
  "priv_leak",
  "quantized",
  "relearned",
  "rouge_l",
  "rouge_l_of_texts",
  "steps_until",
  "truth_ratio",
]
