"""Finetuning and evaluation as a user runs them: a task of one's own."""

import json
import re
import shlex
import shutil
import sys

import pytest

from pausejax.checkpoints import saved_run
from pausejax.runtime import metric_rows
from tests import event_files, runs, toys

pytestmark = pytest.mark.slow

TASK = """
from pausejax import metrics, tasks
from pausejax.tasks import records


def examples(record):
  yield tasks.Example(
    id="", prefix=record["question"], target=record["answer"],
    references=(record["answer"],),
  )


tasks.register(tasks.Task(
  name="sums", kind="decode", examples=examples,
  source=records.Files(
    files={"train": "train.jsonl", "validation": "dev.jsonl"}
  ),
  metrics={"em": metrics.exact_match}, num_pauses=3, max_target_len=4,
))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A folder with a task module, its data, and a pretrained run."""
  folder = tmp_path_factory.mktemp("finetune")
  (folder / "sums.py").write_text(TASK)
  for name, first in (("train", 0), ("dev", 40)):
    lines = [
      json.dumps({"question": f"{a} and {a} is", "answer": str(2 * a)})
      for a in range(first, first + 40)
    ]
    (folder / f"{name}.jsonl").write_text("\n".join(lines))
  corpus = folder / "corpus"
  toys.write_corpus(corpus)
  toys.finish(
    toys.command(corpus, folder / "pretrained", "--config.num_steps=2")
  )
  return folder


def run(place, verb, *more, expect=0):
  """Runs a verb with the task's module in reach; returns what it printed."""
  code = (
    f"import sys; sys.path.insert(0, {str(place)!r});"
    "from pausejax import cli; sys.exit(cli.main(sys.argv[1:]))"
  )
  process = toys.start([sys.executable, "-c", code, verb, *more])
  output, _ = process.communicate()
  assert process.returncode == expect, output
  return output


def finetune_words(place, workdir, *more, start="pretrained") -> list[str]:
  """Returns the words of a small finetuning."""
  return [
    "train",
    "--config=configs/finetune_smoke.py:task=sums,pauses=-1",
    f"--init_from={place / start}",
    f"--workdir={place / workdir}",
    "--config.tasks_module=sums",
    f"--config.data.local_dir={place}",
    "--config.num_steps=6",
    "--config.checkpoint.every=3",
    *more,
  ]


def finetune(place, workdir, *more, expect=0, **start):
  words = finetune_words(place, workdir, *more, **start)
  return run(place, *words, expect=expect)


@pytest.fixture(scope="module")
def evaluated(place):
  """The output of the evaluation of `whole`, a run that was not stopped."""
  finetune(place, "whole")
  evaluate = ("evaluate", f"--checkpoint={place / 'whole'}", "--pauses=0,3")
  return run(place, *evaluate, "--track=tensorboard")


def test_a_task_is_finetuned_stopped_resumed_and_evaluated(place, evaluated):
  output = finetune(place, "parts", "--config.stop_at_step=3")
  assert "40 examples" in output and "% full" in output
  assert "parameters from step 2" in output
  assert "resuming from step 3" in finetune(place, "parts")
  whole, parts = (toys.rows(place / name) for name in ("whole", "parts"))
  assert [r["loss"] for r in whole] == [r["loss"] for r in parts]
  digests = [toys.last_meta(place / n)["digests"] for n in ("whole", "parts")]
  assert digests[0] == digests[1]

  results = place / "whole" / "evaluations"
  for m in (0, 3):
    stem = results / f"sums-validation-append{m}-step6"
    result = json.loads(stem.with_suffix(".json").read_text())
    assert (result["n"], result["num_pauses"]) == (40, m)
    assert result["finetuned"]["num_pauses"] == 3
    em = result["metrics"]["em"]
    assert f"M={m} append <pause>: em {em:.2f}" in evaluated
    lines = (results / f"{stem.name}.predictions.jsonl").read_text()
    rows = [json.loads(line) for line in lines.splitlines()]
    assert [row["id"] for row in rows] == [str(i) for i in range(40)]
    mean = 100 * sum(row["values"]["em"] for row in rows) / 40
    assert mean == pytest.approx(em)
  sweep = place / "whole" / "tensorboard" / "evaluate"
  points = event_files.tensorboard_scalars(sweep)
  assert [m for m, _ in points["sums-validation-append-step6/em"]] == [0, 3]


