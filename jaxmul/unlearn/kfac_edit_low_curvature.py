"""Kernels lose what they have in directions of low curvature: what is memorized, whatever it is."""

from collections.abc import Sequence

import jax

from jaxmul import _check
from jaxmul._kronecker import bases_of, kernels_of, without_rest
from jaxmul.binding import Network
from jaxmul.unlearn.objective import one_shot
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


@algorithm
def kfac_edit(keep: float = 0.6, *, layers: Sequence[str] | None = None) -> Unlearner:
  """Keeps of each kernel its directions of highest curvature on R, by K-FAC; the rest becomes 0.

  It takes no forget set: what single examples alone made the network learn is what goes, in S and
  in R. Biases, embeddings and normalisations stay. Needs R; costs one backward pass over R and the
  eigenvectors of two matrices a kernel. The loss is the network's own, with the data's labels, a
  choice of ours: the paper's text could not be read in full.

  Args:
    keep: share of the curvature Σ λ_i μ_j that the kept directions have, in (0, 1]; 1 changes
      nothing. The paper keeps 0.6 in language models.
    layers: names of the layers that are edited, such as ("dense1", "dense2"), the MLPs of
      `models.gpt`, as in the paper, which edits a few blocks; None takes all dense and convolution
      layers.

  Returns:
    An `Unlearner` of one shot.

  Raises:
    ValueError: `keep` is outside its range. `init` raises it where the network has no such layer.

  References:
    Merullo et al., [From Memorization to Reasoning in the Spectrum of Loss
    Curvature](https://arxiv.org/abs/2510.24256), 2025.

  Example:
    >>> kfac_edit(0.6, layers=("dense1",)) == kfac_edit(0.6)
    False
  """
  _check.in_range("kfac_edit", 0, 1, keep=keep)
  _check.above("kfac_edit", 0, keep=keep)
  names = None if layers is None else tuple(layers)

  def change(network: Network, session: Session) -> Network:
    zeros = kernels_of(network, session.retain, names, "kfac_edit")
    bases = bases_of(network, session.retain, session.batch_size, zeros, keep)

    def edited(path, leaf):
      basis = bases.get(jax.tree_util.keystr(path, simple=True, separator="/"))
      return leaf if basis is None else without_rest(leaf, basis)

    return network.replace(params=jax.tree_util.tree_map_with_path(edited, network.params))

  return one_shot(change)
