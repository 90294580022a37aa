"""What a reader is, and small inputs that several of them share."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

from pausejax.config import default
from pausejax.data import tokenizers

TEXTS = ["A pause before the answer.", "deux \u00e9l\u00e9ments,\nune ligne."]
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 6)
BYTES = tokenizers.load_tokenizer("bytes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader:
  """A reader of one file.

  Attributes:
    name: name of the reader.
    make: writes a valid file into an empty folder, and what belongs to it;
      returns its path.
    read: reads the file, asserts what the reader promises of a value, and
      returns the value; raises UserError if the file is refused.
    is_summed: whether the file is under a digest: it is refused, or its value
      is that of the valid file.
    refuses: whether some files are refused; others leave out what they cannot
      read, and count it.
  """

  name: str
  make: Callable[[pathlib.Path], pathlib.Path]
  read: Callable[[pathlib.Path], Any]
  is_summed: bool = False
  refuses: bool = True


def put(path: pathlib.Path, content: str | bytes) -> pathlib.Path:
  """Writes a file and its folder; returns its path."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content.encode() if isinstance(content, str) else content)
  return path


def tree() -> dict[str, Any]:
  """Returns all fields of the default config."""
  return default().to_dict()
