"""Ends of sentences and paragraphs, by tokens and by regular expressions."""

import itertools
import re

import numpy as np
import pytest

from pausejax import errors
from pausejax.config import load_config
from pausejax.data import text_units, tokenizer_training, tokenizers
from pausejax.data.batch import PADDING
from pausejax.training import inputs

BYTES = tokenizers.load_tokenizer("bytes")
DOCUMENT = (
  'She paused. "Why?" he asked (twice!). The value is 3.14, not 3.15!\n\n'
  "A new paragraph... It ends here.\n  \n\n\nCode:\n    x.y = 1\n\nThe end."
)


def ends(tokenizer, unit: str, ids) -> list[str]:
  """The text up to each end, from the end before it."""
  units = text_units.TextUnits(tokenizer, unit)
  is_end_N = units.ends(np.array([ids]))[0]
  parts, start = [], 0
  for i in np.flatnonzero(is_end_N):
    parts.append(tokenizer.decode(ids[start : i + 1]))
    start = i + 1
  return parts


def pieces(pattern: str, text: str) -> list[str]:
  """The parts of a text up to the end of each match."""
  places = [0, *(m.end() for m in re.finditer(pattern, text))]
  return [text[a:b] for a, b in itertools.pairwise(places)]


def test_sentences_of_bytes_are_those_of_a_regular_expression():
  ids = [*BYTES.encode([DOCUMENT])[0], BYTES.eos_id]
  expected = pieces(r"[.!?][\"')\]}]*(?=\s|$)", DOCUMENT)
  assert len(expected) == 7
  assert ends(BYTES, "sentence", ids) == expected


@pytest.mark.parametrize(
  "close", ["\u201d", "\u2019", "\u2019\u201d", "\u201d)"]
)
def test_closing_quotes_of_several_ids_belong_to_the_sentence(close):
  text = f"(\u201cNo.{close} He left\u2019s. Yes"
  ids = BYTES.encode([text])[0]
  first = f"(\u201cNo.{close}"
  assert ends(BYTES, "sentence", ids) == [first, " He left\u2019s."]


@pytest.mark.parametrize("marks", ['"\u201d\u2019\u2019', ".)']\u2019", "))))"])
def test_more_than_three_closing_marks_end_no_sentence(marks):
  for count, expected in ((3, 1), (4, 0)):
    ids = BYTES.encode([f"No!{marks[-count:]} Yes"])[0]
    assert len(ends(BYTES, "sentence", ids)) == expected


def test_paragraphs_of_bytes_end_with_the_first_empty_line():
  ids = [*BYTES.encode([DOCUMENT])[0], BYTES.eos_id]
  expected = pieces(r"(?<=\S)[ ]*\n[ ]*\n", DOCUMENT)
  assert len(expected) == 3
  assert ends(BYTES, "paragraph", ids) == expected


@pytest.mark.parametrize(
  "text", ["\u2026", "\u56db", "\u0434\u0430 \u0434\u0430"]
)
def test_characters_of_several_bytes_are_text_of_a_paragraph(text):
  ids = BYTES.encode([f"{text}\n\n{text}\n \n\n{text}"])[0]
  assert ends(BYTES, "paragraph", ids) == [f"{text}\n\n", f"{text}\n \n"]


def test_empty_lines_before_the_text_of_a_document_end_nothing():
  ids = [*BYTES.encode(["One"])[0], BYTES.eos_id, *BYTES.encode(["\n\nTwo"])[0]]
  assert ends(BYTES, "paragraph", ids) == []


@pytest.fixture(scope="module", params=["sentencepiece", "huggingface"])
def trained(request, tmp_path_factory):
  """A small tokenizer of subwords."""
  folder = tmp_path_factory.mktemp("tokenizer")
  texts = [DOCUMENT, "One. Two! Three? (Four.) Five", "a b\n\nc d\n"] * 50
  suffix = {"sentencepiece": "t.model", "huggingface": "tokenizer.json"}
  path = folder / suffix[request.param]
  if request.param == "huggingface":
    huggingface(texts, path)
  else:
    made = tokenizer_training.train_tokenizer(texts, vocab_size=330)
    path.write_bytes(made)
  return tokenizers.load_tokenizer(str(path))


