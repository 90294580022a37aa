"""Exported tokenizers: the ids of the run, BOS first, and `<pause>`."""

import json
import pathlib

import pytest
import tokenizers as huggingface

from pausejax import errors, prompt_pauses
from pausejax.data import tokenizer_training, tokenizers
from pausejax.interop import hf_tokenizer, sentencepiece_conversion
from pausejax.prompt_pauses import PromptPauses

TEXTS = [
  "The assert statement",
  " two  spaces, a tab\t and a line\nfeed ",
  "naïve café “quotes” 日本語 \U0001f600 \u00a0 \u2028 \u2581 x",
  "",
  " ",
  "0",
]


@pytest.fixture(scope="module")
def specs(tmp_path_factory) -> dict[str, str]:
  """A tokenizer of each kind."""
  folder = tmp_path_factory.mktemp("tokenizers")
  from pydoc_data import topics

  text = topics.topics["assert"] + topics.topics["with"]
  piece_path = folder / "bpe.model"
  piece_path.write_bytes(
    tokenizer_training.train_tokenizer([text], vocab_size=400)
  )
  byte_level = huggingface.Tokenizer(huggingface.models.BPE())
  byte_level.pre_tokenizer = huggingface.pre_tokenizers.ByteLevel(
    add_prefix_space=False
  )
  byte_level.decoder = huggingface.decoders.ByteLevel()
  alphabet = huggingface.pre_tokenizers.ByteLevel.alphabet()
  trainer = huggingface.trainers.BpeTrainer(
    vocab_size=400,
    special_tokens=["<|endoftext|>"],
    initial_alphabet=alphabet,
    show_progress=False,
  )
  byte_level.train_from_iterator([text], trainer)
  byte_level.enable_truncation(4)  # Ignored by the run, so by its export.
  json_path = folder / "tokenizer.json"
  byte_level.save(str(json_path))
  return {
    "bytes": "bytes",
    "sentencepiece": str(piece_path),
    "huggingface": str(json_path),
  }


def exported(spec: str, **pauses):
  """The tokenizer of the run, and its export."""
  tokenizer = tokenizers.load_tokenizer(spec)
  made = hf_tokenizer.exported_tokenizer(
    tokenizer,
    spec,
    PromptPauses(**{"num_pauses": 3, **pauses}),
    model_type="llama",
    max_length=64,
  )
  return tokenizer, made


def numbers(position: str, m: int) -> tuple[int, int]:
  """The pauses before and after a prompt."""
  before = {"append": 0, "prepend": m, "both": m // 2}[position]
  return before, m - before


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece", "huggingface"])
def test_text_and_pauses_encode_to_the_prompt_of_the_run(kind, specs):
  tokenizer, made = exported(specs[kind])
  model = huggingface.Tokenizer.from_str(made.files["tokenizer.json"])
  for text, ids in zip(TEXTS, tokenizer.encode(TEXTS), strict=True):
    for pauses in (
      PromptPauses(num_pauses=0),
      PromptPauses(num_pauses=3),
      PromptPauses(num_pauses=2, position="prepend"),
      PromptPauses(num_pauses=3, position="both"),
    ):
      before, after = (
        "<pause>" * n for n in numbers(pauses.position, pauses.num_pauses)
      )
      whole = before + text + after
      prompt = pauses.prompt(
        ids, bos_id=tokenizer.bos_id, pause_id=tokenizer.pause_id
      )
      assert model.encode(whole).ids == prompt.tolist(), (text, pauses)
    assert model.decode(ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["bytes", "huggingface"])
def test_prompts_of_the_harness_have_the_ids_of_the_export(kind, specs):
  tokenizer, made = exported(specs[kind])
  model = huggingface.Tokenizer.from_str(made.files["tokenizer.json"])
  eos = model.id_to_token(tokenizer.eos_id)
  texts = [*TEXTS, f"{eos}a {eos} b<pause>", "<pause><pause> c"]
  encode = hf_tokenizer.prompt_encoder(tokenizer, specs[kind])
  for text, ids in zip(texts, encode(texts), strict=True):
    assert model.encode(text).ids == [tokenizer.bos_id, *ids], text
  assert tokenizer.eos_id in encode(texts[-2:])[0]
  assert encode(texts[-2:])[1].count(tokenizer.pause_id) == 2


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece", "huggingface"])
def test_the_export_is_read_as_the_same_tokenizer(kind, specs, tmp_path):
  tokenizer, made = exported(specs[kind])
  for name, text in made.files.items():
    (tmp_path / name).write_text(text, encoding="utf-8")
  read = tokenizers.load_tokenizer(str(tmp_path / "tokenizer.json"))
  for name in ("pause_id", "vocab_size", "bos_id", "eos_id"):
    assert getattr(read, name) == getattr(tokenizer, name), name
  assert read.encode(TEXTS) == tokenizer.encode(TEXTS)


def test_padding_is_never_bos(specs):
  """transformers would mask the BOS of a prompt."""
  for spec in specs.values():
    _, made = exported(spec)
    ids = made.special_ids
    assert ids["pad"] != ids["bos"] or ids["pad"] == ids["eos"]


def test_unigram_models_with_normalization(tmp_path):
  import io
  from pydoc_data import topics

  import sentencepiece

  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(topics.topics["with"].split("\n")),
    model_writer=model,
    model_type="unigram",
    vocab_size=120,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    user_defined_symbols=["@@"],
    minloglevel=2,
  )
  path = tmp_path / "unigram.model"
  path.write_bytes(model.getvalue())
  tokenizer, made = exported(str(path))
  converted = huggingface.Tokenizer.from_str(made.files["tokenizer.json"])
  texts = [*topics.topics["assert"].split("\n"), "\ufb01x  a ", "\uff11\uff12"]
  differ, count = sentencepiece_conversion.count_differences(
    converted, tokenizer.encode, texts
  )
  assert (differ, count) == (0, len(texts))
  assert "its ids differ on" in made.notes[0]


