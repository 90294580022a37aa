"""The tokenizer of an open model, with an id for every row of its embedding.

Many embeddings have more rows than their tokenizer has ids. Tokens that no text
produces get the remaining ids, so that `<pause>` follows the last row.
"""

import dataclasses
import json
import pathlib
from typing import Any

from pausejax import errors, files, json_files
from pausejax.data import tokenizers
from pausejax.prompt_pauses import TOKEN

_FIX = "download the folder again"
_MAX_ID = 2**32  # Of the tokenizers library.
_RESERVED = "<|pausejax_reserved_{}|>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerFile:
  """A tokenizer and the settings beside it.

  Attributes:
    name: "tokenizer.json" or "tokenizer.model".
    content: the bytes of that file.
    settings: of tokenizer_config.json: bos_token, eos_token, chat_template,
      as far as the model has them.
  """

  name: str
  content: bytes
  settings: dict[str, str]

  def write(self, folder: pathlib.Path) -> pathlib.Path:
    """Writes the files; returns the path of the tokenizer."""
    (folder / self.name).write_bytes(self.content)
    if self.settings:
      text = json.dumps(self.settings, indent=2, ensure_ascii=False) + "\n"
      (folder / tokenizers.SETTINGS).write_text(text, encoding="utf-8")
    return folder / self.name


def read_tokenizer(
  folder: pathlib.Path, values: dict[str, Any]
) -> TokenizerFile:
  """Returns the tokenizer of a Hugging Face folder.

  Args:
    folder: has tokenizer.json, else tokenizer.model.
    values: its config.json, which names BOS and EOS by id.

  Raises:
    UserError: there is no tokenizer, or it is damaged.
  """
  for name in ("tokenizer.json", "tokenizer.model"):
    if (folder / name).is_file():
      content = files.read_bounded(folder / name)
      break
  else:
    raise errors.UserError(
      f"{folder} has neither tokenizer.json nor tokenizer.model; save one "
      "there with transformers' AutoTokenizer and save_pretrained"
    )
  settings = _settings(folder)
  if name == "tokenizer.model":  # It names BOS and EOS itself.
    settings = {k: v for k, v in settings.items() if k == "chat_template"}
    return TokenizerFile(name=name, content=content, settings=settings)
  return TokenizerFile(
    name=name,
    content=content,
    settings=_special_tokens(folder / name, content, values) | settings,
  )


def _settings(folder: pathlib.Path) -> dict[str, str]:
  """Returns what tokenizer_config.json and chat_template.jinja say."""
  given: dict[str, Any] = {}
  if (folder / tokenizers.SETTINGS).is_file():
    given = json_files.read(folder / tokenizers.SETTINGS, dict, _FIX)
  named = {
    name: tokenizers.token_text(given.get(name))
    for name in ("bos_token", "eos_token")
  }
  named["chat_template"] = _chat_template(folder, given.get("chat_template"))
  return {name: text for name, text in named.items() if text}


def _chat_template(folder: pathlib.Path, named: Any) -> str:
  """Returns the template of the file, or the (default) one of the settings."""
  path = folder / "chat_template.jinja"
  try:
    if path.is_file():
      return files.read_bounded(path).decode("utf-8")
    if isinstance(named, list):
      named = next((t["template"] for t in named if t["name"] == "default"), "")
    text = named if isinstance(named, str) else ""
    text.encode()
    return text
  except (UnicodeError, TypeError, KeyError) as e:
    raise errors.UserError(
      f"the chat template in {folder} is not text: {e}; {_FIX}"
    ) from e


def _special_tokens(
  path: pathlib.Path, content: bytes, values: dict[str, Any]
) -> dict[str, str]:
  """Returns BOS and EOS as config.json names them, by id.

  A tokenizer that prepends a token by itself was trained with that as BOS.
  """
  model = load_model(content, str(path))
  found = {}
  for name in ("bos_token", "eos_token"):
    ids = values.get(f"{name}_id")
    first = ids[0] if isinstance(ids, list) and ids else ids
    if type(first) is int and 0 <= first < _MAX_ID and model.id_to_token(first):
      found[name] = model.id_to_token(first)
  plain = model.encode("a", add_special_tokens=False).tokens
  added = model.encode("a", add_special_tokens=True).tokens
  if added[: -len(plain) or None] and added[0] != plain[0]:
    found["bos_token"] = added[0]
  return found


