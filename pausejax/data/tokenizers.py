"""Tokenizers: text to ids and back, with one additional id, `<pause>`.

The spec selects one of three kinds:

  "bytes"             UTF-8 bytes; ids 0 pad, 1 EOS, 2 unknown, byte + 3
  path/to/x.model     SentencePiece
  path/to/x.json      Hugging Face tokenizers (tokenizer.json); BOS and EOS are
                      those of the tokenizer_config.json beside it, if any

`PauseTokenizer` adds the pause after the last id of any of them. No text can
produce it, because encoding is exactly the base's, and the base's ids keep
their meaning. SeqIO's `extra_ids` do not work: the text "<extra_id_0>" encodes
to such an id, and one more of them shifts all the others.
"""

import functools
import hashlib
import importlib.metadata
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from pausejax import errors, files, json_files, prompt_pauses
from pausejax.config import DataConfig

SETTINGS = "tokenizer_config.json"


class Tokenizer(Protocol):
  """The interface of a base tokenizer."""

  vocab_size: int  # Every id is in [0, vocab_size).
  bos_id: int
  eos_id: int
  pad_id: int
  adds_space: bool  # Whether a space is prepended to the first word.

  def encode(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each text, without BOS or EOS."""
    ...

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of the ids."""
    ...

  def fingerprint(self) -> dict[str, str]:
    """Returns kind, sha256 and library version, which determine the ids."""
    ...


class PauseTokenizer:
  """A base tokenizer and `<pause>`, whose id is the base's vocabulary size.

  With several pauses, their ids follow it: they are the last ones.
  """

  def __init__(self, base: Tokenizer, num_pause_ids: int = 1):
    self.base = base
    self.pause_id = base.vocab_size
    self.vocab_size = base.vocab_size + num_pause_ids
    self.bos_id = base.bos_id
    self.eos_id = base.eos_id
    self.pad_id = base.pad_id
    self.adds_space = base.adds_space

  @property
  def pause_ids(self) -> range:
    """The ids of pauses, in the order of their use."""
    return range(self.pause_id, self.vocab_size)

  def is_pause(self, ids: np.ndarray) -> np.ndarray:
    """Returns bool, True where an id of the vocabulary is a pause."""
    return ids >= self.pause_id

  def encode(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the base's ids of each text, never a pause."""
    return self.base.encode(texts)

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of the ids, without the pauses."""
    return self.base.decode([int(i) for i in ids if i < self.pause_id])

  def id_text(self, id_: int) -> str:
    """Returns the text that an id adds after a letter.

    A part of a character has "" or U+FFFD.
    """
    ids, text = self._letter
    return self.decode([*ids, id_]).removeprefix(text)

  def ids_behind_letter(self, text: str) -> list[int]:
    """Returns the ids that a text adds after a letter."""
    return self.encode([f"a{text}"])[0][len(self._letter[0]) :]

  @functools.cached_property
  def _letter(self) -> tuple[list[int], str]:
    ids = self.encode(["a"])[0]
    return ids, self.decode(ids)

  def wrong_id(self, ids: np.ndarray) -> str:
    """Returns the problem with ids that should be text ids, "" if none.

    Args:
      ids: of any shape; every one must be in [0, pause_id).
    """
    if not ids.size:
      return ""
    if ids.dtype.kind not in "iu":
      return "its ids are not all 64-bit integers"
    for wrong in (ids.max(), ids.min()):
      if wrong in self.pause_ids:
        return f"id {wrong} is the pause, which is not a text id"
      if not 0 <= wrong < self.pause_id:
        return f"id {wrong} is not one of the {self.pause_id:,} text ids"
    return ""

  def fingerprint(self) -> dict[str, str]:
    """Returns what determines the ids; compared when stored data is opened."""
    return {**self.base.fingerprint(), "pause_id": str(self.pause_id)}


class ByteTokenizer:
  """UTF-8 bytes, with the ids of `seqio.ByteVocabulary`."""

  vocab_size = 259
  pad_id = bos_id = 0
  eos_id = 1
  adds_space = False
  _first_byte = 3

  def encode(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns byte + 3 for every byte."""
    return [[b + self._first_byte for b in t.encode("utf-8")] for t in texts]

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text; bytes that are not UTF-8 are left out, as in SeqIO."""
    codes = (i - self._first_byte for i in ids)
    return bytes(c for c in codes if 0 <= c < 256).decode("utf-8", "ignore")

  def fingerprint(self) -> dict[str, str]:
    """Returns the kind; it has no file and no library."""
    return {"tokenizer": "bytes", "sha256": "", "library": ""}


class SentencePieceTokenizer:
  """A SentencePiece model. T5's has no BOS; padding then stands in for it."""

  def __init__(self, path: pathlib.Path):
    import sentencepiece

    self._sha256 = _sha256(path)
    self._model = sentencepiece.SentencePieceProcessor()
    try:
      self._model.LoadFromSerializedProto(files.read_bounded(path))
    except RuntimeError as e:
      raise errors.UserError(
        f"data.tokenizer: {path} is not a SentencePiece model"
      ) from e
    self.vocab_size = self._model.vocab_size()
    self.eos_id = self._model.eos_id()
    self.pad_id = max(self._model.pad_id(), 0)
    self.bos_id = max(self._model.bos_id(), 0)
    first = self._model.encode("a", out_type=str)[0]
    self.adds_space = first.startswith("\u2581")
    if self.eos_id < 0:
      raise errors.UserError(
        f"data.tokenizer: {path} has no end-of-sequence piece; documents "
        "cannot be separated (train one with `pausejax tokenizer train`)"
      )

  def encode(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the piece ids of each text."""
    return self._model.encode(list(texts))

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of the pieces; control pieces have none."""
    return self._model.decode([int(i) for i in ids])

  def fingerprint(self) -> dict[str, str]:
    """Returns the file's digest and the version: unigram ids depend on both."""
    return {
      "tokenizer": "sentencepiece",
      "sha256": self._sha256,
      "library": importlib.metadata.version("sentencepiece"),
    }


class HuggingFaceTokenizer:
  """A `tokenizer.json`. Special tokens that occur in a text stay text.

  A special token `<pause>` with the last id is the pause, not a text id.
  """

  _EOS_NAMES = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "[SEP]")

  def __init__(self, path: pathlib.Path):
    import tokenizers

    self._sha256 = _sha256(path)
    try:
      self._model = tokenizers.Tokenizer.from_file(str(path))
      first = self._model.encode("a", add_special_tokens=False).tokens[:1]
    except Exception as e:
      raise errors.UserError(
        f"data.tokenizer: {path} is not a tokenizer.json ({e})"
      ) from e
    self._model.encode_special_tokens = True
    # Many files enable truncation or padding.
    self._model.no_truncation()
    self._model.no_padding()
    self.adds_space = "".join(first).startswith(("\u2581", "\u0120"))
    vocabulary = self._model.get_vocab(with_added_tokens=True)
    self.vocab_size = max(vocabulary.values(), default=-1) + 1
    if vocabulary.get(prompt_pauses.TOKEN) == self.vocab_size - 1:
      self.vocab_size -= 1
    self._choose_special_tokens(path, vocabulary)

  def _choose_special_tokens(
    self, path: pathlib.Path, vocabulary: Mapping[str, int]
  ) -> None:
    """Sets BOS, EOS and padding."""
    bos, eos = _named_special_tokens(path, vocabulary)
    usual = next((n for n in self._EOS_NAMES if n in vocabulary), None)
    eos = eos or usual
    if eos is None:
      raise errors.UserError(
        f"data.tokenizer: {path} has no end-of-sequence token (looked for "
        f'{", ".join(self._EOS_NAMES)}); name it as "eos_token" in a '
        f"{SETTINGS} beside it"
      )
    self.eos_id = self.pad_id = vocabulary[eos]
    self.bos_id = vocabulary[bos or eos]
    self._is_usual = (bos or eos) == eos == usual
    # Its name as text, and a character that few vocabularies have.
    if self.eos_id in self.encode([eos + " \U0010ffff"])[0]:
      raise errors.UserError(
        f"data.tokenizer: {path} encodes texts to its end-of-sequence token "
        f"{eos!r}, so documents cannot be separated"
      )

  def encode(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the token ids of each text, no special tokens added."""
    batch = self._model.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in batch]

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of the ids; special tokens are left out."""
    return self._model.decode([int(i) for i in ids])

  def fingerprint(self) -> dict[str, str]:
    """Returns the file's digest, the library version, unusual BOS and EOS."""
    chosen = {"bos_eos": f"{self.bos_id}, {self.eos_id}"}
    return {
      "tokenizer": "huggingface",
      "sha256": self._sha256,
      "library": importlib.metadata.version("tokenizers"),
      **({} if self._is_usual else chosen),
    }


def token_text(token: Any) -> str:
  """Returns the text of a token in tokenizer_config.json, "" for none.

  A token is a text, or an object whose `content` is the text.
  """
  text = token.get("content") if isinstance(token, Mapping) else token
  return text if isinstance(text, str) else ""


def _named_special_tokens(
  path: pathlib.Path, vocabulary: Mapping[str, int]
) -> tuple[str, str]:
  """Returns BOS and EOS of the tokenizer_config.json beside a tokenizer.json.

  Raises:
    UserError: it names a token that the tokenizer does not have.
  """
  settings = path.with_name(SETTINGS)
  if not settings.is_file():
    return "", ""
  given = json_files.read(settings, dict, "repair or remove it")
  bos, eos = (token_text(given.get(f"{n}_token")) for n in ("bos", "eos"))
  for name, token in (("bos_token", bos), ("eos_token", eos)):
    if token and token not in vocabulary:
      raise errors.UserError(
        f"{settings}: {name} {token!r} is not in {path.name}; repair or "
        "remove it"
      )
  return bos, eos


def load_tokenizer(
  spec: str, sha256: str = "", num_pause_ids: int = 1
) -> PauseTokenizer:
  """Loads the tokenizer that `spec` names (see the top of this file).

  Args:
    spec: the value of `data.tokenizer`.
    sha256: that the file must have, in hexadecimal digits; "" for any.
    num_pause_ids: the number of ids of pauses.

  Raises:
    UserError: no such file, another SHA-256, or not a tokenizer of the kind of
      its suffix.
  """
  if spec == "bytes":
    errors.require(
      not sha256,
      "data.tokenizer_sha256: 'bytes' has no file; leave it empty",
    )
    return PauseTokenizer(ByteTokenizer(), num_pause_ids)
  path = pathlib.Path(spec)
  if not path.is_file():
    raise errors.UserError(
      f"data.tokenizer: no file {spec!r}; give 'bytes', a SentencePiece .model "
      "or a tokenizer.json (`pausejax tokenizer train` makes a .model)"
    )
  kind = {".model": SentencePieceTokenizer, ".json": HuggingFaceTokenizer}
  if path.suffix not in kind:
    raise errors.UserError(
      f"data.tokenizer: {spec!r} is neither a .model nor a .json file"
    )
  if sha256 and _sha256(path) != sha256.lower():
    raise errors.UserError(
      f"data.tokenizer: {spec!r} has the SHA-256 {_sha256(path)}, "
      f"data.tokenizer_sha256 is {sha256!r}; it was not read"
    )
  return PauseTokenizer(kind[path.suffix](path), num_pause_ids)


def load_for(data: DataConfig) -> PauseTokenizer:
  """Returns the tokenizer of the data settings; raises as `load_tokenizer`."""
  return load_tokenizer(
    data.tokenizer, data.tokenizer_sha256, data.num_pause_ids
  )


def _sha256(path: pathlib.Path) -> str:
  return hashlib.sha256(files.read_bounded(path)).hexdigest()
