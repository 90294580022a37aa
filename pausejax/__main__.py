"""`python -m pausejax VERB` is `pausejax VERB`."""

from pausejax import cli

if __name__ == "__main__":
  cli.run()
