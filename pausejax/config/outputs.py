"""The fields of what a run measures and writes."""

import dataclasses
from typing import ClassVar

from pausejax.config.fields import ConfigGroup, field


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig(ConfigGroup):
  """When to save, and which steps to keep."""

  GROUP: ClassVar[str] = "checkpoint"

  every: int = field(
    1000, "Steps between checkpoints.", minimum=1, may_change=True
  )
  keep: int = field(
    3, "Newest checkpoints to keep.", minimum=1, may_change=True
  )
  keep_period: int = field(
    0,
    "Also keep steps that are multiples of this; 0: none.",
    minimum=0,
    may_change=True,
  )
  keep_best: int = field(
    0,
    "Finetuning: best checkpoints to keep, by the task's primary metric.",
    minimum=0,
    may_change=True,
  )
  export_every: int = field(
    0,
    "Steps between exports to transformers, each with its checkpoint, in "
    "WORKDIR/exports/STEP; 0: none.",
    minimum=0,
    may_change=True,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig(ConfigGroup):
  """When to evaluate held-out loss and answers, and on how many examples."""

  GROUP: ClassVar[str] = "eval"

  every: int = field(
    1000,
    "Steps between evaluations of the held-out loss; 0: only at the end.",
    minimum=0,
    may_change=True,
  )
  num_batches: int = field(
    50,
    "Batches per evaluation, from the start of the held-out text; 0: all.",
    minimum=0,
    may_change=True,
  )
  num_examples: int = field(
    0,
    "Finetuning: held-out examples to answer per evaluation; 0: none.",
    minimum=0,
    may_change=True,
  )
  batch_size: int = field(
    32, "Examples per batch of answers.", minimum=1, may_change=True
  )
  average: bool = field(
    False,
    "Evaluate, sample and export the average of the parameters "
    "(optim.ema_decay) in place of the parameters.",
    may_change=True,
  )
  sample_prompts: tuple[str, ...] = field(
    (),
    "Texts that the model continues at each evaluation, written to "
    "samples.jsonl; on the command line separated by commas, or a JSON list.",
    may_change=True,
  )
  sample_pauses: int = field(
    0, "Pauses after each sample prompt.", minimum=0, may_change=True
  )
  sample_tokens: int = field(
    32, "Largest number of tokens to continue with.", minimum=1, may_change=True
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogConfig(ConfigGroup):
  """Where metrics and samples go besides the workdir, and how often."""

  GROUP: ClassVar[str] = "log"

  every: int = field(
    1, "Steps between lines of metrics.jsonl.", minimum=1, may_change=True
  )
  tensorboard: bool = field(
    False,
    "Also write TensorBoard events (extra: tensorboard).",
    may_change=True,
  )
  wandb: bool = field(
    False,
    "Also send metrics and samples to Weights & Biases (extra: wandb); "
    "WANDB_MODE=offline keeps them in the workdir.",
    may_change=True,
  )
  wandb_project: str = field(
    "",
    "Project in Weights & Biases (WANDB_PROJECT, else pausejax).",
    may_change=True,
  )
  wandb_name: str = field(
    "",
    "Name of the run in Weights & Biases (WANDB_NAME, else the workdir's).",
    may_change=True,
  )
  wandb_group: str = field(
    "",
    "Group of the run in Weights & Biases (WANDB_RUN_GROUP, else none).",
    may_change=True,
  )
  wandb_tags: tuple[str, ...] = field(
    (), "Tags of the run in Weights & Biases.", may_change=True
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileConfig(ConfigGroup):
  """What is written to find out where the time of a step goes."""

  GROUP: ClassVar[str] = "profile"

  start_step: int = field(
    0,
    "First step of a trace in WORKDIR/profile (docs/tuning.md); 0: none.",
    minimum=0,
    may_change=True,
  )
  num_steps: int = field(3, "Steps in the trace.", minimum=1, may_change=True)
  hlo: bool = field(
    False,
    "Write the compiled train step and its memory to WORKDIR/hlo.",
    may_change=True,
  )
