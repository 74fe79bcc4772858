"""Trainings of a request, counted, and killed before one begins."""

import pytest

from jaxmul import retraining, rum, train


class Killed(BaseException):
  """As a kill: nothing catches it."""


class Trainings:
  """Counts networks that were trained and steps that unlearned, and ends what would go on."""

  def __init__(self):
    self.done, self.kills, self._left = 0, 0, 10**9

  def counted(self, work):
    def run(*args, **kwargs):
      if not self._left:
        raise Killed
      self._left -= 1
      made = work(*args, **kwargs)
      self.done += 1
      return made

    return run

  def execute(self, schedule, chunks):
    run_chunk = self.counted(retraining.run_chunk)
    for number in chunks:
      yield number, run_chunk(schedule, number)

  def killed_every(self, count, call):
    """Returns what a call gives that is killed after each `count` trainings, and made again."""
    self.done = 0
    while True:
      self._left = count
      try:
        return call()
      except Killed:
        self.kills += 1
      finally:
        self._left = 10**9


@pytest.fixture
def trainings(monkeypatch):
  counter = Trainings()
  monkeypatch.setattr(retraining.executors, "default", lambda: counter.execute)
  monkeypatch.setattr(train, "fit", counter.counted(train.fit))
  run = rum.Step.run
  monkeypatch.setattr(rum.Step, "run", counter.counted(run))
  return counter
