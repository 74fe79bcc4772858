"""Kernels lose what they have in directions of low curvature: what is memorized, whatever it is."""

from collections.abc import Iterable

import jax

from jaxmul import _check
from jaxmul._arrays import by_way
from jaxmul._kronecker import bases_of, kernels_of, without_rest
from jaxmul.binding import Network
from jaxmul.unlearn._mlp_kernels import Layers, mlp_kernels, names
from jaxmul.unlearn.objective import one_shot
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


@algorithm
def kfac_edit(keep: float = 0.6, *, layers: Layers = None) -> Unlearner:
  """Keeps of each kernel its directions of highest curvature on R, by K-FAC; the rest becomes 0.

  It takes no forget set: what single examples alone made the network learn is what goes, in S and
  in R. Biases, embeddings and normalisations stay. Needs R; costs one backward pass over R and the
  eigenvectors of two matrices a kernel. The loss is the network's own, with the data's labels, a
  choice of ours: the paper's text could not be read in full.

  Args:
    keep: share of the curvature Σ λ_i μ_j that the kept directions have, in (0, 1]; 1 changes
      nothing. The paper keeps 0.6 in language models.
    layers: names of flax.linen dense or convolution layers, as of `greedy`. None means the MLPs of
      a transformer, and of a network without these all kernels; in `proxies.curvature_basis` it
      means all kernels always. The paper edits the MLPs of a few blocks.

  Returns:
    An `Unlearner` of one shot.

  Raises:
    ValueError: `keep` is outside its range. `init` raises it where the network has no such layer,
      or one whose curvature cannot be read.

  References:
    Merullo et al., [From Memorization to Reasoning in the Spectrum of Loss
    Curvature](https://arxiv.org/abs/2510.24256), 2025.

  Example:
    >>> kfac_edit(0.6, layers=("dense1",)) == kfac_edit(0.6)
    False
  """
  _check.in_range("kfac_edit", 0, 1, keep=keep)
  _check.above("kfac_edit", 0, keep=keep)
  layers = names(layers, "kfac_edit")

  def change(network: Network, session: Session) -> Network:
    known = kernels_of(network, session.retain, None, "kfac_edit")
    mask = mlp_kernels(network.params, layers, "kfac_edit")
    edited = [path for path, is_edited in by_way(mask).items() if is_edited]
    unread = [path for path in edited if path not in known]
    if unread:
      raise ValueError(
        f"kfac_edit cannot read the curvature of {unread[0]}, no kernel of a flax.linen.Dense or a "
        f"convolution. Name layers that are: layers={_layers(known)}."
      )
    zeros = {path: known[path] for path in edited}
    bases = bases_of(network, session.retain, session.batch_size, zeros, keep)
    kept = [
      without_rest(leaf, bases[path]) if path in bases else leaf
      for path, leaf in by_way(network.params).items()
    ]
    return network.replace(params=jax.tree.unflatten(jax.tree.structure(network.params), kept))

  return one_shot(change)


def _layers(paths: Iterable[str]) -> tuple[str, ...]:
  return tuple(sorted({path.split("/")[-2] for path in paths if "/" in path}))
