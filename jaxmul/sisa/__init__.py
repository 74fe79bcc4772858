"""SISA: sharded, isolated, sliced and aggregated training, whose deletions are exact and cheap.

The data are cut into S shards, each with a network of its own, and each shard into R slices, which
its network sees one after another; after each slice there is a checkpoint. To delete an example,
the one network that has seen it goes back to the checkpoint before its slice and is trained on from
there without it. What comes out is, bit for bit, what training on the rest gives: nothing has to be
checked. It is paid for before any request comes: S networks answer together, each of which has seen
a share of the data.

With one shard it is retraining from the last checkpoint before the first forgotten example.

References:
  Bourtoule et al., [Machine Unlearning](https://arxiv.org/abs/1912.03817), 2019.
"""

from jaxmul.sisa.ensemble import Ensemble, Shard
from jaxmul.sisa.fitting_and_forgetting import cost, fit, forget

__all__ = ["Ensemble", "Shard", "cost", "fit", "forget"]
