"""The README.md of an exported model."""

import dataclasses
import json
import pathlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pausejax import errors, tasks
from pausejax.buckets.layout import CHECKPOINTS
from pausejax.checkpoints import folders, saved_run
from pausejax.checkpoints.saved_run import SavedRun
from pausejax.config import TrainConfig, train_config
from pausejax.config import saved as config_files
from pausejax.data import pipeline
from pausejax.prompt_pauses import TOKEN, PromptPauses


@dataclasses.dataclass(frozen=True, kw_only=True)
class CardScore:
  """One row of the table of metrics.

  Attributes:
    what: the task and its split, or the text.
    condition: the pauses.
    metric: name of the metric.
    value: its value.
    count: number of examples, None if it is not known.
  """

  what: str
  condition: str
  metric: str
  value: float
  count: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
  """How a run was trained, in the terms of the paper.

  Attributes:
    config: the settings of the run.
    variant: "PausePT_StdFT" and the like; a run without finetuning has no
      second half. "?PT": the run that it started from is gone.
    pauses: of the prompts: M, the largest of a mixture, and their place; M is 0
      for a run without finetuning.
    base: the runs that it started from, back to an open model: "step 100 of
      continued, from step 0 of smollm2, from SmolLM2-135M (llama)".
  """

  config: TrainConfig
  variant: str
  pauses: PromptPauses
  base: str

  @property
  def is_finetuned(self) -> bool:
    """Whether it was finetuned on downstream tasks."""
    return "FT" in self.variant


def describe_training(saved: SavedRun) -> Training:
  """Returns how a run was trained; reads the runs that it started from."""
  config = train_config(saved.meta["config"])
  pauses = PromptPauses(num_pauses=0)
  variant = f"{_pretraining(saved.meta)}PT"
  if _is_finetuned(saved.meta):
    tasks.import_module(config.tasks_module)
    defaults = [tasks.downstream(n).num_pauses for n in config.data.rates]
    pauses = config.finetune.pauses(max(defaults))
    trained = config.finetune.trained_pauses(max(defaults))
    variant += "_PauseFT" if trained.num_pause_tokens else "_StdFT"
  return Training(
    config=config, variant=variant, pauses=pauses, base=_base(saved.meta)
  )


def _is_finetuned(meta: Mapping[str, Any]) -> bool:
  if meta.get("imported"):
    return False
  config = train_config(meta["config"])
  tasks.import_module(config.tasks_module)
  return pipeline.is_finetuning(config.data.rates)


def _pretraining(meta: Mapping[str, Any]) -> str:
  """Returns Pause or Std, ? if the run of the pretraining is gone."""
  if not meta["pauses_seen"]:
    return "Std"
  if not _is_finetuned(meta):
    return "Pause"
  if not meta.get("initial"):
    return "Std"
  before = _meta_before(meta)
  return _pretraining(before) if before else "?"


def _meta_before(meta: Mapping[str, Any]) -> Mapping[str, Any] | None:
  """Returns meta.json of the run that this one started from, None if gone."""
  if not (initial := meta.get("initial")):
    return None
  try:
    workdir = pathlib.Path(initial["workdir"])
    step = folders.require_step(workdir / CHECKPOINTS, initial["step"])
    return saved_run.checked(step.meta)
  except errors.UserError:
    return None


def _base(meta: Mapping[str, Any]) -> str:
  """Returns the runs that this one started from, back to an open model."""
  if imported := meta.get("imported"):
    return f"{pathlib.Path(imported['folder']).name} ({imported['model_type']})"
  if not (initial := meta.get("initial")):
    return ""
  name = pathlib.Path(initial["workdir"]).name
  before = _meta_before(meta)
  earlier = _base(before) if before else ""
  return ", from ".join(
    filter(None, [f"step {initial['step']} of {name}", earlier])
  )


def model_card(
  saved: SavedRun,
  training: Training,
  *,
  architecture: str,
  out: str,
  scores: Sequence[CardScore],
  has_chat_template: bool,
  tokenizer_class: str,
  tokenizer_notes: Sequence[str],
) -> str:
  """Returns the text of README.md.

  Args:
    saved: the run.
    training: from `describe_training`.
    architecture: the class of transformers.
    out: name of the export.
    scores: metrics of the checkpoint.
    has_chat_template: whether the tokenizer has one.
    tokenizer_class: the class of transformers that loads it.
    tokenizer_notes: how it differs from that of the run.
  """
  sections = [
    _front_matter(),
    f"# {out}\n\n{_introduction(saved, training, architecture)}",
    _usage(training, has_chat_template, tokenizer_class),
    "## Training\n\n" + _rows(_facts(saved, training)),
    "## Metrics\n\n" + _metrics(scores),
    "## Commands\n\n" + _commands(saved, out),
    "## Limits\n\n" + _limits(tokenizer_notes),
  ]
  return "\n\n".join(sections) + "\n"


def _front_matter() -> str:
  lines = (
    "library_name: transformers",
    "pipeline_tag: text-generation",
    "tags:",
    "- pausejax",
    "- pause-tokens",
  )
  return "\n".join(["---", *lines, "---"])


