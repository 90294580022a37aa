"""Writes the pages of the site that are made from the code.

python docs/generate.py docs/generated
"""

import contextlib
import io
import pathlib
import sys

from pausejax import cli
from pausejax.config import reference
from pausejax.study.config import StudyConfig

# Verbs that have verbs of their own.
NESTED = {
  "tasks": ("list", "check"),
  "tokenizer": ("train",),
  "checkpoint": ("ls", "verify", "diff", "repair"),
}
# Of these the help ends with the fields of the config, on a page of their own.
FIELDS = "\nfields of the config,"


def write(folder: pathlib.Path) -> None:
  """Writes cli.md and config.md, and only what changed."""
  folder.mkdir(exist_ok=True)
  for name, text in {"cli.md": commands(), "config.md": config()}.items():
    path = folder / name
    if not path.exists() or path.read_text() != text:
      path.write_text(text)


def commands() -> str:
  """Returns the page of all verbs: what `--help` prints."""
  sections = [f"## pausejax {' '.join(v)}\n\n{_block(v)}" for v in _verbs()]
  return "\n".join(
    [
      "# Command line\n",
      "What `pausejax VERB --help` prints. Verbs with `--config` also take",
      "`--config.FIELD=VALUE` for every [field](config.md).\n",
      *sections,
    ]
  )


def config() -> str:
  """Returns the page of all config fields, with defaults and meanings."""
  return (
    "# Config fields\n\n"
    "Every field: change one by `--config.NAME=VALUE`.\n\n"
    f"{reference.reference_tables()}\n"
    f"{reference.reference_tables(StudyConfig, 'Study')}"
  )


def _verbs() -> list[tuple[str, ...]]:
  return [
    (verb, *rest)
    for verb in cli.VERBS
    for rest in [(inner,) for inner in NESTED.get(verb, ())] or [()]
  ]


def _block(verb: tuple[str, ...]) -> str:
  text, _, _ = _help(verb).partition(FIELDS)
  return f"```text\n{text.strip()}\n```\n"


def _help(verb: tuple[str, ...]) -> str:
  program = cli.program(verb[0])
  printed = io.StringIO()
  with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
    program.main([*verb[1:], "--help"])
  return printed.getvalue()


if __name__ == "__main__":
  write(pathlib.Path(sys.argv[1]))
