"""Answers to the requests of an evaluation harness.

A request is a context and either a continuation, whose log-likelihood is
computed, or a limit for text to generate. All are ids; pauses are added here:
between context and continuation, or before the context
(`prompt_pauses.POSITIONS`), and those after every token
(`prompt_pauses.TokenPauses`).

A context that does not fit is truncated on the left, with its BOS, as
lm-evaluation-harness truncates those of Hugging Face models. Pauses and
continuations are never truncated.

Requests of similar length share a batch. Widths are those of
`decode.bucket_length` and numbers of options are powers of two, so few shapes
are compiled.

B batch, N ids of a prompt, O options (continuations of one prompt).
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from pausejax import errors, sharding
from pausejax.data.finetuning.prompts import Filler
from pausejax.data.tokenizers import PauseTokenizer
from pausejax.inference import batches, decode, score
from pausejax.model.decoder import Decoder
from pausejax.prompt_pauses import TokenPauses

Ids = Sequence[int]

_MAX_OPTIONS = 8
_MAX_OPTION_TOKENS = 1024  # Of the options of one prompt, with their pauses.
_FIRST_ROUND = 32  # New tokens before stop texts are first looked for.


class _Prompt(NamedTuple):
  """A prompt with its pauses: its ids, and masks as in `cached.prefill`."""

  ids_N: np.ndarray
  in_prefix_N: np.ndarray
  moves_N: np.ndarray

  def followed_by(self, ids: Ids, behind: TokenPauses) -> "_Prompt":
    spread_N = behind.spread(np.array(ids, np.int32))
    later = spread_N, np.zeros(len(spread_N), bool), behind.moves(len(ids))
    return _Prompt(*map(np.append, self, later))


class _Options(NamedTuple):
  """A prompt and the requests for its continuations."""

  prompt: _Prompt
  places: list[int]
  width: int  # C
  num_options: int  # O


@dataclasses.dataclass(kw_only=True)
class RequestRunner:
  """Computes the answers to requests, on the mesh in scope.

  Attributes:
    model: the decoder, sharded on the mesh.
    tokenizer: decodes ids; names BOS, EOS, padding and `<pause>`.
    filler: writes the pauses of every request, and those after tokens.
    max_length: positions that a request may use, at most those of the model.
    batch_size: B, a multiple of the devices that split rows.
    num_truncated: contexts that were truncated so far.
    num_truncated_tokens: tokens removed from them.
  """

  model: Decoder
  tokenizer: PauseTokenizer
  filler: Filler
  max_length: int
  batch_size: int
  num_truncated: int = 0
  num_truncated_tokens: int = 0

  def log_likelihoods(
    self, requests: Sequence[tuple[Ids, Ids]]
  ) -> Iterator[tuple[int, tuple[float, bool]]]:
    """Yields the index and the answer of each request, in any order.

    An answer is the sum of the log-probabilities of the continuation's ids in
    nats, over the whole vocabulary with `<pause>`, and whether greedy decoding,
    which never chooses `<pause>`, gives the continuation.

    Args:
      requests: (context, continuation), each of at least one id.

    Raises:
      UsageError: pauses and continuation do not fit.
      UserError: the activations of the model overflow.
    """
    made = self._options(requests)
    for options in _batches(
      made,
      self.batch_size,
      size=lambda o: (o.num_options, o.width, len(o.prompt.ids_N)),
      group=lambda o: o.num_options,
    ):
      log_prob_BO, is_greedy_BO = self._score(options, requests)
      for b, row in enumerate(options):
        for o, i in enumerate(row.places):
          yield i, (float(log_prob_BO[b, o]), bool(is_greedy_BO[b, o]))

  def generate(
    self, contexts: Sequence[Ids], *, stop_texts: Sequence[str], num_new: int
  ) -> Iterator[tuple[int, str]]:
    """Yields the index and the answer of each context, in any order.

    An answer is the greedily decoded text up to EOS or the first stop text,
    which is left out. Stop texts are looked for after 32 new tokens, and each
    time their number has doubled; text after one is discarded.

    Args:
      contexts: each of at least one id.
      stop_texts: texts that end an answer; an empty one is never found.
      num_new: maximum number of new ids.

    Raises:
      UsageError: pauses and new ids do not fit.
    """
    prompts = [self._prompt(context, num_new) for context in contexts]
    answers: list[list[int]] = [[] for _ in contexts]
    unfinished = list(range(len(contexts)))
    for size in _rounds(num_new):
      running, unfinished = unfinished, []
      for places in _batches(
        running, self.batch_size, size=lambda i: len(prompts[i].ids_N)
      ):
        behind = self.filler.behind
        rows = [prompts[i].followed_by(answers[i], behind) for i in places]
        for i, ids in zip(places, self._decode(rows, size), strict=True):
          answers[i] += ids
          text, has_ended = self._text(answers[i], stop_texts)
          if has_ended or len(answers[i]) == num_new:
            yield i, text
          else:
            unfinished.append(i)

  def _prompt(self, context: Ids, num_after: int) -> _Prompt:
    """Returns a context with its pauses, truncated to fit.

    Args:
      context: the ids of the context.
      num_after: tokens that follow the prompt.
    """
    kept = self._truncated(context, num_after)
    # Without BOS, a pause in front comes first.
    has_bos = kept[:1] == [self.tokenizer.bos_id]
    ids_N = self.filler.prompt(kept[has_bos:])
    in_prefix_N = self.filler.pauses.prefix_mask(len(ids_N))
    rows = ids_N, in_prefix_N, self.filler.moves(len(ids_N))
    return _Prompt(*(x_N[not has_bos :] for x_N in rows))

  def _truncated(self, context: Ids, num_after: int) -> list[int]:
    """Returns the end of a context that fits; all of it if it can."""
    num_pauses = self.filler.pauses.num_pauses
    period = self.filler.behind.period
    num_after *= period
    available = self.max_length - num_pauses - num_after
    has_bos = list(context[:1]) == [self.tokenizer.bos_id]
    # BOS has no pauses after it.
    excess = self.filler.num_excess(context[has_bos:], available - has_bos)
    if available >= has_bos and not excess:
      return list(context)
    errors.require(
      available >= period,
      f"{num_pauses} pauses and {num_after} positions after them leave none "
      f"for a context: the model has {self.max_length}; use fewer pauses, or "
      "max_gen_toks for shorter answers",
    )
    excess = self.filler.num_excess(context, available)
    self.num_truncated += 1
    self.num_truncated_tokens += excess
    return list(context[excess:])

  def _options(self, requests) -> list[_Options]:
    """Returns the requests by prompt, as many of one prompt as fit a row."""
    prompts: dict[bytes, _Prompt] = {}
    places: dict[bytes, list[int]] = {}
    for i, (context, continuation) in enumerate(requests):
      prompt = self._prompt(context, len(continuation) - 1)
      key = prompt.ids_N.tobytes()
      prompts[key] = prompt
      places.setdefault(key, []).append(i)
    made = []
    for key, of_prompt in places.items():
      of_prompt.sort(key=lambda i: len(requests[i][1]))
      while of_prompt:
        width = batches.option_width(len(requests[of_prompt[-1]][1]))
        num_slots = width * self.filler.behind.period
        count = max(1, min(_MAX_OPTIONS, _MAX_OPTION_TOKENS // num_slots))
        of_prompt, taken = of_prompt[:-count], of_prompt[-count:]
        num_options = 1 << (len(taken) - 1).bit_length()
        made.append(_Options(prompts[key], taken, width, num_options))
    return made

  def _score(self, options: Sequence[_Options], requests):
    """Returns (log_prob_BO, is_greedy_BO) of a batch."""
    scores = score.score_options(
      self.model,
      **self._arrays([row.prompt for row in options]),
      **batches.batch_of_options(
        [[requests[i][1] for i in row.places] for row in options],
        batch_size=self.batch_size,
        num_options=options[0].num_options,
      ),
      pause_id=self.tokenizer.pause_id,
      behind=self.filler.behind,
    )
    log_prob_BO, is_greedy_BO = map(sharding.fetch_rows, scores)
    score.require_numbers(log_prob_BO)
    return log_prob_BO, is_greedy_BO

  def _decode(self, rows: Sequence[_Prompt], num_new: int) -> list[list[int]]:
    """Returns the `num_new` ids that follow each row."""
    ids_BN = decode.generate(
      self.model,
      **self._arrays(rows),
      key=jax.random.key(0),  # Greedy: never used.
      num_new=num_new,
      temperature=0.0,
      top_k=0,
      top_p=1.0,
      eos_id=self.tokenizer.eos_id,
      pause_id=self.tokenizer.pause_id,
      behind=self.filler.behind,
    )
    return sharding.fetch_rows(ids_BN)[: len(rows)].tolist()

  def _arrays(self, rows: Sequence[_Prompt]) -> dict[str, jax.Array]:
    return batches.batch_of_prompts(
      [row.ids_N for row in rows],
      [row.in_prefix_N for row in rows],
      [row.moves_N for row in rows],
      batch_size=self.batch_size,
      pad_id=self.tokenizer.pad_id,
    )

  def _text(self, ids: list[int], stop_texts: Sequence[str]):
    """Returns the text of an answer, and whether it has ended."""
    eos_id = self.tokenizer.eos_id
    end = ids.index(eos_id) if eos_id in ids else len(ids)
    text = self.tokenizer.decode(ids[:end])
    kept = text
    for stop in filter(None, stop_texts):
      kept = kept.partition(stop)[0]
    return kept, end < len(ids) or kept != text


def _rounds(num_new: int) -> Iterator[int]:
  """Yields 32, 32, 64, 128, ...: the sum doubles up to `num_new`."""
  done = 0
  while done < num_new:
    size = min(max(_FIRST_ROUND, done), num_new - done)
    yield size
    done += size


def _batches(items, batch_size: int, *, size, group=lambda item: ()):
  """Yields lists of items of one group and similar size, the largest first."""
  order = sorted(items, key=size, reverse=True)
  for _, same in itertools.groupby(order, key=group):
    while batch := list(itertools.islice(same, batch_size)):
      yield batch
