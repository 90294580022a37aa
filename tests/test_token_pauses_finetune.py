"""Finetuning with pauses after every token of prefix and target."""

import jax
import numpy as np
import pytest

from pausejax import errors, tasks
from pausejax.config import default, train_config
from pausejax.config.batch_sizes import batch_sizes
from pausejax.data.finetuning import examples, prompts
from pausejax.data.finetuning.sequences import TaskSequences
from pausejax.data.finetuning.source import FinetuneSource
from pausejax.inference import batches, score
from pausejax.inspection import checks, sequences
from pausejax.prompt_pauses import TokenPauses
from tests import finetuning, models
from tests.finetuning import BOS, BYTES, EOS, LETTERS, PAUSE, questions
from tests.test_sharding import one_device_mesh

SEQ_LEN = 64
COPY = TokenPauses.COPY
WAYS = {
  "pauses": TokenPauses((PAUSE, PAUSE)),
  "shared": TokenPauses((PAUSE, PAUSE), share_positions=True),
  "copies": TokenPauses((COPY,), share_positions=True),
}
ways = pytest.mark.parametrize("behind", WAYS.values(), ids=WAYS.keys())


def encoded(behind, rows, tokenizer=BYTES, seq_len=SEQ_LEN, **changes):
  """The sequences of a training split, as `data.pipeline` makes them."""
  task, config = finetuning.task(), finetuning.config(**changes)
  pauses = config.trained_pauses(task.num_pauses)
  return TaskSequences(
    examples.Examples("train", rows, {}, "digest"),
    prompts.Format(task, tokenizer, pauses, behind),
    config,
    seq_len,
    config.train_numbers,
  )


@pytest.fixture
def make_source(data_config):
  def make(made, packing=True, tokenizer=BYTES):
    return FinetuneSource(
      [made],
      [1.0],
      data=data_config(seq_len=SEQ_LEN),
      packing=packing,
      tokenizer=tokenizer,
      sizes=batch_sizes(4),
      seed=0,
    )

  return make


def law(example, num_pauses, behind):
  """The (id, position, next id, whether that counts) of an example's inputs."""
  spread = lambda text: [
    [i, *(i if p == COPY else p for p in behind.ids)]
    for i in BYTES.encode([text])[0]
  ]
  ids, positions, answer_begins = [BOS], [0], 0
  for part in (example.prefix, " " + example.target):
    for token, *pauses in spread(part):
      ids += [token, *pauses]
      last = positions[-1] + 1
      steps = 0 if behind.share_positions else 1
      positions += [last + steps * j for j in range(1 + len(pauses))]
    if part == example.prefix:
      positions += range(positions[-1] + 1, positions[-1] + 1 + num_pauses)
      ids += [PAUSE] * num_pauses
      answer_begins = len(ids)
  following = [*ids[1:], EOS]
  counts = [False] * len(ids)
  for place in range(answer_begins - 1, len(ids), 1 + len(behind.ids)):
    counts[place] = True
  return list(zip(ids, positions, following, counts, strict=True))


def rows_of(batch):
  """The same, of every example of a batch."""
  names = ("tokens", "positions", "targets", "loss_mask")
  found = []
  for b, ids_T in enumerate(batch["segment_ids"]):
    for number in range(1, ids_T.max() + 1):
      here = ids_T == number
      columns = [batch[n][b, here].tolist() for n in names]
      found.append(list(zip(*columns, strict=True)))
  return found


@ways
@pytest.mark.parametrize("numbers", ["", "0-3"])
def test_batches_follow_the_law(behind, numbers, make_source):
  rows = questions(12)
  made = encoded(behind, rows, num_pauses=3, train_num_pauses=numbers)
  source = make_source(made)
  expected = {str(law(row, m, behind)) for row in rows for m in made.numbers}
  found = [
    row for step in range(4) for row in rows_of(source.training_batch(step))
  ]
  assert len(found) > 12
  assert {str(row) for row in found} <= expected


@ways
@pytest.mark.parametrize("position", ["append", "prepend", "both"])
def test_a_batch_passes_every_check_and_one_pause_less_does_not(
  behind,
  position,
  make_source,
):
  made = encoded(behind, questions(12), pause_position=position)
  source = make_source(made)
  rules = sequences.FinetuningRules(
    seq_len=SEQ_LEN, tokenizer=BYTES, sequences=made, drawn=source.drawn(0)
  )
  batch = source.training_batch(0)
  assert all(check.is_ok for check in checks.check_batch(batch, rules))
  last = np.count_nonzero(batch["segment_ids"][0] == 1) - 1
  wrong_BT = batch["tokens"].copy()
  wrong_BT[0, last] -= 1  # A pause behind the last token.
  found = checks.check_batch({**batch, "tokens": wrong_BT}, rules)
  assert any("pauses" in c.name and not c.is_ok for c in found), found


