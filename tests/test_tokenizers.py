import hashlib
import json
import os

import numpy as np
import pytest
import tokenizers as huggingface

from pausejax import errors
from pausejax.data import tokenizer_training, tokenizers

CORPUS = (
  "Think before you speak: the model waits, and then it answers.\n" * 3,
  "Beginners BBQ Class Taking Place in Missoula!\nDo you want to get better?",
  "def f(x):\n\treturn x  # tabs, and  two  spaces\n\n\n",
  "Ünïcödé, 日本語, Ελληνικά, עברית and \U0001f600 too.",
)
TEXTS = (
  "",
  " ",
  "  leading and trailing  ",
  "\n\n\t\r\n",
  "a NUL \x00 inside",
  "\ufeffa byte order mark",
  "<pause>",
  "a<pause>b <pause><pause>",
  "<extra_id_0> <extra_id_99>",
  "</s>",
  "one</s>two <s> <pad> <unk> <0x41> <0x00>",
  "<|endoftext|>",
  "<|endoftext|><|end_of_text|><eos>[SEP][CLS]",
  "e\u0301 is not \u00e9; \u200b zero width, \u2028 line, \u202e reversed",
  "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
  "\uffff \U0010ffff \ue000 \u0378",
  "ﬁ ligature, ｆｕｌｌ width, ² superscript",
  *CORPUS,
)
REAL = os.environ.get("PAUSEJAX_REAL_DATA", "")


def byte_level_bpe(special=("<|endoftext|>",), added=()):
  """A tokenizer like GPT-2's, of a few hundred tokens."""
  model = huggingface.Tokenizer(huggingface.models.BPE())
  byte_level = huggingface.pre_tokenizers.ByteLevel
  model.pre_tokenizer = byte_level(add_prefix_space=False)
  model.decoder = huggingface.decoders.ByteLevel()
  trainer = huggingface.trainers.BpeTrainer(
    vocab_size=300,
    special_tokens=list(special),
    initial_alphabet=byte_level.alphabet(),
    show_progress=False,
  )
  model.train_from_iterator(CORPUS, trainer)
  model.add_tokens(list(added))
  return model


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
  """Kind -> what `data.tokenizer` says, one of every kind."""
  root = tmp_path_factory.mktemp("tokenizers")
  model = tokenizer_training.train_tokenizer(CORPUS, vocab_size=400)
  (root / "bpe.model").write_bytes(model)
  byte_level_bpe().save(str(root / "tokenizer.json"))
  return {
    "bytes": "bytes",
    "sentencepiece": str(root / "bpe.model"),
    "huggingface": str(root / "tokenizer.json"),
  }


@pytest.fixture(params=["bytes", "sentencepiece", "huggingface"])
def tokenizer(request, specs):
  return tokenizers.load_tokenizer(specs[request.param])


def test_no_text_encodes_to_pause_or_eos(tokenizer):
  for text, ids in zip(TEXTS, tokenizer.encode(TEXTS), strict=True):
    assert tokenizer.pause_id not in ids, text
    assert tokenizer.eos_id not in ids, text


def test_only_text_ids_count_as_text(tokenizer):
  pause_id = tokenizer.pause_id
  assert not tokenizer.wrong_id(np.array([], np.float64))
  assert not tokenizer.wrong_id(np.array([[0, pause_id - 1]], np.uint16))
  assert "the pause" in tokenizer.wrong_id(np.array([1, pause_id]))
  for wrong in (-1, pause_id + 1, 65_535, 2**31, -(2**40)):
    assert f"id {wrong} is not one" in tokenizer.wrong_id(np.array([1, wrong]))
  for ids in ([1.5], ["1"], [True], [2**80]):
    assert "not all 64-bit integers" in tokenizer.wrong_id(np.array(ids))


def test_every_id_is_below_the_vocabulary_size(tokenizer):
  ids = [i for ids in tokenizer.encode(TEXTS) for i in ids]
  ids += [tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id]
  assert all(0 <= i < tokenizer.vocab_size for i in ids)
  assert tokenizer.pause_id == tokenizer.vocab_size - 1
  assert tokenizer.pause_id == tokenizer.base.vocab_size


def test_the_base_vocabulary_keeps_its_ids(tokenizer):
  assert tokenizer.encode(TEXTS) == tokenizer.base.encode(TEXTS)
  for name in ("bos_id", "eos_id", "pad_id"):
    assert getattr(tokenizer, name) == getattr(tokenizer.base, name)


def test_decoding_inverts_encoding(tokenizer):
  for text, ids in zip(TEXTS, tokenizer.encode(TEXTS), strict=True):
    assert tokenizer.decode(ids) == text