def _introduction(saved: SavedRun, training: Training, architecture: str):
  return (
    f"A `{architecture}` of {saved.model.num_layers} layers with the token "
    f"`{TOKEN}` (id {saved.tokenizer.pause_id}), trained with pausejax: "
    f"variant {training.variant} of Goyal et al., "
    "[Think before you speak: Training Language Models With Pause Tokens]"
    "(https://arxiv.org/abs/2310.02226) (ICLR 2024)."
  )


_USAGE = """\
## Pauses

The model computes for M more positions before it answers. {trained}

```python
from transformers import AutoModelForCausalLM, {tokenizer}

tokenizer = {tokenizer}.from_pretrained(FOLDER)
model = AutoModelForCausalLM.from_pretrained(FOLDER)
M = {number}
inputs = tokenizer({prompt}, return_tensors="pt")
ids = model.generate(**inputs, max_new_tokens=64)
new = ids[0, inputs["input_ids"].shape[1]:]
print(tokenizer.decode(new, skip_special_tokens=True))
```

`generation_config.json` keeps the model from generating `{token}`.{chat}"""
_CHAT = """

The chat template inserts M pauses, too:
`tokenizer.apply_chat_template(messages, add_generation_prompt=True,
num_pauses=M)`; without `num_pauses`, {number}."""


def _usage(
  training: Training, has_chat_template: bool, tokenizer_class: str
) -> str:
  number = training.pauses.num_pause_tokens
  before, after = training.pauses.code
  return _USAGE.format(
    trained=f"It was finetuned with M = {number}."
    if training.is_finetuned
    else "It was not finetuned for a task: M is yours to choose.",
    number=number,
    prompt=" + ".join(filter(None, (before, "prompt", after))),
    token=TOKEN,
    tokenizer=tokenizer_class,
    chat=_CHAT.format(number=number) if has_chat_template else "",
  )


def _facts(saved: SavedRun, training: Training) -> Iterator[tuple[str, str]]:
  c = training.config
  yield "Variant", training.variant
  average = f", average with decay {training.config.optim.ema_decay:g}"
  yield "Step", f"{saved.step:,}" + (average if saved.average else "")
  if training.base:
    yield "Started from", training.base
  if saved.meta.get("imported"):
    return
  rates = ", ".join(f"{n} ({rate:g})" for n, rate in c.data.rates.items())
  yield "Data", rates
  if training.is_finetuned:
    drawn = c.finetune.train_num_pauses
    drawn = f"; in training, M drawn from {drawn}" if drawn else ""
    if curriculum := c.finetune.curriculum(training.pauses.num_pauses):
      drawn = f"; in training, {curriculum}"
    yield "Pauses in finetuning (M_ft)", f"{training.pauses}{drawn}"
  else:
    yield "Pauses in pretraining", f"{c.data.pauses} ({c.data.pause_mode})"
  batch = f"{c.batch_size} rows of {c.data.seq_len} positions"
  yield "Batch", ", ".join(filter(None, [batch, c.later_batch_sizes]))
  yield "Optimizer", f"{c.optim.name}, learning rate {c.optim.learning_rate:g}"
  yield "pausejax", saved.meta.get("versions", {}).get("pausejax", "unknown")


def _rows(rows: Iterator[tuple[str, str]]) -> str:
  lines = [f"| {name} | {value} |" for name, value in rows]
  return "\n".join(["| | |", "|---|---|", *lines])


def _metrics(scores: Sequence[CardScore]) -> str:
  if not scores:
    return "`pausejax evaluate` was not run on this checkpoint."
  head = [
    "| data | pauses | metric | value | examples |",
    "|---|---|---|---|---|",
  ]
  return "\n".join(
    head
    + [
      f"| {s.what} | {s.condition} | {s.metric} | {s.value:.4g} | "
      f"{s.count if s.count is not None else ''} |"
      for s in scores
    ]
  )


def _commands(saved: SavedRun, out: str) -> str:
  """Returns the commands that trained and exported the model."""
  run = saved.workdir.name
  if imported := saved.meta.get("imported"):
    source = pathlib.Path(imported["folder"]).name
    train = ["import", f"--from={source}", f"--out={run}"]
  else:
    train = ["train", "--config=pausejax_config.json", f"--workdir={run}"]
    if initial := saved.meta.get("initial"):
      train.append(f"--init_from={pathlib.Path(initial['workdir']).name}")
  checkpoint = f"{run}/{CHECKPOINTS}/{saved.step}"
  export = ["export", f"--checkpoint={checkpoint}", f"--out={out}"]
  export += ["--average"] * saved.average
  lines = [shlex.join(["pausejax", *words]) for words in (train, export)]
  return "\n".join(["```sh", *lines, "```"]) + (
    "\n\n`pausejax_config.json`, in this folder, has all settings of the run."
  )


def _limits(tokenizer_notes: Sequence[str]) -> str:
  notes = (
    "The license of the parameters is yours to state: it depends on the data "
    "and on the model that the run started from. pausejax itself is under "
    "Apache-2.0.",
    f'The text "{TOKEN}" in a prompt is a pause; in pausejax, text never '
    "becomes one.",
    *tokenizer_notes,
  )
  return "\n".join(f"- {note}" for note in notes)


def config_text(saved: SavedRun) -> str:
  """Returns all settings of the run as JSON, as its config.json has them."""
  values = config_files.config_to_json(saved.meta["config"])
  return json.dumps(values, indent=2) + "\n"
