"""The reference of all config fields in Markdown, for the docs.

python -m pausejax.config.reference
"""

from collections.abc import Iterator
from typing import Any

from pausejax.config import fields
from pausejax.config.training import TrainConfig

_HEAD = ("| field | default | allowed | meaning |", "|---|---|---|---|")


def reference_tables(kind: type = TrainConfig, title: str = "Run") -> str:
  """Returns a table for each group of fields, under a heading with its name.

  Args:
    kind: the class that declares the fields.
    title: heading of the fields that are in no group.
  """
  tables = [_table(title, kind, "")]
  for name, inner in fields.groups(kind).items():
    tables.append(_table(f"`{name}`", inner, f"{name}."))
  return "\n\n".join(tables) + "\n"


def _table(title: str, kind: type, prefix: str) -> str:
  rows = (_row(prefix + n, d) for n, d in fields.own_fields(kind).items())
  return "\n".join([f"## {title}", "", *_HEAD, *rows])


def _row(name: str, declared: fields.Declared) -> str:
  meaning = " ".join(_sentences(declared))
  cells = [f"`{name}`", _default(declared.default), declared.allowed(), meaning]
  return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def _default(value: Any) -> str:
  return f"`{value if isinstance(value, fields.Follows) else repr(value)}`"


def _sentences(declared: fields.Declared) -> Iterator[str]:
  yield declared.help.replace("<pause>", "`<pause>`")
  if declared.architecture:
    yield "Taken from the run named by `--init_from`, if there is one."
  if isinstance(declared.may_change, tuple):
    yield f"A resumed run may change {', '.join(declared.may_change)}."
  elif declared.may_change:
    yield "A resumed run may change it."
  if declared.before is not None:
    yield f"In files saved before this field existed: `{declared.before!r}`."


if __name__ == "__main__":
  print(reference_tables(), end="")
