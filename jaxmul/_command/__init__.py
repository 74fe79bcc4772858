"""jaxmul on your own network, data and ids.

A network is named as package.module:name of a `train.Recipe`, or of a function that returns one:
its model, and how it was trained. Data are an .npz of inputs, labels and ids, a folder of images by
class, or tfds:NAME of a prepared TFDS data set. A file of ids is text, .csv (first column), .json
or .npy.

Exit codes: 0 done; 1 a request that is refused, or a record that is not whole; 2 bad input, in one
line; 130 after Ctrl-C.
"""

import dataclasses
import difflib
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
  _refuse_unknown(arguments)
  defaults = saved_config.defaults(COMMANDS, arguments)
  kinds = []
  for name, kind in COMMANDS.items():
    over = {"default": defaults[name]} if name in defaults else {}
    kinds.append(Annotated[kind, tyro.conf.subcommand(name, **over)])
  command = functools.reduce(operator.or_, kinds)
  return tyro.cli(command, prog="jaxmul", description=__doc__, args=arguments)


def _refuse_unknown(arguments: list[str]) -> None:
  """Raises ValueError where the arguments name no command, or a flag that theirs has not.

  Tyro would say so on many lines, after those of all flags that are missing.
  """
  first = arguments[0] if arguments else ""
  if first in ("-h", "--help"):
    return
  if first not in COMMANDS:
    wrong = f"there is no command {first}" if first else "name a command"
    raise ValueError(f"{wrong}: {', '.join(COMMANDS)}. jaxmul --help says what they do.")
  fields = dataclasses.fields(COMMANDS[first])
  known = ["--help", *(f"--{field.name}".replace("_", "-") for field in fields)]
  for word in arguments[1:]:
    flag = word.partition("=")[0].replace("_", "-")
    if flag.startswith("--") and flag not in known:
      near = difflib.get_close_matches(flag, known, 1)
      meant = f" Did you mean {near[0]}?" if near else ""
      raise ValueError(f"jaxmul {first} has no {flag}.{meant} jaxmul {first} --help lists all.")


def _end(error: Exception, code: int) -> None:
  print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
  sys.exit(code)
