"""The checks of `pausejax inspect`: right batches pass, and each can fail."""

import dataclasses

import numpy as np
import pytest

from pausejax import pause, tasks
from pausejax.config import FinetuneConfig, default
from pausejax.config.batch_sizes import batch_sizes
from pausejax.data import tokenizers
from pausejax.data.batch import PADDING, language_model_batch
from pausejax.data.finetuning import prompts
from pausejax.data.finetuning.examples import Examples
from pausejax.data.finetuning.sequences import TaskSequences
from pausejax.data.finetuning.source import FinetuneSource
from pausejax.inspection import checks, sequences
from pausejax.tasks import records

BYTES = tokenizers.load_tokenizer("bytes")
PAUSE = BYTES.pause_id
OPTIONS = ("yes", "no", "perhaps")


@pytest.fixture
def finetuning(data_config):
  """Makes (batch, rules) of a small task of options."""

  def make(own_hints=(), **changes):
    fields = default().finetune.to_dict() | {"num_pauses": 4} | changes
    config = FinetuneConfig(**fields)
    task = tasks.Task(
      name="fake",
      kind="options",
      source=records.Generated(name="fake", make={}),
      examples=lambda record: [record],
    )
    rows = [
      tasks.Example(
        id=str(i),
        prefix=f"question {i}",
        target=OPTIONS[i % 3],
        options=OPTIONS,
        label=i % 3,
        hints=own_hints,
      )
      for i in range(20)
    ]
    format_ = prompts.Format(task, BYTES, config.pauses(task.num_pauses))
    loaded = Examples("train", rows, {}, "digest")
    made = TaskSequences(loaded, format_, config, 64)
    source = FinetuneSource(
      [made],
      [1.0],
      data=data_config(seq_len=64),
      packing=config.packing,
      tokenizer=BYTES,
      sizes=batch_sizes(4),
      seed=0,
    )
    rules = sequences.FinetuningRules(
      seq_len=64, tokenizer=BYTES, sequences=made
    )
    return source.training_batch(0), rules

  return make


def pretraining(
  mode="insert_trim", num_rows=8, is_short=False, shares_positions=False
):
  """A pretraining batch and its rules."""
  rng = np.random.default_rng(0)
  pauses = pause.PauseSpec(
    fraction=0.2, mode=mode, shares_positions=shares_positions
  )
  num_text = pauses.num_text_tokens(64)
  text_BT = rng.integers(100, 120, (num_rows, num_text))
  if is_short:
    text_BT[-1, 40:] = PADDING
  targets_BT = pauses.insert(
    text_BT,
    seq_len=64,
    pause_id=PAUSE,
    seed=0,
    rows_B=np.arange(num_rows),
    ends_BN=text_BT % 7 == 0 if pauses.unit else None,
  )
  batch = language_model_batch(
    targets_BT, pauses=pauses, bos_id=0, pad_id=0, pause_id=PAUSE
  )
  rules = sequences.PretrainingRules(
    seq_len=64,
    tokenizer=BYTES,
    text_BT=text_BT,
    max_short=int(is_short),
    pauses=pauses,
  )
  return batch, rules


def bad(batch, rules) -> set[str]:
  """Names of the checks that fail."""
  return {c.name for c in checks.check_batch(batch, rules) if not c.is_ok}


def changed(batch, name, place, value):
  """A copy of the batch with other values at a place of one array."""
  copy = {n: np.array(x) for n, x in batch.items()}
  copy[name][place] = value
  return copy


@pytest.mark.parametrize("hints", [(), ("+", "-")])
@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"num_pauses": 0},
    {"pause_position": "prepend"},
    {"pause_position": "prepend", "pauses_in_prefix": True},
    {"pauses_in_prefix": True},
    {"filler": "."},
    {"filler": "ab "},
    {"filler": "<count>"},
    {"filler": "<question>", "pause_position": "both"},
    {"pause_position": "both", "pauses_in_prefix": True},
    {"packing": False},
    {"hints": False},
  ],
)
def test_finetuning_batches_pass_every_check(finetuning, changes, hints):
  assert bad(*finetuning(hints, **changes)) == set()


@pytest.mark.parametrize("is_short", [True, False])
@pytest.mark.parametrize("shares_positions", [True, False])
@pytest.mark.parametrize("mode", pause.MODES)
def test_pretraining_batches_pass_every_check(mode, is_short, shares_positions):
  batch, rules = pretraining(
    mode, is_short=is_short, shares_positions=shares_positions
  )
  assert bad(batch, rules) == set()


def padded(batch):
  """Row and first position of some padding."""
  b, t = np.argwhere(batch["segment_ids"] == 0)[0]
  return int(b), int(t)


