"""The command `jaxmul`, also as `python -m jaxmul`; see `_command`."""

import io
import sys


def main() -> None:
  """Runs the command, or says what it needs."""
  try:
    from jaxmul import _command
  except ModuleNotFoundError as error:
    if error.name != "tyro":
      raise
    sys.exit("error: the command needs tyro. Install it: pip install 'jaxmul[cli]'.")
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):  # consoles of cp1252 or cp936 have no θ, → or ≥
      stream.reconfigure(errors="replace")
  _command.main()


if __name__ == "__main__":
  main()
