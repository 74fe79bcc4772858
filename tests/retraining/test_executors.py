"""One SHA-256 whoever computes; lost workers and work sent twice change nothing.

XLA cuts products by the number of its threads, so all runs here get the same number of them. A
setting of JAX by which other models are trained is changed in Python, where no worker sees it.
"""

import concurrent.futures
import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import loky
import numpy as np
import pytest
from toys import RECIPE, two_classes

from jaxmul import _sharding, memorization, models, retraining, train
from jaxmul.data import Dataset, sources
from jaxmul.retraining import chunk, executors

pytestmark = pytest.mark.rounding
ROOT = Path(__file__).parents[2]
# On real images; the last word of standard output is the digest.
WORK = """
import sys, warnings
import jax
sys.path.insert(0, {here!r})
distributed = {distributed}
if distributed:
  jax.distributed.initialize("localhost:" + sys.argv[1], 2, int(sys.argv[2]))
import test_executors
from jaxmul import retraining
if __name__ == "__main__":
  warnings.simplefilter("ignore")
  assert len(jax.devices()) == {devices}, jax.devices()
  print(test_executors.estimate({executor}, store={store}).digest)
"""


def estimate(executor, num_models=16, store=None):
  digits = sources.digits()
  recipe = train.Recipe(models.mlp((32,)), epochs=2, batch_size=32, learning_rate=0.1)
  with jax.threefry_partitionable(False):
    schedule = retraining.leave_out(
      *(recipe, digits.take(digits.ids[:300]), jax.random.key(0)),
      num_models=num_models,
      test=digits.take(digits.ids[300:340]),
    )
    return memorization.estimate(schedule, store=store, executor=executor, progress=False)


def script(executor, devices=1, distributed=False, store=None, local=None):
  code = WORK.format(
    here=str(Path(__file__).parent),
    executor=executor,
    devices=devices,
    distributed=distributed,
    store=repr(store),
  )
  variables = os.environ | {
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={local or devices}",
    "JAX_PLATFORMS": "cpu",
    "PJRT_NPROC": "8",
  }
  return code, variables


def start(code, variables, *arguments):
  return subprocess.Popen(
    [sys.executable, "-c", code, *arguments],
    env=variables,
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def digest(work):
  out, error = work.communicate(timeout=300)
  assert work.returncode == 0, error
  return out.split()[-1]  # Gloo prints to standard output too


@pytest.fixture(scope="module")
def serial():
  return digest(start(*script("retraining.serial")))


def test_serial_and_processes_give_one_digest(serial, monkeypatch):
  monkeypatch.setenv("PJRT_NPROC", "8")
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    assert estimate(retraining.processes(2)).digest == serial


@pytest.mark.parametrize(
  "devices", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4)), 2, 8]
)
def test_any_number_of_devices_gives_the_same_digest(serial, devices):
  assert digest(start(*script("retraining.devices()", devices))) == serial


_TRACED = []


def _traced(examples, key):
  _TRACED.append("once")
  return train.run(RECIPE, (), examples, key).network


def test_devices_compile_once_for_schedules_that_differ_in_keys():
  data, counts = two_classes(), []
  for seed in range(3):
    schedule = retraining.leave_out(_traced, data, jax.random.key(seed), num_models=8)
    assert len(list(retraining.devices()(schedule, [0]))) == 1
    counts.append(len(_TRACED))
  assert counts[0] == counts[1] == counts[2] > 0


def test_models_at_once_share_the_data_on_their_device():
  images = Dataset(np.zeros((10_000, 20, 20, 3), np.uint8), np.arange(10_000) % 10)
  recipe = train.Recipe(models.mlp((8,)), epochs=2)
  schedule = retraining.leave_out(recipe, images, jax.random.key(0), num_models=4)
  task, arrays = chunk.task_of(schedule), chunk.arrays_of(schedule)

  def model(number, arrays):
    return chunk.outcome(task, arrays, number)

  many = jax.jit(_sharding.map_models(model, jax.devices()[:1], 4))
  memory = many.lower(jnp.arange(4), arrays).compile().memory_analysis()
  assert memory.temp_size_in_bytes < images.inputs.nbytes


def test_two_processes_with_four_devices_are_one_job(serial, tmp_path):
  import socket

  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = str(free.getsockname()[1])
  given = script("retraining.devices()", 8, distributed=True, store=str(tmp_path), local=4)
  both = [start(*given, port, str(number)) for number in range(2)]
  assert [digest(work) for work in both] == [serial, serial]
  assert len(list(tmp_path.glob("chunk-*"))) == 2


def test_a_distributed_job_mends_one_damaged_chunk_though_one_process_is_late(serial, tmp_path):
  import socket

  code, variables = script(
    "retraining.devices()", 8, distributed=True, store=str(tmp_path), local=4
  )
  digest(start(*script("retraining.serial", store=str(tmp_path))))
  (tmp_path / "chunk-000001.jaxmul").unlink()
  late = code.replace("  warnings", "  import time; time.sleep(5 * int(sys.argv[2]))\n  warnings")
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = str(free.getsockname()[1])
  both = [start(late, variables, port, str(number)) for number in range(2)]
  assert [digest(work) for work in both] == [serial, serial]


