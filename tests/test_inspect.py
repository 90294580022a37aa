"""`pausejax inspect`: what it shows, and that each check can fail."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from pausejax import cli, pause, tasks
from pausejax.config import FinetuneConfig, default
from pausejax.config.batch_sizes import batch_sizes
from pausejax.data import tokenizers
from pausejax.data.batch import PADDING, language_model_batch
from pausejax.data.finetuning import prompts
from pausejax.data.finetuning.examples import Examples
from pausejax.data.finetuning.sequences import TaskSequences
from pausejax.data.finetuning.source import FinetuneSource
from pausejax.inspection import checks, sequences
from pausejax.tasks import records, registry

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


def test_cells_mark_the_prefix_and_the_counted_targets(finetuning):
  row = sequences.rows(*finetuning(), 1)[0]
  cells = sequences.cells(row["examples"][0])
  texts, marks = [c[1] for c in cells], [c[2] for c in cells]
  assert texts[0] == "<bos>" and marks[0] == "~"
  pauses = [i for i, text in enumerate(texts) if text == "[pause]"]
  assert [marks[i] for i in pauses] == ["", "", "", "^"]
  assert all(mark == "~" for mark in marks[: pauses[0]])
  assert all(mark == "^" for mark in marks[pauses[-1] : -1])
  assert marks[-1] == "^<eos>"
  assert [c[0] for c in cells] == list(range(len(cells)))


def test_control_characters_of_a_text_are_escaped():
  spell = sequences.Detokenizer(BYTES)
  ids = BYTES.encode(["\x1b[2J\n \t\u00e9"])[0]
  shown = [spell(i) for i in ids]
  assert shown[:4] == ["\\x1b", "[", "2", "J"]
  assert shown[4:7] == ["\\n", "\N{OPEN BOX}", "\\t"]
  # Half a character has no text: its id is shown.
  assert shown[7:] == [f"<{i}>" for i in ids[7:]]


SMALL = ["--config.data.seq_len=512", "--config.batch_size=4", "-n1"]


@pytest.mark.slow
def test_a_downstream_task_is_shown_checked_and_written(tmp_path, capsys):
  page, data = tmp_path / "batch.html", tmp_path / "batch.json"
  argv = ["inspect", "--task=stdlib_choice", "--pauses=2", *SMALL]
  assert cli.main([*argv, f"--html={page}", f"--json={data}"]) == 0
  shown = capsys.readouterr().out
  assert "append 2 x <pause>" in shown and "\x1b" not in shown
  assert (
    "\nok   M = 2 pauses after the prefix" in shown and "\nBAD" not in shown
  )
  assert max(map(len, shown.partition("\npositions:")[0].splitlines())) <= 80
  report = json.loads(data.read_text())
  assert len(report["rows"]) == 1 and report["statistics"]["rows"] == 4
  assert all(check["is_ok"] for check in report["checks"])
  html = page.read_text()
  assert "<script" not in html and "://" not in html.partition("<body>")[0]
  assert html.count("[pause]<small>") == sum(
    example["text"].count("[pause]")
    for example in report["rows"][0]["examples"]
  )


@pytest.mark.parametrize("option", ["--tasks_module", "--config.tasks_module"])
def test_a_task_of_a_module_is_found_by_either_option(
  option, tmp_path, monkeypatch, capsys
):
  name = f"echo{option.count('config')}"  # Each registers a task of its own.
  (tmp_path / f"my_{name}.py").write_text(
    "from pausejax import tasks\n"
    "from pausejax.tasks import records\n"
    "rows = lambda: iter(range(40))\n"
    "row = lambda i: [tasks.Example(\n"
    "  id=str(i), prefix=f'say {i}', target=str(i), references=[str(i)]\n"
    ")]\n"
    f"tasks.register(tasks.Task(name={name!r}, kind='decode', examples=row,\n"
    "  source=records.Generated(name='numbers', make={'train': rows}),\n"
    "  metrics={'em': lambda said, right: float(said in right)}))\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  tasks.names()  # Imports those of the package.
  monkeypatch.setattr(registry, "_TASKS", {**registry._TASKS})
  argv = ["inspect", f"--task={name}", f"{option}=my_{name}", "--pauses=2"]
  assert cli.main([*argv, *SMALL]) == 0
  assert "\nBAD" not in capsys.readouterr().out


def test_a_pretraining_task_is_shown_and_checked(tmp_path, capsys):
  book, held_out = tmp_path / "book.txt", tmp_path / "held_out.txt"
  book.write_text("Call me Ishmael. <b> & more. " * 500)
  held_out.write_text("Some years ago. " * 500)
  argv = ["inspect", "--task=text", f"--config.data.files={book}"]
  argv += [f"--config.data.validation_files={held_out}"]
  for split in ("train", "validation"):
    # The end of both texts is a short segment.
    assert cli.main([*argv, *SMALL, f"--split={split}"]) == 0
    shown = capsys.readouterr().out
    assert "ok   the number of pauses" in shown


def test_another_batch_of_a_text_is_shown(tmp_path, capsys):
  book, data = tmp_path / "book.txt", tmp_path / "batch.json"
  book.write_text("".join(f"{n}, " for n in range(3000)))
  argv = ["inspect", "--task=text", f"--config.data.files={book}", "-n99"]
  argv += [f"--config.data.validation_files={book.with_name('other.txt')}"]
  book.with_name("other.txt").write_text("Some years ago. " * 500)
  texts = []
  for batch in (0, 1, 1):
    more = [f"--batch={batch}", f"--json={data}"]
    assert cli.main([*argv, *SMALL[:2], *more]) == 0
    texts.append(json.loads(data.read_text())["rows"])
  assert texts[0] != texts[1] == texts[2]


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    ([], "name a task"),
    (["--task=stdlib_choise"], "stdlib_choice"),
    (["--task=gsm8k=1,squad=3"], "one task at a time"),
    (["--task=stdlib_docs", "--pauses=3"], "pause_fraction"),
    (["--task=c4"], "too large to prepare"),
    (
      ["--task=stdlib_choice", "--config.data.pipeline=seqio"],
      "'seqio' reads pretraining text only",
    ),
    (
      ["--task=stdlib_docs", "--config.data.pause_fraction=0.001"],
      "0.001 of data.seq_len 256 is less than half a pause",
    ),
    (["--task=stdlib_choice", "--split=tset"], "--split"),
    (["--task=stdlib_choice", "-n", "-1"], "-n: "),
    (["--task=stdlib_choice", "--batch=-1"], "--batch: "),
    (
      ["--task=stdlib_choice", "--batch=1", "--split=validation"],
      "not of 'validation'",
    ),
    (
      [
        "--task=stdlib_docs",
        "--config.data.pipeline=seqio",
        "--config.data.pause_mode=after_sentences",
      ],
      "needs data.pipeline=segments",
    ),
  ],
)
def test_what_cannot_be_inspected_is_one_line(argv, message, capsys):
  assert cli.main(["inspect", *argv]) == 2
  assert message in capsys.readouterr().err


@pytest.mark.slow
def test_neither_jax_nor_tensorflow_is_imported():
  code = (
    "import sys; from pausejax.programs import inspect; "
    f"inspect.main(['--task=stdlib_choice', *{SMALL!r}]); "
    "assert not {'jax', 'tensorflow'} & set(sys.modules)"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True)
  assert done.returncode == 0, done.stderr.decode()[-500:]