@ways
def test_what_is_trained_is_what_an_evaluation_scores(behind, make_source):
  behind = TokenPauses(
    tuple(COPY if i == COPY else LETTERS.pause_id for i in behind.ids),
    behind.share_positions,
  )
  rows = questions(6)
  made = encoded(behind, rows, LETTERS, num_pauses=2)
  source = make_source(made, packing=False, tokenizer=LETTERS)
  model = models.model(position="rope", max_seq_len=SEQ_LEN)
  expected = []
  for batch in source.evaluation_batches(2):
    nats_BTV = np.asarray(jax.nn.log_softmax(models.logits(model, batch)))
    taken_BT = np.take_along_axis(nats_BTV, batch["targets"][..., None], 2)
    for b in range(len(nats_BTV)):
      is_text_T = batch["loss_mask"][b] & (batch["targets"][b] != EOS)
      expected.append(taken_BT[b, is_text_T, 0].sum())
  format_ = made.format
  prefixes = LETTERS.encode([row.prefix for row in rows])
  ids = [format_.filler.prompt(prefix) for prefix in prefixes]
  options = [[o] for o in format_.continuations([row.target for row in rows])]
  with jax.set_mesh(one_device_mesh()):
    arrays = batches.batch_of_prompts(
      ids,
      [format_.pauses.prefix_mask(len(row)) for row in ids],
      [format_.filler.moves(len(row)) for row in ids],
      batch_size=8,
      pad_id=LETTERS.pad_id,
    )
    found_BO, _ = score.score_options(
      model,
      **arrays,
      **batches.batch_of_options(options, batch_size=8, num_options=1),
      pause_id=LETTERS.pause_id,
      behind=behind,
    )
  # The last rows of both are padding.
  pairs = found_BO[: len(rows), 0], expected[: len(rows)]
  np.testing.assert_allclose(*pairs, rtol=2e-5)


def test_a_long_prefix_loses_whole_tokens_with_their_pauses():
  behind = WAYS["pauses"]
  made = encoded(behind, questions(20), seq_len=40, num_pauses=2)
  assert made.prompts.num_cut > 0
  for i, row in enumerate(made.rows):
    assert row.num_positions == made.num_positions(i, 2) <= 40
    text_N = made.format.filler.text(row.ids_T[: row.num_prompt])
    assert not BYTES.is_pause(text_N).any()
    again = made.format.filler.prompt(text_N)
    assert again.tolist() == row.ids_T[: row.num_prompt].tolist()


@pytest.mark.parametrize(
  ("num_pauses", "parts"),
  [
    (
      0,
      ["BOS and the answer with 2 pauses after every token are 14 positions"],
    ),
    (3, ["BOS, 3 pauses and the answer with 2 pauses", "use fewer pauses"]),
  ],
)
def test_the_message_on_what_does_not_fit_names_what_takes_the_space(
  num_pauses, parts
):
  example = tasks.Example(id="e", prefix="", target="y" * 10)
  with pytest.raises(errors.UsageError) as found:
    encoded(WAYS["pauses"], [example], seq_len=20, num_pauses=num_pauses)
  said = str(found.value)
  for part in [*parts, "finetune.pauses_behind_tokens=false"]:
    assert part in said
  assert ("use fewer pauses" in said) == bool(num_pauses)


def test_they_are_named_by_number_and_kind():
  names = [
    str(TokenPauses(ids))
    for ids in ((PAUSE,), (PAUSE, PAUSE), (COPY,), (COPY, COPY))
  ]
  kinds = ["1 pause", "2 pauses", "1 copy", "2 copies"]
  assert names == [f"{kind} after every token" for kind in kinds]


def test_a_config_decides_whether_a_finetuning_has_them():
  tree = default()
  tree.data.update(pause_mode="every_token", pause_run_length=2.0)
  assert train_config(tree.to_dict()).behind_tokens(7).ids == (7, 7)
  tree.finetune.pauses_behind_tokens = False
  assert train_config(tree.to_dict()).behind_tokens(7) == TokenPauses()
