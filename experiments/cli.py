"""How every script starts and ends, so that none shows a traceback for what its user can cure.

Exit codes: 0 done; 1 an error, said in one line; 2 a flag that does not exist or does not parse;
130 after Ctrl-C and 143 after SIGTERM.
"""

import signal
import sys
from collections.abc import Callable
from typing import Any

_CURABLE = (ValueError, OSError, ImportError, RuntimeError, FloatingPointError)
STOPPED = "stopped: finished work is kept; run the same command again to go on."


def run(work: Callable[[], Any]) -> None:
  """Does a script's work, flags included, and ends the process where it could not be done."""
  seen = signal.SIGINT

  def stop(number, _):
    nonlocal seen
    seen = signal.Signals(number)
    signal.signal(number, signal.SIG_DFL)  # a second one ends it at once
    raise KeyboardInterrupt

  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
  try:
    work()
  except KeyboardInterrupt:
    print(f"\n{STOPPED}", file=sys.stderr)
    sys.exit(128 + seen)
  except _CURABLE as error:
    sys.exit(f"error: {' '.join(str(error).split())}")


def main(script: Callable[[Any], Any], config: Any, description: str | None) -> None:
  """Runs a script whose flags are the attributes of a config."""
  import tyro

  run(lambda: script(tyro.cli(config, prog=program(), description=description)))


def program() -> str:
  """Returns how this process was started, such as `python -m experiments.rum`."""
  spec = sys.modules["__main__"].__spec__
  return f"python -m {spec.name}" if spec else sys.argv[0]
