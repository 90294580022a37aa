"""The tokenizer of a GGUF file, as tokenizer.json or a SentencePiece model.

GGUF has two kinds that models of our architectures use. "gpt2" is byte-level
BPE: `tokenizer.ggml.pre` names how a text is split into words first, by the
table of llama.cpp (llama-vocab.cpp). "llama" is SentencePiece's BPE: the pieces
and their scores determine everything.
"""

import json
from collections.abc import Mapping
from typing import Any

from pausejax import errors, json_files
from pausejax.interop.gguf_files import GgufFiles
from pausejax.interop.tokenizer_files import TokenizerFile

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_FIX = "put the model's tokenizer.json into the folder of the file"

_DIGITS = {"type": "Digits", "individual_digits": True}
_LETTERS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
  r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _bytes(use_regex: bool) -> dict[str, Any]:
  return {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": use_regex,
  }


def _words(digits: str) -> list[dict[str, Any]]:
  """Returns the splitter of GPT-4 with a pattern for digits."""
  pattern = {"Regex": _LETTERS % digits}
  split = {"type": "Split", "pattern": pattern, "behavior": "Isolated"}
  return [split | {"invert": False}, _bytes(False)]


# Name -> (splitters, NFC, whether a word that is a token is not merged). NFC is
# of the models that have the splitter; llama.cpp has no normalization.
_GPT2 = ([_bytes(True)], False, False)
_LLAMA3 = (_words(r"\p{N}{1,3}"), False, True)
_SPLITTERS: dict[Any, tuple[list[dict[str, Any]], bool, bool]] = {
  "gpt-2": _GPT2,
  "smollm": ([_DIGITS, _bytes(True)], False, False),
  "llama-bpe": _LLAMA3,
  "llama3": _LLAMA3,
  "llama-v3": _LLAMA3,
  "dbrx": (_words(r"\p{N}{1,3}"), False, False),
  "qwen2": (_words(r"\p{N}"), True, False),
  "olmo": ([_bytes(True)], True, False),
}


class _Metadata:
  """The metadata `tokenizer.*` of files."""

  def __init__(self, files: GgufFiles):
    self.path = files.path
    self._values = files.metadata
    self.tokens: list[str] = self.get("tokens", [str])
    self.types = self.get("token_type", [int], [_NORMAL] * len(self.tokens))
    if len(self.types) != len(self.tokens):
      raise self.error("its lists of tokens and their types differ in length")
    if len(set(self.tokens)) != len(self.tokens):
      raise self.error("two of its tokens are the same")

  def error(self, problem: str) -> errors.UserError:
    return errors.UserError(f"{self.path}: {problem}; {_FIX}")

  def get(self, name: str, shape: Any, default: Any = None) -> Any:
    """Returns a value of `tokenizer.ggml`, of a shape of `json_files`."""
    full = f"tokenizer.ggml.{name}"
    value = self._values.get(full, default)
    if value is None:
      raise self.error(f"it has no {full}")
    if problem := json_files.mismatch(value, shape, full):
      raise self.error(problem)
    return value

  def special(self, name: str) -> str:
    """Returns the special token of a name such as "bos", "" if none."""
    i = self.get(f"{name}_token_id", int, -1)
    return self.tokens[i] if 0 <= i < len(self.tokens) else ""


def read_gguf_tokenizer(files: GgufFiles) -> TokenizerFile:
  """Returns the tokenizer of the metadata.

  Raises:
    UserError: metadata are missing, or the kind of tokenizer or of its splitter
      is not supported.
  """
  metadata = _Metadata(files)
  template = files.metadata.get("tokenizer.chat_template")
  settings = {"chat_template": template} if isinstance(template, str) else {}
  kind = metadata.get("model", str)
  if kind == "llama":
    content = _sentencepiece(metadata)
    return TokenizerFile(
      name="tokenizer.model", content=content, settings=settings
    )
  if kind != "gpt2":
    raise metadata.error(
      f"tokenizer.ggml.model {kind!r} is not supported, gpt2 and llama are"
    )
  for name in ("bos", "eos"):
    if token := metadata.special(name):
      settings[f"{name}_token"] = token
  text = json.dumps(_byte_level_bpe(metadata), ensure_ascii=False, indent=1)
  content = text.encode("utf-8")
  return TokenizerFile(
    name="tokenizer.json", content=content, settings=settings
  )


