"""Readers of what runs and studies leave on disk."""

import json
import pathlib

from pausejax.checkpoints import folders, saved_run, upgrade
from pausejax.config import default, saved
from pausejax.evaluation import results
from pausejax.prompt_pauses import PromptPauses
from pausejax.runtime import metric_rows, run_folder, wandb_run
from pausejax.study import plan as plans
from pausejax.study.config import StudyConfig
from pausejax.study.report import contents, document
from tests.fuzz.reader import BYTES, Reader, put, tree

META = {
  "format": upgrade.FORMAT,
  "step": 4,
  "config": tree(),
  "model": {"vocab_size": BYTES.vocab_size, **tree()["model"]},
  "tokenizer": BYTES.fingerprint(),
  "pauses_seen": True,
  "leaves": {"model/x": [[2], "float32"]},
  "digests": {"model/x": [0, 0]},
  "data_sha256": {
    "process_0-position.json": folders.sha256(b'{"step": 4}'),
  },
}


def _step(folder: pathlib.Path) -> pathlib.Path:
  """Writes the files of a step that are read without JAX."""
  step = folder / "checkpoints" / "4"
  meta = json.dumps(META).encode()
  for name, content in {
    "commit_success.txt": b"",
    "params/_METADATA": b"{}",
    "params/manifest.ocdbt": b"",
    "opt_state/_METADATA": b"{}",
    "opt_state/manifest.ocdbt": b"",
    "data/process_0-position.json": b'{"step": 4}',
    "meta/meta.json": meta,
    "meta/meta.sha256": folders.checksum(meta),
  }.items():
    put(step / name, content)
  return step


def _checkpoint(name: str, is_summed: bool) -> Reader:
  def read(path):
    step = path.parents[1]
    if not is_summed:
      summed = folders.checksum(path.read_bytes())
      put(step / "meta" / "meta.sha256", summed)
    small = folders.require_step(step.parent, 4)
    return saved_run.checked(small.meta), small.data

  return Reader(
    name=f"checkpoint {name}" + " with its digest" * (not is_summed),
    make=lambda folder: _step(folder) / name,
    read=read,
    is_summed=is_summed,
  )


def small_plan(folder: pathlib.Path) -> plans.Study:
  """Writes the plan of a study with one run, and returns it."""
  fields = {
    **default(StudyConfig).to_dict(),
    "title": "t",
    "prepare": (("segments", "segments --out=x"),),
    "pretrain_words": "--config.seed=1",
    "evaluate_words": "",
    "pretrainings": {"std": ("configs/smoke.py",)},
    "tasks": ("stdlib_cloze",),
    "task_words": {"stdlib_cloze": ("--config.seed=2",)},
    "finetunings": {"m0": ("configs/finetune_smoke.py", "--config.seed=3")},
    "evaluations": {"m0": ("--pauses=0",)},
    "seeds": (0,),
    "variants": (("StdPT_StdFT", "std", "m0"),),
  }
  plan = plans.make_plan(folder, fields)
  plan.save()
  return plan


def _study() -> Reader:
  return Reader(
    name="study.json",
    make=lambda folder: (small_plan(folder), folder / "study.json")[1],
    read=lambda path: plans.read_plan(path.parent),
  )


RESULT = {
  "task": "stdlib_cloze",
  "split": "validation",
  "examples_sha256": "0",
  "num_pauses": 2,
  "position": "append",
  "filler": "<pause>",
  "finetuned": {"num_pauses": 0, "position": "append", "filler": ""},
  "seed": 0,
  "step": 1,
  "n": 2,
  "metrics": {"em": 50.0},
  "primary_metric": "em",
  "pausejax": "0",
}
PREDICTION = {"prediction": "a", "values": {"em": 1.0}}
PREDICTIONS = [{"id": "0", **PREDICTION}, {"id": "1", **PREDICTION}]
SCORE = {
  **{"text": "t", "pause_fraction": 0.1, "seq_len": 8, "num_documents": 1},
  **{"num_empty": 0, "num_tokens": 5, "num_bytes": 5, "nats_per_token": 2.0},
  **{"perplexity": 7.4, "bits_per_byte": 2.9, "documents_sha256": "0"},
  "step": 1,
}
ROW = {"step": 1, "loss": 2.0, "total_tokens": 9, "real_tokens": 9}
ROW |= {"tokens_per_second": 5.0, "model_flops_per_second": 10.0}


def _run(file: str, *, refuses: bool = True) -> Reader:
  """A file of a run in a study, read by the report."""

  def make(folder):
    workdir = small_plan(folder).finetuning_cells()[0].workdir
    config = {"seed": 0, "data": {"task": "stdlib_cloze", "local_dir": ""}}
    put(workdir / "config.json", json.dumps(config))
    rows = [ROW, {"step": 1, "eval_loss": 3.0}, {**ROW, "step": 2}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    put(workdir / "metrics.jsonl", lines)
    put(workdir / "text_scores/t.json", json.dumps(SCORE))
    name = results.name("t", "validation", PromptPauses(num_pauses=2), 1)
    folder = workdir / "evaluations"
    results.write_result(folder, name, RESULT, PREDICTIONS)
    (path,) = workdir.glob(file)
    return path

  def read(path):
    study = next(p for p in path.parents if (p / "study.json").exists())
    found = contents.collect(study)
    page = document.report_page(found, paper=True)
    document.report_markdown(found, paper=True)
    return page.replace(str(found.made), "")

  return Reader(name=f"report {file}", make=make, read=read, refuses=refuses)


def _metrics() -> Reader:
  def read(path):
    rows, count = metric_rows.scan(path)
    metric_rows.arrays(path)
    written = "".join(json.dumps(row) + "\n" for row in rows).encode()
    assert list(map(metric_rows.parse_row, written.splitlines())) == rows
    return repr(rows), count

  lines = "".join(json.dumps({**ROW, "step": n}) + "\n" for n in range(4))
  make = lambda folder: put(folder / "metrics.jsonl", lines)
  return Reader(name="metrics.jsonl", make=make, read=read, refuses=False)


def _history() -> Reader:
  def read(path):
    history = run_folder.History(path.parent)
    return history.first_start(), history.largest_interval()

  entry = {"step": 0, "time": 1.5, "config": saved.config_to_json(tree())}
  lines = json.dumps(entry) + "\n" + json.dumps({**entry, "step": 3}) + "\n"
  make = lambda folder: put(folder / run_folder.HISTORY, lines)
  return Reader(name=run_folder.HISTORY, make=make, read=read, refuses=False)


def _wandb_state() -> Reader:
  return Reader(
    name=wandb_run.STATE,
    make=lambda folder: put(
      folder / wandb_run.STATE, '{"id": "a1", "sent": 3, "open": ""}'
    ),
    read=lambda path: wandb_run._read_state(path.parent),
  )


READERS = [
  _checkpoint("meta/meta.json", is_summed=True),
  _checkpoint("meta/meta.json", is_summed=False),
  _checkpoint("meta/meta.sha256", is_summed=True),
  _checkpoint("data/process_0-position.json", is_summed=True),
  _study(),
  _run("evaluations/*.json"),
  _run("evaluations/*.jsonl"),
  _run("text_scores/t.json"),
  _run("config.json"),
  _run("metrics.jsonl", refuses=False),
  _metrics(),
  _history(),
  _wandb_state(),
]
