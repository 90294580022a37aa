"""Checks a task through all stages of training and evaluation.

  pausejax tasks check gsm8k --local_dir=/data/gsm8k
  pausejax tasks check my_task --tasks_module=my_tasks --pauses=5

Needs no network and takes less than a minute. Prints one line for each of eight
stages: `ok` with numbers, or `BAD` with the reason. The check stops at the
first stage that fails, with exit code 1. It uses a tiny untrained model, so the
answers are random; only their evaluation is checked.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pausejax import commandline, errors, tasks
from pausejax.config import (
  DataConfig,
  FinetuneConfig,
  LossConfig,
  ModelConfig,
  OptimConfig,
  default,
)
from pausejax.config.batch_sizes import batch_sizes
from pausejax.data import tokenizers
from pausejax.data.finetuning import examples, prompts
from pausejax.data.finetuning.sequences import TaskSequences
from pausejax.data.finetuning.source import FinetuneSource
from pausejax.inspection import checks, sequences, soundness

_SEQ_LENS = (512, 2048)
_NUM_ENCODED = 2_000  # Examples of a split that are tokenized.
_NUM_ANSWERED = 8
_NUM_ROWS = 4
_HELD_OUT = ("validation", "test")


def main(argv: list[str]) -> int:
  """Runs the stages up to the first that fails; returns 1 if one does."""
  parser = commandline.Parser("tasks check", __doc__, config=False)
  add = parser.add_argument
  add("name", help="a downstream task")
  add("--local_dir", default="", help="folder of published files")
  add("--tasks_module", default="", help="registers tasks of your own")
  add("--tokenizer", default="bytes", help="as data.tokenizer (bytes)")
  add("--pauses", type=int, default=-1, help="M (default: the task's)")
  options, _ = parser.parse(argv)
  tasks.import_module(options.tasks_module)
  checkup = Checkup(
    tasks.downstream(options.name),
    tokenizers.load_tokenizer(options.tokenizer),
    DataConfig(local_dir=options.local_dir),
    FinetuneConfig(num_pauses=options.pauses),
  )
  for number, (name, stage) in enumerate(checkup.stages(), start=1):
    try:
      print(f"ok   {number} {name}: {stage()}", flush=True)
    except errors.UserError as e:
      print(f"BAD  {number} {name}: {' '.join(e.message.splitlines())}")
      return 1
  return 0


class Checkup:
  """The stages; each returns its numbers, or raises UserError."""

  def __init__(
    self,
    task: tasks.Task,
    tokenizer: tokenizers.PauseTokenizer,
    data: DataConfig,
    config: FinetuneConfig,
  ):
    self.task = task
    self.tokenizer = tokenizer
    self.data = data
    self.config = config
    self.splits: dict[str, examples.Examples] = {}
    self.seq_len = _SEQ_LENS[-1]
    self.batch: Any = None
    self.model: Any = None
    self.answers: Any = None

  def stages(self) -> Sequence[tuple[str, Callable[[], str]]]:
    """Returns (name, stage) in the order in which they must run."""
    return (
      ("registered", self.check_fields),
      ("source", self.read),
      ("examples", self.judge),
      ("lengths", self.measure),
      ("sequences", self.pack),
      ("train step", self.train),
      ("answers", self.answer),
      ("metrics", self.report),
    )

  def check_fields(self) -> str:
    """Checks the fields that no other stage checks."""
    task = self.task
    errors.require_in_range("num_pauses", task.num_pauses, 0)
    errors.require_in_range("max_target_len", task.max_target_len, 1)
    soundness.require_sound(
      "train" in task.source.splits, "the source has no split 'train'"
    )
    metrics = ", ".join(task.metrics) or "accuracies"
    return f"{task.name}, kind {task.kind!r}, M = {task.num_pauses}, {metrics}"

  def read(self) -> str:
    """Reads every split; most records of each must be usable."""
    lines = []
    for split in examples.splits(self.task):
      counted = _Counted(self.task.examples)
      task = dataclasses.replace(self.task, examples=counted)
      loaded = examples.read_split(task, split, self.data)
      num_unusable = sum(loaded.num_unusable.values())
      soundness.require_sound(
        2 * num_unusable <= counted.count,
        f"most records of {loaded.summary()} of {counted.count:,} records",
      )
      self.splits[split] = loaded
      lines.append(f"{loaded.summary()} of {counted.count:,} records")
    return "; ".join([self.task.source.describe(self.data), *lines])

  def judge(self) -> str:
    """Scores the targets, and wrong text, with the task's own metrics."""
    rows = [row for loaded in self.splits.values() for row in loaded.rows]
    soundness.require_texts(rows)
    if self.task.kind == "options":
      return f"{len(rows):,}, {soundness.options(rows)}"
    scores = soundness.judge(self.task, rows)
    return f"{len(rows):,}, ids all different, {scores}"

  def measure(self) -> str:
    """Encodes some examples of "train" and counts truncations."""
    rows = self.splits["train"].rows[:_NUM_ENCODED]
    format_ = self._format()
    targets = format_.targets(rows)
    texts = self.tokenizer.encode([row.prefix for row in rows])
    lines = [
      _percentiles("prefix", [len(ids) for ids in texts]),
      _percentiles("target", [len(ids) - 1 for ids in targets]),
    ]
    for seq_len in reversed(_SEQ_LENS):
      cut = soundness.num_cut(format_, rows, targets, seq_len)
      if cut == 0:
        self.seq_len = seq_len
      result = "do not fit" if cut is None else f"{cut:,} truncated on the left"
      lines.append(f"prefixes at seq_len {seq_len}: {result}")
    if self.task.kind == "decode":
      limit = self.task.max_target_len
      too_long = sum(len(ids) - 1 > limit for ids in targets)
      lines.append(f"{too_long:,} targets longer than max_target_len {limit}")
      lines.append(soundness.round_trip(self.task, format_, rows, targets))
    return f"first {len(rows):,} examples, {'; '.join(lines)}"

  def pack(self) -> str:
    """Packs one batch and checks it as `pausejax inspect` does."""
    train = self.splits["train"]
    some = dataclasses.replace(train, rows=train.rows[:_NUM_ENCODED])
    made = TaskSequences(some, self._format(), self.config, self.seq_len)
    source = FinetuneSource(
      [made],
      [1.0],
      data=dataclasses.replace(self.data, seq_len=self.seq_len),
      packing=self.config.packing,
      tokenizer=self.tokenizer,
      sizes=batch_sizes(_NUM_ROWS),
      seed=0,
    )
    self.batch = source.training_batch(0)
    rules = sequences.FinetuningRules(
      seq_len=self.seq_len, tokenizer=self.tokenizer, sequences=made
    )
    results = checks.check_batch(self.batch, rules)
    for check in results:
      soundness.require_sound(check.is_ok, f"{check.name}: {check.numbers}")
    numbers = sequences.statistics(self.batch, rules)
    return (
      f"{len(results)} checks of {numbers['examples']} examples in "
      f"{numbers['rows']} rows of {self.seq_len}, "
      f"{numbers['real_fraction']:.1%} full"
    )

  def train(self) -> str:
    """Takes one step of a tiny model."""
    import jax

    from pausejax import optimizer as optimizers
    from pausejax import sharding, train_state
    from pausejax.training import step

    fields = default().optim.to_dict() | {"warmup_steps": 0}
    config = OptimConfig(**fields)
    optimizer, schedule = optimizers.make_optimizer(config, 1)
    with jax.set_mesh(_mesh()):
      before = _tiny_model(self.tokenizer.vocab_size, self.seq_len)
      start = train_state.fresh_state(before, optimizer)
      train = functools.partial(
        step.train_step,
        optimizer=optimizer,
        schedule=schedule,
        loss=LossConfig(num_chunks=8, z_loss=0.0),
        num_microbatches=1,
        pause_id=self.tokenizer.pause_id,
      )
      after, metrics = jax.jit(train)(start, sharding.put_batch(self.batch))
    self.model = after.model
    loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
    soundness.require_sound(math.isfinite(loss), f"the loss is {loss}")
    soundness.require_sound(
      0.0 < norm < math.inf, f"the gradient's norm is {norm}"
    )
    pairs = list(
      zip(jax.tree.leaves(before), jax.tree.leaves(after.model), strict=True)
    )
    moved = sum(bool((a != b).any()) for a, b in pairs)
    soundness.require_sound(moved > 0, "no parameter moved")
    return (
      f"loss {loss:.3f} nats over {int(metrics['num_targets']):,} targets, "
      f"{moved} of {len(pairs)} parameter arrays moved"
    )

  def answer(self) -> str:
    """Answers a few examples, after their pauses."""
    import jax

    from pausejax.evaluation.answers import Predictor

    split = next(s for s in (*_HELD_OUT, "train") if s in self.splits)
    rows = self.splits[split].rows[:_NUM_ANSWERED]
    format_ = self._format()
    answerer = Predictor(
      format=format_,
      tokenizer=self.tokenizer,
      batch_size=_NUM_ROWS,
    )
    with jax.set_mesh(_mesh()):
      self.answers = answerer.answer(self.model, rows, lambda *_: None)
    first = self.answers.rows[0]
    how = "decoded" if self.task.kind == "decode" else "options scored"
    num_pauses = format_.pauses.num_pauses
    return (
      f"{len(rows)} examples of {split} {how} after {num_pauses} "
      f"pauses, {self.answers.num_cut} prompts truncated on the "
      f"left; the first: {first['prediction']!r:.40}"
    )

  def report(self) -> str:
    """Checks the metrics that evaluation would report."""
    values = self.answers.metrics
    missing = [name for name in self.task.metrics if name not in values]
    soundness.require_sound(not missing, f"not computed: {', '.join(missing)}")
    for name, value in values.items():
      top = math.inf if name == "perplexity" else 100.0
      soundness.require_sound(
        0.0 <= value <= top, f"{name} is {value}, not in [0, {top}]"
      )
    text = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    return f"{text} (n={len(self.answers.rows)}, an untrained model)"

  def _format(self) -> prompts.Format:
    pauses = self.config.pauses(self.task.num_pauses)
    return prompts.Format(self.task, self.tokenizer, pauses)


