"""`python -m pausejax VERB` is `pausejax VERB`."""

import sys

from pausejax import cli

if __name__ == "__main__":
  sys.exit(cli.main())
