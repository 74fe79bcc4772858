"""Whoever waits for many models sees how long: on a terminal, in a log, and after a resume."""

import io
import re
import sys
import time

import jax
import numpy as np

from jaxmul import memorization, models, retraining, train
from jaxmul.data import Dataset
from jaxmul.retraining.progress import Progress

TOY = Dataset(np.eye(8, dtype=np.float32), np.arange(8) % 2)
SCHEDULE = retraining.leave_out(
  train.Recipe(models.mlp((4,), 2)), TOY, jax.random.key(0), num_models=16, chunk_size=4
)


class Terminal(io.StringIO):
  def isatty(self):
    return True


def slow(schedule, chunks):
  for number in chunks:
    time.sleep(0.05)
    yield number, None


def run(chunks, **options):
  with Progress(SCHEDULE.num_models, label="ground truth", **options) as bar:
    done = [number for number, _ in bar.counting(slow)(SCHEDULE, chunks)]
    assert done == list(chunks)


def test_a_log_gets_lines_whose_rate_leaves_out_what_was_stored(monkeypatch):
  monkeypatch.setattr(sys, "stderr", stderr := io.StringIO())
  run([2, 3], shown=True, every=0.0)  # chunks 0 and 1 were stored: 8 models
  *_, last = stderr.getvalue().splitlines()
  found = re.fullmatch(r"ground truth: 16 of 16 models, (\S+) /s, 0:00:00 left", last)
  assert found
  assert 8 < float(found[1]) <= 80  # 8 models in 0.1 s or, on a busy machine, more


def test_the_rate_of_slow_models_is_told_by_the_hour(monkeypatch):
  now = [1.0]
  monkeypatch.setattr(time, "monotonic", lambda: now[-1])
  monkeypatch.setattr(time, "sleep", lambda _: now.append(3601.0))
  monkeypatch.setattr(sys, "stderr", stderr := io.StringIO())
  run([3], shown=True)
  assert "16 of 16 models, 4 /h, 0:00:00 left" in stderr.getvalue()


def test_the_time_left_runs_down_while_a_model_is_made(monkeypatch):
  now = [1.0]
  monkeypatch.setattr(time, "monotonic", lambda: now[-1])
  monkeypatch.setattr(time, "sleep", lambda _: now.append(41.0))
  monkeypatch.setattr(sys, "stderr", stderr := io.StringIO())
  with Progress(16, True, "ground truth", every=0.0) as bar:
    list(bar.counting(lambda schedule, _: slow(schedule, [2]))(SCHEDULE, [2, 3]))
    now.append(51.0)
    bar.reached(12)
  said = stderr.getvalue().splitlines()
  assert said[-2:] == [
    "ground truth: 12 of 16 models, 0.10 /s, 0:00:40 left",
    "ground truth: 12 of 16 models, 0.10 /s, 0:00:30 left",
  ]


def test_in_a_job_of_several_processes_one_speaks_for_all(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  for index in (0, 1):
    monkeypatch.setattr(jax, "process_index", lambda index=index: index)
    monkeypatch.setattr(sys, "stderr", stderr := io.StringIO())
    with Progress(SCHEDULE.num_models, True, "ground truth", every=0.0) as bar:
      # Its share: two of the four chunks that the job computes.
      for _ in bar.counting(lambda schedule, _: slow(schedule, [0, 2]))(SCHEDULE, range(4)):
        pass
    lines = stderr.getvalue().splitlines()
    assert len(lines) == (0 if index else 3)
    assert index or ("16 of 16 models" in lines[-1] and "0:00:00 left" in lines[-1])


def test_what_was_stored_shows_too(monkeypatch):
  monkeypatch.setattr(sys, "stderr", stderr := Terminal())
  with Progress(16, True, "ground truth") as bar:
    bar.reached(12, "interval 0.25")
  assert "12 of 16 models, interval 0.25" in stderr.getvalue()


def test_after_a_resume_stored_models_count_once(monkeypatch, tmp_path):
  store = retraining.Store(tmp_path, SCHEDULE)
  for number, chunk in retraining.serial(SCHEDULE, [0, 1]):
    store.commit(number, chunk)
  monkeypatch.setattr(sys, "stderr", stderr := io.StringIO())
  with Progress(SCHEDULE.num_models, True, "ground truth", every=0.0) as bar:
    execute = bar.counting(retraining.serial)
    seen = 0
    for chunk in retraining.stream(SCHEDULE, store=tmp_path, executor=execute):
      seen += len(chunk.models)
      bar.reached(seen)
  done = [int(each) for each in re.findall(r"(\d+) of 16 models", stderr.getvalue())]
  assert done == sorted(done)
  assert set(done) == {8, 12, 16}


def test_a_log_gets_no_line_in_the_first_minute_and_none_unasked(monkeypatch):
  monkeypatch.setattr(sys, "stderr", stderr := io.StringIO())
  run([0, 1, 2, 3], shown=True)
  run([0, 1, 2, 3], shown=False, every=0.0)
  assert stderr.getvalue() == ""


def test_a_log_gets_a_line_a_minute_before_the_first_model_is_done(monkeypatch):
  monkeypatch.setattr(sys, "stderr", stderr := io.StringIO())
  with Progress(16, True, "oracles", every=0.1):
    time.sleep(0.55)
  assert 2 <= stderr.getvalue().splitlines().count("oracles: 0 of 16 models") <= 5


def test_a_terminal_gets_a_bar_with_the_time_left(monkeypatch):
  monkeypatch.setattr(sys, "stderr", stderr := Terminal())
  run([1, 2, 3], shown=True)
  assert re.search(r"16 of 16 models, \S+ /s, 0:00:00 left", stderr.getvalue())


def test_active_and_influence_show_it_too(monkeypatch):
  monkeypatch.setattr(sys, "stderr", stderr := Terminal())
  options = {"executor": retraining.serial}
  recipe, key = train.Recipe(models.mlp((4,), 2), epochs=1, batch_size=4), jax.random.key(0)
  schedule = retraining.leave_out(recipe, TOY, key, num_models=16)
  memorization.active(schedule, rounds=1, share=0.5, **options)
  assert "16 of 16 models" in stderr.getvalue()
  stderr.truncate(0)
  schedule = retraining.leave_out(recipe, TOY, key, num_models=16, fraction=0.5, test=TOY)
  memorization.influence(schedule, [1], **options)
  assert "16 of 16 models" in stderr.getvalue()
