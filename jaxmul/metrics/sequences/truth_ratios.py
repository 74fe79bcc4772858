"""TOFU's truth ratio and forget quality: are right answers still likelier than wrong ones.

References:
  Maini et al., [TOFU](https://arxiv.org/abs/2401.06121), 2024. Its formula averages probabilities
  of wrong answers, its code and OpenUnlearning's their logarithms, as was told to its authors in
  [issue 26](https://github.com/locuslab/open-unlearning/issues/26) of the code.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxmul.metrics._given import numbers, of_models
from jaxmul.metrics.figures import Figure


def truth_ratio(right_loss: ArrayLike, wrong_losses: ArrayLike) -> np.ndarray:
  """Returns how likely wrong answers are beside the right one, float64 [n], at least 0.

  R = p(wrong) / p(right), p = e^−ℓ with ℓ the mean loss of an answer's tokens, p(wrong) the
  geometric mean over k wrong answers. The formula in TOFU's paper has their arithmetic mean, which
  is at least as high, and R with it; TOFU's code and OpenUnlearning's have the geometric one, and
  so have the published figures, which is why it is taken here. With one wrong answer the two are
  the same. A network that knows the answer gives R near 0, one that has no idea near 1. TOFU's
  score of a forget set is the mean of min(R, 1 / R).

  Args:
    right_loss: [n], mean token loss in nats of a paraphrase of each right answer, such as
      `proxies.score(proxies.loss, network, data.questions(prompts, answers))`.
    wrong_losses: [n, k] or [n], the same of k answers that are wrong.

  Raises:
    ValueError: there are not as many of each, or a loss is NaN or below 0.

  Example:
    >>> truth_ratio([0.0, 1.0], [[np.log(2), np.log(8)], [1.0, 1.0]]).round(3).tolist()
    [0.25, 1.0]
  """
  right = numbers(right_loss, "truth_ratio", "right_loss [n]")
  wrong = numbers(wrong_losses, "truth_ratio", "wrong_losses [n, k]")
  if wrong.ndim == 1:
    wrong = wrong[:, None]
  if right.ndim != 1 or wrong.ndim != 2 or len(right) != len(wrong) or not wrong.size:
    raise ValueError(
      f"truth_ratio needs right_loss [n] and wrong_losses [n, k], got {list(right.shape)} and "
      f"{list(wrong.shape)}. Stack the losses of k wrong answers along axis 1."
    )
  for name, losses in (("right_loss", right), ("wrong_losses", wrong)):
    bad = losses[~(losses >= 0)]
    if len(bad):
      raise ValueError(
        f"truth_ratio got {name} {bad[0]}, must be at least 0 nats. Pass mean losses, not "
        "probabilities; a network that gives NaN has diverged."
      )
  with np.errstate(over="ignore"):  # of a right answer that is all but impossible
    return np.exp(right - wrong.mean(1))


def forget_quality(unlearned: ArrayLike, retrained: ArrayLike) -> Figure:
  """Returns TOFU's forget quality, the p-value that truth ratios are as after retraining.

  It is of a two-sample Kolmogorov-Smirnov test: small where unlearned and retrained networks are
  told apart, whichever of them knows more. A large p is no proof that they are alike, with few
  questions least of all.

  Args:
    unlearned: [n], `truth_ratio` of the forget set's questions under an unlearned network.
    retrained: [m], the same under one that was retrained without the forget set.

  Returns:
    A `Figure` "forget quality" in [0, 1]. A p-value has no interval; the note says how far the two
    distributions are apart at most, and whether the unlearned network is the one with higher
    ratios there: it then has forgotten more.

  Raises:
    ValueError: there are no ratios, or one is NaN.

  Example:
    >>> figure = forget_quality([0.9, 0.8, 0.95, 1.1], [0.85, 0.9, 1.0, 0.7])
    >>> round(figure.value, 3)
    1.0
  """
  asked = ("forget_quality", "truth ratios")
  ours, theirs = (
    of_models(numbers(values, *asked)[None], *asked)[0] for values in (unlearned, retrained)
  )
  from scipy.stats import ks_2samp

  test: Any = ks_2samp(ours, theirs)  # whose type SciPy does not tell
  # +1 where the distribution function of ours is the larger one: its ratios are the lower ones.
  side = "over-forgetting" if test.statistic_sign < 0 else "more is known"
  apart = f"{test.statistic:.2f} apart" + (f", {side}" if test.pvalue < _TOLD_APART else "")
  note = f"p of a Kolmogorov-Smirnov test, which has no interval; {apart}"
  return Figure(name="forget quality", part="forget", kind="p", value=float(test.pvalue), note=note)


_TOLD_APART = 0.05