def test_encoding_does_not_depend_on_the_batch(tokenizer):
  together = tokenizer.encode(TEXTS)
  assert together == [tokenizer.encode([text])[0] for text in TEXTS]


def test_decoding_drops_pauses_and_eos(tokenizer):
  text = "Think before you speak"
  ids = tokenizer.encode([text])[0]
  paused = [tokenizer.pause_id]
  for i in ids:
    paused += [i, tokenizer.pause_id, tokenizer.pause_id]
  assert tokenizer.decode(paused) == text
  assert tokenizer.decode([*ids, tokenizer.eos_id]) == text
  assert tokenizer.decode(np.array(paused, np.int32)) == text
  assert tokenizer.decode([tokenizer.pause_id]) == ""


def test_a_fingerprint_depends_on_kind_file_and_pause(specs):
  prints = {
    kind: tokenizers.load_tokenizer(s).fingerprint()
    for kind, s in specs.items()
  }
  for kind, found in prints.items():
    assert found["tokenizer"] == kind
    assert found == tokenizers.load_tokenizer(specs[kind]).fingerprint()
    assert json.loads(json.dumps(found)) == found
  for kind in ("sentencepiece", "huggingface"):
    with open(specs[kind], "rb") as f:
      assert prints[kind]["sha256"] == hashlib.sha256(f.read()).hexdigest()
    assert prints[kind]["library"]


def test_another_vocabulary_has_another_fingerprint(specs, tmp_path):
  other = tmp_path / "other.model"
  other.write_bytes(tokenizer_training.train_tokenizer(CORPUS, vocab_size=390))
  assert (
    tokenizers.load_tokenizer(str(other)).fingerprint()
    != tokenizers.load_tokenizer(specs["sentencepiece"]).fingerprint()
  )


def test_the_byte_ids_are_those_of_seqio():
  tokenizer = tokenizers.load_tokenizer("bytes")
  assert tokenizer.encode(["AZ\xe9"]) == [[68, 93, 0xC3 + 3, 0xA9 + 3]]
  assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.pause_id) == (0, 1, 259)


def test_invalid_utf8_is_left_out_in_decoding():
  tokenizer = tokenizers.load_tokenizer("bytes")
  half = tokenizer.encode(["\U0001f600"])[0][:2]
  assert tokenizer.decode([68, *half, 68]) == "AA"


def test_training_again_gives_the_same_bytes(specs):
  again = tokenizer_training.train_tokenizer(CORPUS, vocab_size=400)
  with open(specs["sentencepiece"], "rb") as f:
    assert again == f.read()


def test_truncation_and_padding_of_a_tokenizer_file_are_disabled(tmp_path):
  model = byte_level_bpe()
  model.enable_truncation(4)
  model.enable_padding(length=64)
  path = tmp_path / "cuts.json"
  model.save(str(path))
  tokenizer = tokenizers.load_tokenizer(str(path))
  for text, ids in zip(TEXTS, tokenizer.encode(TEXTS), strict=True):
    assert tokenizer.decode(ids) == text
    assert tokenizer.pad_id not in ids


def test_the_pause_id_follows_added_tokens(tmp_path):
  path = tmp_path / "added.json"
  byte_level_bpe(added=["<pause>", "<new>"]).save(str(path))
  tokenizer = tokenizers.load_tokenizer(str(path))
  (ids,) = tokenizer.encode(["<pause><new>"])
  assert max(ids) < tokenizer.pause_id


def assert_refused(spec, *fragments):
  with pytest.raises(errors.UserError) as raised:
    tokenizers.load_tokenizer(str(spec))
  message = str(raised.value)
  assert len(message.splitlines()) == 1
  for fragment in ("data.tokenizer", str(spec), *fragments):
    assert fragment in message


@pytest.mark.parametrize("name", ["", "byte", "none.model", "no/such.json"])
def test_a_missing_file_is_an_error(name):
  assert_refused(name, "no file", "bytes")


def test_a_folder_is_an_error(tmp_path):
  assert_refused(tmp_path, "no file")


@pytest.mark.parametrize("name", ["words.txt", "model", "x.model.gz"])
def test_another_kind_of_file_is_an_error(tmp_path, name):
  (tmp_path / name).write_bytes(b"x")
  assert_refused(tmp_path / name, "neither a .model nor a .json")


@pytest.mark.parametrize(
  "content", [b"", b"{}", b"\x00" * 100, bytes(range(256)), b"\n" * 9]
)
@pytest.mark.parametrize("suffix", [".model", ".json"])
def test_a_file_of_the_wrong_content_is_an_error(tmp_path, content, suffix):
  path = tmp_path / f"x{suffix}"
  path.write_bytes(content)
  kind = {".model": "a SentencePiece model", ".json": "a tokenizer.json"}
  assert_refused(path, f"is not {kind[suffix]}")


