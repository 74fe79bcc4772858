"""Is a run that was killed at random times the same, bit for bit, as an undisturbed one?

Real training of an `mlp` on digits in a process of its own, which is killed with all its workers
(`kill -9`) 20 times at random, each time after it has finished at least one part more, and then
left to end: an estimate by the default executor, whose parts are chunks, and one `train.fit` with
checkpoints, whose parts are epochs.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

GOALS = {"kills": "20", "identical": "1", "fit_kills": "20", "fit_identical": "1"}
ESTIMATE = """
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
FIT = """
import sys
import jax
from jaxmul import models, train
from jaxmul._identity import digest
from jaxmul.data import sources
from jaxmul.proxies import trackers
recipe = train.Recipe(models.mlp((64,)), epochs=int(sys.argv[2]), learning_rate=0.01)
events = {"events": trackers.learning_events()}
found = train.fit(
  recipe, sources.digits(), jax.random.key(0), trackers=events, checkpoints=sys.argv[1])
print(digest(found.network.params, found.scores, *found.history))
"""


class Work(NamedTuple):
  """What is killed.

  Attributes:
    script: prints a digest of what it made; it is given a folder and a size.
    parts: the names of files of finished parts, with the number of each.
    size: for each kill: more than an idle machine does in the half second before it.
  """

  script: str
  parts: str
  size: int


WORKS = {
  "": Work(ESTIMATE, r"chunk-(\d+).*\.jaxmul", size=64),
  "fit_": Work(FIT, r"epoch-(\d+)\.npz", size=150),
}


def measure(pairs: int, seconds: float) -> dict[str, float]:
  """Returns the figures of `GOALS`; fewer kills where samples are asked to be short."""
  kills = 20 if seconds >= 10 else 2 * pairs
  figures = {}
  for name, work in WORKS.items():
    figures |= {f"{name}kills": kills, f"{name}identical": int(is_identical(work, kills))}
  return figures


def is_identical(work: Work, kills: int) -> bool:
  """Returns whether work that was killed so often ends with the digest of an undisturbed one."""
  rng, size = np.random.default_rng(0), kills * work.size
  with tempfile.TemporaryDirectory() as folder:
    killed, quiet = Path(folder) / "killed", Path(folder) / "quiet"
    done = set()
    for _ in range(kills):
      process = _start(work, killed, size)
      while not _done(work, killed) - done and process.poll() is None:
        time.sleep(0.01)
      time.sleep(rng.uniform(0, 0.5))
      if process.poll() is not None:
        raise RuntimeError("the work ended before it was killed; raise its size")
      os.killpg(process.pid, signal.SIGKILL)
      process.communicate()
      done |= _done(work, killed)
    digests = [_start(work, path, size).communicate()[0].split()[-1] for path in (killed, quiet)]
  return digests[0] == digests[1]


def _done(work: Work, folder: Path) -> set[int]:
  """The numbers of the parts that are finished."""
  names = os.listdir(folder) if folder.is_dir() else []
  return {int(found[1]) for name in names if (found := re.fullmatch(work.parts, name))}


def _start(work: Work, folder: Path, size: int):
  return subprocess.Popen(
    [sys.executable, "-c", work.script, str(folder), str(size)],
    stdout=subprocess.PIPE,
    text=True,
    start_new_session=True,  # so that its workers are killed with it
  )
