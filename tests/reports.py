"""Small studies and runs to report on, and a parser of the page."""

import html.parser
import json

import pytest

from pausejax.config import default
from pausejax.evaluation import results
from pausejax.programs import report as program
from pausejax.study import plan as plans
from pausejax.study.config import StudyConfig

NASTY = "</script><img src=x onerror=alert(1)>&lt;"
SCORES = {  # (pretraining, finetuning, M) -> the values of each seed.
  ("std", "m0", 0): ([1, 0, 0, 0], [1, 1, 0, 0]),
  ("pause", "m10", 10): ([1, 1, 1, 0], [1, 1, 1, 1]),
  ("pause", "m10", 0): ([0, 0, 0, 0], [1, 0, 0, 0]),
}


def plan(workdir, **changes) -> plans.Study:
  fields = {
    **default(StudyConfig).to_dict(),
    "title": "Four & more",
    "pretrainings": {"std": ("a.py:pause=false",), "pause": ("a.py",)},
    "tasks": ("gsm8k",),
    "finetunings": {
      name: (f"b.py:task={{task}},pauses={name[1:]}",) for name in ("m0", "m10")
    },
    "evaluations": {"m10": ("--pauses=0",)},
    "seeds": (0, 1),
    "variants": (
      ("StdPT_StdFT", "std", "m0"),
      ("PausePT_StdFT", "pause", "m0"),
      ("PausePT_PauseFT", "pause", "m10"),
    ),
  }
  built = plans.make_plan(workdir, {**fields, **changes})
  built.save()
  return built


def write_run(workdir, *, seed=0, num_steps=4, **data) -> None:
  """A run of four steps: its losses are 4, 3, nan and 1."""
  workdir.mkdir(parents=True)
  config = {**default().to_dict(), "seed": seed}
  config["data"].update(data)
  (workdir / "config.json").write_text(json.dumps(config))
  lines = [
    {
      "step": i + 1,
      "loss": (4.0, 3.0, "nan", 1.0)[i % 4],
      "total_tokens": 100 * (i + 1),
      "real_tokens": 90 * (i + 1),
      "tokens_per_second": 50.0,
      "model_flops_per_second": 500.0,
    }
    for i in range(num_steps)
  ]
  lines.insert(2, {"step": 2, "eval_loss": 3.5})
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (workdir / "metrics.jsonl").write_text(text + '{"step": 5, "lo')


def write_result(workdir, m, values, *, seed=0, ft=None, sha256="") -> None:
  ft = m if ft is None else ft
  rows = [
    {
      "id": str(i),
      "prediction": NASTY if i == 1 else "right" if v else "wrong",
      "references": ["right"],
      "values": {"accuracy": float(v)},
    }
    for i, v in enumerate(values)
  ]
  result = {
    "task": "gsm8k",
    "split": "test",
    "examples_sha256": sha256,
    "num_pauses": m,
    "position": "append",
    "filler": "<pause>",
    "finetuned": {"num_pauses": ft, "position": "append", "filler": ""},
    "seed": seed,
    "step": 4,
    "pausejax": "0.0.7",
    "n": len(values),
    "metrics": {"accuracy": 100 * sum(values) / len(values)},
  }
  stem = f"gsm8k-test-append{m}-step4"
  results.write_result(workdir / "evaluations", stem, result, rows)


def write_study(workdir, local_dir="", sha256="", **changes) -> plans.Study:
  built = plan(workdir, **changes)
  for cell in built.pretraining_cells():
    write_run(cell.workdir, pause_fraction=0.1 * (cell.pretraining == "pause"))
  for cell in built.finetuning_cells():
    for (*arm, m), by_seed in SCORES.items():
      if arm != [cell.pretraining, cell.finetuning]:
        continue
      if not cell.workdir.exists():
        data = {"task": "gsm8k", "local_dir": str(local_dir)}
        write_run(cell.workdir, seed=cell.seed, **data)
      ft = int(cell.finetuning[1:])
      more = {"seed": cell.seed, "ft": ft, "sha256": sha256}
      write_result(cell.workdir, m, by_seed[cell.seed], **more)
  return built


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("report") / "study"
  write_study(workdir)
  assert program.main([f"--workdir={workdir}", "--paper"]) == 0
  return workdir


class Outline(html.parser.HTMLParser):
  """Checks that elements nest, and remembers them."""

  VOID = ("meta", "link", "input", "br")

  def __init__(self, text: str):
    super().__init__()
    self.elements, self.open, self.cells, self.text = [], [], [], ""
    self.feed(text)
    assert self.open == []

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag in ("td", "th"):
      self.cells.append("")
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if not {"style", "script"} & {*self.open}:
      self.text += data
    if {"td", "th"} & {*self.open}:
      self.cells[-1] += data

  def count(self, tag: str) -> int:
    return sum(name == tag for name, _ in self.elements)


def outline(workdir) -> Outline:
  return Outline((workdir / "report.html").read_text())
