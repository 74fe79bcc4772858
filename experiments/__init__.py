"""Scripts: each says with `python -m experiments.NAME --help` what it does and how."""

import signal
import sys

if sys.argv[0] == "-m":  # one is starting; until it listens, Ctrl-C ends it without a traceback
  signal.signal(signal.SIGINT, signal.SIG_DFL)
