"""The examples of a task as rows of prompts and answers, with their donors.

Kind "decode": one row per example, whose answer is the target and EOS, up to
the `max_target_len` ids that `evaluate` would decode. Kind "options": one row
per option.

A donor is the example whose pauses are transplanted: the next one by length of
prompt that has another right answer.

The pauses around the prefix are probed, each as its own group. If there are
none, those after every token of the prompt are probed: the first pauses of all
tokens are one group, the second ones the next.

B rows, T positions, G groups of pauses, M pauses (a multiple of G, the groups
in turns), N ids of a prompt, S ids of a prompt with its answer, C ids of the
answer.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from pausejax import errors, sharding
from pausejax.data.finetuning.prompts import Format, Prompts
from pausejax.inference import decode
from pausejax.probe.forward import Rows
from pausejax.tasks import Example


@dataclasses.dataclass(frozen=True)
class Answered:
  """A prompt with one of its answers.

  Attributes:
    example: index of the example.
    prompt_N: int32, with BOS and pauses.
    answer: at least one id.
  """

  example: int
  prompt_N: np.ndarray
  answer: list[int]


@dataclasses.dataclass(frozen=True)
class Sequences:
  """The rows of all examples, the longest prompts first.

  Attributes:
    rows: prompts with answers; the options of an example are neighbors.
    donors: for each example a row of another one.
    prompts: the prompts, and how many were truncated.
  """

  rows: list[Answered]
  donors: list[Answered]
  prompts: Prompts


def encode(
  format_: Format, examples: Sequence[Example], max_seq_len: int
) -> Sequences:
  """Returns the rows of the examples.

  Args:
    format_: the task, its tokenizer and pauses.
    examples: examples of the task.
    max_seq_len: positions of the model.

  Raises:
    UsageError: pauses and answers do not fit; or all examples have the same
      right answer, so that none can be a donor.
  """
  task = format_.task
  if task.kind == "decode":
    length = task.max_target_len
    answers = [[ids[:length]] for ids in format_.targets(examples)]
  else:
    answers = [format_.continuations(e.options) for e in examples]
    length = max(len(ids) for options in answers for ids in options)
  limit = max_seq_len - length * format_.filler.behind.period
  prompts = format_.prompts(examples, [limit] * len(examples))
  order = sorted(range(len(examples)), key=lambda i: (-len(prompts.rows[i]), i))
  by_example = [
    [Answered(i, prompts.rows[i], ids) for ids in answers[i]]
    for i in range(len(examples))
  ]
  donors = _donors(order, [_right_answer(e) for e in examples])
  return Sequences(
    [row for i in order for row in by_example[i]],
    [by_example[i][0] for i in donors],
    prompts,
  )


def to_rows(
  rows: Sequence[Answered],
  format_: Format,
  *,
  batch_size: int,
  width: int,
  num_ids: int,
) -> Rows:
  """Returns rows as arrays on the mesh.

  Args:
    rows: at most `batch_size`; the last one is repeated.
    format_: its pauses are those of the prompts.
    batch_size: B.
    width: T, from `width`.
    num_ids: C, at least the ids of any answer.
  """
  rows = [*rows, *[rows[-1]] * (batch_size - len(rows))]
  num_pauses = len(_pauses(format_, width))
  made = Rows(
    tokens_BT=np.zeros((batch_size, width), np.int32),
    positions_BT=np.zeros((batch_size, width), np.int32),
    in_prefix_BT=np.zeros((batch_size, width), bool),
    pauses_BM=np.zeros((batch_size, num_pauses), np.int32),
    is_probed_BM=np.zeros((batch_size, num_pauses), bool),
    reads_BC=np.zeros((batch_size, num_ids), np.int32),
    answers_BC=np.zeros((batch_size, num_ids), np.int32),
    num_ids_B=np.array([len(row.answer) for row in rows], np.int32),
  )
  for b, row in enumerate(rows):
    _fill(Rows(*(x[b] for x in made)), row, format_)
  return Rows(*map(sharding.put_same_rows, made))


def _fill(made: Rows, row: Answered, format_: Format) -> None:
  """Writes a row into its arrays, which have no dimension B."""
  behind, last = format_.filler.behind, len(row.prompt_N) - 1
  spread = behind.spread(np.array(row.answer[:-1], np.int32))
  ids_S = np.append(row.prompt_N, spread)
  made.tokens_BT[: len(ids_S)] = ids_S
  positions_S = format_.filler.positions(last + 1, len(ids_S))
  made.positions_BT[: len(ids_S)] = positions_S
  made.in_prefix_BT[: last + 1] = format_.pauses.prefix_mask(last + 1)
  pauses_M = _pauses(format_, last + 1)
  num_missing = len(made.pauses_BM) - len(pauses_M)
  made.pauses_BM[:] = _padded(pauses_M, num_missing, num_groups(format_))
  # The answer is read at the last id of the prompt.
  made.is_probed_BM[num_missing:] = pauses_M < last
  steps_C = np.arange(len(row.answer))
  made.reads_BC[: len(steps_C)] = last + behind.period * steps_C
  made.answers_BC[: len(steps_C)] = row.answer


def num_groups(format_: Format) -> int:
  """Returns G: the pauses around a prefix, else those after a token."""
  return format_.pauses.num_pauses or format_.filler.behind.num_per_token


def width(rows: Sequence[Answered], format_: Format, max_seq_len: int) -> int:
  """Returns a T for rows, of which there are few."""
  # The last id of an answer is no input.
  sizes = [
    len(row.prompt_N) + (len(row.answer) - 1) * format_.filler.behind.period
    for row in rows
  ]
  return min(decode.bucket_length(max(sizes)), max_seq_len)


def _pauses(format_: Format, num_prompt: int) -> np.ndarray:
  """Returns int [M], the indices of the pauses in a prompt of N ids."""
  if format_.pauses.num_pauses:
    return np.flatnonzero(format_.pauses.mask(num_prompt))
  period = format_.filler.behind.period
  token_N1 = np.arange(1, num_prompt - period + 1, period)[:, None]
  return (token_N1 + np.arange(1, period)).ravel()


def _padded(
  pauses_M: np.ndarray, num_missing: int, num_groups: int
) -> np.ndarray:
  """Adds repetitions of the first pause of each group on the left.

  So the last pauses of two rows have the same index.
  """
  first_G = pauses_M[:num_groups] if len(pauses_M) else [0] * num_groups
  return np.append(np.resize(first_G, num_missing), pauses_M)


def _right_answer(example: Example) -> str:
  return example.options[example.label] if example.options else example.target


def _donors(order: Sequence[int], answers: Sequence[str]) -> list[int]:
  """Returns the donor of each example: the next in order, answers differ."""
  errors.require(
    len({*answers}) > 1,
    "the probed examples do not have two different right answers (number of "
    f"examples: {len(answers)}), so no example can be a donor; probe "
    "more (--limit=0: all), or another --split or --task",
  )
  donors = [0] * len(order)
  # Two rounds from the end: the one after the last is the first.
  after: int | None = None  # The nearest later one with another answer.
  rounds = [*order, *order]
  for i, following in zip(rounds[-2::-1], rounds[:0:-1], strict=True):
    if answers[i] != answers[following]:
      after = following
    if after is not None:
      donors[i] = after
  return donors