def huggingface(texts, path):
  import tokenizers as library

  model = library.Tokenizer(library.models.BPE())
  model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
  model.decoder = library.decoders.ByteLevel()
  alphabet = library.pre_tokenizers.ByteLevel.alphabet()
  trainer = library.trainers.BpeTrainer(
    vocab_size=400, initial_alphabet=alphabet, special_tokens=["</s>"]
  )
  model.train_from_iterator(texts, trainer)
  model.save(str(path))


def test_sentences_of_subwords_are_those_of_their_text(trained):
  line = "She paused. (Why?) The value is 3.14, not 3.15! It ends here."
  ids = [*trained.encode([line])[0], trained.eos_id]
  found = [part.strip() for part in ends(trained, "sentence", ids)]
  assert found == [
    part.strip() for part in pieces(r"[.!?][\"')]*(?=\s|$)", line)
  ]


def test_padding_ends_nothing_and_segments_may_begin_anywhere():
  units = text_units.TextUnits(BYTES, "sentence")
  ids = np.array(BYTES.encode(["One. Two. "]))
  padded = np.where(np.arange(ids.shape[1]) < 4, ids, PADDING)
  assert units.ends(padded).sum() == 0  # Nothing follows the full stop.
  assert units.ends(ids).sum() == 2
  assert units.ends(ids[:, 4:]).sum() == 1
  blank = np.array(BYTES.encode(["\n\n\ntext\n\n"]))
  found = text_units.TextUnits(BYTES, "paragraph").ends(blank)
  assert np.flatnonzero(found[0]).tolist() == [8]


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
  """Merges marks with the line feeds after them, as Llama 3; EOS has id 0."""
  from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, trainers
  from tokenizers import models as bpe

  made = Tokenizer(bpe.BPE())
  words = Regex(r"\w+| ?[^\s\w]+[\r\n]*|\s+")
  made.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(words, "isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  made.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=400,
    special_tokens=["<eos>"],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  made.train_from_iterator(["f! \n Done!\n}\n}\nnext"] * 50, trainer)
  path = tmp_path_factory.mktemp("merged") / "tokenizer.json"
  made.save(str(path))
  return tokenizers.load_tokenizer(str(path))


def test_a_bracket_on_the_next_line_does_not_end_the_sentence_again(merged):
  text = "f() {\n  // Done!\n}\n}\nnext"
  (ids,) = merged.encode([text])
  assert "!\n" in [merged.decode([i]) for i in ids]
  assert ends(merged, "sentence", ids) == ["f() {\n  // Done!\n"]


def test_padding_is_no_end_of_a_document(merged):
  assert merged.eos_id == 0
  units = text_units.TextUnits(merged, "sentence")
  (mark,) = merged.encode(["!"])[0]
  assert units.ends(np.array([[mark, 0]])).tolist() == [[True, False]]
  for rest in ([], [PADDING]):
    assert not units.ends(np.array([[mark, *rest]])).any()


def test_a_tokenizer_without_line_feeds_has_no_paragraphs(tmp_path):
  import sentencepiece

  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["a b. c d. e f"] * 50),
    model_prefix=str(tmp_path / "t"),
    vocab_size=12,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    minloglevel=2,
  )
  tokenizer = tokenizers.load_tokenizer(str(tmp_path / "t.model"))
  with pytest.raises(errors.UsageError, match="has a line feed"):
    text_units.TextUnits(tokenizer, "paragraph")
  tree = load_config("smoke")  # Before anything is prepared.
  tree.data.tokenizer = str(tmp_path / "t.model")
  tree.data.pause_mode = "after_paragraphs"
  with pytest.raises(errors.UsageError, match="has a line feed"):
    inputs.check_inputs(tree, str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()
