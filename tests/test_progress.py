"""The bar shows what is done on a terminal, late, and leaves every other stream alone."""

import io
import sys

import pytest

from jaxmul._progress import shown


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
