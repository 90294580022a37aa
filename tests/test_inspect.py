"""`pausejax inspect`: what it shows, writes and refuses."""

import json
import subprocess
import sys

import pytest

from pausejax import cli, tasks
from pausejax.inspection import sequences
from pausejax.tasks import registry
from tests import test_inspection_checks
from tests.test_inspection_checks import BYTES

finetuning = test_inspection_checks.finetuning


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
