"""Worked steps of a target that pauses replace, stage by stage."""

import dataclasses
import json

import numpy as np
import pytest

import pausejax
from pausejax import cli, errors, tasks
from pausejax.config.batch_sizes import batch_sizes
from pausejax.curriculum import Curriculum
from pausejax.data import pipeline
from pausejax.data.finetuning import encoded, examples, prompts
from pausejax.data.finetuning.sequences import TaskSequences
from pausejax.data.finetuning.source import FinetuneSource
from pausejax.inspection import checks, sequences
from pausejax.tasks import gsm8k
from tests.finetuning import (
  BOS,
  BYTES,
  EOS,
  PAUSE,
  config,
  questions,
  task,
  unpacked,
)
from tests.test_continued import digests

STEPS, PER_STEP = 2, 3  # S and c, so that M = 6.
CHOSEN = dict(curriculum_steps=STEPS, num_pauses=6, curriculum_epochs=1.0)
SEQ_LEN = 48


def worked(count=12) -> list[tasks.Example]:
  """Examples with no, one, two, three, no, ... steps."""
  return [
    tasks.Example(
      id=str(i),
      prefix=f"q{i}",
      target=f"{''.join(f'{i}.{j};' for j in range(i % 4))}=a{i}",
      references=(f"a{i}",),
      steps=[f"{i}.{j};" for j in range(i % 4)],
    )
    for i in range(count)
  ]


def expected(example: tasks.Example, stage: int) -> tuple:
  """(tokens, targets, counts) of an example, from its texts alone."""
  left = example.steps[stage:] if stage <= STEPS else []
  answer = example.target.split("=")[1]
  prompt, target = BYTES.encode([example.prefix, f" {''.join(left)}={answer}"])
  pauses = [PAUSE] * (PER_STEP * min(stage, STEPS))
  ids = [BOS, *prompt, *pauses, *target, EOS]
  num_prompt = 1 + len(prompt) + len(pauses)
  counts = [place >= num_prompt for place in range(1, len(ids))]
  return tuple(ids[:-1]), tuple(ids[1:]), tuple(counts)


def made(rows=None, split="train", seq_len=SEQ_LEN, task_=None, **changes):
  task_, settings = task_ or task(), config(**{**CHOSEN, **changes})
  return TaskSequences(
    examples.Examples(split, rows or worked(), {}, "digest"),
    prompts.Format(task_, BYTES, settings.pauses(task_.num_pauses)),
    settings,
    seq_len,
  )


