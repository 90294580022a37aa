"""The tokenizer of a run as files of transformers, with `<pause>`.

A text encodes to BOS and the ids that the run was trained on, and each
"<pause>" in it to the pause: `tokenizer(prompt + "<pause>" * M)` is the prompt
of `prompt_pauses.PromptPauses`.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

from pausejax import errors, files, json_files, prompt_pauses
from pausejax.data import tokenizers
from pausejax.interop import sentencepiece_conversion, tokenizer_files

# What follows the chat template of the source, or precedes it.
_MARK = "{# pauses #}"
# AutoTokenizer ignores the class that tokenizer_config.json names for these.
_REBUILDS = ("qwen2",)
_REBUILT = (
  "AutoTokenizer of transformers 5 replaces the tokenizer of a qwen2 model by "
  "that of Qwen: load it with PreTrainedTokenizerFast."
)
_NUM_LINES = 4000  # Lines of text on which ids are compared.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportedTokenizer:
  """A tokenizer, ready to be written.

  Attributes:
    files: name -> content.
    special_ids: "bos", "eos" and "pad" -> id.
    notes: how it differs from the run's, one sentence each.
    loader: the class of transformers that loads it.
    has_chat_template: whether it has one.
  """

  files: dict[str, str]
  special_ids: dict[str, int]
  notes: tuple[str, ...]
  loader: str
  has_chat_template: bool


def exported_tokenizer(
  tokenizer: tokenizers.PauseTokenizer,
  spec: str,
  pauses: prompt_pauses.PromptPauses,
  *,
  model_type: str,
  max_length: int,
) -> ExportedTokenizer:
  """Returns the files of a tokenizer.

  Args:
    tokenizer: of the run.
    spec: the value of `data.tokenizer` that loads it.
    pauses: the default of a chat template's variable num_pauses.
    model_type: of the model, which decides what AutoTokenizer loads.
    max_length: positions of the model.

  Raises:
    UserError: tokenizer.json cannot express it.
  """
  model, note = _converted(tokenizer, spec)
  _add_pause(model, tokenizer.pause_id)
  # transformers masks padding in prompts unless it is EOS; BOS is no padding.
  is_bos = tokenizer.pad_id == tokenizer.bos_id
  ids = {
    "bos": tokenizer.bos_id,
    "eos": tokenizer.eos_id,
    "pad": tokenizer.eos_id if is_bos else tokenizer.pad_id,
  }
  names = {f"{n}_token": model.id_to_token(i) for n, i in ids.items()}
  _prepend_bos(model, names["bos_token"], ids["bos"])
  template = _chat_template(spec, pauses)
  is_rebuilt = model_type in _REBUILDS
  settings = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    **names,
    "additional_special_tokens": [prompt_pauses.TOKEN],
    "model_max_length": max_length,
    "padding_side": "left",
    "clean_up_tokenization_spaces": False,
    **({"chat_template": template} if template else {}),
  }
  special = {**names, "additional_special_tokens": [prompt_pauses.TOKEN]}
  return ExportedTokenizer(
    files={
      "tokenizer.json": model.to_str(pretty=True) + "\n",
      tokenizers.SETTINGS: _json(settings),
      "special_tokens_map.json": _json(special),
    },
    special_ids=ids,
    notes=(note,) * bool(note) + (_REBUILT,) * is_rebuilt,
    loader="PreTrainedTokenizerFast" if is_rebuilt else "AutoTokenizer",
    has_chat_template=bool(template),
  )


def prompt_encoder(
  tokenizer: tokenizers.PauseTokenizer, spec: str
) -> Callable[[list[str]], list[list[int]]]:
  """Returns a function from texts to ids, without BOS.

  The ids are those of the exported tokenizer: the text of a special token is
  that token, as in transformers. A SentencePiece model encodes it as text.

  Args:
    tokenizer: of the run.
    spec: the value of `data.tokenizer` that loads it.
  """
  if spec.endswith(".model"):
    return tokenizer.encode
  model, _ = _converted(tokenizer, spec)
  if model.get_vocab_size(with_added_tokens=True) == tokenizer.pause_id:
    _add_pause(model, tokenizer.pause_id)

  def encode(texts: list[str]) -> list[list[int]]:
    batch = model.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in batch]

  return encode


def _json(value: Any) -> str:
  return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _converted(
  tokenizer: tokenizers.PauseTokenizer, spec: str
) -> tuple[Any, str]:
  """Returns a `tokenizers.Tokenizer` without `<pause>`, and the note."""
  if spec == "bytes":
    return _byte_tokenizer(), ""
  content = files.read_bounded(spec)
  if not spec.endswith(".model"):
    model = tokenizer_files.load_model(content, spec)
    model.no_truncation()
    model.no_padding()
    return model, ""
  model = sentencepiece_conversion.convert_sentencepiece(content)
  differ, count = sentencepiece_conversion.count_differences(
    model, tokenizer.encode, _lines()
  )
  return model, (
    "tokenizer.json is converted from SentencePiece; its ids differ on "
    f"{differ:,} of {count:,} lines of Python's documentation."
  )


def _lines() -> list[str]:
  """Returns lines of English text."""
  from pydoc_data import topics

  texts = (topics.topics[name] for name in sorted(topics.topics))
  lines = (line for text in texts for line in text.split("\n"))
  return [x for x in lines if any(c.isalpha() for c in x)][:_NUM_LINES]


def _byte_tokenizer() -> Any:
  """Returns `tokenizers.ByteTokenizer`: BPE over bytes, without a merge."""
  import tokenizers as library

  first = len(_CONTROL)
  vocabulary = {token: i for i, token in enumerate(_CONTROL)}
  vocabulary |= {c: b + first for b, c in enumerate(_byte_characters())}
  model = library.Tokenizer(library.models.BPE(vocabulary, []))
  model.pre_tokenizer = library.pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=False
  )
  model.decoder = library.decoders.ByteLevel()
  model.add_special_tokens([_special(token) for token in _CONTROL])
  return model


_CONTROL = ("<pad>", "</s>", "<unk>")


def _byte_characters() -> list[str]:
  """Returns the character that stands for each byte in GPT-2's byte level."""
  printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
  others = iter(range(256, 512))
  return [chr(b if b in printable else next(others)) for b in range(256)]


