"""The command `jaxmul`, also as `python -m jaxmul`; see `_command`."""

import sys


def main() -> None:
  """Runs the command, or says what it needs."""
  try:
    from jaxmul import _command
  except ModuleNotFoundError as error:
    if error.name != "tyro":
      raise
    sys.exit("error: the command needs tyro. Install it: pip install 'jaxmul[cli]'.")
  _command.main()


if __name__ == "__main__":
  main()