def _byte_level_bpe(m: _Metadata) -> dict[str, Any]:
  """Returns tokenizer.json."""
  kind = m.get("pre", str, "default")
  if kind not in _SPLITTERS:
    raise m.error(
      f"tokenizer.ggml.pre {kind!r} is not supported"
      f"{errors.nearest(kind, _SPLITTERS)}"
    )
  splitters, is_nfc, ignore_merges = _SPLITTERS[kind]
  merges = [merge.split(" ") for merge in m.get("merges", [str])]
  known = set(m.tokens)
  for pair in merges:
    if len(pair) != 2 or not known.issuperset((*pair, "".join(pair))):
      raise m.error(f"its merge {' '.join(pair)!r:.60} is not of two tokens")
  return {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": _added_tokens(m),
    "normalizer": {"type": "NFC"} if is_nfc else None,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": splitters},
    "post_processor": _post_processor(m),
    "decoder": _bytes(True),
    "model": {
      "type": "BPE",
      "dropout": None,
      "unk_token": None,
      "continuing_subword_prefix": None,
      "end_of_word_suffix": None,
      "fuse_unk": False,
      "byte_fallback": False,
      "ignore_merges": ignore_merges,
      "vocab": {token: i for i, token in enumerate(m.tokens)},
      "merges": merges,
    },
  }


def _added_tokens(m: _Metadata) -> list[dict[str, Any]]:
  flags = dict.fromkeys(
    ("single_word", "lstrip", "rstrip", "normalized"), False
  )
  return [
    {"id": i, "content": token, **flags, "special": kind != _USER_DEFINED}
    for i, (token, kind) in enumerate(zip(m.tokens, m.types, strict=True))
    if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED) and token
  ]


def _post_processor(m: _Metadata) -> dict[str, Any]:
  """Returns what adds BOS to a text, if the model wants that."""
  bos = m.special("bos")
  if not bos or not m.get("add_bos_token", bool, False):
    return _bytes(True)
  of_text = {"Sequence": {"id": "A", "type_id": 0}}
  of_bos = {"SpecialToken": {"id": bos, "type_id": 0}}
  of_second = {"Sequence": {"id": "B", "type_id": 1}}
  ids = [m.get("bos_token_id", int)]
  return {
    "type": "TemplateProcessing",
    "single": [of_bos, of_text],
    "pair": [of_bos, of_text, of_second],
    "special_tokens": {bos: {"id": bos, "ids": ids, "tokens": [bos]}},
  }


def _sentencepiece(m: _Metadata) -> bytes:
  """Returns a SentencePiece model; it gives the ids that llama.cpp gives."""
  from sentencepiece import sentencepiece_model_pb2

  scores = m.get("scores", [float])
  if len(scores) != len(m.tokens):
    raise m.error("its lists of tokens and scores differ in length")
  library: Any = sentencepiece_model_pb2
  model = library.ModelProto()
  for token, score, kind in zip(m.tokens, scores, m.types, strict=True):
    # The converter writes spaces in user-defined pieces as spaces.
    piece = token.replace(" ", "\u2581") if kind == _USER_DEFINED else token
    model.pieces.add(piece=piece, score=score, type=kind)
  trainer, normalizer = model.trainer_spec, model.normalizer_spec
  trainer.model_type = trainer.BPE
  trainer.vocab_size = len(m.tokens)
  trainer.byte_fallback = True
  for name, value in _named_pieces(m).items():
    setattr(trainer, f"{name}_piece", value)
    setattr(trainer, f"{name}_id", m.tokens.index(value))
  normalizer.name = "identity"
  normalizer.add_dummy_prefix = m.get("add_space_prefix", bool, True)
  normalizer.remove_extra_whitespaces = m.get(
    "remove_extra_whitespaces", bool, False
  )
  content = model.SerializeToString()
  _require_loads(m, content)
  return content


def _named_pieces(m: _Metadata) -> Mapping[str, str]:
  """Returns "bos", "eos", "unk", "pad" -> the piece, as far as there is one.

  The defaults of the ids are those of llama.cpp.
  """
  defaults = {"bos": 1, "eos": 2, "unk": 0}
  names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
  found = {}
  for name, long in names.items():
    i = m.get(f"{long}_token_id", int, defaults.get(name, -1))
    if 0 <= i < len(m.tokens):
      found[name] = m.tokens[i]
  return found


def _require_loads(m: _Metadata, content: bytes) -> None:
  import sentencepiece

  try:
    sentencepiece.SentencePieceProcessor().LoadFromSerializedProto(content)
  except (RuntimeError, ValueError, TypeError) as e:
    raise m.error(
      f"its tokens are not a SentencePiece model ({errors.first_line(e)})"
    ) from e
