"""Is an estimate that was killed at random times the same, bit for bit, as an undisturbed one?

Real training (`mlp` on digits, the default executor) in a process of its own, which is killed with
all its workers (`kill -9`) 20 times at random, each time after it has finished at least one more
chunk, and then left to end.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

GOALS = {"kills": "20", "identical": "1"}
MODELS_A_KILL = 64  # more than an idle machine trains in the half second before a kill
WORK = """
import sys, warnings
import jax
from jaxmul import memorization, models, retraining, train
from jaxmul.data import sources
if __name__ == "__main__":
  warnings.simplefilter("ignore")
  digits = sources.digits()
  recipe = train.Recipe(models.mlp((64,)), epochs=10, batch_size=32, learning_rate=0.1)
  schedule = retraining.leave_out(
    recipe, digits, jax.random.key(0), num_models=int(sys.argv[2]), test=digits)
  found = memorization.estimate(schedule, store=sys.argv[1])
  print(found.digest)
"""


def measure(pairs: int, seconds: float) -> dict[str, float]:
  """Returns {"kills", "identical"}; fewer kills where samples are asked to be short."""
  kills = 20 if seconds >= 10 else 2 * pairs
  models = kills * MODELS_A_KILL
  rng = np.random.default_rng(0)
  with tempfile.TemporaryDirectory() as folder:
    killed, quiet = Path(folder) / "killed", Path(folder) / "quiet"
    done = 0
    for _ in range(kills):
      work = _start(killed, models)
      while len(list(killed.glob("chunk-*"))) <= done and work.poll() is None:
        time.sleep(0.01)
      time.sleep(rng.uniform(0, 0.5))
      if work.poll() is not None:
        raise RuntimeError("the estimate ended before it was killed; raise MODELS_A_KILL")
      os.killpg(work.pid, signal.SIGKILL)
      work.communicate()
      done = len(list(killed.glob("chunk-*")))
    digests = [_start(path, models).communicate()[0].split()[-1] for path in (killed, quiet)]
  return {"kills": kills, "identical": int(digests[0] == digests[1])}


def _start(store: Path, models: int):
  return subprocess.Popen(
    [sys.executable, "-c", WORK, str(store), str(models)],
    stdout=subprocess.PIPE,
    text=True,
    start_new_session=True,  # so that its workers are killed with it
  )