class _Counted:
  """Wraps a task's `examples` and counts the records."""

  def __init__(self, make):
    self.count = 0
    self._make = make

  def __call__(self, record):
    self.count += 1
    return self._make(record)


def _percentiles(name: str, lengths: list[int]) -> str:
  numbers = sequences.percentiles(lengths).items()
  return f"{name} " + " ".join(f"{n} {x:,}" for n, x in numbers)


def _mesh():
  """Returns a mesh of one device."""
  import jax

  from pausejax import sharding

  return sharding.data_mesh(jax.devices()[:1])


def _tiny_model(vocab_size: int, seq_len: int):
  """Returns a decoder of random parameters: one layer, d_model 32.

  Drawn by numpy: compiling `decoder.init` takes seconds.
  """
  import jax

  from pausejax import sharding
  from pausejax.model import decoder

  shape = dict(num_layers=1, d_model=32, num_heads=2, num_kv_heads=2, d_ff=64)
  fields = default().model
  fields.update(shape)
  fields.update(max_seq_len=seq_len, dtype="float32", remat="none")
  fields.update(segment_attention=True)
  config = ModelConfig(vocab_size=vocab_size, **fields.to_dict())
  rng = np.random.default_rng(0)

  def draw(path, x):
    center = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
    values = rng.normal(center, 0.1, x.shape).astype(x.dtype)
    return jax.device_put(values, x.sharding)

  shapes = jax.eval_shape(lambda: decoder.init(config, 0))
  return jax.tree_util.tree_map_with_path(draw, sharding.placed(shapes))