@pytest.fixture
def make_source(data_config):
  def make(encoded_, batch_size=2, **changes):
    fields = dict(packing=True, seed=0) | changes
    return FinetuneSource(
      [encoded_],
      [1.0],
      data=data_config(seq_len=SEQ_LEN),
      tokenizer=BYTES,
      sizes=batch_sizes(batch_size),
      **fields,
    )

  return make


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("epochs", [1, 2])
def test_every_epoch_has_every_example_at_its_stage(
  make_source, packing, epochs
):
  rows = worked()
  encoded_ = made(rows, curriculum_epochs=float(epochs))
  source = make_source(encoded_, packing=packing, batch_size=1)
  shown, step = [], 0
  for epoch in range(5 * epochs):
    begin = step
    while len(shown) < len(rows) * (epoch + 1):
      shown += unpacked(source.training_batch(step))
      step += 1
    stage = min(epoch // epochs, STEPS + 1)
    of_epoch = shown[len(rows) * epoch :]
    assert sorted(of_epoch) == sorted(expected(row, stage) for row in rows)
    if epoch % epochs == 0 and epoch // epochs <= STEPS + 1:
      assert source.stage_starts(100)[stage] == begin


def test_a_stage_may_begin_within_an_epoch(make_source):
  source = make_source(made(curriculum_epochs=0.75), packing=False)
  stages = [e.stage for s in range(24) for row in source.drawn(s) for e in row]
  assert stages == [0] * 9 + [1] * 9 + [2] * 9 + [3] * 21
  assert source.stage_starts(100) == [0, 4, 9, 13]


def test_the_last_stage_is_a_run_on_answers_alone(make_source):
  rows = worked()
  answers = [tasks.without_steps(row, len(row.steps)) for row in rows]
  alone = made(answers, curriculum_steps=0)
  without = made(rows, curriculum_epochs=0.0)
  sources = [make_source(encoded_) for encoded_ in (alone, without)]
  for step in range(4):
    one, other = (source.training_batch(step) for source in sources)
    for name in one:
      np.testing.assert_array_equal(one[name], other[name])
  assert sources[1].stage_starts(100) == [0] * 4


def test_no_pauses_may_take_the_place_of_steps(make_source):
  source = make_source(made(num_pauses=0), packing=False, batch_size=12)
  for stage in range(STEPS + 2):
    batch = source.training_batch(stage)
    assert not (batch["tokens"] == PAUSE).any()
    targets = {e[1][len(e[0]) - sum(e[2]) :] for e in unpacked(batch)}
    wanted = [expected(row, stage) for row in worked()]
    assert targets == {e[1][len(e[0]) - sum(e[2]) :] for e in wanted}


def test_held_out_examples_are_at_the_last_stage(make_source):
  rows = worked(10)
  source = make_source(made(rows, split="validation"))
  shown = [e for b in source.evaluation_batches(0) for e in unpacked(b)]
  assert sorted(shown) == sorted(expected(row, STEPS + 1) for row in rows)


def test_a_batch_is_a_function_of_seed_step_and_host(make_source):
  make = lambda **changes: make_source(made(), **changes)
  step = make().stage_starts(100)[2]
  one = make()
  for earlier in range(step):
    one.training_batch(earlier)
  before = one.training_batch(step)
  for name, rows in before.items():
    np.testing.assert_array_equal(make().training_batch(step)[name], rows)
    hosts = [make(host=(i, 2)).training_batch(step)[name] for i in range(2)]
    np.testing.assert_array_equal(rows, np.concatenate(hosts))
  assert (make(seed=1).training_batch(step)["tokens"] != before["tokens"]).any()


def test_a_prefix_is_truncated_for_the_longest_stage_alike_in_all():
  rows = [
    dataclasses.replace(row, prefix=row.prefix + "x" * 60) for row in worked()
  ]
  encoded_ = made(rows, seq_len=32)
  assert encoded_.prompts.num_cut == len(rows)
  for i in range(len(rows)):
    texts, lengths = set(), []
    for stage in range(STEPS + 2):
      m = PER_STEP * min(stage, STEPS)
      row = encoded_.row(i, m, stage)
      assert row.num_positions == encoded_.num_positions(i, m, stage)
      lengths.append(row.num_positions)
      prompt = row.ids_T[: row.num_prompt].tolist()
      texts.add(tuple(id_ for id_ in prompt if id_ != PAUSE))
    assert len(texts) == 1 and max(lengths) == 32


def test_batches_of_every_stage_pass_the_checks_and_those_of_another_do_not(
  make_source,
):
  encoded_ = made()
  source = make_source(encoded_, packing=False, batch_size=12)
  bad = lambda batch, rules: {
    c.name for c in checks.check_batch(batch, rules) if not c.is_ok
  }
  for stage in range(STEPS + 2):
    drawn = source.drawn(stage)
    rules = sequences.FinetuningRules(
      seq_len=SEQ_LEN, tokenizer=BYTES, sequences=encoded_, drawn=drawn
    )
    assert bad(source.training_batch(stage), rules) == set()
    other = [[e._replace(stage=(e.stage + 1) % 4) for e in r] for r in drawn]
    wrong = dataclasses.replace(rules, drawn=other)
    names = bad(source.training_batch(stage), wrong)
    assert any("without replaced steps" in name for name in names)


def test_a_run_cannot_resume_with_another_curriculum(make_source):
  rows = worked()
  joined = [
    dataclasses.replace(row, steps=["".join(row.steps)] * bool(row.steps))
    for row in rows
  ]
  prints = [
    make_source(encoded_).fingerprint()
    for encoded_ in (
      made(rows),
      made(rows, curriculum_epochs=2.0),
      made(rows, curriculum_steps=1),
      made(joined),
      made(rows, curriculum_steps=0),
    )
  ]
  texts = {json.dumps(fingerprint) for fingerprint in prints}
  assert len(texts) == len(prints)
  # Runs without one resume as before.
  assert "curriculum" not in json.dumps(prints[-1])
  assert prints[-1] == make_source(made(curriculum_steps=0)).fingerprint()


def test_steps_are_no_part_of_the_digest_of_examples():
  row = worked()[3]
  plain = dataclasses.replace(row, steps=())
  assert examples._digest([row]) == examples._digest([plain])


def test_the_steps_of_gsm8k_are_the_lines_of_its_solution():
  answer = "Two.\nThree <<1+2=3>>3.\n\nSo 3 \n#### 3"
  (row,) = gsm8k.examples({"question": "How many?", "answer": answer})
  assert row.steps == ["Two.\n", "Three <<1+2=3>>3.\n\n", "So 3 \n"]
  assert tasks.without_steps(row, 2).target == "So 3 \n#### 3"
  last = tasks.without_steps(row, 3)
  assert (last.target, last.steps) == ("#### 3", [])
  assert gsm8k.METRICS["accuracy"](last.target, row.references) == 1.0
  (row,) = gsm8k.examples({"question": "How many?", "answer": "#### 3"})
  assert row.steps == []


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(train_num_pauses="0-6"), "leave finetune.train_num_pauses empty"),
    (dict(pause_position="prepend"), "got 'prepend'"),
    (dict(num_pauses=7), "2 does not divide the number of pauses, 7"),
    (dict(num_pauses=-1), "2 does not divide the number of pauses, 3"),
    (dict(rows=questions(3)), "no example of task 'fake' has steps"),
    (
      dict(rows=[dataclasses.replace(worked()[1], hints=["x"])]),
      "set finetune.hints=false",
    ),
  ],
)
def test_what_has_no_meaning_is_refused_in_one_line(changes, message):
  with pytest.raises(errors.UserError, match=message) as e:
    made(**changes)
  assert "\n" not in e.value.message


