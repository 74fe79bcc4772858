"""What can be extracted from a network of text: how often, with what prompt, and whether by memory.

A sequence is extracted where greedy decoding from its prompt gives the suffix, token by token. What
a network that never saw a sequence also gives follows from the rest and is not memorized: every
rate takes such a control, as the retrained network's answers on the same sequences.
"""

from jaxmul.metrics.extraction.canary_exposure import exposure, exposure_of_drawn
from jaxmul.metrics.extraction.edit_distances import edit_distance, is_nearly_extracted
from jaxmul.metrics.extraction.greedy_and_drawn import (
  chance_in,
  is_extracted,
  suffix_log_probability,
  with_clean_prompt,
)
from jaxmul.metrics.extraction.rates_beside_controls import rate, rates_by

__all__ = [
  "chance_in",
  "edit_distance",
  "exposure",
  "exposure_of_drawn",
  "is_extracted",
  "is_nearly_extracted",
  "rate",
  "rates_by",
  "suffix_log_probability",
  "with_clean_prompt",
]
