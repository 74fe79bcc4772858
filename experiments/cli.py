"""How every script starts and ends, so that none shows a traceback for what its user can cure.

Exit codes: 0 done; 1 an error, said in one line; 2 a flag that does not exist or cannot be read;
130 after Ctrl-C and 143 after SIGTERM.
"""

import dataclasses
import gc
import io
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from jaxmul._paths import local

if TYPE_CHECKING:
  from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")
_CURABLE = (ValueError, OSError, ImportError, RuntimeError, FloatingPointError)
_PATIENCE = 3.0  # seconds that Python has to notice a signal
_KEPT = "finished work is kept; run the same command again to go on."
_SHOW_CURSOR = "\x1b[?25h"  # which a bar hides


def main(script: Callable[[Config], None], config: type[Config], description: str | None) -> None:
  """Runs a script whose flags are the attributes of a config."""
  import tyro

  run(lambda: script(at_home(tyro.cli(config, prog=program(), description=description))))


def at_home(config: Config) -> Config:
  """Returns a config whose paths are of this machine, `~` expanded; a URL is refused."""
  given = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
  paths = {name: local(value) for name, value in given.items() if isinstance(value, Path)}
  return dataclasses.replace(config, **paths)


def program() -> str:
  """Returns how this process was started, such as `python -m experiments.rum`."""
  spec = sys.modules["__main__"].__spec__
  return f"python -m {spec.name}" if spec else sys.argv[0]


def run(work: Callable[[], object], if_stopped: str = _KEPT) -> None:
  """Does a script's work, flags included, and ends the process where it could not be done.

  Args:
    work: what is done.
    if_stopped: what a user is told who stops it.
  """
  seen, heard = signal.SIGINT, threading.Event()
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="replace")  # consoles of cp1252 or cp936 have no ρ, ≥ or ±

  def stop(number, _):
    nonlocal seen
    seen = signal.Signals(number)
    heard.set()
    signal.signal(number, signal.SIG_DFL)  # a second one ends it at once
    raise KeyboardInterrupt

  _watch(heard, if_stopped)
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
  try:
    work()
    return
  except KeyboardInterrupt:
    pass  # until here its traceback kept alive what the work held, such as worker processes
  except _CURABLE as error:
    sys.exit(f"error: {' '.join(str(error).split())}")
  gc.collect()
  _stopped(seen, if_stopped)


def _watch(heard: threading.Event, if_stopped: str) -> None:
  """Ends the process where a signal is not heard: Python hears none while XLA computes."""
  reader, writer = socket.socketpair()
  writer.setblocking(False)
  signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)

  def wait() -> None:
    while (number := reader.recv(1)[0]) not in (signal.SIGINT, signal.SIGTERM):
      pass
    if not heard.wait(_PATIENCE):
      _stopped(number, if_stopped)

  threading.Thread(target=wait, daemon=True).start()


def _stopped(number: int, said: str) -> NoReturn:
  cursor = _SHOW_CURSOR if sys.stderr.isatty() else ""
  print(f"{cursor}\nstopped: {said}", file=sys.stderr, flush=True)
  sys.stdout.flush()
  # Not sys.exit: while XLA computes, the interpreter's own end is a segmentation fault.
  os._exit(128 + number)
