"""A SentencePiece model as a `tokenizers.Tokenizer` with the same ids.

Unigram and BPE models. Two segmentations of equal probability may be chosen
differently, so that a few texts in 10,000 get other ids (`count_differences`).
"""

import itertools
from collections.abc import Iterator
from typing import Any

from pausejax import errors

_SPACE = "\u2581"
_UNIGRAM, _BPE = 1, 2
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4


def convert_sentencepiece(content: bytes) -> Any:
  """Returns the tokenizer; pieces without text are special tokens.

  Raises:
    UserError: a kind of model that tokenizers does not have.
  """
  import tokenizers
  from sentencepiece import sentencepiece_model_pb2
  from tokenizers import models

  library: Any = sentencepiece_model_pb2
  proto = library.ModelProto()
  proto.ParseFromString(content)
  trained = proto.trainer_spec
  _require_convertible(trained)
  pieces = [(p.piece, p.score) for p in proto.pieces]
  if trained.model_type == _UNIGRAM:
    model = models.Unigram(pieces, trained.unk_id, trained.byte_fallback)
  else:
    model = models.BPE(
      {piece: i for i, (piece, _) in enumerate(pieces)},
      list(_merges(proto)),
      unk_token=trained.unk_piece,
      fuse_unk=True,
      byte_fallback=trained.byte_fallback,
    )
  converted = tokenizers.Tokenizer(model)
  _set_text_steps(converted, proto)
  for piece in proto.pieces:
    if piece.type in (_UNKNOWN, _CONTROL, _USER_DEFINED):
      is_special = piece.type != _USER_DEFINED
      token = tokenizers.AddedToken(
        piece.piece, special=is_special, normalized=False
      )
      add = converted.add_special_tokens if is_special else converted.add_tokens
      add([token])
  return converted


def _require_convertible(trained: Any) -> None:
  if trained.model_type not in (_UNIGRAM, _BPE):
    kind = trained.ModelType.Name(trained.model_type).lower()
    raise errors.UserError(
      f"the tokenizer is a SentencePiece model of the kind {kind!r}; only "
      "unigram and bpe have an equal in tokenizer.json"
    )
  if trained.treat_whitespace_as_suffix:
    raise errors.UserError(
      "the tokenizer is a SentencePiece model with whitespace as suffix, which "
      "tokenizer.json does not have"
    )


def _merges(proto: Any) -> Iterator[tuple[str, str]]:
  """Yields the merges of a BPE model, in the order of the merged pieces."""
  kinds = (_NORMAL, _USER_DEFINED)
  rank = {p.piece: i for i, p in enumerate(proto.pieces) if p.type in kinds}
  ordered = sorted(
    (p for p in proto.pieces if p.type == _NORMAL), key=lambda p: -p.score
  )
  for piece in (p.piece for p in ordered):
    halves = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
    both = [(a, b) for a, b in halves if a in rank and b in rank]
    yield from sorted(both, key=lambda ab: (rank[ab[0]], rank[ab[1]]))


def _set_text_steps(converted: Any, proto: Any) -> None:
  """Sets what happens to texts before and after the pieces."""
  from tokenizers import Regex, decoders, normalizers, pre_tokenizers

  given, trained = proto.normalizer_spec, proto.trainer_spec
  steps: list[Any] = []
  if given.precompiled_charsmap:
    steps.append(normalizers.Precompiled(given.precompiled_charsmap))
  if given.remove_extra_whitespaces:
    steps.append(normalizers.Strip(left=True, right=True))
    steps.append(normalizers.Replace(Regex(" {2,}"), " "))
  if given.add_dummy_prefix:
    steps.append(normalizers.Prepend(_SPACE))
  steps.append(normalizers.Replace(" ", _SPACE))
  converted.normalizer = normalizers.Sequence(steps)
  if trained.model_type == _UNIGRAM and trained.split_by_whitespace:
    converted.pre_tokenizer = pre_tokenizers.Metaspace(
      _SPACE, prepend_scheme="never"
    )
  scheme = "always" if given.add_dummy_prefix else "never"
  if not trained.byte_fallback:
    converted.decoder = decoders.Metaspace(_SPACE, prepend_scheme=scheme)
    return
  byte_steps = [
    decoders.Replace(_SPACE, " "),
    decoders.ByteFallback(),
    decoders.Fuse(),
  ]
  if given.add_dummy_prefix:
    byte_steps.append(decoders.Strip(" ", 1, 0))
  converted.decoder = decoders.Sequence(byte_steps)


def count_differences(
  converted: Any, encode: Any, texts: list[str]
) -> tuple[int, int]:
  """Returns on how many texts the ids differ, and the number of texts.

  Args:
    converted: a `tokenizers.Tokenizer`.
    encode: texts -> lists of ids, which should be equal.
    texts: the texts.
  """
  own = converted.encode_batch_fast(texts, add_special_tokens=False)
  pairs = itertools.zip_longest(encode(texts), own)
  return sum(ids != x.ids for ids, x in pairs), len(texts)
