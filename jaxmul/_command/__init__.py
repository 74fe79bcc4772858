"""jaxmul on your own network, data and ids.

A network is named as package.module:name of a `train.Recipe`, or of a function that returns one:
its model, and how it was trained. Data are an .npz of inputs, labels and ids, a folder of images by
class, or tfds:NAME of a prepared TFDS data set. A file of ids is text, .csv (first column), .json
or .npy.

Exit codes: 0 done; 1 a request that is refused, or a record that is not whole; 2 bad input, in one
line; 130 after Ctrl-C.
"""

import functools
import io
import operator
import os
import sys
from typing import Annotated

import tyro

from jaxmul import deletion
from jaxmul._command import saved_config
from jaxmul._command.deleting import Forget, Serve, Verify
from jaxmul._command.judging import Evaluate, Report
from jaxmul._command.scoring import Memorize, Score

COMMANDS = {
  "score": Score,
  "memorize": Memorize,
  "forget": Forget,
  "serve": Serve,
  "evaluate": Evaluate,
  "verify": Verify,
  "report": Report,
}


def main(arguments: list[str] | None = None) -> None:
  """Runs a command; an error that its user can cure is one line, without a traceback."""
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="replace")  # a console of cp1252 has no word for every sign
  try:
    _parsed(sys.argv[1:] if arguments is None else arguments).run()
  except KeyboardInterrupt:
    print("stopped: finished work is kept; run the same command again to go on.", file=sys.stderr)
    sys.stderr.flush()
    os._exit(130)  # while XLA computes, the interpreter's own end is a segmentation fault
  except (deletion.Refused, RuntimeError, FloatingPointError) as error:
    _end(error, 1)
  except (ValueError, OSError, ImportError) as error:
    _end(error, 2)


def _parsed(arguments: list[str]):
  """Returns the command that the arguments ask for, over the defaults of its --config."""
  defaults = saved_config.defaults(COMMANDS, arguments)
  kinds = []
  for name, kind in COMMANDS.items():
    over = {"default": defaults[name]} if name in defaults else {}
    kinds.append(Annotated[kind, tyro.conf.subcommand(name, **over)])
  command = functools.reduce(operator.or_, kinds)
  return tyro.cli(command, prog="jaxmul", description=__doc__, args=arguments)


def _end(error: Exception, code: int) -> None:
  print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
  sys.exit(code)
