"""Examples of a task, and the prompts with pauses or fillers made of them."""

import dataclasses

import numpy as np
import pytest

from pausejax import errors, prompt_pauses, tasks
from pausejax.data.finetuning import examples, prompts
from pausejax.prompt_pauses import PromptPauses
from pausejax.tasks import records
from tests.finetuning import (
  BOS,
  BYTES,
  EOS,
  PAUSE,
  config,
  encoded,
  questions,
  task,
)


@pytest.mark.parametrize("filler", ["", "."])
@pytest.mark.parametrize("position", ["append", "prepend"])
@pytest.mark.parametrize("m", [0, 1, 7])
def test_a_sequence_is_bos_prefix_and_pauses_then_the_target(
  m, position, filler
):
  example = questions(1)[0]
  row = encoded(
    [example], num_pauses=m, pause_position=position, filler=filler
  ).rows[0]
  prefix, target = BYTES.encode([example.prefix, " " + example.target])
  pauses = [PAUSE if not filler else BYTES.encode(["."])[0][0]] * m
  body = prefix + pauses if position == "append" else pauses + prefix
  assert row.ids_T.tolist() == [BOS, *body, *target, EOS]
  assert row.num_prompt == 1 + len(body)


@pytest.mark.parametrize("position", ["append", "prepend"])
def test_a_sequence_without_its_pauses_is_the_standard_one(position):
  rows = questions(20)
  standard = encoded(rows, num_pauses=0).rows
  paused = encoded(rows, num_pauses=5, pause_position=position).rows
  for a, b in zip(standard, paused, strict=True):
    np.testing.assert_array_equal(a.ids_T, b.ids_T[b.ids_T != PAUSE])
    assert b.num_prompt - a.num_prompt == 5


def test_the_number_of_pauses_is_the_tasks_own_unless_given():
  own, given = task(num_pauses=4), config(num_pauses=2)
  assert config().pauses(own.num_pauses).num_pauses == 4
  assert given.pauses(own.num_pauses).num_pauses == 2


@pytest.mark.parametrize(
  ("hints", "message"),
  [(("ab",), "every hint must be one"), (("a",) * 9, "9 hints, but only")],
)
def test_hints_that_cannot_be_targets_are_refused(hints, message):
  example = dataclasses.replace(questions(1)[0], prefix="q", hints=hints)
  with pytest.raises(errors.UserError, match=message):
    encoded([example], num_pauses=3)


@pytest.mark.parametrize("position", ["append", "prepend"])
def test_a_long_prefix_is_truncated_on_the_left(position):
  long = tasks.Example(
    id="long", prefix="".join(map(chr, range(40, 90))), target="yes"
  )
  made = encoded([long, questions(1)[0]], num_pauses=3, pause_position=position)
  cut = made.rows[0]
  assert cut.num_positions == 32
  target = [*BYTES.encode([" yes"])[0], EOS]
  # 33 ids, EOS among them: 24 are left for the prefix.
  kept = BYTES.encode([long.prefix])[0][-24:]
  body = kept + [PAUSE] * 3 if position == "append" else [PAUSE] * 3 + kept
  assert cut.ids_T.tolist() == [BOS, *body, *target]
  assert (made.prompts.num_cut, made.prompts.num_cut_tokens) == (1, 26)
  assert "1 prefixes lost 26 tokens" in made.summary()


def test_an_example_is_truncated_only_if_it_exceeds_the_length():
  example = tasks.Example(id="e", prefix="", target="y" * 20)
  assert encoded([example], num_pauses=10).rows[0].num_positions == 32
  with pytest.raises(
    errors.UsageError, match=r"example 'e' .* 1 positions too long"
  ):
    encoded([example], num_pauses=11)


@pytest.mark.parametrize(
  ("filler", "m", "expected"),
  [
    ("ab", 5, "ababa"),
    ("ab", 1, "a"),
    (" Wait.", 12, " Wait. Wait."),
    ("<count>", 9, " 1 2 3 4 "),
    ("<count>", 24, " 1 2 3 4 5 6 7 8 9 10 11"),
    ("<question>", 5, "Why?W"),
    ("<question>", 2, "Wh"),
    ("<question>", 0, ""),
  ],
)
@pytest.mark.parametrize("position", prompt_pauses.POSITIONS)
def test_a_filler_fills_exactly_the_positions_of_the_pauses(
  filler, m, expected, position
):
  example = tasks.Example(id="e", prefix="Why?", target="y", references=("y",))
  changes = {"num_pauses": m, "pause_position": position}
  row = encoded([example], seq_len=64, filler=filler, **changes).rows[0]
  is_pause_N = config(**changes).pauses(0).mask(row.num_prompt)
  prompt_N = row.ids_T[: row.num_prompt]
  assert BYTES.decode(prompt_N[is_pause_N]) == expected
  assert BYTES.decode(prompt_N[~is_pause_N][1:]) == "Why?"


def test_a_filler_repeats_the_prefix_that_is_left():
  long = tasks.Example(id="e", prefix="x" * 20 + "Why?", target="y")
  row = encoded([long], seq_len=12, num_pauses=5, filler="<question>").rows[0]
  assert BYTES.decode(row.ids_T[1:10]) == "Why?Why?W"
  with pytest.raises(errors.UsageError, match="an empty prefix"):
    encoded([long], seq_len=8, num_pauses=5, filler="<question>")


def test_an_unknown_name_of_a_filler_is_refused():
  with pytest.raises(errors.UsageError, match="did you mean '<count>'"):
    encoded(questions(1), filler="<counts>")


def test_an_answer_ends_at_eos_or_at_the_stop_text():
  none = PromptPauses(num_pauses=0)
  format_ = prompts.Format(task(stop="\n"), BYTES, none)
  ids = BYTES.encode([" a b\nc"])[0]
  assert format_.answer(ids) == "a b"
  assert format_.answer([*ids[:2], EOS, *ids[2:]]) == "a"


def test_held_out_examples_are_not_trained_on(data_config):
  source = records.Generated(
    name="made", make={"train": lambda: iter(questions(50))}
  )
  made = task(source=source)
  for every in (2, 7):
    data = data_config(holdout_every=every)
    train, held_out = (
      examples.read_split(made, split, data)
      for split in ("train", "validation")
    )
    assert held_out.rows == questions(50)[::every]
    assert len(train.rows) + len(held_out.rows) == 50
    assert not {r.id for r in train.rows} & {r.id for r in held_out.rows}
    assert train.sha256 != held_out.sha256


def test_the_turns_of_a_conversation_stay_in_one_split(data_config):
  talks = [questions(12)[i : i + 3] for i in range(0, 12, 3)]
  source = records.Generated(name="made", make={"train": lambda: iter(talks)})
  made = task(source=source, examples=iter)
  held_out = examples.read_split(
    made, "validation", data_config(holdout_every=2)
  )
  ids = [row.id for row in held_out.rows]
  assert ids == [row.id for row in [*talks[0], *talks[2]]]


def test_the_digest_of_a_split_depends_on_the_held_out_examples(data_config):
  source = records.Generated(
    name="made", make={"train": lambda: iter(questions(10))}
  )
  # Two of ten either way: example 6, or example 7.
  digests = {
    examples.read_split(
      task(source=source), "train", data_config(holdout_every=n)
    ).sha256
    for n in (6, 7)
  }
  assert len(digests) == 2


def test_a_split_that_holding_out_leaves_empty_is_refused(data_config):
  source = records.Generated(
    name="made", make={"train": lambda: iter(questions(1))}
  )
  with pytest.raises(errors.UserError, match="1 records are too few"):
    examples.read_split(task(source=source), "train", data_config())
