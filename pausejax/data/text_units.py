"""Where sentences and paragraphs end in tokens.

A token ends a sentence if its text ends in ".", "!" or "?", perhaps with
closing quotes or brackets directly after it (in this token, or up to three more
in others), and white space or the end of the document follows. "Mr. Smith"
therefore ends one, "3.14" does not. White space that one id cannot spell, such
as a no-break space in bytes, is not seen. A token ends a paragraph if it
completes the first empty line after text of its document.

Shapes: V ids, B segments, N tokens of a segment.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

import numpy as np

from pausejax import errors
from pausejax.data.batch import PADDING
from pausejax.data.tokenizers import PauseTokenizer

_CLOSING = "\"')]}\u201d\u2019"
_MAX_CLOSING = 3  # Closing quotes and brackets after a sentence.


@dataclasses.dataclass(frozen=True)
class UnitOfText:
  """A unit of text.

  Attributes:
    mark: a regular expression; some id must have it, or no unit has an end.
    mark_name: the mark in words.
    finder: (tokenizer, texts of its ids) -> ids [B, N] -> ends [B, N].
  """

  mark: str
  mark_name: str
  finder: Callable[
    [PauseTokenizer, Sequence[str]], Callable[[np.ndarray], np.ndarray]
  ]


class TextUnits:
  """Finds the ends of the units of text of one tokenizer."""

  def __init__(self, tokenizer: PauseTokenizer, unit: str):
    """Reads the texts of all ids.

    Args:
      tokenizer: of the text.
      unit: a name in `UNITS`.

    Raises:
      UsageError: no id can end such a unit.
    """
    texts = [tokenizer.id_text(i) for i in range(tokenizer.pause_id)]
    self._padding = len(texts)
    texts.append("")
    its = UNITS[unit]
    errors.require(
      any(re.search(its.mark, text) for text in texts),
      f"data.pause_mode: no id of this tokenizer has {its.mark_name}, so no "
      f"{unit} has an end; choose another mode",
    )
    self._find = its.finder(tokenizer, texts)

  def ends(self, ids_BN: np.ndarray) -> np.ndarray:
    """Returns bool [B, N], True at the last token of each unit.

    Args:
      ids_BN: int, text ids and `PADDING`.
    """
    is_text_BN = ids_BN != PADDING
    known_BN = np.where(is_text_BN, ids_BN, self._padding)
    return self._find(known_BN) & is_text_BN


def _sentences(
  tokenizer: PauseTokenizer, texts: Sequence[str]
) -> Callable[[np.ndarray], np.ndarray]:
  closing = f"[{re.escape(_CLOSING)}]"
  final_V = _matching(rf"[.!?]{closing}*\s*$", texts)
  closing_V = _matching(rf"^{closing}+\s*$", texts)
  ends_in_space_V = _matching(r"\s$", texts)
  starts_after_V = _matching(r"^\s", texts)
  starts_after_V[tokenizer.eos_id] = True
  # Bytes, and GPT-2's ids, encode a curly quote as several ids.
  encoded = (tokenizer.ids_behind_letter(character) for character in _CLOSING)
  sequences = [ids for ids in encoded if len(ids) > 1]

  def ends(ids_BN: np.ndarray) -> np.ndarray:
    end_BN = final_V[ids_BN]
    closed = [(1, closing_V[ids_BN])]
    closed += [(len(ids), _is_last_of(ids, ids_BN)) for ids in sequences]
    in_space_BN = ends_in_space_V[ids_BN]
    for _ in range(_MAX_CLOSING):
      open_BN = end_BN & ~in_space_BN
      longer = [is_BN & _shifted(open_BN, length) for length, is_BN in closed]
      end_BN = np.logical_or.reduce([end_BN, *longer])
    is_followed_BN = _shifted(starts_after_V[ids_BN][:, ::-1])[:, ::-1]
    return end_BN & (is_followed_BN | in_space_BN)

  return ends


def _paragraphs(
  tokenizer: PauseTokenizer, texts: Sequence[str]
) -> Callable[[np.ndarray], np.ndarray]:
  # A part of a character, such as a byte of it, has no text of its own.
  is_text_V = _matching(r"\A\Z|\S", texts)
  is_text_V[[tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id]] = False
  ends_line_V = _matching(r"\n[ \t\r]*$", texts)
  ends_empty_line_V = _matching(r"\n[ \t\r]*\n\s*$", texts)

  def ends(ids_BN: np.ndarray) -> np.ndarray:
    is_text_BN, ends_line_BN = is_text_V[ids_BN], ends_line_V[ids_BN]
    last_text_BN = _last(is_text_BN)
    last_eos_BN = _last(ids_BN == tokenizer.eos_id)
    # Of the tokens before each one.
    line_ended_BN = _shifted(_last(ends_line_BN) >= last_text_BN)
    is_empty_BN = ends_empty_line_V[ids_BN] | (
      ends_line_BN & ~is_text_BN & line_ended_BN
    )
    is_empty_BN &= last_text_BN > last_eos_BN  # In this document.
    # Only the first one since the last text.
    return is_empty_BN & ~_shifted(_last(is_empty_BN) >= last_text_BN) | (
      is_empty_BN & is_text_BN
    )

  return ends


UNITS = {
  "sentence": UnitOfText(r"[.!?]", '".", "!" or "?"', _sentences),
  "paragraph": UnitOfText(r"\n", "a line feed", _paragraphs),
}


def _matching(pattern: str, texts: Sequence[str]) -> np.ndarray:
  """Returns bool [V], True where a text has the pattern."""
  return np.array([bool(re.search(pattern, text)) for text in texts])


def _shifted(x_BN: np.ndarray, by: int = 1) -> np.ndarray:
  """Returns the values `by` tokens before, False for the first ones."""
  shifted_BN = np.zeros_like(x_BN)
  shifted_BN[:, by:] = x_BN[:, : max(x_BN.shape[1] - by, 0)]
  return shifted_BN


def _is_last_of(ids: Sequence[int], ids_BN: np.ndarray) -> np.ndarray:
  """Returns bool [B, N], True where a sequence of ids ends."""
  parts = [_shifted(ids_BN == id_, i) for i, id_ in enumerate(ids[::-1])]
  return np.logical_and.reduce(parts)


def _last(x_BN: np.ndarray) -> np.ndarray:
  """Returns int [B, N], the last index up to each token with True, or -1."""
  places_BN = np.where(x_BN, np.arange(x_BN.shape[1]), -1)
  return np.maximum.accumulate(places_BN, axis=1)
