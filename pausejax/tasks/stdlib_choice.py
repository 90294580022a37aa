"""Which line documents this function? Built from the text inside CPython.

  prefix   "def urlencode(query, doseq, safe, encoding, errors, quote_via):"
  options  "Encode a dict or sequence of two-element tuples into a URL query
            string.", and the first lines of three other functions
  label    0

A multiple choice that needs no network: public functions and methods of the
standard library with the first line of their docstring. One function in twenty
is held out. A seed chooses the three wrong lines and the position of the right
one. For demonstrations and tests, like `stdlib_cloze`.
"""

import ast
import functools
import random
from collections.abc import Iterator

from pausejax import tasks
from pausejax.tasks import records, stdlib_docs

_NUM_OPTIONS = 4
_HOLDOUT_EVERY = 20
_MIN_CHARS, _MAX_CHARS = 20, 100


@functools.cache
def functions() -> tuple[tuple[str, str], ...]:
  """Returns (signature, first line of its docstring), each line once."""
  signatures = {}
  for path in stdlib_docs.modules():
    for node in ast.walk(ast.parse(path.read_bytes())):
      if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
        line = (ast.get_docstring(node) or "").partition("\n")[0].strip()
        if _MIN_CHARS <= len(line) <= _MAX_CHARS:
          signatures.setdefault(line, _signature(node))
  return tuple((signature, line) for line, signature in signatures.items())


def choices(split: str) -> Iterator[dict]:
  """Yields the records of a split."""
  here = [
    pair
    for number, pair in enumerate(functions())
    if (number % _HOLDOUT_EVERY == 0) == (split == "validation")
  ]
  rng = random.Random(0)
  for signature, line in here:
    others = rng.sample([o for _, o in here if o != line], _NUM_OPTIONS - 1)
    options = [line, *others]
    rng.shuffle(options)
    yield {
      "signature": signature,
      "options": options,
      "label": options.index(line),
    }


def examples(record: dict) -> Iterator[tasks.Example]:
  """Yields the one example of a record."""
  yield tasks.Example(
    id="",
    prefix=f"{record['signature']}\n",
    target=record["options"][record["label"]],
    options=tuple(record["options"]),
    label=record["label"],
  )


def _signature(node: ast.FunctionDef) -> str:
  names = ", ".join(arg.arg for arg in node.args.args)
  return f"def {node.name}({names}):"


tasks.register(
  tasks.Task(
    name="stdlib_choice",
    kind="options",
    source=records.Generated(
      name="functions of the standard library",
      make={
        "train": lambda: choices("train"),
        "validation": lambda: choices("validation"),
      },
    ),
    examples=examples,
    num_pauses=10,
    delimiter="",
  )
)
