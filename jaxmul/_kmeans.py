"""K-means of a few features, by SciPy, such that the order of the examples does not matter."""

import jax
import numpy as np

from jaxmul._ties import scattered

_LLOYD_STEPS = 100  # SciPy takes all of them, also where nothing moves any more


def kmeans(
  features: np.ndarray, ids: np.ndarray, key: jax.Array, num_clusters: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the centres [K, F] and the cluster of each example, int [n] in [0, K).

  Where a cluster ends up empty SciPy warns, and its centre is where it last had an example.

  Args:
    features: float [n, F], finite.
    ids: int [n], which order equal features.
    key: for the first centres, spread out as k-means++ does.
    num_clusters: K, at most the number of different features.
  """
  from scipy.cluster.vq import kmeans2

  order = np.lexsort((scattered(ids), *features.T))
  rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
  centres, nearest = kmeans2(features[order], num_clusters, iter=_LLOYD_STEPS, minit="++", rng=rng)
  clusters = np.empty_like(nearest)
  clusters[order] = nearest
  return centres, clusters