def _special(text: str) -> Any:
  import tokenizers as library

  return library.AddedToken(text, special=True, normalized=False)


def _add_pause(model: Any, pause_id: int) -> None:
  model.add_special_tokens([_special(prompt_pauses.TOKEN)])
  actual = model.token_to_id(prompt_pauses.TOKEN)
  if actual != pause_id:
    raise errors.UserError(
      f"the tokenizer gives <pause> the id {actual}, the run has {pause_id}; "
      "its text ids must be 0 to the largest one without a gap, and none of "
      "its tokens may be '<pause>'"
    )


def _prepend_bos(model: Any, bos: str, bos_id: int) -> None:
  """Lets every text begin with BOS, as prompts of a run do."""
  from tokenizers import processors

  model.post_processor = processors.TemplateProcessing(
    single=[bos, "$A"],
    pair=[bos, "$A", "$B"],
    special_tokens=[(bos, bos_id)],
  )


def _chat_template(spec: str, pauses: prompt_pauses.PromptPauses) -> str:
  """Returns the source's chat template with pauses, "" if it has none.

  The template's variable num_pauses is their number. They stand in front
  of the prompt or of the answer, or half of them in front of each.
  """
  path = pathlib.Path(spec).with_name(tokenizers.SETTINGS)
  if spec == "bytes" or not path.is_file():
    return ""
  settings = json_files.read(path, dict, "repair or remove it")
  template = settings.get("chat_template")
  if not isinstance(template, str):
    return ""
  before, after = pauses.code
  # Those of an earlier export are replaced. Jinja drops a last line feed.
  parts = template.split(_MARK)[::2]
  template = "".join(parts).removesuffix("\n")
  m = pauses.num_pause_tokens
  return _inserted(before, m) + template + _inserted(after, m)


def _inserted(code: str, num_pauses: int) -> str:
  """Returns the part of a chat template that writes `code`, "" if empty."""
  if not code:
    return ""
  m = f"{{% set M = num_pauses if num_pauses is defined else {num_pauses} %}}"
  written = f"{{% if add_generation_prompt %}}{m}{{{{ {code} }}}}{{% endif %}}"
  return _MARK + written + _MARK
