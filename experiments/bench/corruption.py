"""Is a damaged file ever taken for a whole one?

Every kind of file that is kept: a chunk, the description beside the chunks, a saved estimate, a
checkpoint. Copies are truncated at 0, 25, 50 and 99 %, deleted, and have one of 200 random bits
flipped. `silent` counts the copies that were read without a word.
"""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import checkpoint, memorization, models, retraining, train
from jaxmul.data import sources

GOALS = {"tried": "at least 200 bit flips", "silent": "0"}
FLIPS, SHARES = 200, (0, 0.25, 0.5, 0.99)


def measure(pairs: int, seconds: float) -> dict[str, float]:
  """Returns {"tried", "silent"} over all kinds of file; fewer flips where samples are short."""
  del pairs
  flips = FLIPS if seconds >= 10 else 20
  rng = np.random.default_rng(0)
  tried = silent = 0
  with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for file, noticed in _kinds(Path(folder)):
      whole = file.read_bytes()
      copies: list[bytes | None] = [whole[: int(share * len(whole))] for share in SHARES]
      copies.append(None)
      for at in rng.choice(8 * len(whole), flips, replace=False):
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << (at % 8)
        copies.append(bytes(damaged))
      for copy in copies:
        file.unlink(missing_ok=True)
        if copy is not None:
          file.write_bytes(copy)
        tried += 1
        silent += not noticed()
      file.write_bytes(whole)
  return {"tried": tried, "silent": silent}


def _kinds(folder: Path) -> list[tuple[Path, Callable[[], bool]]]:
  """Returns files, each with a function that tells whether damage to it is noticed."""
  digits = sources.digits()
  recipe = train.Recipe(models.mlp((32,)), epochs=1, batch_size=32)
  key = jax.random.key(0)
  schedule = retraining.leave_out(recipe, digits, key, num_models=8, test=digits)
  chunks, saved, network = folder / "chunks", folder / "truth.npz", folder / "network"
  found = memorization.estimate(schedule, store=chunks, executor=retraining.serial)
  found.save(saved)
  checkpoint.save(network, models.init(models.mlp((32,)), key, jnp.zeros((1, 8, 8))))
  store = retraining.Store(chunks, schedule)
  described = chunks / "schedule.jaxmul"

  def refuses(read: Callable[[], object]) -> Callable[[], bool]:
    def noticed() -> bool:
      try:
        read()
      except (ValueError, OSError):
        return True
      return False

    return noticed

  def description_is_named() -> bool:
    if not described.exists():
      return retraining.status(chunks).design is None
    return described.name in retraining.status(chunks).damaged

  kinds = [
    (chunks / "chunk-000000.jaxmul", lambda: store.missing() == [0]),
    (described, description_is_named),
    (saved, refuses(lambda: memorization.Estimate.load(saved))),
  ]
  for file in sorted(path for path in network.rglob("*") if path.is_file()):
    kinds.append((file, refuses(lambda: checkpoint.load(network))))
  return kinds