def test_pauses_behind_tokens_are_inherited_and_answers_have_them(place):
  pauses = {
    "pause_mode": "every_token",
    "pause_run_length": 2.0,
    "pauses_share_positions": True,
  }
  start = runs.save_run(place / "behind", pauses=pauses)
  behind = saved_run.find_run(start).behind_tokens
  assert len(behind.ids) == 2
  output = finetune(place, "with", "--config.stop_at_step=3", start="behind")
  said = "it has 2 pauses after every token; this finetuning has them, too"
  assert said in output
  assert "resuming from step 3" in finetune(place, "with", start="behind")
  made = saved_run.find_run(str(place / "with"))
  assert made.behind_tokens == behind
  assert {k: made.meta["config"]["data"][k] for k in pauses} == pauses
  # Every target is read at a pause.
  keys = {key for row in toys.rows(place / "with") for key in row}
  assert "loss_after_pause" in keys and "loss_after_real" not in keys
  checkpoint = f"--checkpoint={place / 'with'}"
  evaluated = run(place, "evaluate", checkpoint, "--limit=2")
  assert "<pause>, 2 pauses after every token: em" in evaluated
  (path,) = (place / "with" / "evaluations").glob("*step6.json")
  for line in path.with_suffix(".predictions.jsonl").read_text().splitlines():
    row = json.loads(line)
    length = len("40 and 40 is")  # All have two digits.
    # BOS, text with its pauses, M = 3, the answer, whose last id has none.
    prompt = 1 + 3 * length + 3
    assert row["num_positions"] == prompt + 3 * (row["num_new"] - 1) + 1
  assert json.loads(path.read_text())["pauses_behind_tokens"] == 2


def test_plain_text_names_the_files_that_are_left_out(place):
  folder = place / "texts"
  folder.mkdir()
  (folder / "a.txt").write_text("some years ago")
  (folder / "b.txt").write_text("")
  checkpoint = f"--checkpoint={place / 'pretrained'}"
  options = (f"--text={folder}", f"--out={place / 'scores'}")
  output = run(place, "evaluate", checkpoint, *options)
  assert re.findall(r".*left out.*", output) == [
    "1 left out that are empty: b.txt"
  ]


def test_plain_text_is_scored_with_and_without_pauses(place):
  (place / "plain.jsonl").write_text(
    '{"text": "call me some years ago"}\n{"text": ""}\n{"text": "me"}\n'
  )
  text = f"--text={place / 'plain.jsonl'}"
  checkpoint = f"--checkpoint={place / 'pretrained'}"
  output = run(place, "evaluate", checkpoint, text)
  assert "2 documents, 24 tokens, 24 bytes" in output
  assert "1 empty documents left out" in output
  paths = sorted((place / "pretrained" / "text_scores").glob("*.json"))
  plain, paused = (json.loads(path.read_text()) for path in paths)
  # The run's own fraction is the second condition.
  assert (plain["pause_fraction"], paused["pause_fraction"]) == (0.0, 0.1)
  assert plain["num_tokens"] == paused["num_tokens"] == 24
  assert plain["num_pauses"] == 0 < paused["num_pauses"]
  for found in (plain, paused):
    assert found["bits_per_byte"] > 0
    assert f"{found['bits_per_byte']:.4f} bits per byte" in output

  output = run(place, "evaluate", checkpoint, text, "--task=sums", expect=2)
  assert "--task: cannot be used with --text" in output
  more = (f"--text={place / 'none.txt'}",)
  assert "none.txt" in run(place, "evaluate", checkpoint, *more, expect=1)
  rows = metric_rows.read_rows(place / "pretrained" / "metrics.jsonl")
  (measured,) = [row for row in rows if "eval_loss" in row]
  assert measured["eval_loss"] != measured["eval_loss_without_pauses"] > 0


def test_a_finetuning_run_resumes_without_its_pretraining_run(place, tmp_path):
  first, second, third = (tmp_path / n for n in ("first", "second", "third"))
  shutil.copytree(place / "pretrained", first)
  begin = ["--config.num_steps=4", "--config.checkpoint.every=2"]
  stop = "--config.stop_at_step=2"
  finetune(place, second, f"--init_from={first}", *begin)
  finetune(place, third, f"--init_from={second}", *begin, stop)
  shutil.rmtree(second)
  output = finetune(place, third, f"--init_from={second}", *begin)
  assert "resuming from step 2" in output
  assert "without a checkpoint" in output and "started from step 4" in output
  meta = toys.last_meta(third)
  assert meta["step"] == 4 and meta["pauses_seen"]
  assert meta["initial"] == {"workdir": str(second), "step": 4}
  output = finetune(
    place, tmp_path / "new", f"--init_from={second}x", *begin, expect=2
  )
  assert "--init_from: no folder" in output and "Traceback" not in output
  assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("evaluated")