def load_model(content: bytes, where: str) -> Any:
  """Returns a `tokenizers.Tokenizer`.

  Raises:
    UserError: the content is not a tokenizer.json.
  """
  import tokenizers as library

  try:
    model = library.Tokenizer.from_buffer(content)
    model.encode("a")  # Some files are damaged in parts that only this reads.
    return model
  except Exception as e:
    raise errors.UserError(
      f"{where} is not a tokenizer.json ({errors.first_line(e)}); {_FIX}"
    ) from e


def filled(file: TokenizerFile, num_rows: int) -> tuple[TokenizerFile, bool]:
  """Returns the tokenizer with `num_rows` ids, and whether one is `<pause>`.

  `<pause>` must be the last one.

  Args:
    file: a tokenizer with at most that many ids.
    num_rows: rows of the embedding.

  Raises:
    UserError: the tokenizer has ids without a row, or `<pause>` has another id.
  """
  if file.name == "tokenizer.model":
    return dataclasses.replace(file, content=_pieces(file, num_rows)), False
  vocabulary = load_model(file.content, file.name).get_vocab(True)
  _require_rows(max(vocabulary.values(), default=-1) + 1, num_rows)
  if TOKEN in vocabulary:
    errors.require(
      vocabulary[TOKEN] == num_rows - 1,
      f"tokenizer.json: <pause> has id {vocabulary[TOKEN]} and must be "
      f"the last of the embedding's {num_rows:,} rows: cut the rows after it",
    )
    return file, True
  content = _with_reserved(file.content, vocabulary, num_rows)
  return dataclasses.replace(file, content=content), False


def _require_rows(num_ids: int, num_rows: int) -> None:
  if num_ids > num_rows:
    raise errors.UserError(
      f"the tokenizer has {num_ids:,} ids, the embedding {num_rows:,} rows; "
      "they are not of one model: download both again"
    )


def _with_reserved(
  content: bytes, vocabulary: dict[str, int], num_rows: int
) -> bytes:
  """Returns tokenizer.json with a special token for every id without one."""
  missing = sorted({*range(num_rows)} - {*vocabulary.values()})
  if not missing:
    return content
  values = json.loads(content)
  flags = ("single_word", "lstrip", "rstrip", "normalized")
  added = (values.get("added_tokens") or []) + [
    {
      "id": i,
      "content": _RESERVED.format(i),
      **dict.fromkeys(flags, False),
      "special": True,
    }
    for i in missing
  ]
  values["added_tokens"] = sorted(added, key=lambda token: token["id"])
  changed = json.dumps(values, indent=2, ensure_ascii=False).encode()
  actual = load_model(changed, "tokenizer.json").get_vocab(True)
  expected = vocabulary | {_RESERVED.format(i): i for i in missing}
  if actual != expected:
    raise errors.UserError(
      f"tokenizer.json leaves ids free below its largest one ({missing[0]} is "
      "the first); no token can be added there: renumber them"
    )
  return changed


def _pieces(file: TokenizerFile, num_rows: int) -> bytes:
  """Returns the SentencePiece model with control pieces up to `num_rows`."""
  from google.protobuf.message import DecodeError
  from sentencepiece import sentencepiece_model_pb2

  library: Any = sentencepiece_model_pb2
  model = library.ModelProto()
  try:
    model.ParseFromString(file.content)
  except DecodeError as e:
    raise errors.UserError(
      f"tokenizer.model is not a SentencePiece model; {_FIX}"
    ) from e
  num_pieces = len(model.pieces)
  _require_rows(num_pieces, num_rows)
  if num_pieces == num_rows:
    return file.content
  for i in range(num_pieces, num_rows):
    model.pieces.add(piece=_RESERVED.format(i), score=0.0, type=3)  # CONTROL
  return model.SerializeToString()