def test_a_kind_of_model_without_equal_is_refused(tmp_path):
  import io

  import sentencepiece

  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["a word and a word", "another one"]),
    model_writer=model,
    model_type="word",
    vocab_size=8,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  path = tmp_path / "word.model"
  path.write_bytes(model.getvalue())
  with pytest.raises(errors.UserError, match="of the kind 'word'"):
    exported(str(path))


TEMPLATE = (
  "{%- for m in messages -%}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
  "{% if add_generation_prompt %}<|assistant|>{% endif %}\n"
)


def template_of(spec: str, **pauses) -> str:
  _, made = exported(spec, **pauses)
  assert made.has_chat_template
  return json.loads(made.files["tokenizer_config.json"])["chat_template"]


@pytest.fixture
def chat_spec(specs, tmp_path) -> str:
  """A tokenizer with a chat template beside it."""
  path = tmp_path / "tokenizer.json"
  path.write_bytes(pathlib.Path(specs["huggingface"]).read_bytes())
  (tmp_path / "tokenizer_config.json").write_text(
    json.dumps({"chat_template": TEMPLATE})
  )
  return str(path)


def test_a_chat_template_gets_pauses_before_the_answer(chat_spec):
  jinja2 = pytest.importorskip("jinja2")
  environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
  messages = [{"role": "user", "content": "Hi"}]

  def rendered(template: str, **values) -> str:
    chat = environment.from_string(template)
    return chat.render(messages=messages, **values)

  before = rendered(TEMPLATE, add_generation_prompt=True)
  after = template_of(chat_spec)
  render = lambda **v: rendered(after, add_generation_prompt=True, **v)
  assert render() == before + "<pause>" * 3
  assert render(num_pauses=5) == before + "<pause>" * 5
  assert render(num_pauses=0) == before
  assert rendered(after) == rendered(TEMPLATE)
  for position in prompt_pauses.POSITIONS:
    chat = template_of(chat_spec, position=position)
    for values, m in (({}, 3), ({"num_pauses": 0}, 0), ({"num_pauses": 4}, 4)):
      text = rendered(chat, add_generation_prompt=True, **values)
      first, last = numbers(position, m)
      assert text == "<pause>" * first + before + "<pause>" * last


def test_a_second_export_replaces_the_pauses_of_the_first(chat_spec):
  settings = pathlib.Path(chat_spec).with_name("tokenizer_config.json")
  for position in prompt_pauses.POSITIONS:
    once = template_of(chat_spec, position=position)
    settings.write_text(json.dumps({"chat_template": once}))
    assert template_of(chat_spec, position=position) == once
    settings.write_text(json.dumps({"chat_template": TEMPLATE}))


def test_a_tokenizer_whose_ids_have_a_gap_is_refused(tmp_path):
  words = huggingface.models.WordLevel({"</s>": 0, "a": 1, "b": 5}, "a")
  path = tmp_path / "gap.json"
  huggingface.Tokenizer(words).save(str(path))
  with pytest.raises(errors.UserError, match="without a gap"):
    exported(str(path))
