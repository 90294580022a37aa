"""The contents of a batch: its examples, its statistics, every id as text.

Takes numpy batches (`data/batch.py`) and their rules; `checks.py` checks the
rules. No JAX and no TensorFlow.

B rows, T positions of a row, N positions of one example.
"""

import abc
import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from pausejax.data import tokenizers
from pausejax.data.batch import Batch
from pausejax.data.finetuning.sequences import Drawn, TaskSequences
from pausejax.pause import PauseSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules(abc.ABC):
  """The rules of any batch.

  Attributes:
    seq_len: T.
    tokenizer: the vocabulary, and the ids of BOS, EOS and `<pause>`.
  """

  seq_len: int
  tokenizer: tokenizers.PauseTokenizer

  @property
  @abc.abstractmethod
  def shares_positions(self) -> bool:
    """Whether pauses have the position of the token before them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainingRules(Rules):
  """The rules of pretraining batches.

  Attributes:
    text_BT: the segments as stored; short ones are filled with
      `batch.PADDING`.
    max_short: number of rows that may be short: one per epoch, at the end of
      the text.
    pauses: the pauses of the text.
  """

  text_BT: np.ndarray
  max_short: int
  pauses: PauseSpec

  @property
  def shares_positions(self) -> bool:
    """Whether pauses have the position of the token before them."""
    return self.pauses.shares_positions


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuningRules(Rules):
  """The rules of finetuning batches.

  Attributes:
    sequences: the sequences of the split, with their targets and pauses.
    drawn: what was drawn for each example of each row; empty if all have the
      largest M and the last stage.
  """

  sequences: TaskSequences
  drawn: Sequence[Sequence[Drawn]] = ()

  def condition(self, row: int, example: int) -> tuple[int, int]:
    """Returns M and the stage of an example of a row."""
    if self.drawn:
      drawn = self.drawn[row][example]
      return drawn.num_pauses, drawn.stage
    made = self.sequences
    return made.format.pauses.num_pauses, made.last_stage

  @property
  def shares_positions(self) -> bool:
    """Whether pauses after tokens have the position of their token."""
    return self.sequences.format.filler.behind.share_positions

  @functools.cached_property
  def hinted(self) -> bool:
    """Whether some examples have hints as targets before the answer."""
    return any(row.hint_ids for row in self.sequences.rows)


@dataclasses.dataclass(frozen=True)
class RowExample:
  """One example of a row; arrays [N] as in the batch, by their names.

  Attributes:
    start: its first position in the row.
    arrays: name -> its part of that array.
    num_pauses: M; 0 in pretraining.
    num_prompt: number of ids up to the one that predicts the first target; 0 in
      pretraining.
    stage: of a curriculum; 0 without one.
  """

  start: int
  arrays: Batch
  num_pauses: int
  num_prompt: int
  stage: int


def row_examples(batch: Batch, rules: Rules, row: int) -> list[RowExample]:
  """Returns the examples of a row; in pretraining, its one segment."""
  result = []
  ids_T = batch["segment_ids"][row]
  starts = np.flatnonzero(np.diff(ids_T, prepend=0))
  for start, end in zip(starts, [*starts[1:], len(ids_T)], strict=True):
    if ids_T[start] > 0:
      arrays = {
        name: x_BT[row, start:end]
        for name, x_BT in batch.items()
        if name != "counted"
      }
      m, stage, num_prompt = 0, 0, 0
      if isinstance(rules, FinetuningRules):
        m, stage = rules.condition(row, len(result))
        pauses = rules.sequences.filler(m).pauses
        num_prompt = pauses.num_prompt(arrays["in_prefix"])
      result.append(RowExample(int(start), arrays, m, num_prompt, stage))
  return result


def statistics(batch: Batch, rules: Rules) -> dict[str, float]:
  """Returns counts of a batch, and fractions of its positions."""
  is_real_BT = batch["segment_ids"] > 0
  is_pause_BT = is_real_BT & rules.tokenizer.is_pause(batch["tokens"])
  num_real = int(is_real_BT.sum())
  return {
    "rows": len(is_real_BT),
    "positions": is_real_BT.size,
    "examples": int(batch["segment_ids"].max(axis=1).sum()),
    "real_fraction": num_real / is_real_BT.size,
    "padding": is_real_BT.size - num_real,
    "pauses": int(is_pause_BT.sum()),
    "pause_fraction": int(is_pause_BT.sum()) / max(num_real, 1),
    "counted_targets": int(batch["loss_mask"].sum()),
    "counted_fraction": int(batch["loss_mask"].sum()) / max(num_real, 1),
  }


def percentiles(lengths: Sequence[int]) -> dict[str, int]:
  """Returns median, p90, p99 and maximum of some lengths."""
  values = np.percentile(lengths, [50, 90, 99, 100], method="higher")
  names = ("p50", "p90", "p99", "max")
  return {n: int(x) for n, x in zip(names, values, strict=True)}


def rows(batch: Batch, rules: Rules, count: int) -> list[dict]:
  """Returns the first examples as plain data, row by row.

  Args:
    batch: plain arrays.
    rules: the rules of the batch.
    count: examples to return; the last row may have more than are shown.
  """
  spell = Detokenizer(rules.tokenizer)
  result = []
  for row in range(len(batch["tokens"])):
    here = row_examples(batch, rules, row)
    shown, count = here[:count], count - len(here)
    if not shown:
      break
    used = sum(len(e.arrays["tokens"]) for e in here)
    result.append(
      {
        "row": row,
        "num_examples": len(here),
        "examples": [_as_data(example, spell) for example in shown],
        "padding": rules.seq_len - used,
      }
    )
    if count <= 0:
      break
  return result


class Detokenizer:
  """Decodes ids one by one into visible text."""

  def __init__(self, tokenizer: tokenizers.PauseTokenizer):
    self._tokenizer = tokenizer
    self._names = {
      tokenizer.pad_id: "<pad>",
      tokenizer.bos_id: "<bos>",
      tokenizer.eos_id: "<eos>",
      **dict.fromkeys(tokenizer.pause_ids, "[pause]"),
    }
    self._known: dict[int, str] = {}

  def __call__(self, id_: int) -> str:
    """Returns the text of an id, without white space."""
    if id_ not in self._known:
      self._known[id_] = self._names.get(id_) or self._spell(id_)
    return self._known[id_]

  def _spell(self, id_: int) -> str:
    text = self._tokenizer.id_text(id_)
    if not text or "\N{REPLACEMENT CHARACTER}" in text:
      return f"<{id_}>"
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
  """Returns a printable form of a character."""
  if character == " ":
    return "\N{OPEN BOX}"
  if character.isprintable():
    return character
  return character.encode("unicode_escape").decode()


def _as_data(example: RowExample, spell: Detokenizer) -> dict:
  arrays = example.arrays
  return {
    "start": example.start,
    "num_prompt": example.num_prompt,
    "text": [spell(int(i)) for i in arrays["tokens"]],
    "target_text": [spell(int(i)) for i in arrays["targets"]],
    **{name: x_N.tolist() for name, x_N in arrays.items()},
  }


def cells(example: dict) -> list[tuple[int, str, str]]:
  """Returns (position, token, mark) of one of the examples of `rows`.

  The mark is "~" inside the prefix and "^" where the target is in the loss,
  followed by the target where that is not the next token.
  """
  result = []
  following = [*example["tokens"][1:], None]
  inside = example.get("in_prefix", [False] * len(following))
  for i, text in enumerate(example["text"]):
    mark = "~" if inside[i] else ""
    if example["loss_mask"][i]:
      is_read = example["targets"][i] == following[i]
      mark += "^" if is_read else "^" + example["target_text"][i]
    result.append((example["positions"][i], text, mark))
  return result


def lengths(sequences: TaskSequences) -> dict[str, dict[str, int]]:
  """Returns percentiles of the lengths of prompts, targets and examples."""
  num_prompt = [row.num_prompt for row in sequences.rows]
  num_ids = [len(row.ids_T) for row in sequences.rows]
  num_target = [n - p for n, p in zip(num_ids, num_prompt, strict=True)]
  return {
    "prompt": percentiles(num_prompt),
    "target": percentiles(num_target),
    "example": percentiles(num_ids),
  }


def statistics_lines(report: dict) -> list[str]:
  """Returns the statistics of a batch as lines of text.

  Args:
    report: the `statistics` of a batch; for a downstream task also `lengths`,
      the truncated prefixes, and a summary of `all` rows of the split.
  """
  s = report["statistics"]
  lines = [
    f"positions: {s['positions']:,} in {s['rows']:,} rows, "
    f"{s['real_fraction']:.1%} used by {s['examples']:,} examples, "
    f"{s['padding']:,} of padding",
    f"pauses among the inputs: {s['pauses']:,}, {s['pause_fraction']:.2%} of "
    "used positions",
    f"targets in the loss: {s['counted_targets']:,}, "
    f"{s['counted_fraction']:.2%} of used positions",
  ]
  for name, sizes in report.get("lengths", {}).items():
    numbers = ", ".join(f"{n} {x:,}" for n, x in sizes.items())
    lines.append(f"ids of each {name}: {numbers}")
  if "num_cut" in report:
    lines.append(
      f"truncated: {report['num_cut']:,} prefixes, "
      f"{report['num_cut_tokens']:,} tokens removed on the left"
    )
  if "all" in report:
    lines.append(f"an epoch: {report['all']}")
  return lines