@pytest.mark.parametrize(
  ("fields", "kind", "message"),
  [
    (dict(steps=["2"]), {}, "not the start of the target"),
    (dict(steps=["1;=a"]), {}, "not the start of the target"),
    (dict(steps=["1;", ""]), {}, "an empty step"),
    (dict(steps=[1]), {}, "expected a string"),
    (dict(steps=["1;"]), dict(perplexity=True), "without perplexity"),
  ],
)
def test_steps_that_are_not_the_start_of_the_target_are_refused(
  fields, kind, message
):
  row = tasks.Example(id="", prefix="q", target="1;=a", references=("a",))
  row = dataclasses.replace(row, **fields)
  with pytest.raises(errors.UserError, match=message):
    examples._require_whole(dataclasses.replace(task(), **kind), row)


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (dict(task="c4", pipeline="seqio"), "'c4' is pretraining text"),
    (dict(task="text", files="x"), "'text' is pretraining text"),
    (dict(task="gsm8k=1,squad=1"), "one task at a time"),
    (dict(task="gsm8k"), "3 does not divide the number of pauses, 10"),
  ],
)
def test_data_without_steps_is_refused_before_it_is_read(
  data, message, data_config
):
  chosen = config(curriculum_steps=3)
  with pytest.raises(errors.UsageError, match=message):
    pipeline.check_data(data_config(**data), chosen)
  pipeline.check_data(data_config(**data), config())


def test_a_curriculum_without_pauses_has_any_number_of_steps():
  none = Curriculum(steps=7, num_pauses=0, epochs=1.0)
  assert set(none.stage_pauses(np.arange(9))) == {0}


def write_gsm8k(tmp_path) -> None:
  """Twelve records for training, with those held out, and four to test."""
  for split, count in (("train", 12), ("test", 4)):
    lines = [
      {"question": f"{i}?", "answer": f"It is {i}.\nSo {i}.\n#### {i}"}
      for i in range(count)
    ]
    path = tmp_path / f"{split}.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))


def test_a_store_gives_the_batches_of_the_files(
  tmp_path, data_config, make_source
):
  write_gsm8k(tmp_path)
  data = data_config(
    task="gsm8k", local_dir=str(tmp_path), holdout_every=6, seq_len=SEQ_LEN
  )
  encoded.write_encoded(data, BYTES, tmp_path / "store")
  task_ = tasks.downstream("gsm8k")
  stored = encoded.open_encoded(
    str(tmp_path / "store"), task_, "train", data, BYTES
  )
  read = examples.read_split(task_, "train", data)
  one, other = (make_source(made(e.rows, task_=task_)) for e in (read, stored))
  for step in range(one.stage_starts(100)[-1] + 1):
    for name, rows in one.training_batch(step).items():
      np.testing.assert_array_equal(other.training_batch(step)[name], rows)


def run_config(tmp_path, **changes):
  c = pausejax.config.default()
  c.model.update(num_layers=1, d_model=16, num_heads=2, max_seq_len=512)
  c.model.update(dtype="float32", remat="none", segment_attention=True)
  c.data.update(task="gsm8k", local_dir=str(tmp_path), holdout_every=4)
  c.data.update(seq_len=64)
  c.finetune.update(curriculum_steps=2, curriculum_epochs=2.0, num_pauses=4)
  c.update(num_steps=10, batch_size=8, **changes)
  c.mesh.update(data=1, fsdp=-1)
  c.checkpoint.update(every=100)
  c.eval.update(every=5, num_examples=3, batch_size=8)
  return c


@pytest.mark.slow
def test_a_run_resumes_within_its_stages_and_answers_at_the_last(
  tmp_path, capsys
):
  write_gsm8k(tmp_path)
  pausejax.train(run_config(tmp_path), tmp_path / "whole")
  assert "stages begin at batch 0, 2, 4, 6" in capsys.readouterr().out
  for stop in (3, 0):
    c = run_config(tmp_path, stop_at_step=stop)
    pausejax.train(c, tmp_path / "parts")
  whole, parts = (digests(tmp_path / n, 10) for n in ("whole", "parts"))
  assert whole == parts
  checkpoint = f"--checkpoint={tmp_path / 'whole'}"
  for option, m in (((), 4), (("--pauses=2",), 2)):
    assert cli.main(["evaluate", checkpoint, *option]) == 0
    name = f"gsm8k-test-append{m}-step10.json"
    saved = json.loads((tmp_path / "whole/evaluations" / name).read_text())
    assert (saved["n"], saved["num_pauses"]) == (4, m)
  capsys.readouterr()
  assert cli.main(["probe", checkpoint, "--maps="]) == 0
  assert "verdict" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_ends_before_the_last_stage_is_refused(tmp_path):
  write_gsm8k(tmp_path)
  c = run_config(tmp_path)
  c.num_steps = 6
  with pytest.raises(errors.UsageError, match="3 of 4 stages begin within"):
    pausejax.train(c, tmp_path / "short")