def test_the_commands_of_the_report_reproduce_the_results(place):
  run(place, "report", f"--workdir={place}", f"--out={place / 'page.html'}")
  commands = json.loads((place / "page.json").read_text())["commands"]
  names = ("pretrained", "whole")
  assert [name for name in commands if name in names] == [*names]
  for name in names:
    for command in commands[name]:
      _, verb, *words = shlex.split(command)
      run(place, verb, *words)
  digests = [
    toys.last_meta(place / name)["digests"] for name in ("whole", "whole-again")
  ]
  assert digests[0] == digests[1]
  before, after = (
    sorted((place / name / "evaluations").glob("*.json"))
    for name in ("whole", "whole-again")
  )
  assert [path.name for path in before] == [path.name for path in after]
  for a, b in zip(before, after, strict=True):
    a, b = json.loads(a.read_text()), json.loads(b.read_text())
    assert (a["metrics"], a["n"]) == (b["metrics"], b["n"])


def test_the_best_checkpoint_is_kept_beside_the_newest(place):
  finetune(
    place,
    "best",
    "--config.eval.every=2",
    "--config.eval.num_examples=8",
    "--config.checkpoint.every=100",
    "--config.checkpoint.keep=1",
    "--config.checkpoint.keep_best=1",
  )
  lines = (place / "best" / "metrics.jsonl").read_text().splitlines()
  scores = {
    row["step"]: row["eval_score"]
    for row in map(json.loads, lines)
    if "eval_score" in row
  }
  assert set(scores) == {2, 4, 6}
  folder = place / "best" / "checkpoints"
  kept = {int(p.name) for p in folder.iterdir() if p.name.isdigit()}
  # Of equally good ones Orbax keeps the newest.
  best = max(scores, key=lambda step: (scores[step], step))
  assert kept == {best, 6}


WRONG = (
  ("model.d_ff=48", 1, "model/blocks/expand"),
  ("data.tokenizer=/nowhere.model", 1, "no file '/nowhere.model'"),
  ("data.task=summs", 2, "did you mean 'sums'?"),
  ("finetune.num_pauses=70", 2, "example '0' of task 'sums'"),
  ("finetune.filler=<counts>", 2, "did you mean '<count>'"),
  ("data.local_dir=/nowhere", 1, "no folder '/nowhere'"),
)


def test_impossible_requests_end_in_one_line(place):
  """One process makes all of them: a start takes seconds."""
  verbs = [
    finetune_words(place, f"wrong-{i}", f"--config.{change}")
    for i, (change, _, _) in enumerate(WRONG)
  ]
  code = (
    f"import sys; sys.path.insert(0, {str(place)!r})\n"
    f"from pausejax import cli\nfor verb in {verbs}:\n"
    "  print('exit code', cli.main(verb), flush=True)"
  )
  output = toys.finish([sys.executable, "-c", code])
  assert "Traceback" not in output
  outputs = re.split(r"(?m)^exit code (\d)\n", output)
  assert [int(code) for code in outputs[1::2]] == [code for _, code, _ in WRONG]
  for i, (_, _, words) in enumerate(WRONG):
    assert words in outputs[2 * i]
    assert not (place / f"wrong-{i}").exists()


def test_finetuning_and_evaluation_need_no_tensorflow(place):
  blocked = ("tensorflow", "tensorflow_text", "tensorflow_datasets", "seqio")
  argv = [
    "train",
    "--config=configs/finetune_smoke.py:task=sums,pauses=2",
    f"--init_from={place / 'pretrained'}",
    f"--workdir={place / 'blocked'}",
    "--config.tasks_module=sums",
    f"--config.data.local_dir={place}",
    "--config.num_steps=1",
  ]
  evaluate = ["evaluate", f"--checkpoint={place / 'blocked'}", "--limit=4"]
  code = (
    f"import sys; sys.modules.update(dict.fromkeys({blocked!r}));"
    f"sys.path.insert(0, {str(place)!r}); from pausejax import cli;"
    f"sys.exit(cli.main({argv!r}) or cli.main({evaluate!r}))"
  )
  process = toys.start([sys.executable, "-c", code])
  output, _ = process.communicate()
  assert process.returncode == 0, output