# Check -> (array, place in the batch, new value). The first example of row 0
# is BOS, a prefix of 10 or 11, four pauses, a target.
def first_pause(batch):
  return 0, int(np.flatnonzero(batch["tokens"][0] == PAUSE)[0])


def last_pause(batch):
  row, start = first_pause(batch)
  return row, start + 3


ANY = {
  "ids are inside the vocabulary": ("tokens", (0, 5), PAUSE + 1),
  "segment ids are 1, 2, ..., then padding": ("segment_ids", (0, 5), 3),
  "positions start at 0 in each segment": ("positions", (0, 5), 9),
  "an example begins with BOS": ("tokens", (0, 0), 5),
  "inputs are the targets shifted by one": ("targets", (0, 3), 77),
}
FINETUNING = ANY | {
  "padding is not in the loss": ("loss_mask", padded, True),
  "targets that are pauses are not in the loss": (
    "loss_mask",
    lambda batch: (0, first_pause(batch)[1] - 1),
    True,
  ),
  "M = 4 pauses after the prefix": ("tokens", first_pause, 77),
  "in_prefix is BOS and prefix, without the pauses": (
    "in_prefix",
    (0, 2),
    False,
  ),
  "no loss on the prefix": ("loss_mask", (0, 2), True),
  "targets are in the loss from the last id of the prompt to EOS": (
    "loss_mask",
    last_pause,
    False,
  ),
  "targets in the loss are the target of an example and EOS": (
    "targets",
    last_pause,
    77,
  ),
  "`counted` lists every position whose target is in the loss": (
    "counted",
    (0, 0),
    0,
  ),
}
PRETRAINING = ANY | {
  "padding is not in the loss": ("loss_mask", padded, True),
  "targets that are pauses are not in the loss": (
    "loss_mask",
    lambda batch: tuple(np.argwhere(batch["targets"] == PAUSE)[0]),
    True,
  ),
  "every target that is text is in the loss": (
    "loss_mask",
    lambda batch: tuple(np.argwhere(batch["loss_mask"])[0]),
    False,
  ),
  "the number of pauses among the targets": (
    "targets",
    (0, slice(0, 60)),
    PAUSE,
  ),
  "segments are full": ("segment_ids", (0, slice(60, 64)), 0),
  "the targets in the loss are the start of the segment": (
    "targets",
    lambda batch: tuple(np.argwhere(batch["loss_mask"])[0]),
    77,
  ),
}


@pytest.mark.parametrize("name", FINETUNING)
def test_each_check_of_finetuning_can_fail(finetuning, name):
  batch, rules = finetuning()
  array, place, value = FINETUNING[name]
  place = place(batch) if callable(place) else place
  assert name in bad(changed(batch, array, place, value), rules)


@pytest.mark.parametrize("name", PRETRAINING)
def test_each_check_of_pretraining_can_fail(name):
  batch, rules = pretraining(is_short=True)
  array, place, value = PRETRAINING[name]
  place = place(batch) if callable(place) else place
  assert name in bad(changed(batch, array, place, value), rules)


def test_every_check_fails_on_some_batch(finetuning):
  other = {
    "rows are seq_len long",
    "the label is one of the options, and the target",
  }
  for given, mutations in (
    (finetuning(), FINETUNING),
    (pretraining(), PRETRAINING),
  ):
    assert {c.name for c in checks.check_batch(*given)} <= {*mutations} | other


def test_rows_of_another_length_are_bad(finetuning):
  batch, rules = finetuning()
  short = {name: x_BT[:, :-1] for name, x_BT in batch.items()}
  assert bad(short, rules) == {"rows are seq_len long"}
  assert bad(batch | {"positions": batch["positions"][:, :-1]}, rules)


def test_a_label_that_is_no_option_is_bad(finetuning):
  batch, rules = finetuning()
  name = "the label is one of the options, and the target"
  rows = rules.sequences.examples.rows
  for changes in ({"label": 3}, {"label": -1}, {"target": "maybe"}):
    before, rows[0] = rows[0], dataclasses.replace(rows[0], **changes)
    assert name in bad(batch, rules)
    rows[0] = before
  # A split that publishes no labels is none to complain about.
  rows[:] = [dataclasses.replace(row, label=-1) for row in rows]
  assert bad(batch, rules) == set()


def test_hints_must_end_where_the_answer_begins(finetuning):
  batch, rules = finetuning(("+", "-"))
  name = "no loss on the prefix, except hints"
  assert name in bad(changed(batch, "loss_mask", (0, 2), True), rules)