def test_ray_gives_the_same_digest(serial):
  pytest.importorskip("ray", reason="the extra `ray` is not installed")
  assert digest(start(*script("retraining.ray()"))) == serial


def test_a_worker_of_a_pool_computes_by_itself(monkeypatch):
  monkeypatch.setitem(vars(multiprocessing.current_process())["_config"], "daemon", True)
  schedule = retraining.leave_out(RECIPE, two_classes(), jax.random.key(0), num_models=2)
  with pytest.raises(ValueError, match=r"daemonic process.*executor=retraining\.serial"):
    list(retraining.stream(schedule, executor=retraining.processes(1)))
  (chunk,) = retraining.stream(schedule)
  assert chunk.models.tolist() == [0, 1]


def scheduled(num_models, chunk_size):
  return retraining.leave_out(
    RECIPE, two_classes(), jax.random.key(0), num_models=num_models, chunk_size=chunk_size
  )


@pytest.mark.parametrize(("num_models", "workers"), [(8, 2), (40, 3)])
def test_the_default_starts_as_many_processes_as_it_has_workers(num_models, workers, monkeypatch):
  """One for each of three cores, but not more than there are chunks."""
  started = []

  def start(count, **settings):
    started.append(count)
    raise KeyboardInterrupt

  monkeypatch.setattr(loky, "cpu_count", lambda: 3)
  monkeypatch.setattr(loky, "ProcessPoolExecutor", start)
  schedule = scheduled(num_models, chunk_size=4)
  with pytest.raises(KeyboardInterrupt):
    list(retraining.default()(schedule, range(schedule.num_chunks)))
  assert started == [executors.default_workers(schedule)] == [workers]


def test_in_a_worker_of_a_pool_the_default_trains_one_model_at_a_time(monkeypatch):
  monkeypatch.setitem(vars(multiprocessing.current_process())["_config"], "daemon", True)
  assert retraining.default() is retraining.serial
  assert executors.default_workers(scheduled(8, chunk_size=4)) == 1


@pytest.mark.parametrize(
  ("backend", "processes", "num_models", "chunk_size", "workers"),
  [
    ("gpu", 1, 40, 8, 5),  # on five devices
    ("gpu", 1, 40, 3, 3),
    ("gpu", 1, 2, 8, 2),
    ("cpu", 2, 40, 8, 10),
    ("cpu", 2, 8, 8, 5),  # of one chunk, which the other process does not share
    ("tpu", 2, 6, 3, 6),
  ],
)
def test_on_devices_no_more_models_are_trained_at_once_than_a_chunk_has(
  backend, processes, num_models, chunk_size, workers, monkeypatch
):
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  monkeypatch.setattr(jax, "process_count", lambda: processes)
  monkeypatch.setattr(jax, "local_devices", lambda: [None] * 5)
  assert retraining.default().__qualname__.startswith("devices.")
  assert executors.default_workers(scheduled(num_models, chunk_size)) == workers


def test_any_object_with_submit_computes(serial):
  found = estimate(concurrent.futures.ThreadPoolExecutor(2))
  np.testing.assert_array_equal(found.count_in + found.count_out, 16)
  with pytest.raises(TypeError, match=r"without submit.*Pass a concurrent\.futures"):
    retraining.pool(object())
  with pytest.raises(ValueError, match=r"Call it: devices\("):
    estimate(retraining.devices)
  with pytest.raises(ValueError, match="executor got 'ray'"):
    estimate("ray")


def die_once(schedule, chunk, marker):
  """A worker that is killed on its first chunk, as by the out-of-memory killer."""
  if not os.path.exists(marker):
    Path(marker).touch()
    os.kill(os.getpid(), 9)
  return retraining.run_chunk(schedule, chunk)


def test_a_worker_that_is_killed_is_replaced(monkeypatch, tmp_path):
  import functools

  whole = estimate(retraining.processes(1))
  marker = str(tmp_path / "died")
  lost = functools.partial(_die_in_worker, marker=marker)
  monkeypatch.setattr(executors, "_run_in_worker", lost)
  assert estimate(retraining.processes(1)).digest == whole.digest
  assert os.path.exists(marker)


def _die_in_worker(chunk, marker):
  return die_once(executors._worker_schedule[0], chunk, marker)


def test_the_ctrl_c_of_a_terminal_is_left_to_who_started_the_workers(monkeypatch):
  monkeypatch.setattr(executors, "_run_in_worker", _on_interrupt)
  before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & ignores it
  toy = Dataset(np.eye(4, dtype=np.float32), np.arange(4) % 2)
  recipe = train.Recipe(models.mlp((4,), 2), epochs=1)
  schedule = retraining.leave_out(recipe, toy, jax.random.key(0), num_models=8)
  ((_, found),) = retraining.processes(1)(schedule, [0])
  assert found == signal.SIG_IGN
  assert signal.signal(signal.SIGINT, before) == signal.default_int_handler


def _on_interrupt(chunk):
  del chunk
  return signal.getsignal(signal.SIGINT)


def test_a_pool_that_only_dies_is_given_up(monkeypatch):
  monkeypatch.setattr(executors, "_run_in_worker", _always_die)
  with pytest.raises(RuntimeError, match="were killed 3 times"):
    estimate(retraining.processes(1))


def _always_die(chunk):
  os.kill(os.getpid(), 9)
