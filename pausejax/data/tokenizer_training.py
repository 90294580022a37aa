"""Trains a SentencePiece vocabulary on all lines of some documents."""

import io
from collections.abc import Iterable, Iterator

from pausejax import errors

MAX_BYTES = 16_384  # SentencePiece skips longer lines.
_RESERVED = "\u2585"  # SentencePiece skips lines with this character.


def train_tokenizer(documents: Iterable[str], *, vocab_size: int) -> bytes:
  """Trains a BPE SentencePiece model on the documents and returns its bytes.

  Byte fallback and identity normalization make it lossless: decoding an
  encoded text returns the text (except that U+2581, SentencePiece's mark of a
  space, becomes a space). The same documents give the same bytes.

  Args:
    documents: the texts, read once; every line of them is trained on.
    vocab_size: number of pieces, including 256 bytes and 3 control pieces.

  Raises:
    UserError: there is no text, or too little or too much for `vocab_size`.
  """
  import sentencepiece

  lines = [line for text in documents for line in training_lines(text)]
  if not lines:
    raise errors.UserError("there is no text to train a vocabulary on")
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(lines),
      model_writer=model,
      model_type="bpe",
      vocab_size=vocab_size,
      pad_id=0,
      eos_id=1,
      unk_id=2,
      bos_id=-1,
      byte_fallback=True,
      normalization_rule_name="identity",
      remove_extra_whitespaces=False,
      max_sentence_length=MAX_BYTES,
      minloglevel=2,
    )
  except RuntimeError as e:
    reason = str(e).strip().splitlines()[-1]
    raise errors.UserError(
      f"vocab_size {vocab_size} does not suit this corpus: {reason}"
    ) from e
  return model.getvalue()


def training_lines(text: str) -> Iterator[str]:
  """Yields the lines of a text for SentencePiece, without the blank ones.

  SentencePiece silently skips lines of more than `MAX_BYTES`. They are cut at a
  space, which it prepends to every line again, so the words stay the same; if
  there is no space within `MAX_BYTES`, between two characters.
  """
  for line in text.split("\n"):
    for part in line.split(_RESERVED):
      for piece in _cut(part.encode("utf-8")):
        if piece.strip():
          yield piece.decode("utf-8")


def _cut(line: bytes) -> Iterator[bytes]:
  """Yields parts of a line, at most `MAX_BYTES` each."""
  start = 0
  while len(line) - start > MAX_BYTES:
    end = line.rfind(b" ", start + 1, start + MAX_BYTES + 1)
    is_space = end > 0
    if not is_space:
      end = start + MAX_BYTES
      while line[end] & 0xC0 == 0x80:  # Inside a character.
        end -= 1
    yield line[start:end]
    start = end + is_space
  yield line[start:]