@pytest.mark.parametrize("kind", ["sentencepiece", "huggingface"])
def test_a_truncated_file_is_an_error(tmp_path, specs, kind):
  with open(specs[kind], "rb") as f:
    data = f.read()
  path = tmp_path / os.path.basename(specs[kind])
  path.write_bytes(data[: len(data) // 2])
  assert_refused(path, "is not a")


def test_a_swapped_suffix_is_an_error(tmp_path, specs):
  for kind, suffix in (("sentencepiece", ".json"), ("huggingface", ".model")):
    path = tmp_path / f"swapped{suffix}"
    with open(specs[kind], "rb") as f:
      path.write_bytes(f.read())
    assert_refused(path, "is not a")


def test_sentencepiece_without_an_eos_is_an_error(tmp_path):
  import io

  import sentencepiece

  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(CORPUS[:1] * 5),
    model_writer=model,
    model_type="char",
    vocab_size=30,
    hard_vocab_limit=False,
    eos_id=-1,
    minloglevel=2,
  )
  path = tmp_path / "endless.model"
  path.write_bytes(model.getvalue())
  assert_refused(path, "no end-of-sequence piece")


def test_a_tokenizer_json_without_an_eos_is_an_error(tmp_path):
  path = tmp_path / "endless.json"
  byte_level_bpe(special=["<stop>"]).save(str(path))
  assert_refused(path, "no end-of-sequence token", "<|endoftext|>")
  huggingface.Tokenizer(huggingface.models.BPE()).save(str(path))
  assert_refused(path, "no end-of-sequence token")


def test_an_eos_that_text_can_encode_to_is_an_error(tmp_path):
  path = tmp_path / "spelt.json"
  byte_level_bpe(special=[], added=["</s>"]).save(str(path))
  assert_refused(path, "encodes texts to its end-of-sequence token '</s>'")
  words = huggingface.models.WordLevel({"</s>": 0, "a": 1}, unk_token="</s>")
  huggingface.Tokenizer(words).save(str(path))
  assert_refused(path, "encodes texts to its end-of-sequence token '</s>'")


def pieces_of(documents):
  """Trains, and returns the pieces."""
  import sentencepiece

  model = tokenizer_training.train_tokenizer(documents, vocab_size=280)
  processor = sentencepiece.SentencePieceProcessor(model_proto=model)
  return {processor.id_to_piece(i) for i in range(280)}


@pytest.mark.parametrize(
  "document",
  [
    "wonder " * 5_000,  # 35,000 bytes on one line.
    "wonder\u2028" * 5_000,  # No space in it.
    "wonder " * 50 + "\u2585",
  ],
)
def test_every_line_is_trained_on(document):
  pieces = pieces_of(["a few words", document])
  assert any("wonder" in piece for piece in pieces)


def test_a_long_line_is_split_into_the_same_words():
  rng = np.random.default_rng(0)
  words = ["".join(rng.choice(list("aé東 "), n)) for n in range(1, 300)]
  for text in (" ".join(words), "".join(words).replace(" ", ""), "x" * 40_000):
    parts = list(tokenizer_training.training_lines(text + "\n\n b\n"))
    assert parts[-1] == " b"
    assert max(len(p.encode()) for p in parts) <= tokenizer_training.MAX_BYTES
    # Words end at one space; SentencePiece puts one in front of a part.
    joint = " " if " " in text else ""
    assert joint.join(parts[:-1]) == text


@pytest.mark.parametrize("vocab_size", [10, 100_000])
def test_a_vocabulary_that_does_not_suit_the_text_is_an_error(vocab_size):
  with pytest.raises(errors.UserError, match=f"vocab_size {vocab_size}") as e:
    tokenizer_training.train_tokenizer(CORPUS, vocab_size=vocab_size)
  assert len(str(e.value).splitlines()) == 1


@pytest.mark.parametrize("documents", [[], [""], ["\n \n"]])
def test_training_on_nothing_is_an_error(documents):
  with pytest.raises(errors.UserError, match="no text"):
    tokenizer_training.train_tokenizer(documents, vocab_size=300)


@pytest.mark.skipif(not REAL, reason="PAUSEJAX_REAL_DATA is not set")
def test_no_text_encodes_to_a_pause_in_published_vocabularies():
  import pathlib

  found = 0
  for path in sorted(pathlib.Path(REAL, "tokenizers").rglob("*")):
    if path.suffix not in (".model", ".json"):
      continue
    try:
      tokenizer = tokenizers.load_tokenizer(str(path))
    except errors.UserError:
      continue
    found += 1
    for ids in tokenizer.encode(TEXTS):
      assert tokenizer.pause_id not in ids
      assert tokenizer.eos_id not in ids
  assert found
