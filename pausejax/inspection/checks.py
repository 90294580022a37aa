"""Checks of a batch before training, one line per property.

`check_batch` takes numpy batches (`data/batch.py`), so it can also be tested
with broken ones. No JAX and no TensorFlow.

B rows, T positions of a row, N positions of one example.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pausejax import tasks
from pausejax.data.batch import PADDING, Batch
from pausejax.inspection import sequences

# Standard deviations that the number of random pauses may deviate.
_SIGMAS = 5.0


@dataclasses.dataclass(frozen=True)
class Check:
  """A property, whether it holds, and the numbers that show it."""

  name: str
  is_ok: bool
  numbers: str

  def __str__(self) -> str:
    return f"{'ok ' if self.is_ok else 'BAD'}  {self.name}: {self.numbers}"


def check_batch(batch: Batch, rules: sequences.Rules) -> list[Check]:
  """Returns every check of a batch; only the first if shapes or ids are wrong.

  Args:
    batch: numpy arrays [B, T].
    rules: the rules of pretraining or of finetuning.
  """
  for basic in (_check_shapes, _check_ids):
    result = basic(batch, rules)
    if not result.is_ok:
      return [result]
  return [function(batch, rules) for function in _functions(rules)]


def _functions(rules: sequences.Rules) -> Sequence[Callable[..., Check]]:
  """Returns the checks that apply to such batches."""
  if not isinstance(rules, sequences.FinetuningRules):
    return _ANY + _PRETRAINING
  if rules.sequences.format.task.kind == "options":
    return (*_ANY, *_FINETUNING, _check_labels)
  return _ANY + _FINETUNING


def _all_examples(
  batch: Batch, rules: sequences.Rules
) -> Iterator[sequences.RowExample]:
  for row in range(len(batch["tokens"])):
    yield from sequences.row_examples(batch, rules, row)


def _hints(example: sequences.RowExample, rules: sequences.Rules) -> np.ndarray:
  """Returns bool [N], True where the target may be a hint."""
  hinted = isinstance(rules, sequences.FinetuningRules) and rules.hinted
  places = np.arange(len(example.arrays["tokens"]))
  before = places < example.num_prompt - 1
  return example.arrays["loss_mask"] & before & hinted


def _each(
  name: str,
  what: str,
  is_good: Callable[[sequences.RowExample], bool],
  batch: Batch,
  rules: sequences.Rules,
) -> Check:
  """Returns a check that every example must pass."""
  good = [is_good(example) for example in _all_examples(batch, rules)]
  return Check(name, all(good), f"{sum(good):,} of {len(good):,} {what}")


def _check_shapes(batch: Batch, rules: sequences.Rules) -> Check:
  expected = (len(batch["tokens"]), rules.seq_len)
  shapes = {n: x.shape for n, x in batch.items() if n != "counted"}
  wrong = [f"{n} {shape}" for n, shape in shapes.items() if shape != expected]
  numbers = f"{len(shapes)} arrays of {expected}"
  if wrong:
    numbers += f", but {', '.join(wrong)}"
  return Check("rows are seq_len long", not wrong, numbers)


def _check_ids(batch: Batch, rules: sequences.Rules) -> Check:
  ids = np.stack([batch["tokens"], batch["targets"]])
  size = rules.tokenizer.vocab_size
  is_ok = bool(((ids >= 0) & (ids < size)).all())
  numbers = f"{ids.min()} to {ids.max()}, {size} ids exist"
  return Check("ids are inside the vocabulary", is_ok, numbers)


def _check_pauses_never_count(batch: Batch, rules: sequences.Rules) -> Check:
  is_pause_BT = rules.tokenizer.is_pause(batch["targets"])
  counted = int((is_pause_BT & batch["loss_mask"]).sum())
  numbers = f"{counted:,} of {int(is_pause_BT.sum()):,} are in the loss"
  return Check(
    "targets that are pauses are not in the loss", counted == 0, numbers
  )


def _check_shift(batch: Batch, rules: sequences.Rules) -> Check:
  wrong, compared = 0, 0
  for example in _all_examples(batch, rules):
    free = ~_hints(example, rules)[:-1]
    arrays = example.arrays
    wrong += int(
      ((arrays["tokens"][1:] != arrays["targets"][:-1]) & free).sum()
    )
    compared += int(free.sum())
  name = "inputs are the targets shifted by one"
  return Check(name, wrong == 0, f"{compared - wrong:,} of {compared:,} do")


def _check_begins(batch: Batch, rules: sequences.Rules) -> Check:
  bos = rules.tokenizer.bos_id
  is_good = lambda example: example.arrays["tokens"][0] == bos
  name = "an example begins with BOS"
  return _each(name, f"with id {bos}", is_good, batch, rules)


def _check_segments(batch: Batch, rules: sequences.Rules) -> Check:
  good = 0
  for ids_T in batch["segment_ids"]:
    used_N = ids_T[: np.count_nonzero(ids_T)]
    steps_N = np.diff(used_N, prepend=0)
    good += bool((used_N > 0).all() and ((steps_N == 0) | (steps_N == 1)).all())
  size = len(batch["segment_ids"])
  name = "segment ids are 1, 2, ..., then padding"
  return Check(name, good == size, f"{good:,} of {size:,} rows")


def _check_positions(batch: Batch, rules: sequences.Rules) -> Check:
  def is_good(example: sequences.RowExample) -> bool:
    positions_N = example.arrays["positions"]
    if not rules.shares_positions:
      return np.array_equal(positions_N, np.arange(len(positions_N)))
    if isinstance(rules, sequences.FinetuningRules):
      filler = rules.sequences.filler(example.num_pauses)
      expected_N = filler.positions(example.num_prompt, len(positions_N))
      return np.array_equal(positions_N, expected_N)
    # A pause is an input whose target before it did not count.
    is_text_N = np.ones(len(positions_N), bool)
    is_text_N[1:] = example.arrays["loss_mask"][:-1]
    return np.array_equal(positions_N, np.cumsum(is_text_N) - 1)

  name = "positions start at 0 in each segment"
  name += " and count text tokens" * rules.shares_positions
  return _each(name, "do", is_good, batch, rules)


def _check_padding(batch: Batch, rules: sequences.Rules) -> Check:
  is_padding_BT = batch["segment_ids"] == 0
  counted = int((is_padding_BT & batch["loss_mask"]).sum())
  numbers = f"{counted:,} of {int(is_padding_BT.sum()):,} positions are"
  return Check("padding is not in the loss", counted == 0, numbers)


def _check_pauses(batch: Batch, rules: sequences.FinetuningRules) -> Check:

  def is_good(example: sequences.RowExample) -> bool:
    filler = rules.sequences.filler(example.num_pauses)
    tokens_N = example.arrays["tokens"]
    n = min(example.num_prompt, len(tokens_N))
    period = filler.behind.period
    prefix, answer = filler.text(tokens_N[:n]), tokens_N[n::period]
    expected = filler.prompt(prefix), filler.behind.spread(answer)
    is_pause_N = rules.tokenizer.is_pause
    num_pauses = sum(int(is_pause_N(x).sum()) for x in (prefix, answer))
    return num_pauses == 0 and np.array_equal(
      tokens_N[1:], np.concatenate(expected)[1:]
    )

  made = rules.sequences
  numbers = made.numbers if rules.drawn else made.numbers[-1:]
  if rules.drawn and made.curriculum:
    numbers = [drawn.num_pauses for row in rules.drawn for drawn in row]
  name = f"M = {_numbers_text(numbers)} pauses {made.format.pauses.place}"
  return _each(name, "examples", is_good, batch, rules)


def _numbers_text(numbers: Sequence[int]) -> str:
  """Returns "3", or "0 to 10" for several numbers."""
  first, last = min(numbers), max(numbers)
  return str(first) if first == last else f"{first} to {last}"


def _check_prefix(batch: Batch, rules: sequences.FinetuningRules) -> Check:
  def is_good(example: sequences.RowExample) -> bool:
    inside_N, n = example.arrays["in_prefix"], example.num_prompt
    expected_N = np.zeros(max(len(inside_N), n), bool)
    pauses = rules.sequences.filler(example.num_pauses).pauses
    expected_N[:n] = pauses.prefix_mask(n)
    return np.array_equal(inside_N, expected_N)

  is_inside = rules.sequences.format.pauses.in_prefix
  which = "with" if is_inside else "without"
  name = f"in_prefix is BOS and prefix, {which} the pauses"
  return _each(name, "examples", is_good, batch, rules)


def _check_no_loss_on_prefix(
  batch: Batch, rules: sequences.FinetuningRules
) -> Check:
  def is_good(example: sequences.RowExample) -> bool:
    last = example.num_prompt - 1
    counted = np.flatnonzero(example.arrays["loss_mask"][: max(last, 0)])
    if not rules.hinted:
      return not len(counted)
    return np.array_equal(counted, np.arange(last - len(counted), last))

  hints = ", except hints" if rules.hinted else ""
  name = f"no loss on the prefix{hints}"
  return _each(name, "examples", is_good, batch, rules)


def _check_first_target(
  batch: Batch, rules: sequences.FinetuningRules
) -> Check:
  def is_good(example: sequences.RowExample) -> bool:
    rest_N = example.arrays["loss_mask"][max(example.num_prompt - 1, 0) :]
    counts_N = np.arange(len(rest_N)) % period == 0
    return len(rest_N) > 0 and np.array_equal(rest_N, counts_N)

  period = rules.sequences.format.filler.behind.period
  name = "targets are in the loss from the last id of the prompt to EOS"
  name += ", the pauses after tokens are not" * (period > 1)
  return _each(name, "examples", is_good, batch, rules)


def _check_targets(batch: Batch, rules: sequences.FinetuningRules) -> Check:
  source = rules.sequences
  rows = source.examples.rows

  @functools.cache
  def known(stage: int) -> set[tuple[int, ...]]:
    left = rows
    if source.curriculum:
      count = source.curriculum.num_replaced
      left = [
        tasks.without_steps(row, count(stage, len(row.steps))) for row in rows
      ]
    return {tuple(target) for target in source.format.targets(left)}

  def is_good(example: sequences.RowExample) -> bool:
    targets_N = example.arrays["targets"][max(example.num_prompt - 1, 0) :]
    return tuple(targets_N[::period].tolist()) in known(example.stage)

  period = source.format.filler.behind.period
  name = "targets in the loss are the target of an example and EOS"
  name += ", without replaced steps" * bool(source.curriculum)
  return _each(name, "examples", is_good, batch, rules)


def _check_counted(batch: Batch, rules: sequences.FinetuningRules) -> Check:
  mask_BT = batch["loss_mask"]
  seen = int(np.take_along_axis(mask_BT, batch["counted"], axis=1).sum())
  total = int(mask_BT.sum())
  name = "`counted` lists every position whose target is in the loss"
  return Check(name, seen == total, f"{seen:,} of {total:,}")


def _check_labels(batch: Batch, rules: sequences.FinetuningRules) -> Check:
  rows = rules.sequences.examples.rows
  good = sum(
    0 <= e.label < len(e.options) and e.options[e.label] == e.target
    for e in rows
  )
  unpublished = all(e.label == -1 for e in rows)
  numbers = f"{good:,} of {len(rows):,} examples"
  if unpublished:
    numbers += ", this split has no published labels"
  name = "the label is one of the options, and the target"
  return Check(name, good == len(rows) or unpublished, numbers)


def _check_text_counts(
  batch: Batch, rules: sequences.PretrainingRules
) -> Check:
  is_real_BT = batch["segment_ids"] > 0
  is_text_BT = is_real_BT & ~rules.tokenizer.is_pause(batch["targets"])
  if rules.pauses.way.repeats_token and rules.pauses.has_pauses:
    # The target of a copy is the input.
    is_copy_BT = ~batch["loss_mask"] & (batch["targets"] == batch["tokens"])
    is_text_BT &= ~is_copy_BT
  counted = int((is_text_BT & batch["loss_mask"]).sum())
  total = int(is_text_BT.sum())
  name = "every target that is text is in the loss"
  return Check(name, counted == total, f"{counted:,} of {total:,}")


def _check_pause_rate(batch: Batch, rules: sequences.PretrainingRules) -> Check:
  """Compares with the mean and variance of the way of pausing."""
  is_full_B = (batch["segment_ids"] > 0).all(axis=1)
  is_pause_BT = rules.tokenizer.is_pause(batch["targets"])
  if not rules.pauses.uses_pause_token:
    is_pause_BT = ~batch["loss_mask"]
  num_pauses = int(is_pause_BT[is_full_B].sum())
  num_rows = int(is_full_B.sum())
  name = "the number of pauses among the targets"
  numbers = f"{num_pauses:,} in {num_rows} full rows"
  expected = rules.pauses.expected_pauses(rules.seq_len)
  if expected is None:
    return Check(name, True, f"{numbers}; the text determines it")
  mean, variance = num_rows * expected[0], num_rows * expected[1]
  bound = _SIGMAS * math.sqrt(variance)
  numbers += f", {mean:,.1f} +- {bound:.1f} expected"
  # If nothing is random, half a pause is rounding.
  return Check(name, abs(num_pauses - mean) <= max(bound, 0.5), numbers)


def _check_full(batch: Batch, rules: sequences.PretrainingRules) -> Check:
  num_real_B = (batch["segment_ids"] > 0).sum(axis=1)
  short = int(((num_real_B > 0) & (num_real_B < rules.seq_len)).sum())
  numbers = f"{short} of {len(num_real_B)} are short, {rules.max_short} allowed"
  return Check("segments are full", short <= rules.max_short, numbers)


def _check_text(batch: Batch, rules: sequences.PretrainingRules) -> Check:
  good, text = 0, ""
  for row, stored_T in enumerate(rules.text_BT):
    ids_N = batch["targets"][row][batch["loss_mask"][row]]
    stored_N = stored_T[stored_T != PADDING]
    good += np.array_equal(ids_N, stored_N[: len(ids_N)])
    text += rules.tokenizer.decode(ids_N.tolist())
  numbers = f"{good} of {len(rules.text_BT)} rows, {len(text):,} characters"
  name = "the targets in the loss are the start of the segment"
  return Check(name, good == len(rules.text_BT) and bool(text), numbers)


_ANY = (
  _check_shapes,
  _check_ids,
  _check_segments,
  _check_positions,
  _check_padding,
  _check_begins,
  _check_shift,
  _check_pauses_never_count,
)
_FINETUNING = (
  _check_pauses,
  _check_prefix,
  _check_no_loss_on_prefix,
  _check_first_target,
  _check_targets,
  _check_counted,
)
_PRETRAINING = (
  _check_text_counts,
  _check_pause_rate,
  _check_full,
  _check_text,
)
