"""Damaged copies of a file, for hypothesis: its bytes, and its JSON.

JSON may be the whole file, one of its lines, or the header of a safetensors
file. Fragments of text are put in place of values, since a JSON library cannot
write what a damaged file may hold: a key twice, half a surrogate pair, lists in
a hundred thousand lists.
"""

import json
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy], Any]

NUMBERS = (0, 1, 255, 2**16, 2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 1)
FRAGMENTS = (
  *("null", "true", "false", "0", "-1", "7", "1.5", "1e400", "-0.0"),
  *("NaN", "Infinity", "-Infinity", "1e999999999", str(2**60), str(2**64)),
  *("9" * 400, "9" * 5000, "-" + "9" * 30, '""', '"x"', '"0"', '"\u00e9"'),
  *(r'"a\u0000b"', r'"\ud800"', r'"a\nb\u001b[31m"', f'"{"a" * 9999}"'),
  *('"../../../etc/passwd"', '"/etc/passwd"', "[]", "[[]]", '[1, "a", null]'),
  *("[0, -1, 99999999999]", "[" * 100_000, "[" * 900 + "]" * 900),
  *("[" * 5000 + "]" * 5000, "{}", '{"": {"": null}}', '{"a": 1, "a": 2}'),
)
WHOLE = (
  *(b"", b"\n", b"{", b"null", b"3", b"[]", b"{}", b'"x"', b"\0" * 100),
  *(b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000),
  *(b"\xef\xbb\xbf", b"\x1f\x8b\x08\0\0\0\0\0\0\xff", b"GGUF"),
)
_MARK = '"\\u0001mark"'  # json.dumps writes "\x01mark" so.


class Content(bytes):
  """Bytes whose start is shown where hypothesis prints them."""

  def __repr__(self):
    return f"{bytes(self[:500])!r}, {len(self):,} bytes"


@st.composite
def damaged(draw: Draw, content: bytes) -> Content:
  """Returns a copy that differs in one to three places."""
  for _ in range(draw(st.integers(1, 3))):
    edits = (_edit_json, _edit_json, _edit_bytes, _edit_text)
    content = draw(st.sampled_from(edits))(draw, content)
  return Content(content)


def _edit_bytes(draw: Draw, content: bytes) -> bytes:
  """Flips, cuts, inserts, repeats, or overwrites with a number."""
  start = draw(st.integers(0, len(content)))
  end = min(len(content), start + draw(st.integers(0, 40)))
  before, part, after = content[:start], content[start:end], content[end:]
  number = draw(st.sampled_from(NUMBERS))
  code = draw(st.sampled_from(["<Q", ">Q"]))
  fewer = draw(st.sampled_from([1, 2, 4, 8]))
  little = struct.pack(code, number)[:fewer]
  flipped = bytes(b ^ 1 << draw(st.integers(0, 7)) for b in part[:1])
  changes = {
    "flip": before + flipped + part[1:] + after,
    "cut": before,
    "delete": before + after,
    "insert": before + draw(st.binary(max_size=8)) + part + after,
    "repeat": before + part * 3 + after,
    "number": before + little + content[start + len(little) :],
    "whole": draw(st.sampled_from(WHOLE)),
  }
  return changes[draw(st.sampled_from(sorted(changes)))]


def _edit_text(draw: Draw, content: bytes) -> bytes:
  """Changes the encoding or the line ends."""
  text = content.decode("utf-8", "replace")
  changes = {
    "mark": b"\xef\xbb\xbf" + content,
    "crlf": content.replace(b"\n", b"\r\n"),
    "cr": content.replace(b"\n", b"\r"),
    "blank": b"\n \t\n" + content + b"\n\n",
    "utf-16": text.encode("utf-16"),
    "latin-1": text.encode("latin-1", "replace") + b"\xe9",
    "after": content + b"{}",
    "unicode": content.replace(b" ", "\u2028".encode()),
    "nul": content + b"\0",
    "twice": content + content,
  }
  return changes[draw(st.sampled_from(sorted(changes)))]


def _edit_json(draw: Draw, content: bytes) -> bytes:
  """Changes one value or key of the JSON in a file, if there is any."""
  start, end, value = _json_part(draw, content)
  if value is None:
    return _edit_bytes(draw, content)
  fragment = draw(st.sampled_from(FRAGMENTS))
  changed = _changed(draw, value)
  text = json.dumps(changed, ensure_ascii=False)
  text = text.replace('"\x01mark"', _MARK).replace(_MARK, fragment)
  part = text.encode("utf-8", "surrogatepass")
  if start == 8 and content[:1] != b"{":  # The length of a header.
    return struct.pack("<Q", len(part)) + part + content[end:]
  return content[:start] + part + content[end:]


def _json_part(draw: Draw, content: bytes) -> tuple[int, int, Any]:
  """Returns (start, end, value) of an object or list, value None if none."""
  places = [(0, len(content))]
  if len(content) > 8:
    places.append((8, 8 + struct.unpack("<Q", content[:8])[0]))
  starts = [0, *(i + 1 for i, byte in enumerate(content) if byte == 10)]
  start = draw(st.sampled_from(starts))
  length = content[start:].find(b"\n")
  places.append((start, start + length if length >= 0 else len(content)))
  for start, end in places:
    try:
      value = json.loads(content[start:end])
    except (ValueError, RecursionError):
      continue
    if isinstance(value, dict | list) and value:
      return start, end, value
  return 0, 0, None


def _changed(draw: Draw, value: Any) -> Any:
  """Returns a value with one of its values or keys replaced by the mark."""
  if not isinstance(value, dict | list) or not value:
    return "\x01mark"
  pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
  at = draw(st.integers(0, len(pairs) - 1))
  key, inner = pairs[at]
  operation = draw(st.sampled_from(["inside"] * 3 + ["delete", "copy", "key"]))
  if operation == "delete":
    pairs = pairs[:at] + pairs[at + 1 :]
  elif operation == "copy":  # Another value of this object in its place.
    pairs[at] = key, draw(st.sampled_from(pairs))[1]
  elif operation == "key" and isinstance(value, dict):
    pairs[at] = draw(st.sampled_from(["", "x", "\x00", *value])), inner
    return _Object(pairs)
  else:
    pairs[at] = key, _changed(draw, inner)
  return dict(pairs) if isinstance(value, dict) else [x for _, x in pairs]


class _Object(dict):
  """An object that json.dumps writes with all its pairs, also of equal keys."""

  def __init__(self, pairs: list[tuple[str, Any]]):
    super().__init__(pairs)
    self._pairs = pairs

  def items(self):
    return self._pairs
