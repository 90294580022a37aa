"""The tokenizer of an imported model, and the ids of BOS, EOS and `<pause>`."""

import json

import numpy as np
import pytest

from pausejax.checkpoints import saved_run
from pausejax.data import tokenizers
from pausejax.interop import tokenizer_files
from tests import open_models
from tests.open_models import import_model, load, refused


@pytest.fixture
def folder(tmp_path):
  return open_models.write_folder(tmp_path / "model")


def test_a_folder_without_a_tokenizer_is_refused(folder, tmp_path, capsys):
  (folder / "tokenizer.json").unlink()
  refused(folder, tmp_path / "run", capsys, "tokenizer.json")


def test_more_ids_than_rows_are_refused(tmp_path, capsys):
  folder = open_models.write_folder(tmp_path / "model", {"vocab_size": 200})
  refused(folder, tmp_path / "run", capsys, "ids, the embedding 200 rows")


TEXTS = ["then it waits", "Ünï 日本 \U0001f600", "<|user|>a</s><s>", "  "]


def test_ids_and_texts_are_those_of_the_tokenizer(folder, tmp_path):
  theirs = open_models.byte_fallback_tokenizer()
  theirs.encode_special_tokens = True
  assert theirs.get_vocab_size() < 320  # So that some rows have no token.
  import_model(folder, tmp_path / "run")
  ours = saved_run.find_run(str(tmp_path / "run")).tokenizer
  for text, ids in zip(TEXTS, ours.encode(TEXTS), strict=True):
    assert ids == theirs.encode(text, add_special_tokens=False).ids
    assert ours.decode(ids) == theirs.decode(ids)
  # EOS by config.json, BOS by the template.
  assert (ours.eos_id, ours.bos_id) == (0, 1)


@pytest.mark.parametrize("as_object", [False, True])
def test_tokenizer_config_names_bos_and_eos(folder, tmp_path, as_object):
  token = {"content": "<unk>", "lstrip": False} if as_object else "<unk>"
  settings = {"eos_token": token, "bos_token": "</s>", "chat_template": "{}"}
  path = folder / tokenizers.SETTINGS
  path.write_text(json.dumps(settings))
  import_model(folder, tmp_path / "run")
  ours = saved_run.find_run(str(tmp_path / "run")).tokenizer
  assert (ours.bos_id, ours.eos_id) == (0, 2)
  kept = json.loads((tmp_path / "run" / tokenizers.SETTINGS).read_text())
  assert kept["chat_template"] == "{}"


def test_an_unknown_eos_is_refused(folder, tmp_path, capsys):
  settings = {"eos_token": "<gone>"}
  (folder / tokenizers.SETTINGS).write_text(json.dumps(settings))
  refused(folder, tmp_path / "run", capsys, "'<gone>' is not in")


def test_a_model_that_has_a_pause_keeps_it(folder, tmp_path):
  model = open_models.byte_fallback_tokenizer()
  size = model.get_vocab_size()
  model.add_special_tokens(["<pause>"])
  folder = open_models.write_folder(
    tmp_path / "paused", {"vocab_size": size + 1}
  )
  model.save(str(folder / "tokenizer.json"))
  import_model(folder, tmp_path / "run")
  saved, decoder = load(tmp_path / "run")
  assert saved.tokenizer.pause_id == size
  assert saved.meta["pauses_seen"]
  tensors = open_models.random_tensors(
    open_models.llama_shapes({**open_models.LLAMA, "vocab_size": size + 1})
  )
  theirs_VD = tensors["model.embed_tokens.weight"]
  np.testing.assert_array_equal(
    np.asarray(decoder.embedding)[: size + 1], theirs_VD
  )
  assert "<pause>" not in saved.tokenizer.decode([size, 5, size])


def test_a_pause_before_the_last_row_is_refused(folder, tmp_path, capsys):
  model = open_models.byte_fallback_tokenizer()
  model.add_special_tokens(["<pause>"])
  model.save(str(folder / "tokenizer.json"))
  import_model(folder, tmp_path / "run", expect=2)
  assert "<pause> has id" in capsys.readouterr().err


def test_a_sentencepiece_model_gets_an_id_for_every_row(folder, tmp_path):
  import io

  import sentencepiece

  written = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([open_models.TEXT] * 5),
    model_writer=written,
    model_type="bpe",
    vocab_size=60,
    hard_vocab_limit=False,
    byte_fallback=False,
    minloglevel=2,
  )
  (folder / "tokenizer.json").unlink()
  (folder / "tokenizer.model").write_bytes(written.getvalue())
  theirs = sentencepiece.SentencePieceProcessor()
  theirs.LoadFromSerializedProto(written.getvalue())
  import_model(folder, tmp_path / "run")
  ours = saved_run.find_run(str(tmp_path / "run")).tokenizer
  assert ours.pause_id == 320
  assert ours.eos_id == theirs.eos_id()
  for text in [open_models.TEXT, *TEXTS]:
    assert ours.encode([text]) == [theirs.encode(text)]


def test_ids_that_no_token_can_get_are_refused(folder):
  """The tokenizers library numbers added tokens itself."""
  values = json.loads((folder / "tokenizer.json").read_text())
  values["model"]["vocab"]["th"] = 300
  file = tokenizer_files.TokenizerFile(
    name="tokenizer.json", content=json.dumps(values).encode(), settings={}
  )
  with pytest.raises(tokenizer_files.errors.UserError, match="ids free below"):
    tokenizer_files.filled(file, 320)


@pytest.mark.parametrize("wrong", [-1, 10**30, True, [], None])
def test_ids_of_eos_that_no_token_has_are_left_out(tmp_path, wrong):
  folder = open_models.write_folder(
    tmp_path / "model", {"eos_token_id": wrong, "bos_token_id": wrong}
  )
  import_model(folder, tmp_path / "run")


@pytest.mark.parametrize(
  ("name", "content", "fragment"),
  [
    ("chat_template.jinja", b"\xff", "chat template"),
    ("tokenizer_config.json", b'{"chat_template": "\\ud800"}', "not text"),
    (
      "tokenizer.json",
      b'{"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", '
      b'"vocab": {"b": 0}, "unk_token": "gone"}}',
      "is not a tokenizer.json",
    ),
  ],
)
def test_a_damaged_tokenizer_is_one_line(
  folder, tmp_path, name, content, fragment, capsys
):
  (folder / name).write_bytes(content)
  refused(folder, tmp_path / "run", capsys, fragment)


def test_the_default_of_several_chat_templates_is_kept(folder, tmp_path):
  several = [
    {"name": "tool", "template": "{# t #}"},
    {"name": "default", "template": "{# d #}"},
  ]
  path = folder / tokenizers.SETTINGS
  path.write_text(json.dumps({"chat_template": several}))
  import_model(folder, tmp_path / "run")
  kept = json.loads((tmp_path / "run" / tokenizers.SETTINGS).read_text())
  assert kept["chat_template"] == "{# d #}"
