"""The bar shows what is done on a terminal, late, and leaves every other stream alone."""

import importlib.util
import io
import os
import sys
import time

import pytest

from jaxmul import _progress
from jaxmul._progress import shown, stages


@pytest.fixture(autouse=True)
def redraws(monkeypatch):
  """A terminal that can, and a console that asks it: it keeps what it saw first."""
  monkeypatch.setenv("TERM", "xterm")
  _progress._console.cache_clear()


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_every_item_is_yielded_once_and_a_short_loop_shows_nothing(stream, monkeypatch):
  monkeypatch.setattr(sys, "stderr", stream())
  assert list(shown(range(3), "scoring")) == [0, 1, 2]
  assert sys.stderr.getvalue() == ""


def test_a_long_loop_shows_a_bar_on_a_terminal_only(monkeypatch):
  for stream, expected in [(io.StringIO(), False), (Terminal(), True)]:
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(shown(range(3), "scoring", after=-1.0)) == [0, 1, 2]
    assert ("scoring" in stream.getvalue()) == expected


def test_the_bar_stops_where_the_loop_breaks(monkeypatch):
  monkeypatch.setattr(sys, "stderr", Terminal())
  loop = shown(range(3), "scoring", after=-1.0)
  next(loop), next(loop)
  loop.close()
  assert list(shown(range(1), "scoring", after=-1.0)) == [0]


def test_stages_are_named_and_counted_with_bars_inside_and_prints_stay_apart(monkeypatch, capsys):
  monkeypatch.setattr(sys, "stderr", stderr := Terminal())
  with stages(2) as begin:
    begin("seed 1: [training]")
    print("a line of the table")
    begin("seed 1: scoring")
    for _ in shown(range(3), "images", after=-1.0):
      time.sleep(0.2)  # bars inside are drawn ten times a second
  said = stderr.getvalue()
  assert "seed 1: [training]" in said
  assert "images" in said
  assert "2/2" in said
  assert "a line of the table" not in said
  assert capsys.readouterr().out == "a line of the table\n"


def test_without_a_terminal_or_without_stages_nothing_is_said(monkeypatch):
  for stream, total in [(io.StringIO(), 2), (Terminal(), 0)]:
    monkeypatch.setattr(sys, "stderr", stream)
    with stages(total) as begin:
      for _ in range(total):
        begin("a stage")
    assert stream.getvalue() == ""


def test_a_log_gets_lines_with_the_time_left(monkeypatch, capsys):
  monkeypatch.setattr(_progress, "LINE_SECONDS", 0.0)  # one for whatever happens
  list(shown(range(2), "scoring"))
  with stages(2) as begin:
    begin("training")
    begin("unlearning")
  assert capsys.readouterr().err.splitlines() == [
    "scoring: 0 of 2",
    "scoring: 1 of 2, 0:00:00 left",
    "scoring: 2 of 2, 0:00:00 left",
    "training: 0 of 2",
    "unlearning: 1 of 2, 0:00:00 left",
  ]


def test_a_log_gets_a_line_a_minute_while_nothing_happens_and_none_after(monkeypatch, capsys):
  monkeypatch.setattr(_progress, "LINE_SECONDS", 0.1)
  for _ in shown(range(1), "scoring"):
    time.sleep(0.55)
  with stages(1) as begin:
    begin("training")
    time.sleep(0.55)
  said = capsys.readouterr().err.splitlines()
  assert 2 <= said.count("scoring: 0 of 1") <= 5
  assert 2 <= said.count("training: 0 of 1") <= 5
  time.sleep(0.25)
  assert capsys.readouterr().err == ""


CELL = """
from jaxmul import _progress
print(_progress.watched())
for _ in _progress.shown(range(2), "images", after=-1.0):
  pass
"""


@pytest.mark.parametrize("widgets", [False, True])
def test_a_notebook_gets_a_bar_where_it_can_draw_one(widgets, monkeypatch):
  nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
  if widgets:
    pytest.importorskip("ipywidgets")
  else:
    if importlib.util.find_spec("ipywidgets"):
      pytest.skip("ipywidgets is installed")
  monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.getcwd(), *sys.path]))
  book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
  nbclient.NotebookClient(book, kernel_name="python3", resources={}).execute()
  kinds = [output.output_type for output in book.cells[0].outputs]
  assert book.cells[0].outputs[0].text == f"{widgets}\n"
  assert ("display_data" in kinds) == widgets
