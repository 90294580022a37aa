"""`python -m pausejax VERB` is `pausejax VERB`."""

import signal
from typing import NoReturn


def entry_point() -> NoReturn:
  """Runs the command line; Ctrl-C during the imports prints no traceback."""
  if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
  from pausejax import cli

  cli.run()


if __name__ == "__main__":
  entry_point()
